"""Make the three lists and the configuration of a training from a folder of images.

    python data/make_lists.py ~/photos --out ~/photos-lt
    python data/make_lists.py ~/photos --out ~/photos-lt --check  # decode every image once, leave out the unusable

The folder holds one folder for each class, with images at any depth; or train/, and perhaps val/ and test/, which hold
the class folders. Images for validation and test are drawn from the training images of each class, unless val/ or test/
has them: 20 of each class by default, but at most a third of it. A class of fewer than three images stays in training
alone.

DIR gets train.txt, val.txt, test.txt, classes.txt, config.yaml and tail.png, and unusable.txt if an image was left out.
"""

import os
import random
import sys
from argparse import Namespace
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # longtail/ stands beside the experiment's folder,
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # and the experiment's modules in it

from imagenet_dataset import format_line
from imagenet_decoding import SUFFIXES, EncodedImage, use_image
from imagenet_lists import (
    TEST_RESIZE,
    Tree,
    draw_tail,
    is_hidden,
    is_image,
    next_command,
    recipe,
    tail,
    walk_images,
    write_lists,
)
from imagenet_loader import count_workers
from imagenet_transforms import resized_sides
from longtail.cli import ArgumentParser, exit_code, file_path, positive_int, seed_number, some
from longtail.signals import raise_if_stopped, stop_signals

