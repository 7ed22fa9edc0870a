"""Read the images of batches, in this process or in several that live as long as the run.

Each process makes the views of a unit, some images of a batch, and writes them into memory that all processes share.
That memory is no file: /dev/shm, which Docker limits to 64 MB, is not used.
"""

import contextlib
import ctypes
import itertools
import math
import mmap
import multiprocessing
import os
import random
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from imagenet_decoding import WHITE, problem, read_image
from imagenet_transforms import augment, middle
from longtail.signals import raise_if_stopped, wait_until

MOST_WORKERS = 16
UNIT_BYTES = 64 * 224 * 224 * 3  # of the views of a unit
MOST_IN_UNIT = 64  # images
MEMORY = 1 << 30  # bytes of views that wait for the main process
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class ViewSettings:
    """What decides how an image file becomes a view of image_size x image_size pixels."""

    image_size: int
    test_resize: int
    white_level: int = WHITE
    strict: bool = True  # whether reading ends at the first image that cannot be used

    @property
    def unit(self) -> int:
        """How many images a process hands over at once."""
        return max(1, min(MOST_IN_UNIT, UNIT_BYTES // (3 * self.image_size**2)))

    def shape(self, images: int) -> tuple[int, int, int, int]:
        """Return the shape of the views of so many images."""
        return images, self.image_size, self.image_size, 3


class Unit(NamedTuple):
    """Some images of a batch: their paths, and the seed of each for a training view (None: evaluation views)."""

    paths: list[str]
    seeds: list[int] | None


@dataclass
class Part:
    """The views of a unit, (n, H, W, 3) uint8; what is wrong with unusable images, by position; what to tell the user.

    `views` is None where they are in the shared memory.
    """

    views: np.ndarray | None
    errors: dict[int, str] = field(default_factory=dict)
    note: str = ""


def read_view(path: Path, seed: int | None, settings: ViewSettings) -> tuple[np.ndarray, bool]:
    """Return a view of an image file, and whether the file holds more frames than the one that was used.

    With a seed it is a random crop, resized, perhaps mirrored, and jittered; without, the shorter side is resized to
    test_resize, and the view is the middle. It may raise anything over a damaged file.
    """
    image = read_image(path, settings.white_level)
    if seed is None:
        pixels = image.decode_whole(settings.test_resize)
        view = middle(pixels, image.height, image.width, settings.image_size, settings.test_resize)
    else:
        rng = random.Random(seed)
        crop = image.decode_crop(rng, settings.image_size)
        view = augment(crop, settings.image_size, rng)
    return view, image.has_more_frames


def read_unit(unit: Unit, settings: ViewSettings, views: np.ndarray) -> Part:
    """Put the view of each image of a unit into `views`. The part that is returned says what is wrong with an image."""
    part = Part(views)
    for position, name in enumerate(unit.paths):
        path = Path(name)
        seed = unit.seeds[position] if unit.seeds else None
        try:
            views[position], more_frames = read_view(path, seed, settings)
        except Exception as error:  # a decoder may raise anything over a damaged file
            views[position] = 0
            part.errors[position] = f"{path} {problem(error)}"
            if settings.strict:
                break
        else:
            if more_frames:
                part.note = f"{path} has several frames or pages: the first one is used, here and in files like it"
    return part


_memory: np.ndarray | None = None  # in a reading process: the shared memory, (slots, unit, H, W, 3); None without


def start_process(parent: int, memory: np.ndarray | None) -> None:
    """Make a reading process end with its parent, however that ends, and use one core."""
    import cv2

    global _memory
    _memory = memory
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def read_in_process(unit: Unit, settings: ViewSettings, slot: int) -> Part:
    """Read a unit in a process of its own, into a slot of the shared memory if there is one."""
    if _memory is None:
        return read_unit(unit, settings, np.zeros(settings.shape(len(unit.paths)), np.uint8))
    part = read_unit(unit, settings, _memory[slot])
    part.views = None
    return part


def count_workers(asked: int | None) -> int:
    """Return `asked`, or this process's share of the machine's cores, at most MOST_WORKERS."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


class Readers:
    """The processes that read images for one list. They start with the first unit, and live until `close`.

    An epoch that is not read to its end (an error, a stop signal) ends them too; the next one would start others.
    """

    def __init__(self, settings: ViewSettings, workers: int | None, images_ahead: int):
        """Let `workers` processes (0: this one) work on at least `images_ahead` images at a time, if memory allows."""
        self.settings, self.workers = settings, count_workers(workers)
        units_in_memory = MEMORY // math.prod(settings.shape(settings.unit))
        slots = max(2 * self.workers, math.ceil(images_ahead / settings.unit))
        self.slots = max(self.workers + 1, min(slots, units_in_memory))
        self.pool: ProcessPoolExecutor | None = None
        self.memory: np.ndarray | None = None

    def parts(self, units: Iterable[Unit]) -> Iterator[Part]:
        """Yield the part of each unit in order. Its views hold until the next one is asked for."""
        if self.workers:
            yield from self.parts_from_processes(units)
        else:
            for unit in units:
                yield read_unit(unit, self.settings, np.empty(self.settings.shape(len(unit.paths)), np.uint8))

    def parts_from_processes(self, units: Iterable[Unit]) -> Iterator[Part]:
        """Yield the parts while the processes work on the next units, one for each slot of the memory."""
        pool, units = self.start(), iter(units)
        free, pending = deque(range(self.slots)), deque()
        finished = False
        try:
            while True:
                for unit in itertools.islice(units, len(free)):
                    slot = free.popleft()
                    pending.append((slot, unit, pool.submit(read_in_process, unit, self.settings, slot)))
                if not pending:
                    break
                slot, unit, future = pending.popleft()
                part = self.result(future)
                if part.views is None:
                    part.views = self.memory[slot, : len(unit.paths)]
                yield part
                free.append(slot)
            finished = True
        finally:
            if not finished:
                self.close()

    def start(self) -> ProcessPoolExecutor:
        """Return the pool of processes, which is started if there is none. Raise OSError if it cannot be."""
        if self.pool:
            return self.pool
        import cv2  # noqa: F401  (before the processes fork, so that each starts at once)
        import torchvision.io  # noqa: F401

        forks = "fork" in multiprocessing.get_all_start_methods()
        try:
            if forks:
                shape = (self.slots, *self.settings.shape(self.settings.unit))
                self.memory = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
            self.pool = ProcessPoolExecutor(
                self.workers,
                multiprocessing.get_context("fork" if forks else None),
                start_process,
                (os.getpid(), self.memory),
            )
        except (OSError, NotImplementedError, ImportError) as error:  # the last two: no semaphores on this system
            raise OSError(
                f"no processes that read images could be started: {error}; --workers 0 does without"
            ) from None
        return self.pool

    def result(self, future: Future) -> Part:
        """Wait for a part. Raise Stopped after a stop signal, OSError if a process died."""
        wait_until(lambda seconds: wait([future], seconds).done)
        try:
            return future.result()
        except BrokenProcessPool:
            raise_if_stopped()
            raise OSError(
                "a process that reads images died, perhaps for want of memory: fewer --workers need less, and "
                "--workers 0 does without"
            ) from None

    def close(self) -> None:
        """End the processes, even one that waits for a dead drive. They hold nothing of value."""
        if self.pool:
            processes = list((self.pool._processes or {}).values())  # Python 3.14 has kill_workers() for this
            for process in processes:
                process.kill()
            self.pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.join(1)
        self.pool = self.memory = None
