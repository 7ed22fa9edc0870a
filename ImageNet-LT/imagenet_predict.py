"""Apply a trained model to a user's images: one row for each, with its most probable classes."""

import contextlib
import csv
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from imagenet_config import Config
from imagenet_folders import walk_images
from imagenet_lists import LINE, ImageList, meaningful_lines
from imagenet_loader import ImageLoader
from imagenet_test import load_best
from longtail.cli import some
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.files import check_file, check_place, write_atomically
from longtail.signals import raise_if_stopped, stop_signals
from path_table import PathTable
from resnet10 import ImageNetModel

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst", ".list")
LARGEST_LIST = 1 << 30  # bytes
TOP = 5  # classes of an image


def find_inputs(place: Path, root: Path | None) -> tuple[Path, list[str]]:
    """Return the images that `place`, an image, a folder or a list, stands for, and the folder at which their paths
    start.

    The paths of a list start at `root`, or at the list's own folder; a label may follow a path.
    """
    if place.is_dir():
        paths = walk_images(place)[0]
        if not paths:
            raise ValueError(f"{place} holds no image, at any depth")
        return place, paths
    if not place.exists():
        raise FileNotFoundError(f"{place} not found; --predict takes an image, a folder of images or a list of paths")
    if place.suffix.lower() not in LIST_SUFFIXES:
        return Path(), [str(place)]
    check_file(place, LARGEST_LIST)
    root = root or place.parent
    paths = [path_in(line.strip(), root) for _, line in meaningful_lines(place.read_bytes(), place)]
    if not paths:
        raise ValueError(f"{place} lists no image")
    return root, paths


def path_in(line: str, root: Path) -> str:
    """Return the path in a line, which a label may follow."""
    match = LINE.fullmatch(line)
    return match[1] if match and not os.path.exists(root / line) else line


@torch.no_grad()
def probabilities(
    model: ImageNetModel, loader: ImageLoader, runtime: Runtime
) -> Iterator[tuple[Tensor, dict[int, str]]]:
    """Yield the class probabilities (N, C) of each batch on the CPU, and by place what is wrong with images that cannot
    be used.
    """
    model.eval()
    backbone = runtime.parallelize(model.feat_model, trains=False)
    for images, errors in loader.checked_batches():
        raise_if_stopped()
        with runtime.autocast():
            features = backbone(images)
        yield model.classifier(features.float()).softmax(1).cpu(), errors


def rows_of(likely: Tensor, errors: dict[int, str], names: list[str], top: int) -> Iterator[list[object]]:
    """Yield class and probability of the `top` most probable classes of each image, and its error."""
    values, classes = likely.topk(top)
    for place in range(len(likely)):
        if place in errors:
            yield [*[""] * (2 * top), errors[place]]
        else:
            pairs = zip(classes[place].tolist(), values[place].tolist(), strict=True)
            yield [*[word for c, value in pairs for word in (names[c], f"{value:.6f}")], ""]


def predict(config: Config, place: Path, root: Path, paths: list[str], top: int, runtime: Runtime) -> tuple[str, bool]:
    """Return a CSV table of predictions for the images that find_inputs(place) gave, and whether every one could be
    used.
    """
    if runtime.world_size > 1:
        raise ValueError("--predict runs in one process; --n_gpus gives it several GPUs")
    checkpoint, model = load_best(config, config.path("model_dir"), runtime)
    names = checkpoint.get("class_names") or [str(c) for c in range(config.num_classes)]
    top = min(top, len(names))
    images = ImageList(place, root, PathTable(paths), torch.zeros(len(paths), dtype=torch.long), "")
    loader = ImageLoader(images, config.image_size, config.test_resize, config.workers, runtime, strict=False)
    text, wrong = io.StringIO(), []
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["path", *[f"{column}_{rank}" for rank in range(1, top + 1) for column in ("class", "probability")], "error"]
    )
    with tqdm(desc="predicting", total=len(paths), unit="image", disable=None) as bar:
        rows = (
            row
            for likely, errors in probabilities(model, loader, runtime)
            for row in rows_of(likely, errors, names, top)
        )
        for path, row in zip(paths, rows, strict=True):
            shown = str(place / path) if place.is_dir() else path
            table.writerow([shown, *row])
            wrong += [shown] if row[-1] else []
            bar.update()
    if wrong:
        print(
            f"{len(wrong)} of {len(paths)} images cannot be used, see the column error: {some(wrong)}", file=sys.stderr
        )
    return text.getvalue(), not wrong


def write_predictions(config: Config, place: Path, root: Path | None, out: Path | None, top: int) -> int:
    """Write the table of predictions to `out`, or print it. Return an exit code: 1 if some images cannot be used."""
    check_place("--out", out)
    with stop_signals():
        root, paths = find_inputs(place, root)
    messages = sys.stdout if out else sys.stderr  # a printed table stands alone
    with contextlib.redirect_stdout(messages), start_runtime(config.n_gpus, config.precision, config.device) as runtime:
        table, complete = predict(config, place, root, paths, top, runtime)
    if out:
        write_atomically(out, table.encode("utf-8", "surrogateescape"))
        print(f"{out}: predictions for {place}", flush=True)
    else:
        sys.stdout.buffer.write(table.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    return 0 if complete else 1
