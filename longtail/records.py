"""What travels between the parts of a run, and what its files hold: a file's keys are the names of the fields here.

Description   a checkpoint's metadata: the arguments, the classes, the epoch; checkpoints.py lists all its keys
EpochRow      an epoch's row of the log
RunSettings   X.json: the description, and what the numbers were computed with
TestFigures   what a test finds; ClassFigures is the part of one class
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import Self

Plain = str | int | float | bool | None
Arguments = dict[str, Plain]  # the flags, or the YAML's keys, that decide a run's result
# What a test's JSON holds: the keys of TestFigures, the run's arguments, and what an experiment adds. Files of older
# versions lack some of them.
TestJson = dict[str, Any]
ClassJson = dict[str, Any]  # an entry of its `classes`: the keys of ClassFigures
# Settings that say how a run is computed, not what. --resume may change them, and processes of a job may differ in
# them. Of the precision, what `auto` means is compared; of a teacher, which network it is (teacher_sha256); of a run
# to refit, its log (refit_sha256).
EXECUTION = ("n_gpus", "device", "workers", "compile", "download", "tensorboard", "precision", "teacher", "refit")


@dataclass(kw_only=True)
class Description:
    """A checkpoint's metadata. An experiment derives a class that adds what its test script needs to know.

    `arguments` are the flags, or the YAML's keys, that decide the result. Training adds the rest: `accuracy` is that of
    all validation images after `epoch`; `keep_by_class`, whether the mean of the class accuracies chooses the epoch.
    What an older or a released checkpoint does not hold is None.
    """

    arguments: Arguments = field(default_factory=dict)
    class_names: list[str] | None = None
    class_counts: list[int] | None = None
    epoch: int | None = None
    accuracy: float | None = None
    precision: str | None = None
    keep_by_class: bool = False

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any]) -> Self:
        """Return a checkpoint's metadata. Keys that are no fields stay unread, such as weights."""
        names = {entry.name for entry in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in checkpoint.items() if key in names})

    def entries(self) -> dict[str, Any]:
        """Return the keys of a checkpoint. Before training those of training are missing."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        for key in ("epoch", "accuracy", "precision"):
            if values[key] is None:
                del values[key]
        if not self.keep_by_class:
            del values["keep_by_class"]
        return values


@dataclass(kw_only=True)
class EpochRow:
    """An epoch of a run: a row of its log. What was not measured is nan.

    class_accuracy and class_weight have a number for each class: the columns accuracy_0, accuracy_1, ..., weight_0, ...
    The weights are those that follow from this epoch's validation.
    """

    epoch: int
    loss: float = math.nan
    lr: float = math.nan
    accuracy: float = math.nan
    tau: float = math.nan
    seconds: float = math.nan
    images_per_second: float = math.nan
    class_accuracy: list[float] = field(default_factory=list)
    class_weight: list[float] = field(default_factory=list)


@dataclass(kw_only=True)
class RunSettings:
    """What readers of a log need of X.json. Its other keys are those of the run's description."""

    arguments: Arguments
    class_counts: list[int]
    keep_by_class: bool = False
    precision: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """Return them from the file's content. Raise KeyError if it lacks arguments or class_counts."""
        return cls(
            arguments=settings["arguments"],
            class_counts=[int(count) for count in settings["class_counts"]],
            keep_by_class=bool(settings.get("keep_by_class")),
            precision=settings.get("precision"),
            versions=settings.get("versions", {}),
        )


@dataclass(kw_only=True)
class ClassFigures:
    """What a test finds of one class. `taken_for` is the wrong class that its images are most often predicted as."""

    name: str
    training_images: int | None
    accuracy: float | None
    precision: float
    correct: int
    images: int
    taken_for: str | None


@dataclass(kw_only=True)
class TestFigures:
    """What a test finds. An accuracy over no image is None; there are no `shots` where the class counts are unknown."""

    __test__ = False  # no test of pytest's

    images: int
    accuracy: float
    balanced_accuracy: float
    f1: float
    shots: dict[str, float | None] | None
    classes: list[ClassFigures]

    def entries(self) -> dict[str, Any]:
        """Return the keys of a test's JSON."""
        values = dataclasses.asdict(self)
        if self.shots is None:
            del values["shots"]
        return values
