"""What a run leaves behind: its best and last checkpoint, its log with one row for each epoch, its settings.

A run called X owns four files in one folder: its best checkpoint, `last_X.pth` (from which --resume continues),
`X.csv` (the log) and `X.json` (arguments and versions, also those of each resumption); `X.lock` keeps a second
process out. Only the main process touches them. On demand the log is written for TensorBoard too, into
`tensorboard/X/`.
"""

import contextlib
import csv
import gzip
import io
import json
import math
import os
import platform
import re
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longtail.checkpoints import LARGEST_EPOCH, load_checkpoint, save_checkpoint
from longtail.devices import device_name
from longtail.files import check_file, hold_lock, write_atomically
from longtail.tensorboard import Board

LARGEST_LOG = 1 << 26  # bytes; 2,000 epochs of 1,000 classes have 30 million
NUMBER = re.compile(
    r"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?"
)  # as format_value writes it: not nan, not inf, only ASCII digits
LARGEST_VALUE = 1e30  # of a measure in a log; matplotlib fails on larger ones
FOR_RESUME = (
    "optimizer",
    "trained",
)  # parts of a state that only --resume needs; `trained`: the weights, if their average is kept
# Settings. Of the precision, training.begin compares what `auto` means.
MAY_CHANGE_ON_RESUME = (
    "resume",
    "overwrite",
    "download",
    "n_gpus",
    "device",
    "workers",
    "compile",
    "tensorboard",
    "precision",
    "teacher",  # its name; teacher_sha256 says which network it is
)


class Run:
    """The files of one run: call `open` first, then `finish_epoch` after each epoch."""

    def __init__(
        self, folder: Path, name: str, best: str | None = None, tensorboard: bool = False, results: Iterable[str] = ()
    ):
        self.folder, self.name = folder, name
        self.results = [
            folder / result for result in results
        ]  # what tests of its best checkpoint write; test.json always
        self.best = folder / (best or f"best_{name}.pth")
        self.last, self.log, self.settings = (
            folder / f"last_{name}.pth",
            folder / f"{name}.csv",
            folder / f"{name}.json",
        )
        self._resumed: dict[str, Any] | None = None  # what the settings will say of this process
        self._events = folder / "tensorboard" / name
        self._board = Board(self._events) if tensorboard else None

    @property
    def files(self) -> tuple[Path, ...]:
        return self.best, self.last, self.log, self.settings

    def open(
        self, arguments: dict[str, Any], description: dict[str, Any], resume: bool, overwrite: bool
    ) -> dict[str, Any] | None:
        """Lock the run and put its files in order. Return the state to continue from, or None for a fresh start.

        Raise FileExistsError if a run is here and neither flag is given, ValueError if the run to resume has other
        settings or its files are damaged, OSError if the folder cannot be written or another process trains this run.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"{self.folder} cannot hold the run: {error.strerror}; choose another --save_model"
            ) from error
        present = [path for path in self.files if path.exists()]
        if present and not (resume or overwrite):
            raise FileExistsError(
                f"{present[0]} already belongs to a run: continue it with --resume, replace it with --overwrite, "
                "or choose another --save_model"
            )
        self._lock()
        for path in self.files:
            path.with_name(path.name + ".partial").unlink(missing_ok=True)
        if resume and self.last.exists():
            state = load_checkpoint(self.last)
            self._check_same(state, arguments)
            kept = self._cut_log(state["epoch"])
            self._resumed = {
                "epoch": state["epoch"] + 1,
                **{key: description.get(key) for key in ("precision", "versions")},
            }
            if self._board:
                self._board.start(kept)
            return state
        if resume:
            self._check_nothing_lost()
        if not present:
            self.results = [path for path in self.results if not path.exists()]  # somebody else's stay
        else:
            for path in (*self.files, *self.results):
                if path != self.settings:  # replaced below: a kill between leaves a folder that is still a run's
                    path.unlink(missing_ok=True)
            shutil.rmtree(self._events, ignore_errors=True)
        self._write_settings({"arguments": arguments, **description})
        if self._board:
            self._board.start([])
        return None

    def _lock(self) -> None:
        """Hold the lock as long as this object lives. Raise OSError if another process holds it."""
        self._held: object = None  # lets go of a lock that this object holds
        try:
            self._held = hold_lock(self.folder / f"{self.name}.lock")
        except BlockingIOError:
            raise OSError(
                f"{self.settings}: another process trains this run; wait for it, or choose another --save_model"
            ) from None

    def _check_same(self, state: dict[str, Any], arguments: dict[str, Any]) -> None:
        """Raise ValueError unless `state` is a run's and was trained with the same settings."""
        before = state.get("arguments")
        if not isinstance(before, dict) or not isinstance(state.get("epoch"), int):
            raise ValueError(f"{self.last} does not hold a run's state; --overwrite starts again")
        for key, value in arguments.items():
            if key not in MAY_CHANGE_ON_RESUME and key in before and before[key] != value:
                raise ValueError(
                    f"{self.last} was trained with {key} {before[key]}, not {value}: resume with the same settings, "
                    "or choose another --save_model"
                )

    def _check_nothing_lost(self) -> None:
        """Raise ValueError if the other files are of a run whose last state is gone: starting from epoch 1 would
        delete it."""
        try:
            epochs = len(read_log(self.log)[1])
        except (OSError, ValueError):
            epochs = 0
        if epochs > 1:  # a kill before the first state leaves one
            raise ValueError(
                f"{self.last} is missing, though {self.log} holds {epochs} epochs; --overwrite starts again"
            )
        if not epochs and self.best.exists():  # a kill leaves no best checkpoint without a logged epoch
            raise ValueError(
                f"{self.last} is missing, though {self.best} is there, of another run or a renamed folder: "
                "choose another --save_model; --overwrite starts again"
            )

    def _cut_log(self, epoch: int) -> list[dict[str, str]]:
        """Return the rows up to `epoch`, and drop what was written after its state.

        Raise ValueError if one is missing.
        """
        columns, rows = read_log(self.log, whole_lines=True)
        kept = [row for row in rows if int(row["epoch"]) <= epoch]
        if [int(row["epoch"]) for row in kept] != list(range(1, epoch + 1)):
            raise ValueError(f"{self.log} does not hold epochs 1 to {epoch} in order; --overwrite starts again")
        write_atomically(self.log, csv_text(columns, kept, header=True).encode())
        return kept

    def finish_epoch(self, row: dict[str, Any], state: dict[str, Any], is_best: bool) -> None:
        """Append a row to the log, then write the best and the last state.

        The epoch counts once the last state is in place.
        """
        row = {
            key: format_value(value, 6 if key == "accuracy" else 4) for key, value in row.items()
        }  # it tells which epoch is kept
        size = self.log.stat().st_size if self.log.exists() else 0
        text = csv_text(list(row), [row], header=not size)
        self._note_resumed()
        try:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.log, size)  # without half a row
            raise OSError(f"{self.log} could not be written: {error.strerror}") from error
        if is_best:
            self._forget_tests()
            save_checkpoint(self.best, {key: value for key, value in state.items() if key not in FOR_RESUME})
        save_checkpoint(self.last, state)
        if self._board:
            self._board.add(row)

    def _note_resumed(self) -> None:
        """Add to the settings with what a resumed run goes on, and from which epoch.

        Settings that are damaged or gone stay so.
        """
        if self._resumed:
            with contextlib.suppress(ValueError, AttributeError, FileNotFoundError):
                settings = json.loads(self.settings.read_text(encoding="utf-8"))
                settings.setdefault("resumed", []).append(self._resumed)
                self._write_settings(settings)
            self._resumed = None

    def _write_settings(self, settings: dict[str, Any]) -> None:
        write_atomically(self.settings, (json.dumps(settings, indent=1, default=str) + "\n").encode())

    def _forget_tests(self) -> None:
        """Remove what test scripts wrote of the weights before these.

        Leave a test.json of another checkpoint, or that is no test's.
        """
        for path in self.results:
            path.unlink(missing_ok=True)
        path = self.folder / "test.json"
        with contextlib.suppress(OSError, ValueError, AttributeError):  # none, or not a test's
            figures = json.loads(path.read_text(encoding="utf-8"))
            names = {figures.get("checkpoint"), figures.get("run")} - {None}
            if names <= {self.best.name, self.name} and (names or "classes" in figures):
                path.unlink()


