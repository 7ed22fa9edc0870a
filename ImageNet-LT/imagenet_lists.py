"""Find a user's images in folders, write lists and the configuration that trains on them, and draw their tail."""

import json
import math
import os
import random
import shlex
import statistics
from collections import Counter
from pathlib import Path

from imagenet_dataset import format_line
from imagenet_decoding import SUFFIXES, EncodedImage, use_image
from longtail.files import write_atomically
from longtail.metrics import FEW_BELOW, MANY_ABOVE, SHOT_SIZES
from longtail.pictures import new_figure, save_figure
from longtail.signals import raise_if_stopped

HERE = Path(__file__).resolve().parent
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
