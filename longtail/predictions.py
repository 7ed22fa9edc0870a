"""A table of predictions as CSV: a row for each input, with its most probable classes or with what is wrong."""

import csv
import io
import sys
from pathlib import Path

from torch import Tensor

from longtail.files import write_atomically


class PredictionTable:
    """Collect predictions in the order of their inputs; `write` them in the end."""

    def __init__(self, class_names: list[str], top: int):
        self.class_names = class_names
        self.top = min(top, len(class_names))
        self.failed: list[str] = []  # paths of the inputs that could not be used
        self._text = io.StringIO()
        self._rows = csv.writer(self._text, lineterminator="\n")
        header = ["path"]
        for rank in range(1, self.top + 1):
            header += [f"class_{rank}", f"probability_{rank}"]
        self._rows.writerow([*header, "error"])

    def add(self, path: str, probabilities: Tensor) -> None:
        """Add the most probable classes of an input, from the probabilities of all classes, (C,)."""
        row = [path]
        values, classes = probabilities.topk(self.top)
        for value, c in zip(values.tolist(), classes.tolist(), strict=True):
            row += [self.class_names[c], f"{value:.6f}"]
        self._rows.writerow([*row, ""])

    def add_error(self, path: str, error: str) -> None:
        """Add an input that could not be used, and the reason."""
        self.failed.append(path)
        self._rows.writerow([path, *[""] * (2 * self.top), error])

    def write(self, out: Path | None) -> None:
        """Write the table to a file, or to stdout."""
        content = self._text.getvalue().encode("utf-8", "surrogateescape")
        if out:
            write_atomically(out, content)
        elif hasattr(sys.stdout, "buffer"):
            sys.stdout.buffer.write(content)
            sys.stdout.flush()
        else:  # a notebook's
            sys.stdout.write(content.decode("utf-8", "backslashreplace"))
