"""Lists of images, with lines such as `train/n01440764/n01440764_190.JPEG 0`: read, check, and find on disk.

Spaces, tabs, commas or semicolons stand before the label. Blank lines, lines that start with `#` and a byte order
mark are skipped.
"""

import dataclasses
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imagenet_decoding import SUFFIXES
from longtail.cli import first_few
from longtail.files import blob_id, read_text
from longtail.signals import raise_if_stopped

SHOWN = 5  # missing images that an error names
LINE = re.compile(r"(.*[^\s,;])[\s,;]+([0-9]+)")  # path and label
ENDING = "|".join(re.escape(suffix) for suffix in SUFFIXES)
PATH_AND_COLUMN = re.compile(rf".*({ENDING})[\s,;]+[^\s,;]+", re.IGNORECASE)
CLASS_FOLDERS_HOLD = 0.95  # of the training images: what is below has folders that mean something else


@dataclass(frozen=True)
class ImageList:
    """The images of a list file, in its order: `paths` (N,) below `root`, from encode_paths, and `labels` (N,).

    `blob` is git's id of the file, `note` a remark for the user.
    """

    file: Path
    root: Path
    paths: np.ndarray
    labels: Tensor
    blob: str
    note: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Return where an image is."""
        return os.path.join(self.root, os.fsdecode(self.paths[index]))

    def files(self) -> list[Path]:
        """Return where the images are."""
        return [self.root / name for name in self.names()]

    def names(self) -> list[str]:
        """Return the paths below `root`."""
        return [os.fsdecode(path) for path in self.paths]

    def with_paths(self, paths: Iterable[str]) -> "ImageList":
        """Return the list with other paths for the same images."""
        return dataclasses.replace(self, paths=encode_paths(paths))

    def class_counts(self, num_classes: int) -> list[int]:
        return self.labels.bincount(minlength=num_classes).tolist()

    def class_names(self, num_classes: int) -> list[str]:
        """Return a name of its own for each class: the folder of its first image, with folders above it if need be.

        ILSVRC names its folders by WordNet id. A class whose folders another one has too is called by its label.
        """
        folders: list[tuple[str, ...]] = [()] * num_classes
        for path, label in zip(reversed(self.names()), reversed(self.labels.tolist()), strict=True):
            folders[label] = tuple(path.split("/")[:-1])
        names = [str(label) for label in range(num_classes)]
        unnamed = set(range(num_classes))
        for depth in range(1, max(map(len, folders)) + 1):
            short = ["/".join(parts[-depth:]) for parts in folders]
            times = Counter(short[label] for label in unnamed)
            for label in list(unnamed):
                if folders[label] and times[short[label]] == 1:
                    names[label] = short[label]
                    unnamed.remove(label)
        return distinct(names)


def distinct(names: list[str]) -> list[str]:
    """Return the names of the classes, each with its label behind it where another class has the same name."""
    times = Counter(names)
    return [f"{name} ({label})" if times[name] > 1 else name for label, name in enumerate(names)]


def encode_paths(paths: Iterable[str]) -> np.ndarray:
    """Return paths as one array of bytes, (N,): a million take as many times the longest one's length."""
    return np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)


