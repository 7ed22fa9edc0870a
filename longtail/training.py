"""The one loop of all three experiments: train an epoch, validate, derive the next weights, record.

Data flows one way: batches -> model -> loss; validation counts -> difficulty -> weights -> the next epoch. Nothing
here knows a data set, a device or a file.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from longtail.batch_losses import Losses
from longtail.checkpoints import load_weights, shape_of
from longtail.devices import Runtime
from longtail.metrics import Batches, count_confusion
from longtail.run import Run, log_row, versions
from longtail.signals import raise_if_stopped


def epoch_seed(seed: int, *parts: int) -> int:
    """Return a 32-bit seed for one part of a run (its epoch, its rank, ...), so that resuming needs no generator's
    history."""
    return int(np.random.SeedSequence([seed, *parts]).generate_state(1)[0])


@dataclass
class Training:
    """What an experiment brings to the loop.

    `model` is bare, for the optimizer and the checkpoint; `parallel_model` is the view of it that is called.
    `criterion` is a loss with `start_epoch`, `update` and `weight`, such as CDBLoss. train_batches(epoch) yields this
    process's part of every batch of an epoch, val_batches() its part of the validation set, both on the runtime's
    device. `schedule` maps progress, the epochs done (with a fraction) over all epochs, to a factor of each parameter
    group's initial_lr. `loss_function`, if given, is trained with instead of the criterion, whose weights then serve
    another purpose: to draw images by them. The epoch with the best validation accuracy is kept, or with
    `keep_by_class` the one with the best mean of the class accuracies, in which each class counts alike.
    """

    model: nn.Module
    parallel_model: nn.Module
    criterion: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Callable[[float], float]
    train_batches: Callable[[int], Batches]
    val_batches: Callable[[], Batches]
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

    @property
    def selected(self) -> nn.Module:
        """The bare model that is validated and kept: `model`, or its average."""
        return self.ema.module if self.ema else self.model

    def average_weights(self, decay: float) -> None:
        """Validate and keep an exponential moving average of weights and running statistics, over about 1 / (1 -
        decay) steps."""
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def step(self) -> None:
        """Take a step of the optimizer, and update the average."""
        self.optimizer.step()
        if self.ema:
            self.update_average()

    @torch.no_grad()
    def update_average(self) -> None:
        """Do what AveragedModel.update_parameters does, but from the second step on without its counter, whose copy
        waits for a GPU."""
        if not self.average_began:
            self.ema.update_parameters(self.model)
            self.average_began = True
            return
        pairs = list(zip(tensors(self.ema.module), tensors(self.model), strict=True))
        for kind in {average.dtype for average, _ in pairs}:
            averages, values = zip(*[pair for pair in pairs if pair[0].dtype == kind], strict=True)
            self.ema.multi_avg_fn(list(averages), list(values), None)

    def set_lr(self, epoch: int, batch: int) -> None:
        """Set the schedule's learning rate for a batch, counted from 0, of an epoch, counted from 1."""
        factor = self.schedule((epoch - 1 + batch / self.batches_per_epoch) / self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def state(self) -> dict[str, Any]:
        """Return all that changes from epoch to epoch. Random draws come from (seed, epoch) and need no state."""
        trained = {"trained": self.model.state_dict()} if self.ema else {}
        kept = {"keep_by_class": True} if self.keep_by_class else {}
        return {
            "state_dict": self.selected.state_dict(),
            **trained,
            "criterion": self.criterion.state_dict(),
            "class_weights": self.criterion.weight.tolist(),
            "optimizer": self.optimizer.state_dict(),
            "best_accuracy": self.best_accuracy,
            **kept,
        }

    def momenta(self, saved: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """Return copies of the optimizer's saved momentum buffers.

        Raise ValueError for one that does not fit its parameter.

        PyTorch does not check: it would write to a buffer as if it had the parameter's shape.
        """
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        buffers = {
            number: state["momentum_buffer"]
            for number, state in saved.items()
            if state.get("momentum_buffer") is not None
        }
        for number, buffer in buffers.items():
            if number not in range(len(parameters)) or shape_of(buffer) != shape_of(parameters[number]):
                raise ValueError(f"the momentum of parameter {number} does not fit it")
        return {
            number: {"momentum_buffer": torch.empty_like(parameters[number]).copy_(buffer)}
            for number, buffer in buffers.items()
        }

    def restore(self, state: dict[str, Any], run: Run) -> None:
        """Continue after the epoch at which `state` was saved. Raise ValueError if it is not of this training."""
        load_weights(self.selected, state.get("state_dict"), run.last)
        if self.ema:
            load_weights(self.model, state.get("trained"), run.last)
            self.average_began = True  # else the next step would overwrite the average
        try:
            self.criterion.load_state_dict(state["criterion"])
            self.optimizer.load_state_dict(
                {**self.optimizer.state_dict(), "state": self.momenta(state["optimizer"]["state"])}
            )
            self.first_epoch, self.best_accuracy = state["epoch"] + 1, float(state["best_accuracy"])
            self.keep_by_class = bool(
                state.get("keep_by_class")
            )  # a run goes on as it began, and older ones kept by accuracy
            self.set_lr(self.first_epoch, 0)
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{run.last} does not hold the state of this training: {error}; --overwrite starts again"
            ) from error


def tensors(model: nn.Module) -> list[Tensor]:
    """Return a model's parameters and buffers."""
    return [*(parameter.detach() for parameter in model.parameters()), *model.buffers()]


def begin(
    training: Training,
    run: Run,
    arguments: dict[str, Any],
    description: dict[str, Any],
    resume: bool,
    overwrite: bool,
    runtime: Runtime,
) -> bool:
    """Open the run and restore its last checkpoint if there is one to resume. Return True for a fresh start."""
    details = {
        **description,
        "precision": runtime.precision,
        "versions": versions(runtime.device),
    }  # the argument may say `auto`
    if training.keep_by_class:
        details["keep_by_class"] = True
    state = runtime.broadcast(run.open(arguments, details, resume, overwrite) if runtime.is_main else None)
    if state:
        before = state.get("precision") or state["arguments"].get("precision")  # older versions kept the argument alone
        if before not in (None, "auto", runtime.precision):
            raise ValueError(
                f"{run.last} was trained in {before}, and this run would go on in {runtime.precision}: "
                f"resume with precision {before}, or choose another --save_model"
            )
        training.restore(state, run)
    elif resume:
        runtime.say(f"nothing to resume in {run.folder}: starting from epoch 1")
    return not state


def fit(training: Training, run: Run, description: dict[str, Any], runtime: Runtime) -> None:
    """Train from training.first_epoch to the last epoch and record each; `description` goes into every checkpoint."""
    started = time.perf_counter()
    for epoch in range(training.first_epoch, training.epochs + 1):
        epoch_start = time.perf_counter()
        training.criterion.start_epoch((epoch - 1) / training.epochs)
        torch.manual_seed(
            epoch_seed(training.seed, epoch, 1 + runtime.rank)
        )  # for draws of a loss or a layer; (.., 0) would be (..)
        loss = train_epoch(training, epoch, runtime)
        images_per_second = training.images_per_epoch / (time.perf_counter() - epoch_start)
        class_accuracy, accuracy = torch.full((training.num_classes,), math.nan), math.nan
        if epoch % training.validate_after_every == 0 or epoch == training.epochs:
            class_accuracy, accuracy = validate(training, runtime)
        score = class_accuracy.nanmean().item() if training.keep_by_class else accuracy
        is_best = score > training.best_accuracy
        training.best_accuracy = score if is_best else training.best_accuracy
        measures = {
            "epoch": epoch,
            "lr": training.optimizer.param_groups[0]["lr"],
            "loss": loss,
            "accuracy": accuracy,
            "tau": float(getattr(training.criterion, "exponent", math.nan)),
            "seconds": time.perf_counter() - epoch_start,
            "images_per_second": images_per_second,
        }
        if runtime.is_main:
            row = log_row(measures, class_accuracy.tolist(), training.criterion.weight.tolist())
            run.finish_epoch(
                row,
                {
                    **training.state(),
                    "epoch": epoch,
                    "accuracy": accuracy,
                    "precision": runtime.precision,
                    **description,
                },
                is_best,
            )
        left = (time.perf_counter() - started) / (epoch - training.first_epoch + 1) * (training.epochs - epoch)
        runtime.say(progress_line(training, measures, score, left))
    runtime.say(
        f"best validation accuracy{' (mean of classes)' * training.keep_by_class} "
        f"{training.best_accuracy:.4f}: {run.best}"
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
    confusion = count_confusion(model, training.val_batches(), training.num_classes, runtime)
    correct, total = confusion.diagonal(), confusion.sum(1)
    training.criterion.update(correct, total)
    return correct / total, (correct.sum() / total.sum()).item()


def progress_line(training: Training, measures: dict[str, Any], score: float, seconds_left: float) -> str:
    """Return the one line that an epoch prints. `score` decides whether it is kept."""
    weight, digits = training.criterion.weight, {"tau": 3, "accuracy": 4}
    tau, accuracy = (
        "-" if math.isnan(measures[name]) else f"{measures[name]:.{count}f}" for name, count in digits.items()
    )
    by_class = f" (mean of classes {score:.4f})" if training.keep_by_class and accuracy != "-" else ""
    return (
        f"epoch {measures['epoch']}/{training.epochs}  loss {measures['loss']:.4f}  val accuracy {accuracy}{by_class}  "
        f"tau {tau}  weights {weight.min():.3f}..{weight.max():.3f}  {measures['images_per_second']:.3g} images/s  "
        f"{seconds_left / 60:.1f} min left"
    )


def train_epoch(training: Training, epoch: int, runtime: Runtime) -> float:
    """Train on every batch of an epoch once.

    Return the mean loss. Raise ValueError if a loss or gradient is not finite.
    """
    losses = Losses(epoch, runtime.batches_between_reads)
    parameters = [p for p in training.model.parameters() if p.requires_grad]
    batches = tqdm(
        training.train_batches(epoch),
        f"epoch {epoch}",
        training.batches_per_epoch,
        leave=False,
        unit="batch",
        disable=None if runtime.is_main else True,
    )  # None: a bar on a terminal, nothing in a pipe
    training.parallel_model.train()
    for batch, (inputs, labels) in enumerate(batches):
        raise_if_stopped()
        training.set_lr(epoch, batch)
        training.optimizer.zero_grad()
        loss = backward(training, inputs, labels, runtime)
        losses.add(loss, nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]), len(labels))
        training.step()
    losses.read()
    if not losses.images:
        raise ValueError(f"{training.images_per_epoch} training images are too few for {runtime.world_size} processes")
    return runtime.mean(losses.sum / losses.images)


def backward(training: Training, inputs: Tensor, labels: Tensor, runtime: Runtime) -> Tensor:
    """Compute the gradient of a batch's loss in `accumulate` parts, which need less memory.

    Return the loss, detached.
    """
    loss_function, parts = training.loss_function or training.criterion, []
    for part, part_labels in zip(inputs.chunk(training.accumulate), labels.chunk(training.accumulate), strict=True):
        with runtime.autocast():
            logits = training.parallel_model(part)
        loss = loss_function(logits.float(), part_labels) * (len(part) / len(inputs))
        loss.backward()
        parts.append(loss.detach())
    return torch.stack(parts).sum()
