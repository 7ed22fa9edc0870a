"""A run's log: X.csv with a row for each epoch, and X.json beside it. run.py writes it, tables and pictures read it."""

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from longtail.files import read_text
from longtail.records import EpochRow, Plain, RunSettings
from longtail.tables import loss_label

MEASURES = ("epoch", "lr", "loss", "accuracy", "tau", "seconds", "images_per_second")  # columns, before the classes'
DIGITS, ACCURACY_DIGITS = 4, 6  # significant digits; the accuracy decides which epoch is kept


def csv_text(columns: Sequence[str], rows: Iterable[dict[str, str]], header: bool) -> str:
    """Return rows as CSV, with a first line of the columns' names if `header`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def number_text(value: float, digits: int = DIGITS) -> str:
    """Return a number with so many significant digits, and nothing for nan."""
    return "" if math.isnan(value) else f"{value:.{digits}g}"


def cells(row: EpochRow) -> dict[str, str]:
    """Return a row as the log has it: a text for each column."""
    texts = {name: number_text(getattr(row, name)) for name in MEASURES}
    texts["epoch"] = str(row.epoch)
    texts["accuracy"] = number_text(row.accuracy, ACCURACY_DIGITS)
    for kind, values in (("accuracy", row.class_accuracy), ("weight", row.class_weight)):
        for c, value in enumerate(values):
            texts[f"{kind}_{c}"] = number_text(value)
    return texts


class RowReader:
    """Turns lines of a log with these columns into rows. Raise ValueError without a column `epoch`."""

    def __init__(self, columns: list[str]):
        if "epoch" not in columns:
            raise ValueError("no column epoch")
        self.num_columns = len(columns)
        self.measures = {name: columns.index(name) for name in MEASURES if name in columns}
        num_classes = sum(name.startswith("weight_") for name in columns)
        self.accuracy = [columns.index(f"accuracy_{c}") for c in range(num_classes)]
        self.weight = [columns.index(f"weight_{c}") for c in range(num_classes)]

    def row(self, texts: list[str]) -> EpochRow:
        """Return the row of a line. Raise ValueError if it holds none."""
        if len(texts) != self.num_columns:
            raise ValueError("a row does not fit the header")
        values = [float(text) if text else math.nan for text in texts]
        measures = {name: values[index] for name, index in self.measures.items() if name != "epoch"}
        return EpochRow(
            epoch=int(texts[self.measures["epoch"]]),
            **measures,
            class_accuracy=[values[index] for index in self.accuracy],
            class_weight=[values[index] for index in self.weight],
        )


def open_log(path: Path) -> BinaryIO | gzip.GzipFile:
    """Open a log for reading, and decompress it if it is X.csv.gz."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return open(path, "rb")


