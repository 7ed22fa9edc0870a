"""Make the three lists and the configuration of a training from a folder of images.

    python data/make_lists.py ~/photos --out ~/photos-lt --backbone resnet50 --pretrained=imagenet
    python data/make_lists.py ~/photos --out ~/photos-lt --check  # read every image once: leave out the unusable

The folder holds one folder for each class, with images at any depth; or train/, and perhaps val/ and test/, which hold
the class folders (training, valid, validation, testing and evaluation are understood too, in any case). --depth N takes
the folders N levels down for the classes.

Images for validation and test are drawn from the training images of each class, unless folders have them: 20 of each
class by default, but at most a fifth of it. A class of fewer than five images stays in training alone. With --check,
copies of the same file stay in one of the three.

DIR gets train.txt, val.txt, test.txt, classes.txt, config.yaml and tail.png, and unusable.txt if an image was left out.
"""

import hashlib
import os
import random
import shlex
import sys
from argparse import Namespace
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # longtail/ stands beside the experiment's folder,
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # and the experiment's modules in it

from imagenet_config import PUBLISHED, check_backbone
from imagenet_copies import smaller_copy
from imagenet_decoding import SUFFIXES, has_sixteen_bits, problem, read_image
from imagenet_folders import SPLIT_NAMES, SPLITS, Found, Tree, find_images, split_folders, walk_images
from imagenet_lists import format_line
from imagenet_readers import count_workers
from imagenet_recipe import TEST_RESIZE, config_text, recipe
from imagenet_transforms import resized_sides
from longtail.cli import ArgumentParser, exit_code, file_path, first_few, positive_int, seed_number
from longtail.files import write_atomically
from longtail.metrics import SHOT_SIZES, shot_sizes
from longtail.pictures import new_figure, save_figure
from longtail.signals import raise_if_stopped, stop_signals

FEWEST = 5  # images of a class of which validation and test get one each; they get at most a fifth of any class
HERE = Path(__file__).resolve().parents[1]
COPIES = "images"  # the folder of smaller copies
PNG = b"\x89PNG"  # what a PNG file starts with
WRITTEN = ("config.yaml", "train.txt", "val.txt", "test.txt", "classes.txt", "unusable.txt", "tail.png")