def read_list(file: Path, root: Path, num_classes: int, repeats: bool = False) -> ImageList:
    """Return the content of a list file. Raise ValueError that names a line without a usable path or label.

    A path may stand there more than once only if `repeats`; the list's note then says so.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} not found: data/ImageNet_LT/fetch_lists.py downloads the published lists, data/make_lists.py "
            "makes lists of your own images; train_list, val_list and test_list in the YAML name them"
        )
    content = file.read_bytes()
    firsts: dict[str, tuple[int, int]] = {}
    paths, labels, repeated = [], [], ""
    for number, line in meaningful_lines(content, file):
        try:
            path, label = parse_line(line, num_classes)
            first_line, first_label = firsts.setdefault(path, (number, label))
            if first_line < number:
                check_repeat(path, label, first_line, first_label, repeats)
                repeated = repeated or f"{path}, in lines {first_line} and {number}"
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
        paths.append(path)
        labels.append(label)
    if not labels:
        raise ValueError(f"{file} lists no image")
    note = (
        f"{file}: {len(paths) - len(firsts)} of {len(paths)} lines repeat a path ({repeated}); each line counts"
        if repeated
        else ""
    )
    return ImageList(file, root, encode_paths(paths), torch.tensor(labels), blob_id(content), note)


def meaningful_lines(content: bytes, file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that say something, each with its number."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8, in which it must be saved: {error}") from None
    yield from (
        (number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")
    )


def check_repeat(path: str, label: int, first_line: int, first_label: int, repeats: bool) -> None:
    """Raise ValueError for a path that may not stand in the list again, or not with another label."""
    if label != first_label:
        raise ValueError(f"{path} stands in line {first_line} already, with label {first_label} instead of {label}")
    if not repeats:
        raise ValueError(f"{path} stands in line {first_line} already; only a training list may repeat a path")


def parse_line(line: str, num_classes: int) -> tuple[str, int]:
    """Return path and label. Raise ValueError that says what is wrong."""
    match = LINE.fullmatch(line.strip())
    if not match or "\0" in line:
        raise ValueError(
            f"{line[:80]!r} is not `path label` with a whole number for a label (a heading must start with #)"
        )
    path, label = match[1], int(match[2])
    if PATH_AND_COLUMN.fullmatch(path) and not path.lower().endswith(SUFFIXES):
        raise ValueError(f"lines have three columns, such as {line[:80]!r}: write `path label`, without the third")
    if label >= num_classes:
        raise ValueError(f"label {label} must lie between 0 and {num_classes - 1} (num_classes {num_classes})")
    if "\\" in path:
        raise ValueError(
            f"{path} holds a backslash: write / between folders, in all lines (in an editor: replace each \\ by /)"
        )
    if path.startswith(("/", "~")) or ".." in path.split("/"):
        raise ValueError(f"{path} leaves data_root: a path must lead down from it, without `..`")
    return posixpath.normpath(path), label


def format_line(path: str, label: int) -> str:
    """Return the line from which parse_line reads path and label. Raise ValueError for a path that no line can hold."""
    line = f"./{path} {label}" if path.startswith(("#", "~", " ")) else f"{path} {label}"
    if len(line.splitlines()) > 1 or parse_line(line, label + 1) != (path, label):
        raise ValueError("a list cannot hold its name: a line break, or a space or comma at its end")
    line.encode()  # UnicodeEncodeError, a ValueError, for bytes that are not text
    return line


def read_class_names(file: Path, num_classes: int) -> list[str]:
    """Return the lines of a file that names a class in each, in the order of the labels."""
    if not file.is_file():
        raise FileNotFoundError(
            f"class_list {file} not found: each of its lines names a class; without class_list, folders name them"
        )
    names = [line.strip() for line in read_text(file).splitlines()]
    if len(names) != num_classes:
        raise ValueError(f"{file} names {len(names)} classes, but num_classes is {num_classes}")
    return distinct(names)


def check_classes(images: ImageList, num_classes: int) -> None:
    """Raise ValueError if a class has no image."""
    absent = [str(c) for c, count in enumerate(images.class_counts(num_classes)) if not count]
    if absent:
        raise ValueError(
            f"{images.file} has no image of class {first_few(absent)}; "
            f"labels must run from 0 to num_classes - 1 = {num_classes - 1}"
        )


def locate(*lists: ImageList) -> tuple[ImageList, ...]:
    """Return the lists with each path as it is on disk.

    Raise FileNotFoundError that counts the missing images and names the first five.

    ILSVRC's validation images may be in class folders, as the lists have them, or flat: val/<wnid>/X or val/X.
    """
    root = lists[0].root
    if not root.is_dir():
        raise FileNotFoundError(
            f"data_root {root} not found: name the folder that holds {lists[0].names()[0].split('/')[0]}/ "
            "with --data_root or in the YAML"
        )
    found = {path: path for path in find_present(root, {path for images in lists for path in images.names()})}
    missing = {path: images for images in lists for path in images.names() if path not in found}
    if missing:
        flat = find_present(root, {flattened(path) for path in missing})
        found |= {path: flattened(path) for path in missing if flattened(path) in flat}
        missing = {path: images for path, images in missing.items() if path not in found}
    if missing:
        first = ", ".join(list(missing)[:SHOWN])
        raise FileNotFoundError(
            f"{len(missing)} of {sum(map(len, lists))} listed images are not below data_root {root}: {first}"
            f"{', ...' if len(missing) > SHOWN else ''} (listed in {next(iter(missing.values())).file})"
        )
    return tuple(images.with_paths(found[path] for path in images.names()) for images in lists)


def check_leaks(*lists: ImageList) -> None:
    """Raise ValueError if an image is in two of the lists, which `locate` has returned."""
    list_of: dict[str, ImageList] = {}
    for images in lists:
        shared = [path for path in images.names() if list_of.get(path, images) is not images]
        if shared:
            raise ValueError(
                f"{shared[0]} stands in {list_of[shared[0]].file} and in {images.file}: what is trained on must not be "
                f"validated or tested on; remove it from one of them ({len(shared)} such lines)"
            )
        list_of |= dict.fromkeys(images.names(), images)


def class_folders(train: ImageList) -> dict[str, int]:
    """Return the label of each class's folder in a training list, or nothing if folders do not name its classes.

    They do if each class has one folder of its own, but for a few lines at most.
    """
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for path, label in zip(train.names(), train.labels.tolist(), strict=True):
        counts[folder_of(path)][label] += 1
    labels = {folder: labels.most_common(1)[0][0] for folder, labels in counts.items()}
    held = sum(labels.most_common(1)[0][1] for labels in counts.values())
    if len(set(labels.values())) < len(labels) or held < CLASS_FOLDERS_HOLD * len(train):
        return {}
    return labels


def check_folders(train: ImageList, *others: ImageList, named: bool = False) -> None:
    """Raise ValueError for the first image whose label is not that of its folder, where folders name the classes.

    A class that is numbered otherwise in another list would be learned as one and measured as another. If a file names
    the classes (`named`), folders need not: then only a list in which most images contradict is refused.
    """
    labels = class_folders(train)
    for images in (train, *others):
        pairs = list(zip(images.names(), images.labels.tolist(), strict=True))
        wrong = [(path, label) for path, label in pairs if labels.get(folder_of(path), label) != label]
        if not wrong or (named and len(wrong) <= len(pairs) / 2):
            continue
        path, label = wrong[0]
        folder = folder_of(path)
        raise ValueError(
            f"{images.file}: {path} has label {label}, but the folder {folder} has label {labels[folder]} in "
            f"{train.file} ({len(wrong)} such lines): number the classes alike in all lists, or, if folders do not "
            "name them, let a file do so: class_list in the YAML"
        )


def folder_of(path: str) -> str:
    """Return the name of the folder that an image is in."""
    return posixpath.basename(posixpath.dirname(path))


def flattened(path: str) -> str:
    """Return val/X for val/<wnid>/X."""
    parts = path.split("/")
    return "/".join([*parts[:-2], parts[-1]])


def find_present(root: Path, paths: Iterable[str]) -> set[str]:
    """Return the paths that exist.

    Each folder is listed once, since a network drive is slow at asking for each file.
    """
    paths_in: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        paths_in[posixpath.dirname(path)].append(path)
    found: set[str] = set()
    for folder, inside in paths_in.items():
        raise_if_stopped()
        try:
            present = set(os.listdir(root / folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        found.update(path for path in inside if posixpath.basename(path) in present)
    return found