def read_rows(path: Path, whole_lines: bool = False) -> list[EpochRow]:
    """Return the rows of a run's CSV, plain or gzipped (X.csv.gz). Raise ValueError if it is damaged.

    With `whole_lines`, leave out a last line without its end.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no log at {path}")
    try:
        with open_log(path) as file:
            text = file.read().decode()
        if whole_lines:
            text = text[: text.rfind("\n") + 1]
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        columns = next(lines, [])
        rows: list[EpochRow] = []
        if columns:
            reader = RowReader(columns)
            for texts in lines:
                rows.append(reader.row(texts))
                previous = rows[-2].epoch if len(rows) > 1 else 0
                if rows[-1].epoch <= previous:
                    raise ValueError(f"epoch {rows[-1].epoch} follows epoch {previous}")
    except (ValueError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a run's log: {error}") from error
    return rows


def read_log(path: Path, whole_lines: bool = False) -> list[EpochRow]:
    """Return the rows as `read_rows` does. Raise ValueError if there are none."""
    rows = read_rows(path, whole_lines)
    if not rows:
        raise ValueError(f"{path} holds no finished epoch")
    return rows


def validation_score(accuracy: float, class_accuracy: Sequence[float], keep_by_class: bool) -> float:
    """Return the measure of an epoch whose best is kept, nan without validation.

    It is the accuracy of all validation images, or the mean of the class accuracies, in which each class counts alike.
    """
    return torch.tensor(class_accuracy).nanmean().item() if keep_by_class else accuracy


def best_index(rows: Sequence[EpochRow], keep_by_class: bool = False) -> int:
    """Return the index of the row of the kept epoch: the first with the best score, or the last without validation."""
    scores = [validation_score(row.accuracy, row.class_accuracy, keep_by_class) for row in rows]
    validated = [index for index, score in enumerate(scores) if not math.isnan(score)]
    if not validated:
        return len(rows) - 1
    return max(validated, key=lambda index: scores[index])


@dataclass(frozen=True)
class Log:
    """A run as its log tells of it. `label` is its loss and that loss's settings.

    measures by name, each (E,) over the epochs; class_accuracy and class_weight, (E, C), by epoch and class;
    class_counts, the training images of each class, (C,). `best` is the index of the kept epoch.
    """

    folder: str
    name: str
    label: str
    measures: dict[str, np.ndarray]
    class_accuracy: np.ndarray
    class_weight: np.ndarray
    class_counts: np.ndarray
    best: int
    arguments: dict[str, Plain]

    @property
    def epochs(self) -> int:
        """How many epochs are in the log."""
        return len(self.class_accuracy)

    @property
    def best_epoch(self) -> int:
        """The kept epoch, counted from 1."""
        return int(self.measures["epoch"][self.best])

    @property
    def best_accuracy(self) -> float:
        """The accuracy of all validation images in the kept epoch."""
        return float(self.measures["accuracy"][self.best])


def logs_in(folder: Path) -> list[Path]:
    """Return the CSV files of the runs in a folder, those with settings beside them."""
    logs = sorted(path for pattern in ("*.csv", "*.csv.gz") for path in folder.glob(pattern))
    return [path for path in logs if settings_path(path).exists()]


def find_log(run: Path) -> Path:
    """Return the CSV that RUN means. Raise FileNotFoundError if a folder holds none, or several."""
    if not run.is_dir():
        return run
    logs = logs_in(run)
    if not logs:
        raise FileNotFoundError(f"{run} holds no run (X.csv beside X.json)")
    if len(logs) > 1:
        names = ", ".join(path.name for path in logs[:4])
        raise FileNotFoundError(f"{run} holds {len(logs)} runs ({names}): name one")
    return logs[0]


def find_logs(run: Path) -> list[Path]:
    """Return the CSV that RUN means, or those of the runs one level below a folder that holds none itself.

    Raise FileNotFoundError as `find_log` does.
    """
    if run.is_dir() and not logs_in(run):
        below = [find_log(folder) for folder in sorted(run.iterdir()) if folder.is_dir() and logs_in(folder)]
        if below:
            return below
    return [find_log(run)]


def settings_path(log: Path) -> Path:
    """Return the settings of a log's run: X.json for X.csv or X.csv.gz."""
    return log.with_name(log.name.removesuffix(".gz")).with_suffix(".json")


def read_settings(path: Path) -> RunSettings:
    """Return what readers need of X.json. Raise FileNotFoundError or ValueError if it is not a run's."""
    try:
        return RunSettings.read(json.loads(read_text(path)))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} not found: it belongs beside the run's CSV") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not hold a run's settings: {error!r}") from error


def load_log(run: Path) -> Log:
    """Return a run's log. Raise ValueError or FileNotFoundError that names the file which is damaged or missing."""
    path = find_log(run)
    rows, settings = read_log(path), read_settings(settings_path(path))
    if len(rows[0].class_weight) != len(settings.class_counts):
        raise ValueError(
            f"{path} has weights of {len(rows[0].class_weight)} classes, its settings {len(settings.class_counts)}"
        )
    return Log(
        folder=path.resolve().parent.name,
        name=settings_path(path).stem,
        label=loss_label(settings.arguments),
        measures={name: np.array([getattr(row, name) for row in rows], dtype=float) for name in MEASURES},
        class_accuracy=np.array([row.class_accuracy for row in rows]),
        class_weight=np.array([row.class_weight for row in rows]),
        class_counts=np.array(settings.class_counts, dtype=float),
        best=best_index(rows, settings.keep_by_class),
        arguments=settings.arguments,
    )
