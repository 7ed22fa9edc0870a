"""What a run leaves behind: its best and last checkpoint, its log with one row for each epoch, its settings.

A run called X owns four files in one folder: its best checkpoint, `last_X.pth` (from which --resume continues),
`X.csv` (the log) and `X.json` (arguments and versions, also those of each resumption); `X.lock` keeps a second process
out. Only the main process touches them. On demand the log is written for TensorBoard too, into `tensorboard/X/`.
"""

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch

from longtail.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from longtail.cli import first_few
from longtail.devices import device_name
from longtail.files import HeldLock, hold_lock, write_atomically
from longtail.logs import cells, csv_text, read_log, read_rows
from longtail.records import EXECUTION, Description, EpochRow, TestJson
from longtail.tensorboard import Board

Mode = Literal["new", "resume", "overwrite"]  # what to do with a run that is there; "new" touches none
# Keys that the best checkpoint leaves out: only --resume reads them, and they are large. See checkpoints.py.
FOR_RESUME = ("optimizer", "trained")
MAY_CHANGE_ON_RESUME = ("resume", "overwrite", *EXECUTION)  # arguments


@dataclass(frozen=True)
class Remedies:
    """What a message calls the ways out: the flags of a script, or what a program without flags passes."""

    resume: str = "--resume"
    overwrite: str = "--overwrite"
    other_folder: str = "another --save_model"


