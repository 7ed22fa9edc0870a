"""Apply a trained model to a user's images: one row for each, with its most probable classes."""

import contextlib
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
from imagenet_lists import LINE, ImageList, encode_paths, meaningful_lines
from imagenet_loader import ImageLoader
from imagenet_model import ImageNetModel
from imagenet_run import image_loader, load_best
from longtail.cli import first_few
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.files import check_place
from longtail.predictions import PredictionTable
from longtail.signals import raise_if_stopped, stop_signals

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
    endings = first_few([f"{repr(ending)[1:-1]}: {count}" for ending, count in ignored.most_common()])
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


def predict(config: Config, inputs: Inputs, top: int, runtime: Runtime) -> PredictionTable:
    """Return the predictions for the images, a row for each."""
    if runtime.world_size > 1:
        raise ValueError("--predict runs in one process; --n_gpus gives it several GPUs")
    checkpoint, model = load_best(config, config.path("model_dir"), runtime)
    names = checkpoint.get("class_names") or [str(c) for c in range(config.num_classes)]
    labels = torch.zeros(len(inputs.paths), dtype=torch.long)
    images = ImageList(inputs.source, inputs.root, encode_paths(inputs.paths), labels, "")
    loader = image_loader(config, images, runtime, strict=False)
    table = PredictionTable(names, top)
    paths = (inputs.shown(path) for path in inputs.paths)
    with tqdm(desc="predicting", total=len(inputs.paths), unit="image", disable=None) as bar:
        for likely, errors in probabilities(model, loader, runtime):
            for index, path in zip(range(len(likely)), paths, strict=False):
                if index in errors:
                    table.add_error(path, errors[index])
                else:
                    table.add(path, likely[index])
            bar.update(len(likely))
    return table


def write_predictions(config: Config, source: Path, root: Path | None, out: Path | None, top: int) -> int:
    """Write the table of predictions to `out`, or print it. Return an exit code: 1 if some images cannot be used."""
    check_place("--out", out)
    with stop_signals():
        inputs = find_inputs(source, root)
    messages = sys.stdout if out else sys.stderr  # a printed table stands alone
    with contextlib.redirect_stdout(messages), start_runtime(config.n_gpus, config.precision, config.device) as runtime:
        if inputs.ignored:
            print(f"{source}: {len(inputs.paths):,} images{endings_line(inputs.ignored)}")
        table = predict(config, inputs, top, runtime)
    if table.failed:
        failed = f"{len(table.failed)} of {len(inputs.paths)} images cannot be used, see the column error"
        print(f"{failed}: {first_few(table.failed)}", file=sys.stderr)
    table.write(out)
    if out:
        print(f"{out}: predictions for {source}", flush=True)
    return 1 if table.failed else 0
