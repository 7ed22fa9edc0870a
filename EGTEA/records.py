"""What a run leaves behind: atomic checkpoints, exact resume, a log with one row an epoch.

A run called X owns four files in one folder: its best checkpoint, `last_X.pth` (what --resume continues from), `X.csv` (the
log) and `X.json` (arguments and versions). Only the main process touches them.
"""

import contextlib
import csv
import fcntl
import gzip
import io
import json
import math
import os
import pickle
import platform
import re
import stat
import warnings
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

LARGEST_CHECKPOINT = 1 << 30     # bytes; a 3D-ResNeXt-101 with its optimizer has 380 million
LARGEST_PICKLE = 1 << 20         # bytes, of a checkpoint without its tensors, and steps that it takes; a 3D-ResNeXt-101's has 110,000
LARGEST_LOG = 1 << 26            # bytes; 2,000 epochs of 1,000 classes have 30 million
LARGEST_EPOCH = 10 ** 6
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?")     # as format_value writes it: not nan, not inf, no digits but ASCII's
LARGEST_VALUE = 1e30             # of a measure in a log; pictures of more fail half way
FOR_RESUME = ("optimizer", "trained")     # parts of a state that only --resume needs; `trained`: the weights, where their average is kept
SAME_EXPERIMENT = ("resume", "overwrite", "download", "n_gpus", "workers", "compile")   # settings that a resumed run may change


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Put `content` at `path` so that a crash at any instant leaves the old file or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written: {error.strerror or error}; what was there before is untouched") from error


def write_between(page: Path, first: str, last: str, text: str) -> bool:
    """Put `text` between two marks of a page; False, and nothing is written, where the page or one of its marks is missing."""
    before, found, rest = (page.read_text(encoding="utf-8") if page.exists() else "").partition(first)
    _, end, after = rest.partition(last)
    if found and end:
        write_atomically(page, f"{before}{first}\n{text}{last}{after}".encode())
    return bool(found and end)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Serialise in memory, then write atomically. OSError names the path."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getbuffer())


def check_file(path: Path, most: int) -> None:
    """OSError if there is no regular file at `path`, ValueError if it has more than `most` bytes: too many to read to find out why."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is no regular file")
    if status.st_size > most:
        raise ValueError(f"{path} has {status.st_size:,} bytes; no such file needs more than {most:,}")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors and plain values on the CPU; a file that holds anything else, or is damaged, is refused with ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    check_file(path, LARGEST_CHECKPOINT)
    try:
        check_unpacked_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # torch comments on odd pickles; the verdict below says enough
            with PatientFile(open(path, "rb", buffering=0)) as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:                  # a damaged file makes torch raise anything, struct.error and AssertionError too
        reason = "it is damaged" if not isinstance(error, pickle.UnpicklingError) else "it is damaged or holds more than plain values"
        raise ValueError(f"{path} is not a checkpoint that can be loaded safely: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path} holds no checkpoint but {'other keys than text' if isinstance(state, dict) else type(state).__name__}")
    check_description(state, path)
    return state


class PatientFile(io.BufferedReader):
    """A file that is read in at most LARGEST_PICKLE pieces: a pickle is read step by step, and one of a gigabyte would take minutes."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > LARGEST_PICKLE:
            raise ValueError("its pickle takes too many steps")
        return super().read(size)


def check_unpacked_size(path: Path) -> None:
    """ValueError if the parts of a zipped checkpoint are larger than the file (torch never compresses, a zip bomb does) or too large."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            return
    with zipfile.ZipFile(path) as archive:
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        if any(part.filename.endswith("data.pkl") and part.file_size > LARGEST_PICKLE for part in archive.infolist()):
            raise ValueError("its pickle is too large")


def check_description(state: dict[str, Any], path: Path) -> None:
    """ValueError unless what a checkpoint says of itself, where it does, are plain values that may be compared and printed."""
    arguments, epoch, accuracy = state.get("arguments", {}), state.get("epoch", 0), state.get("accuracy", math.nan)
    fit = {"arguments": isinstance(arguments, dict) and all(type(value) in (str, int, float, bool, type(None))
                                                            for item in arguments.items() for value in item),
           "epoch": type(epoch) is int and 0 <= epoch <= LARGEST_EPOCH, "accuracy": type(accuracy) in (int, float)}
    wrong = [key for key, fits in fit.items() if not fits]
    if wrong:
        raise ValueError(f"{path} is not a checkpoint that can be used: its {' and '.join(wrong)} cannot be right")


def load_weights(network: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Strict load of a state dict, whose keys may carry DataParallel's `module.`; ValueError names every key that differs."""
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path} holds no weights by name")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    own = network.state_dict()
    wrong = [f"{key} {shape_of(state.get(key))} instead of {shape_of(own.get(key))}"
             for key in sorted(own.keys() | state.keys()) if shape_of(own.get(key)) != shape_of(state.get(key))]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{path} does not fit this model: {'; '.join(wrong[:5])}{more}")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:       # of the right shape, but sparse, quantised or without data
        raise ValueError(f"{path} does not fit this model: {error}") from error


def shape_of(value: object) -> str:
    """'64x3x7x7' for a tensor, 'scalar' for one without axes, 'absent' for None."""
    if not isinstance(value, torch.Tensor) or value.is_nested:
        return "absent" if value is None else type(value).__name__
    return ("x".join(map(str, value.shape)) or "scalar") + " complex" * value.is_complex()


