"""Make the three lists and the configuration of a training from a folder of images.

    python data/make_lists.py ~/photos --out ~/photos-lt
    python data/make_lists.py ~/photos --out ~/photos-lt --check  # decode every image once, leave out the unusable

The folder holds one folder for each class, with images at any depth; or train/, and perhaps val/ and test/, which hold
the class folders. Images for validation and test are drawn from the training images of each class, unless val/ or test/
has them: 20 of each class by default, but at most a third of it. A class of fewer than three images stays in training
alone.

DIR gets train.txt, val.txt, test.txt, classes.txt, config.yaml and tail.png, and unusable.txt if an image was left out.
"""

import json
import math
import os
import random
import shlex
import statistics
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # longtail/ stands beside the experiment's folder,
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # and the experiment's modules in it

from imagenet_decoding import SUFFIXES, EncodedImage, use_image
from imagenet_folders import SPLITS, Found, Tree, find_images, has_splits, walk_images
from imagenet_lists import format_line
from imagenet_loader import count_workers
from imagenet_transforms import resized_sides
from longtail.cli import ArgumentParser, exit_code, file_path, positive_int, seed_number, some
from longtail.files import write_atomically
from longtail.metrics import FEW_BELOW, MANY_ABOVE, SHOT_SIZES
from longtail.pictures import new_figure, save_figure
from longtail.signals import raise_if_stopped, stop_signals

FEWEST = 3  # images of a class of which validation and test get one each
HERE = Path(__file__).resolve().parents[1]
SAMPLE = 200  # images whose size decides that of the views
IMAGE_SIZE, TEST_RESIZE = 224, 256  # pixels; of the paper's recipe
STEP = 32  # pixels; a ResNet halves its input five times
# from here on the paper's recipe fits; below, the smaller one of config/TinyImageNet_LT
MANY_IMAGES = 50_000
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 3000, 20, 90
COMMENTS = {
    "data_root": "the folder that holds the images",
    "train_list": "lines `path label`",
    "val_list": "what difficulty and the kept epoch are measured on",
    "test_list": "used at the end and by --test",
    "class_list": "a line names a class, in the order of the labels",
    "num_classes": "labels run from 0 to num_classes - 1",
    "image_size": "pixels of a random crop, and of the middle that is tested",
    "test_resize": "pixels of the shorter side before the middle is cut out",
    "model_dir": "checkpoints, log and results of this run",
    "backbone": "or resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d",
    "loss_type": "CE is the usual cross-entropy",
    "difficulty": "steady on few validation images, and fit for classes without any",
    "tau": "how strongly difficulty weighs: from the spread of the class accuracies; a number fixes it",
    "num_epochs": "the learning rate falls to 0 over them along a cosine",
    "batch_size": "choose a smaller one if memory runs out",
    "lr": "peak learning rate of SGD",
}
COLUMN = 32  # where comments start


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


def view_sizes(root: Path, paths: list[str]) -> tuple[int, int]:
    """Return image_size and test_resize: the paper's, or what the images have if most of them are smaller."""

    def short_side(content: bytes) -> int:
        image = EncodedImage(content)
        return min(image.height, image.width)

    sides = []
    for path in random.Random(0).sample(paths, min(SAMPLE, len(paths))):
        try:
            sides.append(use_image(root / path, short_side))
        except ValueError:  # training will name it
            continue
    side = int(statistics.median(sides)) if sides else TEST_RESIZE
    small = max(STEP, side // STEP * STEP)
    return (IMAGE_SIZE, TEST_RESIZE) if side >= TEST_RESIZE or small >= IMAGE_SIZE else (small, small)


def recipe(root: Path, train: Tree) -> dict[str, object]:
    """Return the settings of a training on these images that depend on how many there are, and how large."""
    paths = [path for images in train.values() for path in images]
    image_size, test_resize = view_sizes(root, paths)
    if len(paths) >= MANY_IMAGES:
        schedule = {"num_epochs": MOST_EPOCHS, "batch_size": 512, "lr": 0.2}
    else:
        epochs = math.ceil(STEPS * 64 / len(paths))
        schedule = {"num_epochs": min(MOST_EPOCHS, max(FEWEST_EPOCHS, epochs)), "batch_size": 64, "lr": 0.1}
    while image_size <= STEP and len(paths) % schedule["batch_size"] == 1:
        # else the last batch is a single image, and layer4 sees it as a single pixel
        schedule["batch_size"] -= 1
    return {
        "num_classes": len(train),
        "image_size": image_size,
        "test_resize": test_resize,
        "backbone": "resnet10",
        "loss_type": "CDB-CE",
        "difficulty": "smoothed",
        "tau": "dynamic",
        **schedule,
    }


def write_lists(
    out: Path, root: Path, lists: dict[str, Tree], unusable: dict[str, str], settings: dict[str, object]
) -> None:
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
    places = {
        "data_root": root,
        **{f"{split}_list": out / f"{split}.txt" for split in lists},
        "class_list": out / "classes.txt",
        "model_dir": out / "cdb",
    }
    write_atomically(out / "config.yaml", config_text({**places, **settings}).encode())


def config_text(settings: dict[str, object]) -> str:
    """Return a YAML file of the settings in COMMENTS, each with its comment."""
    lines = ["# Written by make_lists.py. Relative paths start at ImageNet-LT/.\n"]
    for key, comment in COMMENTS.items():
        value = settings[key]
        # JSON's text is YAML's
        text = f"{key}: {json.dumps(str(value), ensure_ascii=False) if isinstance(value, Path) else value}"
        lines.append(f"{text:<{COLUMN}}# {comment}\n" if len(text) < COLUMN else f"{text}  # {comment}\n")
    return "".join(lines)


def tail(counts: dict[str, int]) -> str:
    """Return how long the tail is, in one line."""
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    sizes = list(counts.values())
    many, few = sum(size > MANY_ABOVE for size in sizes), sum(size < FEW_BELOW for size in sizes)
    return (
        f"largest class {counts[largest]:,} ({largest}), smallest {counts[smallest]:,} ({smallest}); "
        f"classes: {many} many, {len(sizes) - many - few} medium, {few} few ({SHOT_SIZES})"
    )


def draw_tail(counts: dict[str, int], path: Path) -> None:
    """Draw the number of training images of each class, the largest first."""
    sizes = sorted(counts.values(), reverse=True)
    many, few = sum(size > MANY_ABOVE for size in sizes), sum(size < FEW_BELOW for size in sizes)
    edges = [0, many, len(sizes) - few, len(sizes)]
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
