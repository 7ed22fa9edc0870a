"""EGTEA Gaze+ clips: split files, which frames of a clip, one view of them all, and batches of tensors.

A split file holds one clip a line, `clip action verb noun`; the label is the verb, minus 1. The frames of a clip stand in
ROOT/VIDEO/CLIP/*.jpg, in the order of their names; VIDEO is the clip's name up to its third dash.
"""

import io
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from longtail.devices import Runtime
from longtail.files import blob_id, check_file
from longtail.metrics import Batches
from longtail.training import epoch_seed

MEAN = (114.7748, 107.7354, 99.4750)     # RGB 0..255, no std: what the Kinetics network was trained with
MAX_ANGLE = 10.0                         # degrees
REDUCTIONS = (8, 4, 2)                   # of JPEG's reduced-size decoding
END_OF_JPEG, TAIL = b"\xff\xd9", 4096    # the marker that a whole file ends with, and the bytes where it is looked for
PIXELS_PER_BYTE = 512                    # at most: of each block of 8 x 8, Huffman coding needs a bit or more
LARGEST_SIDE = 8192                      # of a frame, in pixels
LARGEST_FRAME, LARGEST_LIST = 1 << 26, 1 << 26     # bytes
LARGEST_CLIP = 1 << 24                   # pixels; the paper's have 500,000
MOST_VERBS = 1000                        # EGTEA has 19
AGAIN = "delete its folder and extract the clip again"
SPLITS_COMMAND = "python data/make_splits.py --annotations action_annotation --out data"
FRAMES_COMMAND = "python data/extract_frames.py --videos cropped_clips --out extracted_frames"

Item, Result = TypeVar("Item"), TypeVar("Result")


def video_of(clip: str) -> str:
    """'OP01-R03-BaconAndEggs-160065-161285-F003842-F003876' is cut from 'OP01-R03-BaconAndEggs'."""
    return "-".join(clip.split("-")[:3])


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; ValueError if it is none."""
    check_file(path, LARGEST_LIST)
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: {error}") from None


def verb_number(word: str) -> int | None:
    """'13' as 13; None for what is no verb's number."""
    return int(word) if word.isascii() and word.isdecimal() and len(word) < 10 and 1 <= int(word) <= MOST_VERBS else None


def read_clips(path: Path) -> list[tuple[str, int]]:
    """(clip, label) of every line. ValueError names the line that is not `clip action verb noun`, or repeats a clip.

    A clip's name has three dashes or more, and so cannot be a path that leaves the data root.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no split file {path}; derive it from EGTEA's annotations: {SPLITS_COMMAND}")
    clips: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) < 3 or not verb_number(words[2]):
            raise ValueError(f"{path}, line {number}: {line[:100]!r} is not `clip action verb noun` with a verb from 1 to {MOST_VERBS}")
        if words[0].count("-") < 3 or "/" in words[0] or "\0" in words[0]:
            raise ValueError(f"{path}, line {number}: {words[0][:100]!r} is not named as a clip, VIDEO-START-END..., where VIDEO has "
                             "three parts: OP01-R01-PastaSalad")
        if words[0] in clips:
            raise ValueError(f"{path}, line {number}: {words[0]} is there twice")
        clips[words[0]] = int(words[2]) - 1
    if not clips:
        raise ValueError(f"{path} holds no clip; derive it anew: {SPLITS_COMMAND}")
    return list(clips.items())


def split_identity(path: Path) -> str:
    """A split file's name and what `git hash-object` prints for its content: the same wherever it stands."""
    return f"{path.name} {blob_id(path.read_bytes())}"


def count_labels(clips: list[tuple[str, int]], num_classes: int) -> list[int]:
    """How many clips each class has."""
    return np.bincount([label for _, label in clips], minlength=num_classes).tolist()


def check_labels(path: Path, clips: list[tuple[str, int]], num_classes: int) -> None:
    """ValueError for a verb that training does not know."""
    for clip, label in clips:
        if label >= num_classes:
            raise ValueError(f"{path}: verb {label + 1} of {clip} is not among the {num_classes} that were trained")


def read_class_names(path: Path, num_classes: int) -> list[str]:
    """'walk' for a line `1 walk` or `walk 1`; 'verb 1' for a class that the file, which may be missing, does not name."""
    names = {}
    for line in read_lines(path) if path.is_file() else ():
        words = line.split()
        number = next((verb_number(words.pop(place)) for place in (0, -1) if words and words[place].isdecimal()), None)
        if number is None or not words:
            raise ValueError(f"{path}: {line[:100]!r} is not a verb's number and name, such as `1 walk`")
        if number in names:
            raise ValueError(f"{path}: verb {number} is named twice, {names[number]!r} and {' '.join(words)!r}")
        names[number] = " ".join(words)
    return [names.get(c + 1, f"verb {c + 1}") for c in range(num_classes)]