class Run:
    """The files of one run; `open` first, then `finish_epoch` after each epoch."""

    def __init__(self, folder: Path, name: str, best: str | None = None):
        self.folder, self.name = folder, name
        self.best = folder / (best or f"best_{name}.pth")
        self.last, self.log, self.description = folder / f"last_{name}.pth", folder / f"{name}.csv", folder / f"{name}.json"
        self._unlock: Callable[[], object] = lambda: None

    @property
    def files(self) -> tuple[Path, ...]:
        return self.best, self.last, self.log, self.description

    def open(self, arguments: dict[str, Any], details: dict[str, Any], resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """The state to continue from, or None for a fresh start; in either case the files are then in order.

        Raises FileExistsError if a run is here and neither flag is given; ValueError if the run to resume is another
        experiment or its files are damaged; OSError if the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{self.folder} cannot hold the run: {error.strerror}; choose another --save_model") from error
        present = [path for path in self.files if path.exists()]
        if present and not (resume or overwrite):
            raise FileExistsError(f"{present[0]} is a run's already: continue it with --resume, replace it with --overwrite, "
                                  "or choose another --save_model")
        self._lock()
        for path in self.files:
            path.with_name(path.name + ".partial").unlink(missing_ok=True)
        state = load_checkpoint(self.last) if resume and self.last.exists() else None
        if state is not None:
            self._check_same(state, arguments)
            self._cut_log(state["epoch"])
            return state
        if resume and (epochs := self._logged()) > 1:       # one may stand there after a kill before the first state
            raise ValueError(f"{self.last} is missing, though {self.log} holds {epochs} epochs; --overwrite starts anew")
        if resume and not epochs and self.best.exists():    # a kill leaves none without a logged epoch
            raise ValueError(f"{self.last} is missing, though {self.best} is there, of another run or a renamed folder: choose another "
                             "--save_model; --overwrite starts anew")
        for path in self.files:
            path.unlink(missing_ok=True)
        description = {"arguments": arguments, **details, "versions": versions()}
        write_atomically(self.description, (json.dumps(description, indent=1, default=str) + "\n").encode())
        self._lock()
        return None

    def _logged(self) -> int:
        """Epochs in the log; 0 where none can be read."""
        try:
            return len(read_log(self.log)[1])
        except (OSError, ValueError):
            return 0

    def _lock(self) -> None:
        """Hold the description, if it is there, as long as this object lives; OSError if another process does."""
        self._unlock()
        try:
            lock = os.open(self.description, os.O_RDONLY)
        except FileNotFoundError:
            return
        self._unlock = weakref.finalize(self, os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"{self.description}: another process trains this run; wait for it, or choose another --save_model") from None
        except OSError:     # a file system without locks
            return

    def _check_same(self, state: dict[str, Any], arguments: dict[str, Any]) -> None:
        before = state.get("arguments")
        if not isinstance(before, dict) or not isinstance(state.get("epoch"), int):
            raise ValueError(f"{self.last} does not hold a run's state; --overwrite starts anew")
        for key, value in arguments.items():
            if key not in SAME_EXPERIMENT and key in before and before[key] != value:
                raise ValueError(f"{self.last} was trained with --{key} {before[key]}, not {value}: resume with the same settings, "
                                 "or choose another --save_model")

    def _cut_log(self, epoch: int) -> None:
        """Drop rows that were written after the state that the run resumes from, the last one perhaps half."""
        columns, rows = read_log(self.log, whole_lines=True)
        kept = [row for row in rows if int(row["epoch"]) <= epoch]
        if [int(row["epoch"]) for row in kept] != list(range(1, epoch + 1)):
            raise ValueError(f"{self.log} does not hold epochs 1 to {epoch} in order; --overwrite starts anew")
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write_atomically(self.log, text.getvalue().encode())

    def finish_epoch(self, row: dict[str, Any], state: dict[str, Any], is_best: bool) -> None:
        """Append the log's row, then keep the best, then the last state: the epoch counts once `last` is in place."""
        first = not self.log.exists()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        if first:
            writer.writeheader()
        writer.writerow({key: format_value(value) for key, value in row.items()})
        try:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise OSError(f"{self.log} could not be written: {error.strerror}") from error
        if is_best:
            save_checkpoint(self.best, {key: value for key, value in state.items() if key not in FOR_RESUME})
        save_checkpoint(self.last, state)


def format_value(value: object) -> object:
    """Numbers with four significant digits; nothing for one that is unknown (nan)."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return value


def log_row(measures: dict[str, Any], class_accuracy: Iterable[float], class_weight: Iterable[float]) -> dict[str, Any]:
    """A row of the log: the measures, then `accuracy_c` and `weight_c` of every class c."""
    return {**measures, **{f"accuracy_{c}": value for c, value in enumerate(class_accuracy)},
            **{f"weight_{c}": value for c, value in enumerate(class_weight)}}


def read_log(path: Path, whole_lines: bool = False) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a run's CSV, as it is or gzipped (X.csv.gz); ValueError if it is damaged.

    A last line that lacks its end is left out if `whole_lines`.
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
        reader = csv.reader(io.StringIO(text[:text.rfind("\n") + 1] if whole_lines else text, newline=""), strict=True)
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
    """The row's epoch; ValueError if it does not follow `before`, or a value is none that format_value writes."""
    wrong = [value for value in row.values() if value and not (NUMBER.fullmatch(value) and abs(float(value)) < LARGEST_VALUE)]
    if wrong:
        raise ValueError(f"{wrong[0][:40]!r} is no number that a run logs")
    epoch = int(row["epoch"])
    if not before < epoch <= LARGEST_EPOCH:
        raise ValueError(f"epoch {epoch} follows epoch {before}")
    return epoch


def versions() -> dict[str, str]:
    """What the numbers of a run were computed with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__,
            "system": platform.platform(), "device": device, "threads": str(torch.get_num_threads())}


def cpu_name() -> str:
    """The processor as Linux names it, else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