class Run:
    """The files of one run: call `open` first, then `finish_epoch` after each epoch.

    `results` names the files that tests of its best checkpoint write, besides test.json. `companions` are files by name
    that are written along with the settings. What `open` finds worth telling is in `notes`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        best: str | None = None,
        tensorboard: bool = False,
        results: Iterable[str] = (),
        companions: Mapping[str, bytes] | None = None,
        remedies: Remedies = Remedies(),
    ):
        self.folder, self.name = folder, name
        self.best = folder / (best or f"best_{name}.pth")
        self.last = folder / f"last_{name}.pth"
        self.log = folder / f"{name}.csv"
        self.settings = folder / f"{name}.json"
        self.results = [folder / result for result in results]
        self.companions = companions or {}
        self.remedies = remedies
        self.notes: list[str] = []
        self._lock: HeldLock | None = None
        self._replaces = False  # whether the first epoch replaces what an earlier run left
        self._settings: dict[str, Any] = {}
        self._resumed: dict[str, Any] | None = None  # what the settings will say of this process
        self._events = folder / "tensorboard" / name
        self._board = Board(self._events) if tensorboard else None

    @property
    def files(self) -> tuple[Path, ...]:
        return self.best, self.last, self.log, self.settings

    def open(
        self, description: Description, mode: Mode = "new", versions: dict[str, str] | None = None
    ) -> dict[str, Any] | None:
        """Lock the run and put its files in order. Return the checkpoint to continue from, or None for a fresh start.

        An earlier run that `mode` "overwrite" replaces stays until the first new epoch is saved. Raise FileExistsError
        if a run is here and `mode` is "new", ValueError if the run to resume has other settings or its files are
        damaged, OSError if the folder cannot be written or another process trains this run.
        """
        self._make_folder()
        present = [path for path in self.files if path.exists()]
        if present and mode == "new":
            raise FileExistsError(
                f"{present[0]} already belongs to a run: continue it with {self.remedies.resume}, "
                f"replace it with {self.remedies.overwrite}, or choose {self.remedies.other_folder}"
            )
        self._take_lock()
        for path in self.files:
            path.with_name(path.name + ".partial").unlink(missing_ok=True)
        self._settings = {**description.entries(), "versions": versions or {}}
        if mode == "resume" and self.last.exists():
            return self._continue(description)
        if mode == "resume":
            self._check_nothing_lost()
        self._replaces = bool(present)
        if not present:
            self.results = [path for path in self.results if not path.exists()]  # other programs' files stay
            self._start()
        return None

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"{self.folder} cannot hold the run: {error.strerror}; choose {self.remedies.other_folder}"
            ) from error

    def _take_lock(self) -> None:
        """Hold the lock as long as this object lives. Raise OSError if another process holds it."""
        self._lock = None  # lets go of a lock that this object holds
        try:
            self._lock = hold_lock(self.folder / f"{self.name}.lock")
        except BlockingIOError:
            raise OSError(
                f"{self.settings}: another process trains this run; wait for it, or choose {self.remedies.other_folder}"
            ) from None

    def _check_lock(self) -> None:
        """Raise OSError if the folder is no longer the one in which this run began."""
        if self._lock and not self._lock.is_in_place():
            raise OSError(
                f"{self.folder} was renamed, deleted or replaced while this run trained; nothing more is written there"
            )

    def _continue(self, description: Description) -> dict[str, Any]:
        """Return the last checkpoint, with the log cut to its epoch."""
        checkpoint = load_checkpoint(self.last)
        self._check_same(checkpoint, description)
        self._cut_log(checkpoint["epoch"])
        self._note_threads()
        details = {key: self._settings.get(key) for key in ("precision", "versions")}
        self._resumed = {"epoch": checkpoint["epoch"] + 1, **details}
        if self._board:
            self._board.start(cells(row) for row in (read_rows(self.log) if self.log.exists() else []))
        return checkpoint

    def _check_same(self, checkpoint: Checkpoint, description: Description) -> None:
        """Raise ValueError unless the checkpoint is a run's and was trained with the same settings and class counts."""
        saved = Description.read(checkpoint)
        if not isinstance(saved.arguments, dict) or not saved.epoch:
            raise ValueError(f"{self.last} does not hold a run's state; {self.remedies.overwrite} starts again")
        for key, value in description.arguments.items():
            before = saved.arguments.get(key, value)
            if before != value and key not in MAY_CHANGE_ON_RESUME:
                raise ValueError(
                    f"{self.last} was trained with {key} {before}, not {value}: resume with the same settings, "
                    f"or choose {self.remedies.other_folder}"
                )
        if saved.class_counts and description.class_counts and saved.class_counts != description.class_counts:
            raise ValueError(
                f"{self.last} was trained on other data: it has class_counts of {sum(saved.class_counts)} samples, "
                f"{saved.class_counts[:5]} ..., and the data has {sum(description.class_counts)}, "
                f"{description.class_counts[:5]} ...; resume with the same data, or choose {self.remedies.other_folder}"
            )

    def _check_nothing_lost(self) -> None:
        """Raise ValueError if the other files are of a run whose last state is gone.

        Starting from epoch 1 would delete it.
        """
        try:
            epochs = len(read_log(self.log))
        except (OSError, ValueError):
            epochs = 0
        if epochs > 1:  # a kill before the first state leaves one
            raise ValueError(
                f"{self.last} is missing, though {self.log} holds {epochs} epochs; "
                f"{self.remedies.overwrite} starts again"
            )
        if not epochs and self.best.exists():  # a kill leaves no best checkpoint without a logged epoch
            raise ValueError(
                f"{self.last} is missing, though {self.best} is there, of another run or a renamed folder: "
                f"choose {self.remedies.other_folder}; {self.remedies.overwrite} starts again"
            )

    def _cut_log(self, epoch: int) -> None:
        """Drop the rows that were written after the state of `epoch`. Note the epochs before it that have no row."""
        rows = read_rows(self.log, whole_lines=True) if self.log.exists() else []
        kept = [row.epoch for row in rows if row.epoch <= epoch]
        if kept:
            header, *lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
            write_atomically(self.log, "".join([header, *lines[: len(kept)]]).encode())
        else:
            self.log.unlink(missing_ok=True)
        lost = [str(number) for number in range(1, epoch + 1) if number not in set(kept)]
        if lost:
            self.notes.append(
                f"{self.log} has lost the rows of epochs {first_few(lost)}; training continues without them"
            )

    def _note_threads(self) -> None:
        """Note that the CPU's number of threads is another than before: other sums, other last bits."""
        with contextlib.suppress(ValueError, AttributeError, OSError):
            settings = json.loads(self.settings.read_text(encoding="utf-8"))
            latest = settings.get("resumed", [settings])[-1]
            before = latest.get("versions", {}).get("threads")
            now = self._settings.get("versions", {}).get("threads")
            if before and now and before != now:
                self.notes.append(
                    f"this run was trained with {before} threads until here and goes on with {now}: "
                    f"only OMP_NUM_THREADS={before} gives the numbers of an uninterrupted run to the last bit"
                )

    def _start(self) -> None:
        """Write the settings of a new run, and what belongs to them."""
        self._write_settings(self._settings)
        for name, content in self.companions.items():
            write_atomically(self.folder / name, content)
        if self._board:
            self._board.start([])

    def _remove_earlier(self) -> None:
        """Remove the run that this one replaces. A kill in between leaves a folder that is still a run's."""
        for path in (self.best, self.last, self.log, *self.results):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._events, ignore_errors=True)
        self._replaces = False

    def finish_epoch(self, row: EpochRow, checkpoint: Checkpoint, keep: bool) -> None:
        """Append a row to the log, then write the best checkpoint if this is the epoch to `keep`, and the last one.

        The epoch counts once the last checkpoint is in place.
        """
        self._check_lock()
        if self._replaces:
            self._remove_earlier()
            self._start()
        self._note_resumed()
        texts = cells(row)
        self._append(texts)
        if keep:
            self._forget_tests()
            self._check_lock()
            save_checkpoint(self.best, {key: value for key, value in checkpoint.items() if key not in FOR_RESUME})
        self._check_lock()
        save_checkpoint(self.last, checkpoint)
        if self._board:
            self._board.add(texts)

    def _append(self, texts: dict[str, str]) -> None:
        """Append a line to the log. Half a line at its end, which is none of this process's, goes first."""
        if not self.log.exists():  # at once, so that nobody finds it empty
            write_atomically(self.log, csv_text(list(texts), [texts], header=True).encode())
            return
        size = None
        try:
            with open(self.log, "a+b") as file:
                size = end_of_lines(file)
                file.truncate(size)
                file.write(csv_text(list(texts), [texts], header=not size).encode())
        except OSError as error:
            if size is not None:
                with contextlib.suppress(OSError):
                    os.truncate(self.log, size)  # without half a row
            raise OSError(f"{self.log} could not be written: {error.strerror}") from error

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
            if self._is_test_of_best(json.loads(path.read_text(encoding="utf-8"))):
                path.unlink()

    def _is_test_of_best(self, figures: TestJson) -> bool:
        """Return whether the figures in a test.json are a test's, and of this run's best checkpoint."""
        names = {figures.get("checkpoint"), figures.get("run")} - {None}
        is_a_test = bool(names) or "classes" in figures
        names_no_other = names <= {self.best.name, self.name}
        return is_a_test and names_no_other


def end_of_lines(file: BinaryIO) -> int:
    """Return the number of bytes up to the end of the last whole line."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


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
