"""A run's log for TensorBoard. The package tensorboard is imported only if somebody asks for it."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

BY_CLASS = ("accuracy", "weight")  # columns `accuracy_c` and `weight_c` of the log, for every class c


class Board:
    """Event files in `folder`: each measure of the log as a curve over the epochs, the classes' accuracies and
    weights as histograms.

    Raise ValueError without the package tensorboard.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("--tensorboard needs a package that is not installed: pip install tensorboard") from None
        self.folder, self._open = folder, SummaryWriter

    def start(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write the events of the log's `rows`, in place of all that earlier processes wrote, so that no epoch is
        there twice."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.writer = self._open(str(self.folder))
        for row in rows:
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """Write an epoch's row of the log, its values as the log has them: numbers, or nothing for nan."""
        epoch = int(row["epoch"])
        values = {key: float(value) for key, value in row.items() if value != "" and key != "epoch"}
        for kind in BY_CLASS:
            of_classes = [values.pop(key) for key in list(values) if key.startswith(f"{kind}_")]
            if of_classes:
                self.writer.add_histogram(f"{kind} of the classes", np.array(of_classes), epoch)
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()
