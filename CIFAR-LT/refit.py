"""Train again, on more images, as a finished run did: its settings, its number of epochs, its class weights."""

from pathlib import Path

import torch
from torch import Tensor

from longtail.logs import find_log, read_log, read_settings, settings_path
from longtail.metrics import Batches
from longtail.records import EXECUTION, Plain
from longtail.training import Training

# What a refit may have of its own. Its teachers are refits too, since teacher and student share their images.
OWN = (*EXECUTION, "data", "seed", "protocol", "refit", "refit_sha256", "teacher_sha256", "resume", "overwrite")


def logged_weights(run: Path, arguments: dict[str, Plain]) -> Tensor:
    """Return the class weights that a finished run had after each epoch, (E, C).

    Raise ValueError if the run has not finished or was trained with other settings than `arguments`.
    """
    log = find_log(run)
    trained = read_settings(settings_path(log)).arguments
    for key, value in arguments.items():
        if key not in OWN and trained.get(key, value) != value:
            raise ValueError(f"--refit {run}: it was trained with {key} {trained[key]}, not {value}")
    if trained.get("protocol", "paper") != "paper":
        raise ValueError(f"--refit {run}: it was trained with --protocol {trained['protocol']}, not paper")
    rows = read_log(log)
    if len(rows) != arguments["max_epochs"]:
        raise ValueError(f"--refit {run}: it has {len(rows)} of {arguments['max_epochs']} epochs; finish it first")
    return torch.tensor([row.class_weight for row in rows])


def replay_weights(training: Training, weights: Tensor) -> None:
    """Let epoch e of a training start with weights[e - 2], those after the epoch before; the first keeps its own.

    weights: (E, C), of each epoch.
    """
    train_batches = training.train_batches

    def with_weights(epoch: int) -> Batches:
        if epoch > 1:
            training.criterion.weight.copy_(weights[epoch - 2])
        return train_batches(epoch)

    training.train_batches = with_weights