def csv_text(columns: list[str], rows: Iterable[dict[str, Any]], header: bool) -> str:
    """Return rows as CSV, with a first line of the columns' names if `header`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def format_value(value: object, digits: int = 4) -> object:
    """Return a number with so many significant digits, and nothing for nan."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{digits}g}"
    return value


def log_row(measures: dict[str, Any], class_accuracy: Iterable[float], class_weight: Iterable[float]) -> dict[str, Any]:
    """Return a row of the log: the measures, then `accuracy_c` and `weight_c` of every class c."""
    return {
        **measures,
        **{f"accuracy_{c}": value for c, value in enumerate(class_accuracy)},
        **{f"weight_{c}": value for c, value in enumerate(class_weight)},
    }


def read_log(path: Path, whole_lines: bool = False) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and rows of a run's CSV, plain or gzipped (X.csv.gz). Raise ValueError if it is damaged.

    With `whole_lines`, leave out a last line without its end.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no log at {path}")
    check_file(path, LARGEST_LOG)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(LARGEST_LOG + 1)
        if len(content) > LARGEST_LOG:
            raise ValueError("it is too large")
        text = content.decode()
        reader = csv.reader(io.StringIO(text[: text.rfind("\n") + 1] if whole_lines else text, newline=""), strict=True)
        columns = next(reader, [])
        if len(set(columns)) < len(columns):
            raise ValueError("a column is there twice")
        rows, before = [], 0
        for values in reader:
            if len(values) != len(columns):
                raise ValueError("a row does not fit the header")
            rows.append(dict(zip(columns, values, strict=True)))
            before = check_row(rows[-1], before)
    except (ValueError, KeyError, TypeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a run's log: {error}") from error
    if not rows:
        raise ValueError(f"{path} holds no finished epoch")
    return columns, rows


def check_row(row: dict[str, str], before: int) -> int:
    """Return the row's epoch.

    Raise ValueError if it does not follow `before`, or if a value is not as format_value writes it.
    """
    wrong = [
        value for value in row.values() if value and not (NUMBER.fullmatch(value) and abs(float(value)) < LARGEST_VALUE)
    ]
    if wrong:
        raise ValueError(f"{wrong[0][:40]!r} is not a number that a run logs")
    epoch = int(row["epoch"])
    if not before < epoch <= LARGEST_EPOCH:
        raise ValueError(f"epoch {epoch} follows epoch {before}")
    return epoch


def best_row(rows: list[dict[str, str]]) -> dict[str, str]:
    """Return the row of the first epoch with the best validation accuracy: the kept one, unless the run has
    `keep_by_class`."""
    return max((row for row in rows if row["accuracy"]), key=lambda row: float(row["accuracy"]))


def versions(device: torch.device) -> dict[str, str]:
    """Return what the numbers of a run on `device` were computed with."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "system": platform.platform(),
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
    }
