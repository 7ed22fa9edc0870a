"""Trained networks that a run learns from: which file a name means, what it must have in common with the run."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from longtail.checkpoints import load_checkpoint, load_weights
from longtail.devices import Runtime
from longtail.distillation import Teacher
from longtail.logs import find_log, read_log, read_settings, settings_path
from longtail.losses import logit_scale
from longtail.records import Description
from resnet32 import ResNet32

IN_COMMON = ("dataset", "class_counts", "normalization")  # of a teacher and its student


def find_checkpoint(run: Path) -> Path:
    """Return the checkpoint that is meant: `run` is one, or the folder or the CSV file of a finished run.

    Raise ValueError for a run that has not finished: its best epoch would change while others learn from it.
    """
    if run.suffix == ".pth":
        return run
    log = find_log(run)
    epochs, planned = len(read_log(log)), read_settings(settings_path(log)).arguments["max_epochs"]
    if epochs != planned:
        raise ValueError(f"--teacher {run}: it has {epochs} of {planned} epochs; finish it first")
    return log.with_name(f"best_{log.name.split('.csv')[0]}.pth")


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_teacher(path: Path, description: Description, runtime: Runtime) -> Teacher:
    """Return the network of a checkpoint, ready to evaluate.

    Raise ValueError if it was trained on other data than what `description` says of the student.
    """
    checkpoint = load_checkpoint(path)
    for key in IN_COMMON:
        if checkpoint.get(key) != getattr(description, key):
            raise ValueError(f"--teacher {path}: its {key} is not that of this run; train both on the same images")
    model = ResNet32(len(description.class_counts), checkpoint["head"])
    load_weights(model, checkpoint.get("state_dict", {}), path)
    model.to(runtime.device, memory_format=torch.channels_last).eval().requires_grad_(False)
    scale = logit_scale(checkpoint["head"], checkpoint["arguments"].get("loss_type"))
    return Teacher(runtime.parallelize(model, trains=False), scale)


def load_teachers(paths: Sequence[Path], description: Description, runtime: Runtime) -> list[Teacher]:
    """Return the networks of several checkpoints."""
    return [load_teacher(path, description, runtime) for path in paths]
