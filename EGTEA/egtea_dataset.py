"""Frames of EGTEA Gaze+ clips to batches: which frames of a clip, one view of them all, decoding, normalisation.

The frames of a clip are the images in its folder, in the order of the numbers in their names (egtea_clips.py reads the
lists of clips and knows their folders).
"""

import io
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from egtea_clips import Clip, clip_folder, natural_order
from longtail.devices import Runtime, send
from longtail.files import check_file
from longtail.folders import is_hidden
from longtail.metrics import Batches
from longtail.seeds import epoch_seed

MEAN = (114.7748, 107.7354, 99.4750)  # RGB 0..255, no std: what the Kinetics network was trained with
MAX_ANGLE = 10.0  # degrees
REDUCTIONS = (8, 4, 2)  # of JPEG's reduced-size decoding
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # what a whole file ends with
TAIL = 4096  # bytes at the end of a file in which its end is searched
PIXELS_PER_BYTE = 512  # of a JPEG at most: of each block of 8 x 8, Huffman coding needs a bit or more
LARGEST_SIDE = 8192  # of a frame, in pixels
LARGEST_FRAME = 1 << 26  # bytes
LARGEST_CLIP = 1 << 24  # pixels; the paper's have 500,000
AGAIN = "move its folder away, and data/extract_frames.py extracts the clip again"

Item = TypeVar("Item")
Result = TypeVar("Result")


def frame_indices(count: int, segments: int, generator: np.random.Generator | None = None) -> np.ndarray:
    """Return one of `count` frames from each of `segments` equal parts: the centre, or, with a generator, a random one.

    If there are fewer frames than segments, frames repeat.
    """
    i = np.arange(segments)
    if generator is None:
        return (2 * i + 1) * count // (2 * segments)
    low, high = i * count // segments, (i + 1) * count // segments
    return generator.integers(low, np.maximum(high, low + 1))


@dataclass(frozen=True)
class View:
    """The part of a frame that is seen: a square as high as the frame, at `position`, turned, mirrored.

    Position is 0 at the left and 1 at the right.
    """

    position: float = 0.5
    angle: float = 0.0
    flip: bool = False

    @classmethod
    def random(cls, generator: np.random.Generator) -> "View":
        position = generator.random()
        angle = generator.uniform(-MAX_ANGLE, MAX_ANGLE)
        return cls(position, angle, flip=bool(generator.random() < 0.5))

    def matrix(self, height: int, width: int, size: int) -> np.ndarray:
        """Return the matrix (2, 3) from a pixel of the size x size output to its coordinates in the frame.

        A frame that is higher than wide is cropped too.
        """
        side = min(height, width)
        step, turn = side / size, math.radians(self.angle)
        cos, sin = step * math.cos(turn), step * math.sin(turn)
        direction = -1 if self.flip else 1
        linear = np.array([[direction * cos, -sin], [direction * sin, cos]])
        centre = np.array([side / 2 + self.position * (width - side), side / 2 + self.position * (height - side)])
        offset = centre - 0.5 - linear @ np.full(2, (size - 1) / 2)  # a pixel's centre is half a pixel from its edge
        return np.column_stack([linear, offset])


def read_header(path: Path, content: bytes) -> tuple[int, int, str]:
    """Return height, width and format from the header of a JPEG or PNG.

    Raise ValueError for impossible ones, before a decoder reserves memory.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns in several lines; below is ours
    try:
        with Image.open(io.BytesIO(content), formats=tuple(ENDS)) as image:
            height, width, form = image.height, image.width, image.format
    except Exception as error:  # a damaged header makes Pillow raise anything
        raise ValueError(f"{path} is a truncated or damaged JPEG or PNG; {AGAIN}") from error
    too_dense = form == "JPEG" and height * width > PIXELS_PER_BYTE * len(content)
    if max(height, width) > LARGEST_SIDE or too_dense:
        raise ValueError(f"{path} claims {width} x {height} pixels in {len(content)} bytes; {AGAIN}")
    return height, width, form


def decoding_flag(side: int, size: int) -> int:
    """Return OpenCV's flag for the smallest decoding in which a square of `side` pixels keeps `size` or more."""
    import cv2

    flags = (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_COLOR_2)
    for factor, flag in zip(REDUCTIONS, flags, strict=True):
        if side // factor >= size:
            return flag
    return cv2.IMREAD_COLOR


def read_frame(path: Path, size: int) -> np.ndarray:
    """Return (H, W, 3) BGR, reduced as `size` allows.

    Raise OSError or ValueError for a file that is missing, damaged or truncated.
    """
    import cv2

    try:
        check_file(path, LARGEST_FRAME)
        content = path.read_bytes()
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror or error}") from error
    height, width, form = read_header(path, content)
    frame = None
    if ENDS[form] in content[-TAIL:]:  # OpenCV would fill up a truncated one with grey
        frame = cv2.imdecode(np.frombuffer(content, np.uint8), decoding_flag(min(height, width), size))
    if frame is None:
        raise ValueError(f"{path} is a truncated or damaged {form}; {AGAIN}")
    return frame


