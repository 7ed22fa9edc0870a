"""Images a second on one core, from JPEG files to normalised 224x224 batches, against torchvision's ImageFolder.

    python tests/benchmarks/imagenet_input.py [--images 128] [--rounds 5]

Both do all of the training transform (random resized crop, flip, jitter 0.4/0.4/0.4, normalisation) on this one core,
in alternating rounds: ours, ours on copies that make_lists.py --short_side 256 writes, and ImageFolder with Pillow and
torchvision's first transforms. The files are synthetic, sums of noise at every scale as photographs have, with more and
more of the fine ones: the larger the file, the more of the time goes into decoding, which all do with the same library.
A phone's photographs, 4000x3000, are a sixteenth as many.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ImageNet-LT"))

from imagenet_copies import smaller_copy
from imagenet_lists import ImageList, encode_paths
from imagenet_loader import ImageLoader
from imagenet_transforms import MEAN, STD
from longtail.devices import Runtime
from longtail.distributed import start_runtime

BATCH, SHORT_SIDE = 64, 256


class Photographs(NamedTuple):
    """Size of synthetic files, and how each octave's strength falls off; the share of --images that is made of them."""

    width: int
    height: int
    falloff: float
    share: float = 1.0


KINDS = (
    Photographs(500, 375, 1.45),
    Photographs(500, 375, 1.2),
    Photographs(500, 375, 1.05),
    Photographs(4000, 3000, 1.45, share=1 / 16),
)


def synthetic_jpeg(rng: np.random.Generator, kind: Photographs) -> bytes:
    """Noise of each octave, the stronger the coarser it is."""
    height, width = kind.height, kind.width
    pixels = np.full((height, width, 3), 128.0)
    for octave in range(8):
        rows, columns = max(1, height >> 8 - octave) + 1, max(1, width >> 8 - octave) + 1
        noise = rng.normal(0, 36 / kind.falloff**octave, (rows, columns, 3))
        pixels += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def reference(folder: Path) -> float:
    """Seconds of torchvision's pipeline for a folder that holds one class folder."""
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
    for _ in DataLoader(ImageFolder(folder, transform), BATCH, shuffle=True):
        pass
    return time.perf_counter() - start


def ours(loader: ImageLoader, seed: int) -> float:
    start = time.perf_counter()
    for _ in loader.training_batches(None, BATCH, seed):
        pass
    return time.perf_counter() - start


def loader_of(folder: Path, names: list[str], runtime: Runtime) -> ImageLoader:
    labels = torch.zeros(len(names), dtype=torch.long)
    images = ImageList(folder / "list", folder, encode_paths(names), labels, "")
    return ImageLoader(images, 224, 256, 0, runtime)


def compare(folder: Path, kind: Photographs, images: int, rounds: int, runtime: Runtime) -> str:
    """A line of the result."""
    rng = np.random.default_rng(0)
    full, small = folder / "full", folder / "small"
    names = [f"class/{number}.JPEG" for number in range(max(1, round(images * kind.share)))]
    for name in names:
        for path in (full / name, small / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        content = synthetic_jpeg(rng, kind)
        (full / name).write_bytes(content)
        (small / name).write_bytes(smaller_copy(full / name, SHORT_SIDE) or content)
    size = sum((full / name).stat().st_size for name in names) / len(names)
    loaders = loader_of(full, names, runtime), loader_of(small, names, runtime)
    seconds = []
    for seed in range(rounds + 1):
        seconds.append((reference(full), ours(loaders[0], seed), ours(loaders[1], seed)))
    theirs, own, copies = (np.array(column) for column in zip(*seconds[1:], strict=True))  # the first one warms up
    speeds = [len(names) / statistics.median(column) for column in (theirs, own, copies)]
    ratios, small_ratios = theirs / own, theirs / copies
    return (
        f"{kind.width}x{kind.height}, {size / 1e3:.0f} kB a file: ImageFolder {speeds[0]:.0f} images/s, "
        f"ours {speeds[1]:.0f}, ratio {statistics.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}); "
        f"with --short_side {SHORT_SIDE} {speeds[2]:.0f}, ratio {statistics.median(small_ratios):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with start_runtime() as runtime:
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                print(compare(Path(folder), kind, args.images, args.rounds, runtime), flush=True)


if __name__ == "__main__":
    main()
