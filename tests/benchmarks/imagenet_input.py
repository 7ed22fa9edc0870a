"""Images a second on one core: JPEG files of 500x375 to normalised 224x224 training batches, against Pillow +
torchvision v1.

    python tests/benchmarks/imagenet_input.py [--images 128] [--rounds 5]

Both do all of the training transform (random resized crop, flip, jitter 0.4/0.4/0.4, normalisation) on this one core,
in alternating rounds. The files are synthetic, sums of noise at every scale as photographs have, with more and more
of the fine ones: the larger the file, the more of the time goes into decoding, which both sides do with the same
library.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ImageNet-LT"))

from imagenet_lists import ImageList, encode_paths
from imagenet_loader import ImageLoader
from imagenet_transforms import MEAN, STD
from longtail.devices import Runtime
from longtail.distributed import start_runtime

HEIGHT, WIDTH, BATCH = 375, 500, 64
FALLOFFS = (1.45, 1.2, 1.05)  # of each octave's strength from the one before


def synthetic_jpeg(rng: np.random.Generator, falloff: float) -> bytes:
    """Noise of each octave, the stronger the coarser it is."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
    for octave in range(8):
        noise = rng.normal(
            0, 36 / falloff**octave, (max(1, HEIGHT >> 8 - octave) + 1, max(1, WIDTH >> 8 - octave) + 1, 3)
        )
        pixels += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def reference(paths: list[Path]) -> float:
    """Seconds that Pillow and torchvision's first transforms take."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.4, 0.4, 0.4),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    start = time.perf_counter()
    for first in range(0, len(paths), BATCH):
        torch.stack([transform(Image.open(path).convert("RGB")) for path in paths[first : first + BATCH]])
    return time.perf_counter() - start


def ours(loader: ImageLoader, seed: int) -> float:
    start = time.perf_counter()
    for _ in loader.training_batches(None, BATCH, seed):
        pass
    return time.perf_counter() - start


def compare(folder: Path, falloff: float, images: int, rounds: int, runtime: Runtime) -> str:
    """A line of the result."""
    rng = np.random.default_rng(0)
    names = [f"{falloff}_{number}.JPEG" for number in range(images)]
    for name in names:
        (folder / name).write_bytes(synthetic_jpeg(rng, falloff))
    size = sum((folder / name).stat().st_size for name in names) / images
    labels = torch.zeros(images, dtype=torch.long)
    listed = ImageList(folder / "list", folder, encode_paths(names), labels, "")
    loader = ImageLoader(listed, 224, 256, 0, runtime)
    seconds = [(reference([folder / name for name in names]), ours(loader, seed)) for seed in range(rounds + 1)][1:]
    ratios = [old / new for old, new in seconds]
    old, new = (images / statistics.median(column) for column in zip(*seconds, strict=True))
    return (
        f"{WIDTH}x{HEIGHT}, {size / 1e3:.0f} kB a file: Pillow + torchvision v1 {old:.0f} images/s, "
        f"ours {new:.0f} images/s, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder, start_runtime() as runtime:
        for falloff in FALLOFFS:
            print(compare(Path(folder), falloff, args.images, args.rounds, runtime), flush=True)


if __name__ == "__main__":
    main()
