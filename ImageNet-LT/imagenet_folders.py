"""Find a user's images in folders: one folder for each class, or splits that hold the class folders."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from imagenet_decoding import SUFFIXES
from longtail.cli import first_few
from longtail.folders import is_hidden, walk_files

SPLITS = ("train", "val", "test")
# What others call the splits, in any case.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "evaluation": "test",
}

Tree = dict[str, list[str]]  # images of each class


def is_image(name: str) -> bool:
    """Return whether a file's name is an image's."""
    return name.lower().endswith(SUFFIXES)


def walk_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """Return the images in a folder, at any depth and behind links, as paths below it; and its other files' endings.

    Hidden files and folders are passed over. Raise OSError for another folder that cannot be read.
    """
    images: list[str] = []
    others: Counter[str] = Counter()
    for path in walk_files(folder):
        if is_image(path.name):
            images.append(path.relative_to(folder).as_posix())
        else:
            others[path.suffix or path.name] += 1
    return sorted(images), others


@dataclass
class Found:
    """What was found in a user's folder, and what was left out.

    trees: the images of each split and class. unusable: images that cannot be used, and why. ignored: the endings of
    files that are not images. unused: folders beside train/ that are no split. by_depth: the number of classes if the
    folders at depth 1, 2, ... below a split were the classes. digests: of each image's bytes, if it was read.
    brightest: the largest grey value of each image of 16 bits.
    """

    trees: dict[str, Tree] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    unused: list[str] = field(default_factory=list)
    by_depth: list[int] = field(default_factory=list)
    digests: dict[str, bytes] = field(default_factory=dict)
    brightest: list[int] = field(default_factory=list)

    def paths(self) -> list[str]:
        """Return all images."""
        return [path for tree in self.trees.values() for images in tree.values() for path in images]


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, in order, without hidden ones."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))


def holds_images(folder: Path) -> bool:
    """Return whether images lie in a folder itself."""
    return any(is_image(entry.name) for entry in os.scandir(folder))


def split_folders(root: Path) -> dict[str, str]:
    """Return the name of each split's folder; nothing if the folders in `root` are classes.

    They are splits if one of them is a training set, with class folders and without images of its own. Raise
    ValueError if two are the same split.
    """
    found: dict[str, str] = {}
    for name in subfolders(root):
        split = SPLIT_NAMES.get(name.lower())
        if not split:
            continue
        if split in found:
            raise ValueError(f"{root} holds {found[split]}/ and {name}/, which are both {split}: move one of them away")
        found[split] = name
    train = root / found.get("train", "")
    if "train" in found and subfolders(train) and not holds_images(train):
        return found
    return {}


def check_not_splits(root: Path, names: list[str]) -> None:
    """Raise ValueError if the class folders look like splits: all of them hold folders of the same names."""
    inside = [set(subfolders(root / name)) for name in names]
    same = len(names) > 1 and len(inside[0]) > 1 and all(folders == inside[0] for folders in inside)
    if same and not any(holds_images(root / name) for name in names):
        raise ValueError(
            f"{root} holds {first_few([f'{name}/' for name in names])}, which all hold the folders "
            f"{first_few(sorted(inside[0]))}: if these are the classes, call the outer ones train, val and test, "
            "or give one of them to make_lists.py"
        )


def class_of(path: str, depth: int) -> str:
    """Return the class of an image: its folder at `depth` below the split, or the deepest one above that."""
    return "/".join(path.split("/")[:-1][:depth])


def count_by_depth(paths: Iterable[str]) -> list[int]:
    """Return how many classes there would be at depth 1, 2, ..., as far as a deeper one makes a difference."""
    folders = {os.path.dirname(path) for path in paths}
    deepest = max((folder.count("/") + 1 for folder in folders), default=0)
    return [len({class_of(f"{folder}/x", depth) for folder in folders}) for depth in range(1, deepest + 1)]


def find_images(root: Path, out: Path, depth: int = 1) -> Found:
    """Find the images of each split and class, but not in `out`.

    Raise ValueError or OSError for a folder that holds none.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; it must hold one folder of images for each class")
    found = Found()
    splits = split_folders(root)
    if splits:
        found.unused = [name for name in subfolders(root) if name not in splits.values() and root / name != out]
    else:
        check_not_splits(root, [name for name in subfolders(root) if root / name != out])
    for split, name in (splits or {"train": ""}).items():
        paths = images_below(root / name, out, found)
        if split == "train":
            found.by_depth = count_by_depth(paths)
        tree: Tree = {}
        for path in paths:
            tree.setdefault(class_of(path, depth), []).append((Path(name) / path).as_posix())
        for empty in subfolders(root / name):
            if depth == 1 and root / name / empty != out:
                tree.setdefault(empty, [])  # named in the report
        found.trees[split] = tree
    found.trees = {split: dict(sorted(tree.items())) for split, tree in with_short_names(found.trees).items()}
    check_known(root, splits, found)
    return found


def with_short_names(trees: dict[str, Tree]) -> dict[str, Tree]:
    """Return the trees with each class named by its last folder alone, unless two classes of train/ would share it.

    So a class may lie deeper in one split than in another.
    """
    names = [name.split("/")[-1] for name in trees["train"]]
    if len(set(names)) < len(names):
        return trees
    renamed: dict[str, Tree] = {}
    for split, tree in trees.items():
        renamed[split] = {}
        for name, images in tree.items():
            renamed[split].setdefault(name.split("/")[-1], []).extend(images)
    return renamed


def images_below(base: Path, out: Path, found: Found) -> list[str]:
    """Return the images in the folders of a split, as paths below it, and note the other files."""
    paths = []
    for name in subfolders(base):
        if base / name != out:
            images, ignored = walk_images(base / name)
            paths += [f"{name}/{path}" for path in images]
            found.ignored += ignored
    return paths


def check_known(root: Path, splits: dict[str, str], found: Found) -> None:
    """Raise ValueError if validation or test holds images of a class of which training has none."""
    for split, tree in found.trees.items():
        unknown = [name for name, images in tree.items() if images and not found.trees["train"].get(name)]
        if unknown:
            raise ValueError(
                f"{root}/{splits[split]} holds images of class {unknown[0]}, of which {splits['train']}/ has none"
            )