def frame_indices(count: int, segments: int, generator: np.random.Generator | None = None) -> np.ndarray:
    """One of `count` frames from each of `segments` equal parts: its centre, or with a generator any. Few frames repeat."""
    i = np.arange(segments)
    if generator is None:
        return (2 * i + 1) * count // (2 * segments)
    low, high = i * count // segments, (i + 1) * count // segments
    return generator.integers(low, np.maximum(high, low + 1))


@dataclass(frozen=True)
class View:
    """What of a frame is seen: a square as high as the frame, at `position` (0 left to 1 right), turned, mirrored."""

    position: float = 0.5
    angle: float = 0.0
    flip: bool = False

    @classmethod
    def random(cls, generator: np.random.Generator) -> "View":
        return cls(generator.random(), generator.uniform(-MAX_ANGLE, MAX_ANGLE), bool(generator.random() < 0.5))

    def matrix(self, height: int, width: int, size: int) -> np.ndarray:
        """(2, 3): a pixel of the size x size output to its place in the frame (of an upright frame the square is as wide)."""
        side = min(height, width)
        step, turn = side / size, math.radians(self.angle)
        cos, sin = step * math.cos(turn), step * math.sin(turn)
        linear = np.array([[-cos if self.flip else cos, -sin], [-sin if self.flip else sin, cos]])
        centre = np.array([side / 2 + self.position * (width - side), side / 2 + self.position * (height - side)])
        offset = centre - 0.5 - linear @ np.full(2, (size - 1) / 2)      # pixel centres lie at half places
        return np.column_stack([linear, offset])


def read_content(path: Path) -> bytes:
    """A frame's file; OSError or ValueError if it is none."""
    try:
        check_file(path, LARGEST_FRAME)
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror or error}") from error


