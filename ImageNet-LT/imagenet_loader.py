"""Turn lists of images into batches: processes make the views, the device normalises them.

All randomness of an image comes from one number that the epoch's generator drew for it, so that the number of workers
and of processes changes nothing.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from imagenet_decoding import WHITE
from imagenet_lists import ImageList
from imagenet_readers import Part, Readers, Unit, ViewSettings
from imagenet_sampling import draw_epoch
from imagenet_transforms import normalize
from longtail.devices import Runtime
from longtail.metrics import Batches

EVALUATION_BATCH = 256
KEPT_SHARE = 1 / 8  # of the memory, for the views of a validation set, so that they are decoded once
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container's, in bytes or `max`


def memory_for_views() -> int:
    """Return how many bytes of views this process may keep: its share of KEPT_SHARE of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    if CGROUP_LIMIT.exists():
        limit = CGROUP_LIMIT.read_text().strip()
        if limit.isdigit():
            memory = min(memory, int(limit))
    return int(memory * KEPT_SHARE) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


class ImageLoader:
    """The batches of one list on `runtime`'s device.

    With `strict`, an image that cannot be used is an error. With `keep_views`, evaluation_batches reads the images once
    and keeps their views, if memory allows.
    """

    def __init__(
        self,
        images: ImageList,
        image_size: int,
        test_resize: int,
        workers: int | None,
        runtime: Runtime,
        strict: bool = True,
        white_level: int = WHITE,
        keep_views: bool = False,
    ):
        self.images, self.workers, self.runtime = images, workers, runtime
        self.settings = ViewSettings(image_size, test_resize, white_level, strict)
        self.readers: Readers | None = None
        self.note_was_printed = False
        self.keep_views = keep_views
        self.kept: list[Tensor] = []

    def training_batches(self, probabilities: Tensor | None, batch_size: int, seed: int) -> Batches:
        """Yield this process's part of each batch of an epoch, augmented.

        `seed` and `probabilities` (C,) alone decide the order.
        """
        labels = self.images.labels
        generator = torch.Generator().manual_seed(seed)
        order = draw_epoch(labels, probabilities, generator)
        seeds = torch.randint(2**62, (len(order),), generator=generator)
        shares = [self.runtime.share(batch) for batch in torch.arange(len(order)).split(batch_size)]
        shares = [share for share in shares if len(share)]
        batches = self.load([(order[share], seeds[share]) for share in shares])
        for share, (views, _) in zip(shares, batches, strict=True):
            yield self.to_device(views), self.runtime.move(labels[order[share]])

    def evaluation_batches(self) -> Batches:
        """Yield this process's images in the list's order. Each image belongs to one process."""
        for share, views in zip(self.evaluation_shares(), self.evaluation_views(), strict=True):
            yield self.to_device(views), self.runtime.move(self.images.labels[share])

    def checked_batches(self) -> Iterator[tuple[Tensor, dict[int, str]]]:
        """Yield images as evaluation_batches does, and by their position in the batch what is wrong with some."""
        for views, errors in self.load([(share, None) for share in self.evaluation_shares()]):
            yield self.to_device(views), errors

    def evaluation_shares(self) -> list[Tensor]:
        """Return the indices of each of this process's evaluation batches."""
        indices = torch.arange(len(self.images))[self.runtime.rank :: self.runtime.world_size]
        return [share for share in indices.split(EVALUATION_BATCH) if len(share)]

    def evaluation_views(self) -> Iterator[Tensor]:
        """Yield the views of each evaluation batch, (N, H, W, 3) uint8, from memory if they were kept."""
        if self.kept:
            yield from self.kept
            return
        shares = self.evaluation_shares()
        bytes_of_views = sum(map(len, shares)) * 3 * self.settings.image_size**2
        keeps = self.keep_views and bytes_of_views <= memory_for_views()
        kept = []
        for views, _ in self.load([(share, None) for share in shares]):
            if keeps:
                kept.append(views)
            yield views
        if keeps:
            self.kept = kept
            self.close()

    def load(self, batches: list[tuple[Tensor, Tensor | None]]) -> Iterator[tuple[Tensor, dict[int, str]]]:
        """Yield the views of each batch of indices and seeds, (N, H, W, 3) uint8, and their errors by position.

        Raise ValueError for an image that cannot be used if the loader is strict, OSError if a process died.
        """
        largest = max((len(indices) for indices, _ in batches), default=0)
        if not self.readers:
            self.readers = Readers(self.settings, self.workers, images_ahead=2 * largest)
        units = (unit for batch in batches for unit in self.units_of(*batch))
        with contextlib.closing(self.readers.parts(units)) as parts:
            for indices, _ in batches:
                yield self.stack(parts, len(indices))
            next(parts, None)  # runs the generator past its last yield; closing it instead would kill the processes

    def stack(self, parts: Iterator[Part], images: int) -> tuple[Tensor, dict[int, str]]:
        """Return the views of a batch of so many images from its parts, and the errors by position in it."""
        pinned = self.runtime.pins_memory
        views = torch.empty(self.settings.shape(images), dtype=torch.uint8, pin_memory=pinned)
        errors = {}
        for start in range(0, images, self.settings.unit):
            part = next(parts)
            for position, error in part.errors.items():
                if self.settings.strict:
                    raise ValueError(error)
                errors[start + position] = error
            if part.note and not self.note_was_printed:
                tqdm.write(part.note)
                self.note_was_printed = True
            views[start : start + len(part.views)] = torch.from_numpy(part.views)
        return views, errors

    def units_of(self, indices: Tensor, seeds: Tensor | None) -> Iterator[Unit]:
        """Cut a batch of indices and seeds into units of work."""
        for start in range(0, len(indices), self.settings.unit):
            end = start + self.settings.unit
            paths = [self.images.path(index) for index in indices[start:end].tolist()]
            yield Unit(paths, None if seeds is None else seeds[start:end].tolist())

    def to_device(self, views: Tensor) -> Tensor:
        """Return a batch of views on the device, (N, 3, H, W) float, channels last in memory."""
        return normalize(self.runtime.move(views).permute(0, 3, 1, 2))

    def close(self) -> None:
        """End the processes that read images."""
        if self.readers:
            self.readers.close()
        self.readers = None
