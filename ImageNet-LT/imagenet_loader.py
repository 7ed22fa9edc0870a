"""Turn lists of images into batches: worker processes make the views, the device normalises them.

All randomness of an image comes from one number that the epoch's generator drew for it, so that the number of workers
and of processes changes nothing.
"""

import contextlib
import ctypes
import math
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from imagenet_decoding import has_more_frames, use_image
from imagenet_lists import ImageList
from imagenet_sampling import draw_epoch
from imagenet_transforms import evaluation_view, normalize, training_view
from longtail.devices import Runtime
from longtail.metrics import Batches
from longtail.signals import raise_if_stopped

UNIT = 64  # images that a worker hands over at once
EVALUATION_BATCH = 256
MOST_WORKERS = 16
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Part(NamedTuple):
    """Some images of a batch, (n, H, W, 3) uint8; what is wrong with unusable ones, by place; and what to tell the
    user.
    """

    views: Tensor
    errors: dict[int, str]
    note: str = ""


@dataclass(frozen=True)
class Views(Dataset):
    """Map a unit of work, indices and their seeds (None: evaluation views), to a Part.

    If `strict`, it ends at the first error.
    """

    images: ImageList
    image_size: int
    test_resize: int
    strict: bool

    def __getitem__(self, unit: tuple[list[int], list[int] | None]) -> Part:
        indices, seeds = unit
        views = torch.zeros(len(indices), self.image_size, self.image_size, 3, dtype=torch.uint8)
        errors, note = {}, ""
        for place, index in enumerate(indices):
            path = self.images.root / self.images.paths[index]
            try:
                view, more_frames = use_image(path, partial(self.view, seed=seeds[place] if seeds else None))
                views.numpy()[place] = view
            except ValueError as error:
                errors[place] = str(error)
                if self.strict:
                    break
            else:
                note = (
                    f"{path} has several frames or pages: the first one is used, here and in files like it"
                    if more_frames
                    else note
                )
        return Part(views, errors, note)

    def view(self, content: bytes, seed: int | None) -> tuple[np.ndarray, bool]:
        """Return the view, and whether the file holds more than what was decoded."""
        if seed is None:
            view = evaluation_view(content, self.image_size, self.test_resize)
        else:
            view = training_view(content, self.image_size, seed)
        return view, has_more_frames(content)


def start_worker(parent: int, _number: int) -> None:
    """Make a worker end with its parent, however that ends, and use one core."""
    import cv2

    cv2.setNumThreads(1)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def count_workers(asked: int | None) -> int:
    """Return `asked`, or this process's share of the machine's cores, at most MOST_WORKERS."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def units_of(batches: list[tuple[Tensor, Tensor | None]]) -> Iterator[tuple[list[int], list[int] | None]]:
    """Cut batches of indices and seeds into units of work, one by one: a list of all units would take much memory."""
    for indices, seeds in batches:
        for start in range(0, len(indices), UNIT):
            end = start + UNIT
            yield indices[start:end].tolist(), None if seeds is None else seeds[start:end].tolist()


class ImageLoader:
    """The batches of one list on `runtime`'s device."""

    def __init__(
        self,
        images: ImageList,
        image_size: int,
        test_resize: int,
        workers: int | None,
        runtime: Runtime,
        strict: bool = True,
    ):
        import cv2  # noqa: F401  (before the workers fork, so that each starts at once)
        import torchvision.io  # noqa: F401

        self.labels, self.runtime, self.told = images.labels, runtime, False
        self.views, self.workers = Views(images, image_size, test_resize, strict), count_workers(workers)

    def training_batches(self, probabilities: Tensor | None, batch_size: int, seed: int) -> Batches:
        """Yield this process's part of each batch of an epoch, augmented.

        `seed` and `probabilities` (C,) alone decide the order.
        """
        generator = torch.Generator().manual_seed(seed)
        order = draw_epoch(self.labels, probabilities, generator)
        seeds = torch.randint(2**62, (len(order),), generator=generator)
        shares = [
            share for batch in torch.arange(len(order)).split(batch_size) if len(share := self.runtime.share(batch))
        ]
        parts = self.load([(order[share], seeds[share]) for share in shares])
        for share, (images, _) in zip(shares, parts, strict=True):
            yield images, self.runtime.move(self.labels[order[share]])

    def evaluation_batches(self) -> Batches:
        """Yield this process's images in the list's order. Each image belongs to one process."""
        for share, (images, _) in zip(self.evaluation_shares(), self.checked_batches(), strict=True):
            yield images, self.runtime.move(self.labels[share])

    def checked_batches(self) -> Iterator[tuple[Tensor, dict[int, str]]]:
        """Yield images as evaluation_batches does, and by their place in the batch what is wrong with unusable ones."""
        return self.load([(share, None) for share in self.evaluation_shares()])

    def evaluation_shares(self) -> list[Tensor]:
        """Return the indices of each of this process's evaluation batches."""
        shares = torch.arange(len(self.labels))[self.runtime.rank :: self.runtime.world_size].split(EVALUATION_BATCH)
        return [share for share in shares if len(share)]

    def load(self, batches: list[tuple[Tensor, Tensor | None]]) -> Iterator[tuple[Tensor, dict[int, str]]]:
        """Yield the images of each batch of indices and seeds, (N, 3, H, W) float on the device, and their errors by
        place.
        """
        counts = [math.ceil(len(indices) / UNIT) for indices, _ in batches]
        workers = min(self.workers, sum(counts))
        settings = {}
        if workers:
            context = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
            ahead = max(2, math.ceil(2 * max(counts) / workers))
            settings = {
                "multiprocessing_context": context,
                "worker_init_fn": partial(start_worker, os.getpid()),
                "prefetch_factor": ahead,
            }
        loader = DataLoader(
            self.views,
            batch_size=None,
            sampler=units_of(batches),
            num_workers=workers,
            pin_memory=self.runtime.pins_memory,
            **settings,
        )
        parts = iter(loader)
        for count in counts:
            batch = [self.next_part(parts) for _ in range(count)]
            errors = {
                number * UNIT + place: error
                for number, part in enumerate(batch)
                for place, error in part.errors.items()
            }
            views = torch.cat([part.views for part in batch]) if count > 1 else batch[0].views
            yield normalize(views.permute(0, 3, 1, 2)), errors  # channels last in memory

    def next_part(self, parts: Iterator[Part]) -> Part:
        """Return the next unit on the device.

        Raise ValueError for an image that cannot be used, OSError for a worker that died.
        """
        try:
            part = next(parts)
        except RuntimeError as error:
            raise_if_stopped()
            raise OSError(
                f"a worker that reads images died: {error}; it may lack memory (or shared memory, /dev/shm): "
                "--workers 0 does without"
            ) from None
        if part.errors and self.views.strict:
            raise ValueError(next(iter(part.errors.values())))
        if part.note and not self.told:
            tqdm.write(part.note)
            self.told = True
        return part._replace(views=self.runtime.move(part.views))
