"""The one loop of all three experiments: train an epoch, validate, derive the next weights, record.

Data flows one way: batches -> model -> loss; validation counts -> difficulty -> weights -> the next epoch. Nothing
here knows a data set, a device or a file.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from longtail.batch_losses import LossMeter
from longtail.checkpoints import Checkpoint, load_weights, shape_of
from longtail.devices import Runtime
from longtail.logs import validation_score
from longtail.metrics import Batches, count_correct
from longtail.records import Description, EpochRow
from longtail.run import Mode, Run, versions
from longtail.seeds import epoch_seed
from longtail.signals import raise_if_stopped


class Criterion(Protocol):
    """A loss of the loop, such as CDBLoss: counts of validation change the weights of its classes, (C,)."""

    weight: Tensor

    @property
    def exponent(self) -> Tensor:
        """The tau in effect; nan for a loss without one."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor: ...

    def start_epoch(self, progress: float) -> None: ...

    def update(self, correct: Tensor, total: Tensor) -> object: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


@dataclass
class Training:
    """What an experiment brings to the loop.

    `model` is bare, for the optimizer and the checkpoint; `parallel_model` is the view of it that is called.
    train_batches(epoch) yields this process's part of every batch of an epoch, val_batches() its part of the
    validation set, both on the runtime's device. `schedule` maps progress, the epochs done (with a fraction) over all
    epochs, to a factor of each parameter group's initial_lr. `loss_function`, if given, is trained with instead of
    the criterion, whose weights then serve another purpose: to draw images by them. The epoch with the best
    validation accuracy is kept, or with `keep_by_class` the one with the best mean of the class accuracies, in which
    each class counts alike. Where val_batches is None nothing is validated, and the last epoch is kept.
    """

    model: nn.Module
    parallel_model: nn.Module
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    schedule: Callable[[float], float]
    train_batches: Callable[[int], Batches]
    val_batches: Callable[[], Batches] | None
    batches_per_epoch: int
    images_per_epoch: int
    num_classes: int
    epochs: int
    seed: int = 0
    validate_after_every: int = 1
    accumulate: int = 1
    loss_function: Callable[[Tensor, Tensor], Tensor] | None = None
    keep_by_class: bool = False
    ema: AveragedModel | None = field(default=None, init=False)  # see average_weights
    average_began: bool = field(default=False, init=False)  # whether it holds a step's weights
    first_epoch: int = field(default=1, init=False)
    best_accuracy: float = field(default=-1.0, init=False)

    def __post_init__(self) -> None:
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @property
    def selected(self) -> nn.Module:
        """The bare model that is validated and kept: `model`, or its average."""
        if self.ema:
            average: nn.Module = self.ema.module
            return average
        return self.model

    def average_weights(self, decay: float) -> None:
        """Validate and keep an exponential moving average of weights and running statistics, over about 1 / (1 -
        decay) steps."""
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)

    def step(self) -> None:
        """Take a step of the optimizer, and update the average."""
        self.optimizer.step()
        if self.ema:
            self.update_average()

    @torch.no_grad()
    def update_average(self) -> None:
        """Do what AveragedModel.update_parameters does, but from the second step on without its counter, whose copy
        waits for a GPU."""
        assert self.ema is not None
        if not self.average_began:
            self.ema.update_parameters(self.model)
            self.average_began = True
            return
        average: Any = self.ema.multi_avg_fn  # Any: PyTorch's annotation says None
        average(averaged_tensors(self.ema.module), averaged_tensors(self.model), None)

    def set_lr(self, epoch: int, batch: int) -> None:
        """Set the schedule's learning rate for a batch, counted from 0, of an epoch, counted from 1."""
        factor = self.schedule((epoch - 1 + batch / self.batches_per_epoch) / self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def pack_weights(self, weights: dict[str, Tensor]) -> dict[str, Any]:
        """Return the keys under which a checkpoint holds the selected model's weights."""
        return {"state_dict": weights}

    def unpack_weights(self, checkpoint: Checkpoint, path: Path) -> dict[str, Tensor]:
        """Return the weights that `pack_weights` packed; `path` names the file in an error."""
        weights: dict[str, Tensor] = checkpoint.get("state_dict", {})
        return weights

    def state(self) -> dict[str, Any]:
        """Return all that changes from epoch to epoch. Random draws come from (seed, epoch) and need no state.

        checkpoints.py lists the keys.
        """
        state = self.pack_weights(self.selected.state_dict())
        if self.ema:
            state["trained"] = self.model.state_dict()
        state["criterion"] = self.criterion.state_dict()
        state["class_weights"] = self.criterion.weight.tolist()
        state["optimizer"] = self.optimizer.state_dict()
        state["best_accuracy"] = self.best_accuracy
        return state

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Continue after the epoch of a checkpoint at `path`. Raise ValueError if it is not of this training."""
        load_weights(self.selected, self.unpack_weights(checkpoint, path), path)
        if self.ema:
            load_weights(self.model, checkpoint.get("trained", {}), path)
            self.average_began = True  # else the next step would overwrite the average
        try:
            self.criterion.load_state_dict(checkpoint["criterion"])
            state = checked_optimizer_state(self.optimizer, checkpoint["optimizer"]["state"])
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            self.first_epoch = checkpoint["epoch"] + 1
            self.best_accuracy = float(checkpoint["best_accuracy"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} does not hold the state of this training: {error}") from error
        # A run goes on as it began, and older ones kept by accuracy.
        self.keep_by_class = bool(checkpoint.get("keep_by_class"))
        self.set_lr(self.first_epoch, 0)


def checked_optimizer_state(
    optimizer: torch.optim.Optimizer, saved: dict[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Return a copy of an optimizer's saved state: momenta and the like in their parameter's shape, and single numbers.

    Raise ValueError for anything else. PyTorch does not check: it would write to a buffer as if it had the parameter's
    shape.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    checked: dict[int, dict[str, Any]] = {}
    for index, entries in saved.items():
        if index not in range(len(parameters)):
            raise ValueError(f"the optimizer has no parameter {index}")
        checked[index] = {}
        for name, value in entries.items():
            checked[index][name] = checked_value(value, parameters[index], f"{name} of parameter {index}")
    return checked


def checked_value(value: object, parameter: Tensor, name: str) -> object:
    """Return a copy of a value of an optimizer's state that fits its parameter. ValueError, with its name, if not."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Tensor) and shape_of(value) == shape_of(parameter):
        return torch.empty_like(parameter).copy_(value)  # with memory of its own for each number
    if isinstance(value, Tensor) and shape_of(value) == "scalar":
        return value.clone()
    raise ValueError(f"{name} does not fit it")


def averaged_tensors(model: nn.Module) -> list[Tensor]:
    """Return a model's parameters and buffers, without BatchNorm's counters of batches, which nothing reads."""
    values = [*(parameter.detach() for parameter in model.parameters()), *model.buffers()]
    return [value for value in values if value.is_floating_point()]


def start_or_resume(training: Training, run: Run, description: Description, mode: Mode, runtime: Runtime) -> bool:
    """Open the run and restore its last checkpoint if there is one to resume. Return True for a fresh start.

    Raise ValueError if the processes of the job were started with different settings, or as Run.open does.
    """
    description = completed(training, description, runtime)
    runtime.check_settings({**description.arguments, "class_counts": description.class_counts})
    found = runtime.broadcast(run.open(description, mode, versions(runtime.device)) if runtime.is_main else None)
    for note in run.notes:
        runtime.say(note)
    if found:
        before = found.get("precision") or found["arguments"].get("precision")  # older versions kept the argument alone
        if before not in (None, "auto", runtime.precision):
            raise ValueError(
                f"{run.last} was trained in {before}, and this run would go on in {runtime.precision}: "
                f"resume with precision {before}, or choose {run.remedies.other_folder}"
            )
        try:
            training.restore(found, run.last)
        except ValueError as error:
            raise ValueError(f"{error}; {run.remedies.overwrite} starts again") from error
    elif mode == "resume":
        runtime.say(f"nothing to resume in {run.folder}: starting from epoch 1")
    return not found


def completed(training: Training, description: Description, runtime: Runtime) -> Description:
    """Return the description with what training knows of itself; --precision may say `auto`."""
    return dataclasses.replace(description, precision=runtime.precision, keep_by_class=training.keep_by_class)


def fit(training: Training, run: Run, description: Description, runtime: Runtime) -> None:
    """Train from training.first_epoch to the last epoch and record each; `description` goes into every checkpoint."""
    description = completed(training, description, runtime)
    start = time.perf_counter()
    for epoch in range(training.first_epoch, training.epochs + 1):
        row = run_epoch(training, epoch, runtime)
        score = validation_score(row.accuracy, row.class_accuracy, training.keep_by_class)
        is_best = score > training.best_accuracy
        if is_best:
            training.best_accuracy = score
        keep = is_best or training.val_batches is None
        if runtime.is_main:
            described = dataclasses.replace(description, epoch=epoch, accuracy=row.accuracy)
            run.finish_epoch(row, {**training.state(), **described.entries()}, keep)
        seconds_per_epoch = (time.perf_counter() - start) / (epoch - training.first_epoch + 1)
        runtime.say(progress_line(training, row, score, seconds_per_epoch * (training.epochs - epoch)))
    if training.val_batches is None:
        runtime.say(f"kept the last epoch: {run.best}")
        return
    suffix = " (mean of classes)" if training.keep_by_class else ""
    runtime.say(f"best validation accuracy{suffix} {training.best_accuracy:.4f}: {run.best}")


def run_epoch(training: Training, epoch: int, runtime: Runtime) -> EpochRow:
    """Train an epoch, validate if it is time to, and set the next weights. Return the epoch's row of the log."""
    start = time.perf_counter()
    training.criterion.start_epoch((epoch - 1) / training.epochs)
    # For draws of a loss or a layer. The rank counts from 1, since epoch_seed(.., 0) would be epoch_seed(..).
    torch.manual_seed(epoch_seed(training.seed, epoch, 1 + runtime.rank))
    loss = train_epoch(training, epoch, runtime)
    images_per_second = training.images_per_epoch / (time.perf_counter() - start)
    class_accuracy, accuracy = torch.full((training.num_classes,), math.nan), math.nan
    is_due = epoch % training.validate_after_every == 0 or epoch == training.epochs
    if is_due and training.val_batches is not None:
        class_accuracy, accuracy = validate(training, runtime)
    return EpochRow(
        epoch=epoch,
        lr=training.optimizer.param_groups[0]["lr"],
        loss=loss,
        accuracy=accuracy,
        tau=float(training.criterion.exponent),
        seconds=time.perf_counter() - start,
        images_per_second=images_per_second,
        class_accuracy=class_accuracy.tolist(),
        class_weight=training.criterion.weight.tolist(),
    )


def validate(training: Training, runtime: Runtime) -> tuple[Tensor, float]:
    """Count on the validation set and update the criterion's weights.

    Return the accuracy of each class, (C,), and of all images.
    """
    runtime.synchronize(training.model)
    model = training.parallel_model
    if training.ema:
        runtime.synchronize(training.selected)
        model = training.selected
    assert training.val_batches is not None
    correct, total = count_correct(model, training.val_batches(), training.num_classes, runtime)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training.criterion.update(correct, total)
    for warning in caught:
        runtime.say(warning.message)
    return correct / total, (correct.sum() / total.sum()).item()


def progress_line(training: Training, row: EpochRow, score: float, seconds_left: float) -> str:
    """Return the one line that an epoch prints. `score` decides whether it is kept."""
    accuracy = "-" if math.isnan(row.accuracy) else f"{row.accuracy:.4f}"
    if training.keep_by_class and not math.isnan(score):
        accuracy += f" (mean of classes {score:.4f})"
    tau = "-" if math.isnan(row.tau) else f"{row.tau:.3f}"
    return (
        f"epoch {row.epoch}/{training.epochs}  loss {row.loss:.4f}  val accuracy {accuracy}  "
        f"tau {tau}  weights {min(row.class_weight):.3f}..{max(row.class_weight):.3f}  "
        f"{row.images_per_second:.3g} images/s  {seconds_left / 60:.1f} min left"
    )


def train_epoch(training: Training, epoch: int, runtime: Runtime) -> float:
    """Train on every batch of an epoch once.

    Return the mean loss. Raise ValueError if a loss or gradient is not finite.
    """
    losses = LossMeter(epoch, runtime.batches_between_reads)
    parameters = [p for p in training.model.parameters() if p.requires_grad]
    batches = tqdm(
        training.train_batches(epoch),
        f"epoch {epoch}",
        training.batches_per_epoch,
        leave=False,
        unit="batch",
        # None: a bar on a terminal, nothing in a pipe.
        disable=None if runtime.is_main else True,
    )
    training.parallel_model.train()
    for batch, (inputs, labels) in enumerate(batches):
        raise_if_stopped()
        training.set_lr(epoch, batch)
        training.optimizer.zero_grad()
        loss = backward(training, inputs, labels, runtime)
        gradients = [p.grad for p in parameters if p.grad is not None]
        losses.add(loss, nn.utils.get_total_norm(gradients), len(labels))
        training.step()
    losses.read()
    if not losses.images:
        raise ValueError(f"{training.images_per_epoch} training images are too few for {runtime.world_size} processes")
    return runtime.mean(losses.sum / losses.images)


def backward(training: Training, inputs: Tensor, labels: Tensor, runtime: Runtime) -> Tensor:
    """Compute the gradient of a batch's loss in `accumulate` parts, which need less memory.

    Return the loss, detached.
    """
    loss_function = training.loss_function or training.criterion
    parts = []
    for part, part_labels in zip(inputs.chunk(training.accumulate), labels.chunk(training.accumulate), strict=True):
        with runtime.autocast():
            logits = training.parallel_model(part)
        loss = loss_function(logits.float(), part_labels) * (len(part) / len(inputs))
        loss.backward()  # type: ignore[no-untyped-call]
        parts.append(loss.detach())
    return torch.stack(parts).sum()