def frame_size(path: Path, content: bytes) -> tuple[int, int]:
    """Height and width, from the JPEG's header alone; ValueError for what no frame has, before a decoder makes room for it."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None       # Pillow's own limit warns in several lines; ours is below
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            height, width = image.height, image.width
    except Exception as error:          # of a damaged header Pillow raises any
        raise ValueError(f"{path} is a truncated or damaged JPEG; {AGAIN}") from error
    if max(height, width) > LARGEST_SIDE or height * width > PIXELS_PER_BYTE * len(content):
        raise ValueError(f"{path} claims {width} x {height} pixels in {len(content)} bytes; {AGAIN}")
    return height, width


def decoding_flag(side: int, size: int) -> int:
    """OpenCV's flag for the smallest decoding whose square, of `side` pixels in full, still has `size` or more on a side."""
    import cv2

    factor = next((factor for factor in REDUCTIONS if side // factor >= size), 1)
    return {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2, 1: cv2.IMREAD_COLOR}[factor]


def read_frame(path: Path, size: int) -> np.ndarray:
    """(H, W, 3), BGR, reduced as `size` allows. A file without JPEG's end is refused: OpenCV would fill what is missing with grey."""
    import cv2

    content = read_content(path)
    flag = decoding_flag(min(frame_size(path, content)), size)
    frame = cv2.imdecode(np.frombuffer(content, np.uint8), flag) if END_OF_JPEG in content[-TAIL:] else None
    if frame is None:
        raise ValueError(f"{path} is a truncated or damaged JPEG; {AGAIN}")
    return frame


def read_clip(paths: list[Path], view: View, size: int) -> np.ndarray:
    """(T, size, size, 3) RGB bytes: the same view of every frame. What a turned square sees beyond the frame is MEAN."""
    import cv2

    cv2.setNumThreads(0)
    clip = np.empty((len(paths), size, size, 3), np.uint8)
    border = tuple(round(value) for value in reversed(MEAN))
    for place, path in enumerate(paths):
        frame = read_frame(path, size)
        seen = cv2.warpAffine(frame, view.matrix(*frame.shape[:2], size), (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                              borderMode=cv2.BORDER_CONSTANT, borderValue=border)
        cv2.cvtColor(seen, cv2.COLOR_BGR2RGB, dst=clip[place])
    return clip


def memory_format(device: torch.device) -> torch.memory_format:
    """Of clips and network: channels last on a CPU, where it is faster; PyTorch's usual one on a GPU."""
    return torch.channels_last_3d if device.type == "cpu" else torch.contiguous_format


def normalize(clips: Tensor) -> Tensor:
    """(N, T, H, W, 3) bytes to (N, 3, T, H, W) floats, in the memory format of their device."""
    rows = clips.flatten(3).float()
    rows -= torch.tensor(MEAN, device=clips.device).repeat(clips.shape[3])     # whole rows: three values a step would be slow
    return rows.view(clips.shape).permute(0, 4, 1, 2, 3).contiguous(memory_format=memory_format(clips.device))


class ClipSet:
    """The clips of a split whose frames stand below `root`; every folder is looked into once, here.

    FileNotFoundError names the first clip without a folder or without frames.
    """

    def __init__(self, root: Path, clips: list[tuple[str, int]], frames: int, size: int):
        if frames * size * size > LARGEST_CLIP:
            raise ValueError(f"a clip of {frames} frames of {size} x {size} pixels is too large: choose a smaller --frames_per_clip or "
                             "--sample_size")
        if not root.is_dir():
            raise FileNotFoundError(f"{root} not found; pass --data_root, or extract the frames: {FRAMES_COMMAND}")
        self.folders = [root / video_of(clip) / clip for clip, _ in clips]
        self.labels = torch.tensor([label for _, label in clips])
        self.names = [frame_names(folder) for folder in self.folders]
        self.frames, self.size = frames, size

    def __len__(self) -> int:
        return len(self.folders)

    def load(self, index: int, seed: int | None = None) -> np.ndarray:
        """(T, H, W, 3) bytes: segment centres and the centre square; with a seed, a random frame a segment and a random view."""
        generator = None if seed is None else np.random.default_rng(seed)
        names = self.names[index]
        paths = [self.folders[index] / names[i] for i in frame_indices(len(names), self.frames, generator)]
        return read_clip(paths, View() if generator is None else View.random(generator), self.size)


def frame_names(folder: Path) -> list[str]:
    """A clip's frames in order. The names are the same in every clip, and kept once."""
    try:
        names = sorted(sys.intern(name) for name in os.listdir(folder) if name.endswith(".jpg"))
    except OSError as error:
        raise FileNotFoundError(f"no frames at {folder} ({error.strerror}); extract them: {FRAMES_COMMAND}") from error
    if not names:
        raise FileNotFoundError(f"{folder} holds no .jpg; delete it and extract the clip again: {FRAMES_COMMAND}")
    return names


def map_ahead(action: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int) -> Iterator[Result]:
    """action(item) in order, computed by `workers` threads up to `ahead` items early; by the caller with 0.

    Threads, because decoding and warping run outside Python's lock: they start at once, end with their process and hand
    errors on as they are.
    """
    if not workers:
        yield from map(action, items)
        return
    pool, pending = ThreadPoolExecutor(workers), deque()
    try:
        for item in items:
            pending.append(pool.submit(action, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def batches_of(clips: ClipSet, groups: list[Tensor], seeds: Callable[[int], int | None], workers: int, runtime: Runtime) -> Batches:
    """The clips of each group of indices as a batch, on the runtime's device."""
    def load(index: int) -> np.ndarray:
        return clips.load(index, seeds(index))

    indices = torch.cat(groups).tolist() if groups else []
    loaded = map_ahead(load, indices, workers, ahead=workers + 2 * max(map(len, groups), default=0))
    for group in groups:
        batch = torch.from_numpy(np.stack([next(loaded) for _ in group]))
        yield normalize(runtime.move(batch)), runtime.move(clips.labels[group])


def training_batches(clips: ClipSet, batch_size: int, seed: int, epoch: int, workers: int, runtime: Runtime) -> Batches:
    """This process's part of each batch; order and views come from (seed, epoch) and a clip's place in the split alone."""
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(epoch_seed(seed, epoch)))
    groups = [part for batch in order.split(batch_size) if len(part := runtime.share(batch))]
    return batches_of(clips, groups, lambda index: epoch_seed(seed, epoch, 1 + index), workers, runtime)


def evaluation_batches(clips: ClipSet, batch_size: int, workers: int, runtime: Runtime) -> Batches:
    """This process's part of the clips, each in one process, as segment centres and centre squares."""
    mine = torch.arange(len(clips))[runtime.rank::runtime.world_size]
    return batches_of(clips, list(mine.split(batch_size)) if len(mine) else [], lambda index: None, workers, runtime)