Lists = dict[str, Tree]  # the images of each split and class


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", type=file_path, metavar="FOLDER", help="the folder with the class folders")
    parser.add_argument("--out", type=file_path, required=True, metavar="DIR", help="where the lists go")
    parser.add_argument(
        "--depth", type=positive_int, default=1, metavar="N", help="levels down to the class folders; default: 1"
    )
    parser.add_argument(
        "--val", type=positive_int, default=20, metavar="N", help="validation images of each class; default: 20"
    )
    parser.add_argument(
        "--test", type=positive_int, default=20, metavar="N", help="test images of each class; default: 20"
    )
    parser.add_argument("--seed", type=seed_number, default=0, help="decides which images are drawn; default: 0")
    parser.add_argument(
        "--check", action="store_true", help="read every image, and leave out those that cannot be used"
    )
    parser.add_argument(
        "--short_side",
        type=positive_int,
        metavar="PIXELS",
        help="write copies of this shorter side to DIR/images once, and train on them: large photographs load faster",
    )
    parser.add_argument("--backbone", default="resnet10", metavar="NAME", help="the network; default: resnet10")
    parser.add_argument(
        "--pretrained", metavar="WEIGHTS", help="imagenet, or a file of weights: the configuration is for fine-tuning"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is in DIR already")
    args = parser.parse_args(argv)
    try:
        check_backbone(args.backbone)
    except ValueError as error:
        parser.error(f"--backbone {error}, not {args.backbone!r}")
    return args


def check_out(root: Path, out: Path) -> None:
    """Raise ValueError if `out` lies among the images: a later call would take its pictures for images of a class."""
    is_split = out.name.lower() in SPLIT_NAMES and bool(split_folders(root))
    if out == root or (root in out.parents and (out.parent != root or is_split)):
        raise ValueError(
            f"--out {out} is among the images, and pictures that are written there would be taken for some: choose a "
            f"folder beside {root}, or a new one directly in it"
        )
    if out.parent == root and out.is_dir() and not (out / "config.yaml").exists() and walk_images(out)[0]:
        raise ValueError(f"--out {out} holds images, as a class does: choose another folder")


def check_lines(found: Found) -> None:
    """Leave out the images whose path cannot stand in a list, such as one with a line break."""
    for path in found.paths():
        try:
            format_line(path, 0)
        except ValueError as error:
            found.unusable[path] = " ".join(str(error).split())


@dataclass(frozen=True)
class Examined:
    """What was found in an image file: a digest of its bytes, what is wrong with it, its largest value of 16 bits."""

    digest: bytes = b""
    trouble: str = ""
    brightest: int = 0


def examine(path: Path) -> Examined:
    """Decode an image as training and test will."""
    try:
        image = read_image(path)
        resized_sides(image.height, image.width, TEST_RESIZE)
        image.decode()
        brightest = int(np.asarray(image.image).max()) if has_sixteen_bits(image.image) else 0
    except Exception as error:  # a decoder may raise anything over a damaged file
        return Examined(trouble=problem(error))
    return Examined(hashlib.sha256(image.content).digest(), brightest=brightest)


def check_images(root: Path, found: Found) -> None:
    """Read every image once, and leave out those that cannot be used."""
    from tqdm import tqdm

    paths = [path for path in found.paths() if path not in found.unusable]
    files = [root / path for path in paths]
    with ThreadPoolExecutor(count_workers(None)) as pool:  # decoders run outside Python's lock
        try:
            results = tqdm(pool.map(examine, files), "checking", len(paths), unit="image", disable=None)
            for path, examined in zip(paths, results, strict=True):
                raise_if_stopped()
                if examined.trouble:
                    found.unusable[path] = examined.trouble
                    continue
                found.digests[path] = examined.digest
                if examined.brightest:
                    found.brightest.append(examined.brightest)
        finally:
            pool.shutdown(cancel_futures=True)


def usable(found: Found) -> Lists:
    """Return the trees without what cannot be used and without classes that have no training image."""
    trees: Lists = {}
    for split, tree in found.trees.items():
        trees[split] = {}
        for name, images in tree.items():
            trees[split][name] = [path for path in images if path not in found.unusable]
    kept = [name for name, images in trees["train"].items() if images]
    return {split: {name: tree.get(name, []) for name in kept} for split, tree in trees.items()}


def cut(images: list[str], sizes: dict[str, int], rng: random.Random) -> Tree:
    """Split a class's images: `sizes` of them, at most a fifth of all, go to each of its keys, the rest to train."""
    images, fifth, parts = rng.sample(images, len(images)), len(images) // FEWEST, {}
    for split, size in sizes.items():
        part = min(size, fifth)
        parts[split] = sorted(images[:part])
        images = images[part:]
    return {"train": sorted(images), **parts}


def split_classes(found: Found, sizes: dict[str, int], seed: int) -> Lists:
    """Return the images of train, val and test by class. Raise ValueError if nothing is left to learn or to measure."""
    trees = usable(found)
    missing = {split: size for split, size in sizes.items() if split not in trees}
    if len(trees["train"]) < 2:
        raise ValueError(
            f"{len(trees['train'])} class folders hold images that can be used ({', '.join(SUFFIXES)}); at least 2 are "
            "needed"
        )
    lists: Lists = {split: {} for split in SPLITS}
    for name, images in trees["train"].items():
        parts = cut(images, missing, random.Random(f"{seed} {name}"))
        for split in SPLITS:
            lists[split][name] = parts[split] if split in parts else trees[split][name]
    part_copies(found, lists)
    for split, tree in lists.items():
        if any(tree.values()):
            continue
        if split in found.trees:
            raise ValueError(
                f"the folder for {split} holds no class folder with images that can be used: add them, or move it away"
            )
        raise ValueError(f"no image is left for {split}: at least one class must have {FEWEST} images")
    return lists


def part_copies(found: Found, lists: Lists) -> None:
    """Let copies of the same file stay in one split.

    Where a user's folder for test or validation has one, the others are left out; else all of them are trained on.
    """
    where: dict[bytes, dict[str, str]] = defaultdict(dict)  # the split of each copy
    for split, tree in lists.items():
        for images in tree.values():
            for path in images:
                if path in found.digests:
                    where[found.digests[path]][path] = split
    moved: dict[str, str | None] = {}
    for copies in where.values():
        if len(set(copies.values())) < 2:
            continue
        given = [split for split in ("test", "val") if split in found.trees and split in copies.values()]
        for path, split in copies.items():
            if not given:
                moved[path] = "train"
            elif split != given[0]:
                moved[path] = None
                found.unusable[path] = f"a copy of an image for {given[0]}"
    for tree in lists.values():
        for images in tree.values():
            images[:] = [path for path in images if path not in moved]
    for name, images in lists["train"].items():
        own = [path for tree in found.trees.values() for path in tree.get(name, []) if moved.get(path) == "train"]
        images[:] = sorted([*images, *own])


def write_lists(out: Path, root: Path, lists: Lists, unusable: dict[str, str], settings: dict[str, object]) -> None:
    """Write the three lists, the class names, what was left out, and, last, the configuration."""
    out.mkdir(parents=True, exist_ok=True)
    for split, tree in lists.items():
        lines = [f"{format_line(path, label)}\n" for label, images in enumerate(tree.values()) for path in images]
        write_atomically(out / f"{split}.txt", "".join(lines).encode())
    write_atomically(out / "classes.txt", "".join(f"{name}\n" for name in lists["train"]).encode())
    (out / "unusable.txt").unlink(missing_ok=True)
    if unusable:
        lines = [f"{path!r}: {reason}\n" for path, reason in unusable.items()]
        write_atomically(out / "unusable.txt", "".join(lines).encode())
    paths = {
        "data_root": root,
        **{f"{split}_list": out / f"{split}.txt" for split in lists},
        "class_list": out / "classes.txt",
        "model_dir": out / "cdb",
    }
    write_atomically(out / "config.yaml", config_text({**paths, **settings}).encode())


def tail(counts: dict[str, int]) -> str:
    """Return how long the tail is, in one line."""
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    groups = shot_sizes(list(counts.values()))
    return (
        f"largest class {counts[largest]:,} ({largest}), smallest {counts[smallest]:,} ({smallest}); "
        f"classes: {groups['many']} many, {groups['medium']} medium, {groups['few']} few ({SHOT_SIZES})"
    )


def draw_tail(counts: dict[str, int], path: Path) -> None:
    """Draw the number of training images of each class, the largest first."""
    sizes = sorted(counts.values(), reverse=True)
    groups = shot_sizes(sizes)
    edges = [0, groups["many"], len(sizes) - groups["few"], len(sizes)]
    figure = new_figure(7, 3.5)
    axes = figure.subplots()
    axes.stairs(sizes, fill=True, baseline=0.5, color="tab:blue")
    for name, first, last, color in zip(
        ("many", "medium", "few"), edges, edges[1:], ("0.95", "0.88", "0.95"), strict=False
    ):
        if last > first:
            axes.axvspan(first, last, color=color, zorder=0)
            axes.text(
                (first + last) / 2, 1.02, f"{name} ({last - first})", transform=axes.get_xaxis_transform(), ha="center"
            )
    axes.set(
        yscale="log",
        xlim=(0, len(sizes)),
        ylim=(0.5, 1.5 * sizes[0]),
        xlabel="classes, the largest first",
        ylabel="training images",
    )
    axes.yaxis.set_major_formatter("{x:,g}")
    save_figure(figure, path, dpi=150)


def next_command(out: Path) -> str:
    """Return the command that trains on the lists, to be typed in the working directory."""
    script = os.path.relpath(HERE / "main.py")
    return f"python {shlex.quote(script)} --cfg {shlex.quote(str(out / 'config.yaml'))}"


def report(root: Path, found: Found, lists: Lists, args: Namespace) -> None:
    """Print what was found, what was left out, how long the tail is, and what it gave."""
    names = list(lists["train"])
    sums = {split: sum(map(len, tree.values())) for split, tree in lists.items()}
    print(
        f"{len(names)} classes: {sums['train']:,} images for training, {sums['val']:,} for validation, "
        f"{sums['test']:,} for the test"
    )
    if len(set(found.by_depth)) > 1:
        others = [f"{count} at {depth}" for depth, count in enumerate(found.by_depth, 1) if depth != args.depth]
        print(f"the classes are the folders at depth {args.depth}; --depth chooses others: {first_few(others)}")
    if found.unused:
        print(f"not used, folders of {root} that are neither train, val nor test: {first_few(found.unused)}")
    print(tail({name: len(images) for name, images in lists["train"].items()}))
    report_tail(found, lists, args)
    empty = [name for name in found.trees["train"] if name not in names]
    if empty:
        print(f"left out, classes without an image that can be used: {first_few(empty)}")
    if found.ignored:
        endings = first_few([repr(ending)[1:-1] for ending, _ in found.ignored.most_common()])
        print(f"left out, because their names do not end as those of images do: {found.ignored.total():,} ({endings})")
    if found.brightest:
        print(
            f"{len(found.brightest):,} images have grey values of 16 bits, up to {max(found.brightest):,}; in "
            "config.yaml `white_level` is the value that becomes white, 65535 if it is not there"
        )
    copies = len(found.digests) - len(set(found.digests.values()))
    if copies:
        print(f"{copies:,} files are copies of others, byte for byte; copies of one image stay in one list")
    if found.unusable:
        print(
            f"left out, because they cannot be used: {len(found.unusable):,}, listed with the reasons in "
            f"{args.out / 'unusable.txt'}: {first_few([repr(path) for path in found.unusable])}"
        )


def report_tail(found: Found, lists: Lists, args: Namespace) -> None:
    """Print how many images the classes gave that are too small for the whole number, and which gave none."""
    drawn = {split: size for split, size in (("val", args.val), ("test", args.test)) if split not in found.trees}
    small, given, images = 0, 0, 0
    for name in lists["train"]:
        parts = {split: len(lists[split][name]) for split in drawn}
        total = len(lists["train"][name]) + sum(parts.values())
        if any(parts[split] < size for split, size in drawn.items()) and total >= FEWEST:
            small, given, images = small + 1, given + sum(parts.values()), images + total
    if small:
        print(
            f"{small} classes are too small for {' and '.join(map(str, drawn.values()))}: they gave a fifth each, "
            f"{given:,} of their {images:,} images"
        )
    alone = []
    for name, own in lists["train"].items():
        if not lists["val"][name] and not lists["test"][name]:
            alone.append(f"{name} ({len(own)})")
    if alone:
        print(f"in training alone, without images for validation and test: {first_few(alone)}")


def write_copies(root: Path, out: Path, lists: Lists, short_side: int) -> tuple[Path, Lists]:
    """Write copies whose shorter side has at most `short_side` pixels to OUT/images. Return that folder and its lists.

    An image that is no larger is copied as it is. One that cannot be read is copied too: training names it.
    """
    from tqdm import tqdm

    folder = out / COPIES

    def write(path: str) -> str:
        raise_if_stopped()
        try:
            content = smaller_copy(root / path, short_side)
        except Exception:  # a decoder may raise anything over a damaged file
            content = None
        if content is None:
            content = (root / path).read_bytes()
        elif content.startswith(PNG) and not path.lower().endswith(".png"):
            path = f"{path}.png"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        return path

    paths = [path for tree in lists.values() for images in tree.values() for path in images]
    with ThreadPoolExecutor(count_workers(None)) as pool:
        try:
            copies = list(tqdm(pool.map(write, paths), "copying", len(paths), unit="image", disable=None))
        finally:
            pool.shutdown(cancel_futures=True)
    copy_of = dict(zip(paths, copies, strict=True))
    renamed: Lists = {}
    for split, tree in lists.items():
        renamed[split] = {name: [copy_of[path] for path in images] for name, images in tree.items()}
    return folder, renamed


def weights_of(pretrained: str | None) -> str | Path | None:
    """Return what the key `pretrained` gets: the path of a file is absolute, since the YAML's start elsewhere."""
    if pretrained in (None, PUBLISHED):
        return pretrained
    file = file_path(pretrained).resolve()
    if not file.is_file():
        raise FileNotFoundError(f"--pretrained {file} not found: name a file of weights, or {PUBLISHED}")
    return file


def run(args: Namespace) -> None:
    root = args.folder.resolve()
    args.out = args.out.resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; it must hold one folder of images for each class")
    check_out(root, args.out)
    present = [args.out / name for name in WRITTEN if (args.out / name).exists()]
    if present and not args.overwrite:
        raise FileExistsError(
            f"{present[0]} exists: choose another --out, or replace it and the lists with --overwrite"
        )
    found = find_images(root, args.out, args.depth)
    check_lines(found)
    if args.check:
        check_images(root, found)
    lists = split_classes(found, {"val": args.val, "test": args.test}, args.seed)
    raise_if_stopped()
    if args.short_side:
        root, lists = write_copies(root, args.out, lists, args.short_side)
    settings = recipe(root, lists["train"], args.backbone, weights_of(args.pretrained))
    write_lists(args.out, root, lists, found.unusable, settings)
    draw_tail({name: len(images) for name, images in lists["train"].items()}, args.out / "tail.png")
    report(root, found, lists, args)
    print(f"next: {next_command(args.out)}")


def main(argv: list[str] | None = None) -> int:
    def act() -> None:
        args = parse_arguments(argv)
        with stop_signals():
            run(args)

    return exit_code(act, hint="; no list was written")


if __name__ == "__main__":
    sys.exit(main())
