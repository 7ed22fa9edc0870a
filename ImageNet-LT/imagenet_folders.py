"""Find a user's images in folders: one folder for each class, or splits that hold the class folders."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from imagenet_decoding import SUFFIXES
from longtail.signals import raise_if_stopped

SPLITS = ("train", "val", "test")

Tree = dict[str, list[str]]  # images of each class


def is_image(name: str) -> bool:
    """Return whether a file's name is an image's."""
    return name.lower().endswith(SUFFIXES)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is passed over: a hidden one (macOS writes some beside each image), or a file
    system's own.
    """
    return name.startswith(".") or name in ("lost+found", "System Volume Information")


def walk_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """Return the images in a folder, at any depth and behind links, as paths below it; and the endings of its other
    files.

    Hidden files and folders are passed over. Raise OSError for another folder that cannot be read.
    """

    def fail(error: OSError) -> None:
        raise OSError(f"{error.filename} cannot be read: {error.strerror}; allow that, or move the folder away")

    images, others, seen = [], Counter(), set()
    for place, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        raise_if_stopped()
        real = os.path.realpath(place)
        if real in seen:  # a link has led in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not is_hidden(name)]
        files = [name for name in files if not is_hidden(name)]
        images += [(Path(place) / name).relative_to(folder).as_posix() for name in files if is_image(name)]
        others.update(Path(name).suffix or name for name in files if not is_image(name))
    return sorted(images), others


@dataclass
class Found:
    """The images of each split and class, what was left out, and the endings of the files that are not images."""

    trees: dict[str, Tree] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, in order, without hidden ones."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))


def has_splits(root: Path) -> bool:
    """Return whether the folder holds train/ with class folders, and not a class called train."""
    train = root / "train"
    return train.is_dir() and bool(subfolders(train)) and not any(is_image(entry.name) for entry in os.scandir(train))


def find_images(root: Path, out: Path) -> Found:
    """Find the images of each split and class, but not in `out`.

    Raise ValueError or OSError for a folder that holds none.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; it must hold one folder of images for each class")
    found = Found()
    for split in [split for split in SPLITS if (root / split).is_dir()] if has_splits(root) else [""]:
        base = root / split
        tree = found.trees[split or "train"] = {}
        for name in [name for name in subfolders(base) if base / name != out]:
            images, ignored = walk_images(base / name)
            tree[name] = [(Path(split) / name / path).as_posix() for path in images]
            found.ignored += ignored
    for split, tree in found.trees.items():
        unknown = [name for name, images in tree.items() if images and not found.trees["train"].get(name)]
        if unknown and split != "train":
            raise ValueError(f"{root}/{split} holds images of class {unknown[0]}, of which train/ has none")
    return found
