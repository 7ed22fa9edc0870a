"""Turn lists of images into batches: worker processes make the views, the device normalises them.

All randomness of an image comes from one number that the epoch's generator drew for it, so that the number of workers and of
processes changes nothing.
"""

import contextlib
import ctypes
import math
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imagenet_dataset import ImageList, draw_epoch
from imagenet_transforms import evaluation_view, normalize, training_view
from longtail.devices import Runtime
from longtail.files import check_file
from longtail.metrics import Batches
from longtail.signals import raise_if_stopped

LARGEST_IMAGE = 1 << 26       # bytes; ImageNet's largest has 15 million
UNIT = 64                     # images that a worker hands over at once
EVALUATION_BATCH = 256
MOST_WORKERS = 16
PR_SET_PDEATHSIG = 1          # linux/prctl.h


@dataclass(frozen=True)
class Views(Dataset):
    """Map a unit of work, indices and their seeds (None: evaluation views), to images (n, H, W, 3) uint8, or to an error message."""

    images: ImageList
    image_size: int
    test_resize: int

    def __getitem__(self, unit: tuple[list[int], list[int] | None]) -> Tensor | str:
        indices, seeds = unit
        views = torch.empty(len(indices), self.image_size, self.image_size, 3, dtype=torch.uint8)
        for place, index in enumerate(indices):
            path = self.images.root / self.images.paths[index]
            try:
                check_file(path, LARGEST_IMAGE)
                content = path.read_bytes()
            except OSError as error:
                return f"{path} cannot be read: {error.strerror or error}"
            try:
                views.numpy()[place] = self.view(content, seeds[place] if seeds else None)
            except Exception as error:           # a decoder may raise anything over a damaged file
                return f"{path} is not an image that can be decoded: {str(error).splitlines()[0] if str(error) else repr(error)}"
        return views

    def view(self, content: bytes, seed: int | None) -> np.ndarray:
        if seed is None:
            return evaluation_view(content, self.image_size, self.test_resize)
        return training_view(content, self.image_size, seed)


def start_worker(_number: int) -> None:
    """Make a worker end with its parent, however that ends, and use one core."""
    import cv2

    cv2.setNumThreads(1)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def count_workers(asked: int | None) -> int:
    """Return `asked`, or this process's share of the machine's cores, at most MOST_WORKERS."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


class ImageLoader:
    """The batches of one list on `runtime`'s device."""

    def __init__(self, images: ImageList, image_size: int, test_resize: int, workers: int | None, runtime: Runtime):
        import cv2  # noqa: F401  (before the workers fork, so that each starts at once)
        import torchvision.io  # noqa: F401

        self.images, self.labels, self.runtime = images, images.labels, runtime
        self.views, self.workers = Views(images, image_size, test_resize), count_workers(workers)

    def training_batches(self, probabilities: Tensor | None, batch_size: int, seed: int) -> Batches:
        """Yield this process's part of each batch of an epoch, augmented. `seed` and `probabilities` (C,) alone decide the order."""
        generator = torch.Generator().manual_seed(seed)
        order = draw_epoch(self.labels, probabilities, generator)
        seeds = torch.randint(2 ** 62, (len(order),), generator=generator)
        shares = [share for batch in torch.arange(len(order)).split(batch_size) if len(share := self.runtime.share(batch))]
        views = self.load([(order[share], seeds[share]) for share in shares])
        for share, images in zip(shares, views, strict=True):
            yield normalize(images), self.runtime.move(self.labels[order[share]])

    def evaluation_batches(self) -> Batches:
        """Yield this process's images in the list's order. Each image belongs to one process."""
        shares = torch.arange(self.runtime.rank, len(self.labels), self.runtime.world_size).split(EVALUATION_BATCH)
        shares = [share for share in shares if len(share)]
        for share, images in zip(shares, self.load([(share, None) for share in shares]), strict=True):
            yield normalize(images), self.runtime.move(self.labels[share])

    def load(self, batches: list[tuple[Tensor, Tensor | None]]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices and seeds, (N, 3, H, W) uint8, channels last in memory, on the device."""
        units = [[(indices[start:start + UNIT].tolist(), None if seeds is None else seeds[start:start + UNIT].tolist())
                  for start in range(0, len(indices), UNIT)] for indices, seeds in batches]
        workers = min(self.workers, sum(map(len, units)))
        settings = {}
        if workers:
            context = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
            ahead = max(2, math.ceil(2 * max(map(len, units)) / workers))
            settings = {"multiprocessing_context": context, "worker_init_fn": start_worker, "prefetch_factor": ahead}
        loader = DataLoader(self.views, batch_size=None, sampler=[unit for batch in units for unit in batch], num_workers=workers,
                            pin_memory=self.runtime.device.type == "cuda", **settings)
        views = iter(loader)
        for batch in units:
            parts = [self.next_part(views) for _ in batch]
            yield (torch.cat(parts) if len(parts) > 1 else parts[0]).permute(0, 3, 1, 2)

    def next_part(self, views: Iterator[Tensor | str]) -> Tensor:
        """Return the next unit on the device. Raise ValueError for an image that cannot be used, OSError for a worker that died."""
        try:
            part = next(views)
        except RuntimeError as error:
            raise_if_stopped()
            raise OSError(f"a worker that reads images died: {error}; it may lack memory (or shared memory, /dev/shm): "
                          "--workers 0 does without") from None
        if isinstance(part, str):
            raise ValueError(part)
        return self.runtime.move(part)