SPLITS = ("train", "val", "test")
FEWEST = 3  # images of a class of which validation and test get one each


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", type=file_path, metavar="FOLDER", help="the folder with the class folders")
    parser.add_argument("--out", type=file_path, required=True, metavar="DIR", help="where the lists go")
    parser.add_argument(
        "--val", type=positive_int, default=20, metavar="N", help="validation images of each class; default: 20"
    )
    parser.add_argument(
        "--test", type=positive_int, default=20, metavar="N", help="test images of each class; default: 20"
    )
    parser.add_argument("--seed", type=seed_number, default=0, help="decides which images are drawn; default: 0")
    parser.add_argument(
        "--check", action="store_true", help="decode every image, and leave out those that cannot be used"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is in DIR already")
    return parser.parse_args(argv)


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


def check_place(root: Path, out: Path) -> None:
    """Raise ValueError if `out` lies among the images: a later call would take its pictures for images of a class."""
    inner = root in out.parents and (out.parent != root or (out.name in SPLITS and has_splits(root)))
    if out == root or inner:
        raise ValueError(
            f"--out {out} is among the images, and pictures that are written there would be taken for some: choose a "
            "folder "
            f"beside {root}, or a new one directly in it"
        )
    if out.parent == root and out.is_dir() and not (out / "config.yaml").exists() and walk_images(out)[0]:
        raise ValueError(f"--out {out} holds images, as a class does: choose another folder")


def check_lines(found: Found) -> None:
    """Leave out the images whose path cannot stand in a list, such as one with a line break."""
    for path in all_paths(found):
        try:
            format_line(path, 0)
        except ValueError as error:
            found.unusable[path] = " ".join(str(error).split())


def check_images(root: Path, found: Found) -> None:
    """Decode every image once, as training and test will, and leave out those that cannot be used."""
    from tqdm import tqdm

    def examine(content: bytes) -> None:
        image = EncodedImage(content)
        resized_sides(image.height, image.width, TEST_RESIZE)
        image.decode()

    def problem(path: str) -> str:
        try:
            return use_image(root / path, examine) or ""
        except ValueError as error:
            return str(error).removeprefix(f"{root / path} ")

    paths = [path for path in all_paths(found) if path not in found.unusable]
    with ThreadPoolExecutor(count_workers(None)) as pool:  # decoders run outside Python's lock
        try:
            troubles = tqdm(pool.map(problem, paths), "checking", len(paths), unit="image", disable=None)
            for path, trouble in zip(paths, troubles, strict=True):
                raise_if_stopped()
                if trouble:
                    found.unusable[path] = trouble
        finally:
            pool.shutdown(cancel_futures=True)


def all_paths(found: Found) -> list[str]:
    return [path for tree in found.trees.values() for images in tree.values() for path in images]


def usable(found: Found) -> dict[str, Tree]:
    """Return the trees without what cannot be used and without classes that have no training image."""
    trees = {
        split: {name: [path for path in images if path not in found.unusable] for name, images in tree.items()}
        for split, tree in found.trees.items()
    }
    return {
        split: {name: images for name, images in tree.items() if trees["train"].get(name)}
        for split, tree in trees.items()
    }


def cut(images: list[str], sizes: dict[str, int], rng: random.Random) -> Tree:
    """Split a class's images: `sizes` of them, but at most a third of all, go to each of its keys, and the rest to
    train.
    """
    images, third, parts = rng.sample(images, len(images)), len(images) // FEWEST, {}
    for split, size in sizes.items():
        parts[split] = sorted(images[: min(size, third)])
        images = images[min(size, third) :]
    return {"train": sorted(images), **parts}


def split_classes(found: Found, sizes: dict[str, int], seed: int) -> dict[str, Tree]:
    """Return the images of train, val and test by class. Raise ValueError if nothing is left to learn or to measure."""
    trees = usable(found)
    missing = {split: size for split, size in sizes.items() if split not in trees}
    parts = {name: cut(images, missing, random.Random(f"{seed} {name}")) for name, images in trees["train"].items()}
    if len(parts) < 2:
        raise ValueError(
            f"{len(parts)} class folders hold images that can be used ({', '.join(SUFFIXES)}); at least 2 are needed"
        )
    result = {
        split: {
            name: trees[split].get(name, []) if split in found.trees and split != "train" else parts[name][split]
            for name in parts
        }
        for split in SPLITS
    }
    empty = [split for split, tree in result.items() if not any(tree.values())]
    if empty and empty[0] in found.trees:
        raise ValueError(
            f"the folder {empty[0]}/ holds no class folder with images that can be used: add them, or move it away"
        )
    if empty:
        raise ValueError(f"no image is left for {empty[0]}: at least one class must have {FEWEST} images")
    return result


def report(found: Found, lists: dict[str, Tree], out: Path) -> None:
    """Print what was found, what was left out, and how long the tail is."""
    names, sums = list(lists["train"]), {split: sum(map(len, tree.values())) for split, tree in lists.items()}
    print(
        f"{len(names)} classes: {sums['train']:,} images for training, {sums['val']:,} for validation, "
        f"{sums['test']:,} for the test"
    )
    print(tail({name: len(images) for name, images in lists["train"].items()}))
    alone = [
        f"{name} ({len(lists['train'][name])})" for name in names if not lists["val"][name] and not lists["test"][name]
    ]
    if alone:
        print(f"in training alone, without images for validation and test: {some(alone)}")
    if empty := [name for name in found.trees["train"] if name not in names]:
        print(f"left out, classes without an image that can be used: {some(empty)}")
    if found.ignored:
        endings = some([repr(ending)[1:-1] for ending, _ in found.ignored.most_common()])
        print(f"left out, because their names do not end as those of images do: {found.ignored.total():,} ({endings})")
    if found.unusable:
        print(
            f"left out, because they cannot be used: {len(found.unusable):,}, listed with the reasons in "
            f"{out / 'unusable.txt'}: "
            f"{some([repr(path) for path in found.unusable])}"
        )


def run(args: Namespace) -> None:
    root, out = args.folder.resolve(), args.out.resolve()
    check_place(root, out)
    written = ("config.yaml", *(f"{split}.txt" for split in SPLITS), "classes.txt", "unusable.txt", "tail.png")
    present = [out / name for name in written if (out / name).exists()]
    if present and not args.overwrite:
        raise FileExistsError(
            f"{present[0]} exists: choose another --out, or replace it and the lists with --overwrite"
        )
    found = find_images(root, out)
    check_lines(found)
    if args.check:
        check_images(root, found)
    lists = split_classes(found, {"val": args.val, "test": args.test}, args.seed)
    raise_if_stopped()
    write_lists(out, root, lists, found.unusable, recipe(root, lists["train"]))
    draw_tail({name: len(images) for name, images in lists["train"].items()}, out / "tail.png")
    report(found, lists, out)
    print(f"next: {next_command(out)}")


def main(argv: list[str] | None = None) -> int:
    def act() -> None:
        args = parse_arguments(argv)
        with stop_signals():
            run(args)

    return exit_code(act, hint="; no list was written")


if __name__ == "__main__":
    sys.exit(main())
