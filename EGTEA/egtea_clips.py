"""Text files of EGTEA Gaze+: annotations, splits, names of verbs. Needs no torch.

A split or annotation file holds one clip on each line, `clip action verb noun`. The frames of a clip stand in
ROOT/VIDEO/CLIP/*.jpg; VIDEO is the clip's name up to its third dash.
"""

from collections import Counter
from pathlib import Path

from longtail.files import blob_id, read_text

MOST_VERBS = 1000  # also of actions and nouns; EGTEA has 19 verbs and 106 actions
LARGEST_LIST = 1 << 26  # bytes; EGTEA's annotations have 700,000
CLIP_FORM = "VIDEO-START-END..., where VIDEO has three parts: OP01-R01-PastaSalad"
SPLITS_COMMAND = "python data/make_splits.py --annotations action_annotation --out data"


def video_of(clip: str) -> str:
    """Return 'OP01-R03-BaconAndEggs' for 'OP01-R03-BaconAndEggs-160065-161285-F003842-F003876'."""
    return "-".join(clip.split("-")[:3])


def is_clip_name(clip: str) -> bool:
    """Return whether `clip` has three dashes, as CLIP_FORM says, and cannot be a path that leaves the data root."""
    return clip.count("-") >= 3 and "/" not in clip and "\0" not in clip


def number_of(word: str) -> int | None:
    """Return the number of an action, verb or noun, 1 to MOST_VERBS, that `word` means, else None."""
    return (
        int(word) if word.isascii() and word.isdecimal() and len(word) < 10 and 1 <= int(word) <= MOST_VERBS else None
    )


def read_clip_lines(path: Path, fields: int) -> list[list[str]]:
    """Return the words of every line: a clip and at least `fields` - 1 numbers.

    Raise ValueError that names a line which differs.
    """
    clips: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path, LARGEST_LIST).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) < fields or not all(map(number_of, words[1:])):
            raise ValueError(
                f"{path}, line {number}: {line[:100]!r} is not `clip action verb noun` "
                f"with numbers from 1 to {MOST_VERBS}"
            )
        if not is_clip_name(words[0]):
            raise ValueError(f"{path}, line {number}: {words[0][:100]!r} is not named as a clip, {CLIP_FORM}")
        if words[0] in clips:
            raise ValueError(f"{path}, line {number}: {words[0]} is listed twice")
        clips[words[0]] = words
    return list(clips.values())


def read_clips(path: Path) -> list[tuple[str, int]]:
    """Return clip and label, the verb minus 1, of every line of a split file.

    Raise ValueError for a damaged or empty one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no split file {path}; derive it from EGTEA's annotations: {SPLITS_COMMAND}")
    clips = [(words[0], int(words[2]) - 1) for words in read_clip_lines(path, fields=3)]
    if not clips:
        raise ValueError(f"{path} holds no clip; derive it again: {SPLITS_COMMAND}")
    return clips


def split_identity(path: Path) -> str:
    """Return a split file's name and git's id of its content, which are the same wherever it stands."""
    return f"{path.name} {blob_id(path.read_bytes())}"


def count_labels(clips: list[tuple[str, int]], num_classes: int) -> list[int]:
    """Return how many clips each class has."""
    counts = Counter(label for _, label in clips)
    return [counts[c] for c in range(num_classes)]


def check_labels(path: Path, clips: list[tuple[str, int]], num_classes: int) -> None:
    """Raise ValueError for a verb that training does not know."""
    for clip, label in clips:
        if label >= num_classes:
            raise ValueError(f"{path}: verb {label + 1} of {clip} is not among the {num_classes} that were trained")


def read_names(path: Path) -> dict[int, str]:
    """Return {1: 'take'} for a file with the line `1 take` or `take 1`.

    Raise ValueError for another line or a second name.
    """
    names: dict[int, str] = {}
    for place, line in enumerate(read_text(path, LARGEST_LIST).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        number = next((number_of(words.pop(end)) for end in (0, -1) if words[end].isdecimal()), None)
        if number is None or not words:
            raise ValueError(
                f"{path}, line {place}: {line[:100]!r} is not a verb's number, from 1 on, and its name: `1 take`"
            )
        if number in names:
            raise ValueError(
                f"{path}, line {place}: verb {number} is named twice, {names[number]!r} and {' '.join(words)!r}"
            )
        names[number] = " ".join(words)
    return names


def read_class_names(path: Path, num_classes: int) -> list[str]:
    """Return the names of the classes, 'verb 1' for one that the file does not name; the file may be missing."""
    names = read_names(path) if path.is_file() else {}
    return [names.get(c + 1, f"verb {c + 1}") for c in range(num_classes)]
