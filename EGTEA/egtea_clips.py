"""Split files, the annotations of EGTEA Gaze+, and names of classes. Needs no torch.

A line of a split file names a clip and its class, in one of two forms:

    OP01-R01-PastaSalad-1001200-1002300-F024018-F024051 22 6 18     EGTEA: clip, action, verb, noun or nouns
    jump/garden_3 2                                                 clips of your own: CLASS/CLIP, number of the class

EGTEA's class is the verb. Both count classes from 1. The frames of an EGTEA clip are in ROOT/VIDEO/CLIP/, where VIDEO
is the clip's name up to its third dash; those of your own are in ROOT/CLASS/CLIP/.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from longtail.files import blob_id, read_text

MOST_CLASSES = 1000  # also of actions and nouns; EGTEA has 19 verbs and 106 actions
LARGEST_LIST = 1 << 26  # bytes; EGTEA's annotations have 700,000
CLIP_FORM = "VIDEO-START-END..., where VIDEO has three parts: OP01-R01-PastaSalad"
LINE_FORMS = "`clip action verb noun` (EGTEA) nor `CLASS/CLIP number` (your own clips)"


class Clip(NamedTuple):
    """A clip as a split file names it, and its class, counted from 0."""

    name: str
    label: int


def video_of(clip: str) -> str:
    """Return 'OP01-R03-BaconAndEggs' for 'OP01-R03-BaconAndEggs-160065-161285-F003842-F003876'."""
    return "-".join(clip.split("-")[:3])


def is_own(clip: str) -> bool:
    """Return whether a name is that of a clip of one's own, CLASS/CLIP, and not one of EGTEA's."""
    return "/" in clip


def clip_folder(clip: str) -> str:
    """Return the folder of a clip's frames, below the data root."""
    return clip if is_own(clip) else f"{video_of(clip)}/{clip}"


def is_clip_name(clip: str) -> bool:
    """Return whether `clip` is named as EGTEA's are, see CLIP_FORM, and cannot be a path that leaves the data root."""
    return clip.count("-") >= 3 and "/" not in clip and "\0" not in clip


@cache
def natural_order(name: str) -> tuple[tuple[str, int], ...]:
    """Return a key that sorts names by the numbers in them: img_2 before img_10."""
    parts = re.split(r"([0-9]+)", name)
    pairs = [(text, int(number)) for text, number in zip(parts[:-1:2], parts[1::2], strict=True)]
    return (*pairs, (parts[-1], -1), (name, -1))


def number_of(word: str) -> int | None:
    """Return the number of an action, verb, noun or class, 1 to MOST_CLASSES, that `word` means, else None."""
    is_number = word.isascii() and word.isdecimal() and len(word) < 10
    return int(word) if is_number and 1 <= int(word) <= MOST_CLASSES else None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line of a text file that is not empty."""
    for number, line in enumerate(read_text(path, LARGEST_LIST).splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def parse_line(line: str) -> Clip:
    """Return the clip and the class of a line in one of the two forms. Raise ValueError for any other line."""
    if is_own(line):
        name, *last = line.rsplit(maxsplit=1)
        label = number_of(last[0]) if last else None
        if label and not {"", ".", ".."} & set(name.split("/")) and "\0" not in name:
            return Clip(name, label - 1)
    else:
        name, *numbers = line.split()
        if len(numbers) >= 3 and all(map(number_of, numbers)):
            if not is_clip_name(name):
                raise ValueError(f"{name[:100]!r} is not named as a clip, {CLIP_FORM}")
            return Clip(name, int(numbers[1]) - 1)
    raise ValueError(f"{line[:100]!r} is neither {LINE_FORMS}, with numbers from 1 to {MOST_CLASSES}")


def read_lines(path: Path) -> dict[Clip, str]:
    """Return clip and text of every line of a split or annotation file. Raise ValueError that names a wrong line."""
    lines: dict[Clip, str] = {}
    names = set()
    for number, line in numbered_lines(path):
        try:
            clip = parse_line(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if clip.name in names:
            raise ValueError(f"{path}, line {number}: {clip.name} is listed twice")
        names.add(clip.name)
        lines[clip] = line
    return lines


def read_clips(path: Path) -> list[Clip]:
    """Return the clips of a split file. Raise ValueError for a damaged or empty one."""
    if not path.is_file():
        raise FileNotFoundError(f"no split file {path}; data/make_splits.py writes it, see --help there")
    clips = list(read_lines(path))
    if not clips:
        raise ValueError(f"{path} holds no clip; data/make_splits.py writes it again, see --help there")
    return clips


def split_identity(path: Path) -> str:
    """Return a split file's name and git's id of its content, which are the same in any folder."""
    return f"{path.name} {blob_id(path.read_bytes())}"


def count_labels(clips: list[Clip], num_classes: int) -> list[int]:
    """Return how many clips each class has."""
    counts = Counter(label for _, label in clips)
    return [counts[c] for c in range(num_classes)]


def check_labels(path: Path, clips: list[Clip], num_classes: int) -> None:
    """Raise ValueError for a class that training does not know."""
    for clip, label in clips:
        if label >= num_classes:
            raise ValueError(f"{path}: class {label + 1} of {clip} is not among the {num_classes} that were trained")


def read_names(path: Path) -> dict[int, str]:
    """Return {1: 'take'} for a file with the line `1 take` or `take 1`.

    Raise ValueError for another line or a second name.
    """
    names: dict[int, str] = {}
    for line_number, line in numbered_lines(path):
        words = line.split()
        number = None
        for end in (0, -1):
            if words[end].isdecimal():
                number = number_of(words.pop(end))
                break
        if number is None or not words:
            raise ValueError(
                f"{path}, line {line_number}: {line[:100]!r} is not a class's number, from 1 on, and its name: `1 take`"
            )
        name = " ".join(words)
        if number in names:
            raise ValueError(
                f"{path}, line {line_number}: class {number} is named twice, {names[number]!r} and {name!r}"
            )
        names[number] = name
    return names


def names_file(split: Path, clips: list[Clip]) -> Path:
    """Return where make_splits.py writes the names of the classes: beside the split file."""
    return split.with_name("classes.txt" if is_own(clips[0].name) else "verbs.txt")


def read_class_names(path: Path, num_classes: int) -> list[str]:
    """Return the names of the classes, 'class 1' for one that the file does not name; the file may be missing."""
    names = read_names(path) if path.is_file() else {}
    return [names.get(c + 1, f"class {c + 1}") for c in range(num_classes)]
