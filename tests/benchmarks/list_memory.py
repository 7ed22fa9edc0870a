"""Memory of the workers that read images, over an epoch of a list with many paths.

    python tests/benchmarks/list_memory.py [--images 1000000] [--folders 1000] [--workers 8]

The images are links, each with a name of its own, to one tiny JPEG. USS is what a process has for itself alone, PSS
adds its share of what it has in common with others (Linux, /proc/PID/smaps_rollup); both are summed over the workers.
What they need to decode images at all is there after a tenth of the epoch.
"""

import argparse
import multiprocessing
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ImageNet-LT"))

from imagenet_lists import ImageList, locate, read_list
from imagenet_loader import ImageLoader
from longtail.distributed import start_runtime

BATCH, SIZE = 512, 8


def make_images(root: Path, images: int, folders: int) -> Path:
    """Make the links and a list of them. Return the list."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(root / "one.jpg")
    with open(root / "list.txt", "w") as file:
        for number in tqdm(range(images), "linking", disable=None):
            folder = f"train/n{number % folders:08d}"
            if number < folders:
                (root / folder).mkdir(parents=True)
            os.symlink(root / "one.jpg", root / folder / f"n{number % folders:08d}_{number}.JPEG")
            file.write(f"{folder}/n{number % folders:08d}_{number}.JPEG {number % folders}\n")
    return root / "list.txt"


def memory(process: int) -> tuple[int, int]:
    """Return USS and PSS of a process, in bytes."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    private, share = (
        sum(int(value) for value in re.findall(rf"^{name}: +(\d+) kB", text, re.M)) for name in ("Private_\\w+", "Pss")
    )
    return private * 1024, share * 1024


def workers_memory() -> tuple[int, int]:
    """Return USS and PSS, each summed over the workers."""
    uss, pss = zip(*(memory(child.pid) for child in multiprocessing.active_children()), strict=True)
    return sum(uss), sum(pss)


def epoch(images: ImageList, workers: int) -> list[tuple[int, int]]:
    """Read an epoch's images. Return the workers' memory at its start, after each tenth of it, and near its end."""
    measured = []
    with start_runtime() as runtime:
        loader, batches = ImageLoader(images, SIZE, SIZE, workers, runtime), -(-len(images) // BATCH)
        moments = {2, *(batches * tenth // 10 for tenth in range(1, 10)), batches - 4 * workers}
        for number, _ in enumerate(tqdm(loader.training_batches(None, BATCH, 0), "epoch", batches, disable=None)):
            if number in moments:
                measured.append(workers_memory())
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        file = make_images(Path(folder), args.images, args.folders)
        (images,) = locate(read_list(file, Path(folder), args.folders))
        own, start = memory(os.getpid())[1], time.perf_counter()
        measured = epoch(images, args.workers)
        uss, pss = ([value >> 20 for value in column] for column in zip(*measured, strict=True))
        print(
            f"{args.images} paths, {args.workers} workers; main process {own >> 20} MB before they start; "
            f"epoch of {time.perf_counter() - start:.0f} s"
        )
        print(
            f"MB, summed over the workers, at the start, after each tenth and at the end: "
            f"USS {' '.join(map(str, uss))}; "
            f"PSS {' '.join(map(str, pss))}; ratio of USS, end to first tenth, {uss[-1] / uss[1]:.2f}"
        )


if __name__ == "__main__":
    main()