def read_clip(paths: list[Path], view: View, size: int) -> np.ndarray:
    """Return (T, size, size, 3) RGB bytes: the same view of every frame. Pixels outside of the frame are MEAN."""
    import cv2

    cv2.setNumThreads(0)
    clip = np.empty((len(paths), size, size, 3), np.uint8)
    border = tuple(round(value) for value in reversed(MEAN))
    for index, path in enumerate(paths):
        frame = read_frame(path, size)
        seen = cv2.warpAffine(
            frame,
            view.matrix(*frame.shape[:2], size),
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=border,
        )
        cv2.cvtColor(seen, cv2.COLOR_BGR2RGB, dst=clip[index])
    return clip


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the memory format of clips and model.

    It is channels last on a CPU, where that is faster, and PyTorch's usual one on a GPU.
    """
    return torch.channels_last_3d if device.type == "cpu" else torch.contiguous_format


def normalize(clips: Tensor) -> Tensor:
    """Convert (N, T, H, W, 3) bytes to (N, 3, T, H, W) floats with mean 0, in the memory format of their device."""
    rows = clips.flatten(3).float()
    # whole rows: three values at a time would be slow
    rows -= send(torch.tensor(MEAN).repeat(clips.shape[3]), clips.device)
    return rows.view(clips.shape).permute(0, 4, 1, 2, 3).contiguous(memory_format=memory_format(clips.device))


class ClipSet:
    """The clips of a split, whose frames are below `root`. Every folder is listed once, here.

    Raises FileNotFoundError that names the first clip without a folder or without frames.
    """

    def __init__(self, root: Path, clips: list[Clip], frames: int, size: int):
        if frames * size * size > LARGEST_CLIP:
            raise ValueError(
                f"a clip of {frames} frames of {size} x {size} pixels is too large: "
                "choose a smaller --frames_per_clip or --sample_size"
            )
        if not root.is_dir():
            raise FileNotFoundError(
                f"{root} not found; pass --data_root, or extract the frames with data/extract_frames.py"
            )
        self.folders = [root / clip_folder(clip) for clip, _ in clips]
        self.labels = torch.tensor([label for _, label in clips])
        self.names = [frame_names(folder) for folder in self.folders]
        self.frames, self.size = frames, size

    def __len__(self) -> int:
        return len(self.folders)

    def load(self, index: int, seed: int | None = None) -> np.ndarray:
        """Return (T, H, W, 3) bytes: segment centres and the centre square.

        With a seed: random frames and a random view.
        """
        folder, names = self.folders[index], self.names[index]
        if seed is None:
            return read_centre(folder, names, self.frames, self.size)
        generator = np.random.default_rng(seed)
        paths = [folder / names[i] for i in frame_indices(len(names), self.frames, generator)]
        return read_clip(paths, View.random(generator), self.size)


def read_centre(folder: Path, names: list[str], frames: int, size: int) -> np.ndarray:
    """Return a clip as evaluation sees it, (T, H, W, 3) bytes: the segment centres, the centre square."""
    paths = [folder / names[i] for i in frame_indices(len(names), frames)]
    return read_clip(paths, View(), size)


def frame_names(folder: Path) -> list[str]:
    """Return the names of a clip's frames in order. Equal names are kept once in memory.

    Raise FileNotFoundError if frames that the extraction wrote are gone. Older extractions, which do not note this
    number, are accepted.
    """
    try:
        present = os.listdir(folder)
    except OSError as error:
        raise FileNotFoundError(
            f"no frames at {folder} ({error.strerror}); data/extract_frames.py extracts them"
        ) from error
    present = [name for name in present if not is_hidden(name)]
    names = [sys.intern(name) for name in present if name.lower().endswith(FRAME_SUFFIXES)]
    names.sort(key=natural_order)
    written = 0
    for name in present:
        stem, _, end = name.partition(".")
        if end == "frames" and stem.isdecimal():
            written = int(stem)
    if len(names) < written:
        raise FileNotFoundError(f"{folder} holds {len(names)} of the {written} frames that were extracted; {AGAIN}")
    if not names:
        raise FileNotFoundError(f"{folder} holds no frame ({', '.join(FRAME_SUFFIXES)}); {AGAIN}")
    return names


def map_ahead(action: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int) -> Iterator[Result]:
    """Yield action(item) in order; `workers` threads compute up to `ahead` items early.

    With 0 workers the caller computes.

    Threads suffice, since decoding and warping run outside Python's lock. They start at once, end with their process
    and pass errors on unchanged.
    """
    if not workers:
        yield from map(action, items)
        return
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(action, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def batches_of(
    clips: ClipSet, groups: list[Tensor], seeds: Callable[[int], int | None], workers: int, runtime: Runtime
) -> Batches:
    """Yield the clips of each group of indices as a batch, on the runtime's device."""

    def load(index: int) -> np.ndarray:
        return clips.load(index, seeds(index))

    indices = torch.cat(groups).tolist() if groups else []
    loaded = map_ahead(load, indices, workers, ahead=workers + 2 * max(map(len, groups), default=0))
    for group in groups:
        batch = torch.from_numpy(np.stack([next(loaded) for _ in group]))
        if runtime.pins_memory:
            batch = batch.pin_memory()
        yield normalize(runtime.move(batch)), runtime.move(clips.labels[group])


def training_batches(clips: ClipSet, batch_size: int, seed: int, epoch: int, workers: int, runtime: Runtime) -> Batches:
    """Yield this process's part of each batch.

    Order and views depend on (seed, epoch) and a clip's index in the split alone.
    """
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(epoch_seed(seed, epoch)))
    shares = [runtime.share(batch) for batch in order.split(batch_size)]
    groups = [share for share in shares if len(share)]
    return batches_of(clips, groups, lambda index: epoch_seed(seed, epoch, 1 + index), workers, runtime)


def evaluation_batches(clips: ClipSet, batch_size: int, workers: int, runtime: Runtime) -> Batches:
    """Yield this process's part of the clips as segment centres and centre squares.

    Each clip belongs to one process.
    """
    mine = torch.arange(len(clips))[runtime.rank :: runtime.world_size]
    groups = list(mine.split(batch_size)) if len(mine) else []
    return batches_of(clips, groups, lambda index: None, workers, runtime)
