"""Apply a trained model to a user's images: one row for each, with its most probable classes."""

import contextlib
import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from imagenet_config import Config
from imagenet_folders import walk_images
from imagenet_lists import LINE, ImageList, meaningful_lines
from imagenet_loader import ImageLoader
from imagenet_run import image_loader, load_best
from longtail.cli import some
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.files import check_place, write_atomically
from longtail.signals import raise_if_stopped, stop_signals
from path_table import PathTable
from resnet10 import ImageNetModel

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst", ".list")
TOP = 5  # classes of an image


@dataclass(frozen=True)
class Inputs:
    """The images that `source`, an image, a folder or a list, stands for: paths below `root`.

    ignored: the endings of a folder's other files, and how many there are of each.
    """

    source: Path
    root: Path
    paths: list[str]
    ignored: Counter[str] = field(default_factory=Counter)

    def shown(self, path: str) -> str:
        """Return a path as the table has it: that of a list as it is there."""
        return str(self.source / path) if self.source.is_dir() else path


def find_inputs(source: Path, root: Path | None) -> Inputs:
    """Return what `source` stands for. The paths of a list start at `root`, or at the list's own folder."""
    if source.is_dir():
        paths, ignored = walk_images(source)
        if not paths:
            raise ValueError(f"{source} holds no image, at any depth{endings_line(ignored)}")
        return Inputs(source, source, paths, ignored)
    if not source.exists():
        raise FileNotFoundError(f"{source} not found; --predict takes an image, a folder of images or a list of paths")
    if source.suffix.lower() not in LIST_SUFFIXES:
        return Inputs(source, Path(), [str(source)])
    root = root or source.parent
    paths = [path_in(line.strip(), root) for _, line in meaningful_lines(source.read_bytes(), source)]
    if not paths:
        raise ValueError(f"{source} lists no image")
    return Inputs(source, root, paths)


def path_in(line: str, root: Path) -> str:
    """Return the path in a line, which a label may follow."""
    match = LINE.fullmatch(line)
    return match[1] if match and not os.path.exists(root / line) else line


def endings_line(ignored: Counter[str]) -> str:
    """Return how many files were left out for their names, and how these end; nothing if there are none."""
    if not ignored:
        return ""
    endings = some([f"{repr(ending)[1:-1]}: {count}" for ending, count in ignored.most_common()])
    return f"; {ignored.total():,} files are left out, whose names do not end as those of images do ({endings})"


@torch.no_grad()
def probabilities(
    model: ImageNetModel, loader: ImageLoader, runtime: Runtime
) -> Iterator[tuple[Tensor, dict[int, str]]]:
    """Yield the class probabilities (N, C) of each batch on the CPU, and by index what is wrong with bad images."""
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
    for index in range(len(likely)):
        if index in errors:
            yield [*[""] * (2 * top), errors[index]]
            continue
        row: list[object] = []
        for c, value in zip(classes[index].tolist(), values[index].tolist(), strict=True):
            row += [names[c], f"{value:.6f}"]
        yield [*row, ""]


def predict(config: Config, inputs: Inputs, top: int, runtime: Runtime) -> tuple[str, bool]:
    """Return a CSV table of predictions for the images, and whether every one could be used."""
    if runtime.world_size > 1:
        raise ValueError("--predict runs in one process; --n_gpus gives it several GPUs")
    checkpoint, model = load_best(config, config.path("model_dir"), runtime)
    names = checkpoint.get("class_names") or [str(c) for c in range(config.num_classes)]
    top = min(top, len(names))
    labels = torch.zeros(len(inputs.paths), dtype=torch.long)
    images = ImageList(inputs.source, inputs.root, PathTable(inputs.paths), labels, "")
    loader = image_loader(config, images, runtime, strict=False)
    rows: list[list[object]] = []
    with tqdm(desc="predicting", total=len(inputs.paths), unit="image", disable=None) as bar:
        for likely, errors in probabilities(model, loader, runtime):
            rows += rows_of(likely, errors, names, top)
            bar.update(len(likely))
    shown = [inputs.shown(path) for path in inputs.paths]
    wrong = [path for path, row in zip(shown, rows, strict=True) if row[-1]]
    if wrong:
        print(
            f"{len(wrong)} of {len(shown)} images cannot be used, see the column error: {some(wrong)}", file=sys.stderr
        )
    return prediction_table(shown, rows, top), not wrong


def prediction_table(paths: list[str], rows: list[list[object]], top: int) -> str:
    """Return the CSV table, with a heading."""
    heading = ["path"]
    for rank in range(1, top + 1):
        heading += [f"class_{rank}", f"probability_{rank}"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*heading, "error"])
    for path, row in zip(paths, rows, strict=True):
        table.writerow([path, *row])
    return text.getvalue()


def write_predictions(config: Config, source: Path, root: Path | None, out: Path | None, top: int) -> int:
    """Write the table of predictions to `out`, or print it. Return an exit code: 1 if some images cannot be used."""
    check_place("--out", out)
    with stop_signals():
        inputs = find_inputs(source, root)
    messages = sys.stdout if out else sys.stderr  # a printed table stands alone
    with contextlib.redirect_stdout(messages), start_runtime(config.n_gpus, config.precision, config.device) as runtime:
        if inputs.ignored:
            print(f"{source}: {len(inputs.paths):,} images{endings_line(inputs.ignored)}")
        table, complete = predict(config, inputs, top, runtime)
    if out:
        write_atomically(out, table.encode("utf-8", "surrogateescape"))
        print(f"{out}: predictions for {source}", flush=True)
    else:
        print_bytes(table.encode("utf-8", "surrogateescape"))
    return 0 if complete else 1


def print_bytes(content: bytes) -> None:
    """Print text as it is in files; a notebook's stdout takes text alone."""
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(content)
    else:
        sys.stdout.write(content.decode("utf-8", "replace"))
    sys.stdout.flush()
