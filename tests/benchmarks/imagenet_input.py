"""Images a second on one core: JPEG files of 500x375 to normalised 224x224 training batches, against Pillow + torchvision v1.

    python tests/benchmarks/imagenet_input.py [--images 128] [--rounds 5]

Both do all of the training transform (random resized crop, flip, jitter 0.4/0.4/0.4, normalisation) on this one core; rounds
alternate, and the best of each counts. The files are synthetic: sums of noise at every scale, as photographs have.
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ImageNet-LT"))

from imagenet_dataset import ImageList
from imagenet_loader import ImageLoader
from imagenet_transforms import MEAN, STD
from runtime import start_runtime

HEIGHT, WIDTH, BATCH = 375, 500, 64


def synthetic_jpeg(rng: np.random.Generator) -> bytes:
    """Noise of each octave, as strong as it is coarse."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
    for octave in range(8):
        noise = rng.normal(0, 36 / 1.45 ** octave, (max(1, HEIGHT >> 8 - octave) + 1, max(1, WIDTH >> 8 - octave) + 1, 3))
        pixels += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def reference(paths: list[Path]) -> float:
    """Seconds that Pillow and torchvision's first transforms take."""
    transform = transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(),
                                    transforms.ColorJitter(0.4, 0.4, 0.4), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    start = time.perf_counter()
    for first in range(0, len(paths), BATCH):
        torch.stack([transform(Image.open(path).convert("RGB")) for path in paths[first:first + BATCH]])
    return time.perf_counter() - start


def ours(loader: ImageLoader, seed: int) -> float:
    start = time.perf_counter()
    for _ in loader.training_batches(None, BATCH, seed):
        pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, start_runtime() as runtime:
        root = Path(folder)
        names = [f"{number}.JPEG" for number in range(args.images)]
        for name in names:
            (root / name).write_bytes(synthetic_jpeg(rng))
        size = sum((root / name).stat().st_size for name in names) / args.images
        images = ImageList(root / "list", root, names, torch.zeros(args.images, dtype=torch.long), "")
        loader = ImageLoader(images, 224, 256, 0, runtime)
        rounds = [(reference([root / name for name in names]), ours(loader, seed)) for seed in range(args.rounds)]
    old, new = (args.images / min(seconds) for seconds in zip(*rounds, strict=True))
    print(f"{WIDTH}x{HEIGHT}, {size / 1e3:.0f} kB a file, one core: Pillow + torchvision v1 {old:.0f} images/s, ours {new:.0f} images/s, "
          f"ratio {new / old:.2f}")


if __name__ == "__main__":
    main()
