"""The one loop of all three experiments: train an epoch, validate, derive the next weights, record.

Data flows one way: batches -> model -> loss; validation counts -> difficulty -> weights -> the next epoch. Nothing here knows a
data set, a device or a file.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from records import Run, load_weights, log_row, shape_of
from runtime import Runtime, epoch_seed, raise_if_stopped

Batches = Iterable[tuple[Tensor, Tensor]]
MANY_ABOVE, FEW_BELOW = 100, 20     # training images of a class; Liu et al., "Open Long-Tailed Recognition", CVPR 2019
SHOT_SIZES = f"many > {MANY_ABOVE} training images, medium {FEW_BELOW}-{MANY_ABOVE}, few < {FEW_BELOW}"


@dataclass
class Training:
    """What an experiment brings to the loop.

    train_batches(epoch) yields this process's part of every batch of that epoch, val_batches() its part of the validation set;
    schedule maps progress, epochs done with their fraction over all epochs, to a factor of each parameter group's initial_lr.
    """

    network: nn.Module
    model: nn.Module
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
    averaged: AveragedModel | None = field(default=None, init=False)     # see average_weights
    first_epoch: int = field(default=1, init=False)
    best_accuracy: float = field(default=-1.0, init=False)

    @property
    def kept(self) -> nn.Module:
        """What is validated and kept, bare: the network, or its average."""
        return self.averaged.module if self.averaged else self.network

    def average_weights(self, decay: float) -> None:
        """Validate and keep an exponential moving average of weights and running statistics, over about 1 / (1 - decay) steps."""
        self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def step(self) -> None:
        """The optimizer's, and the average's."""
        self.optimizer.step()
        if self.averaged:
            self.averaged.update_parameters(self.network)

    def set_lr(self, epoch: int, batch: int) -> None:
        """The schedule's learning rate for a batch, counted from 0, of an epoch, counted from 1."""
        factor = self.schedule((epoch - 1 + batch / self.batches_per_epoch) / self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def state(self) -> dict[str, Any]:
        """All that changes from epoch to epoch; what is random is drawn from (seed, epoch) and needs no state."""
        trained = {"trained": self.network.state_dict()} if self.averaged else {}
        return {"state_dict": self.kept.state_dict(), **trained, "criterion": self.criterion.state_dict(),
                "optimizer": self.optimizer.state_dict(), "best_accuracy": self.best_accuracy}

    def momenta(self, saved: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """The optimizer's saved buffers, in memory of their own. ValueError for one that does not fit its parameter.

        PyTorch would not look: it writes to a buffer as if it had the parameter's shape.
        """
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        buffers = {number: state["momentum_buffer"] for number, state in saved.items() if state.get("momentum_buffer") is not None}
        for number, buffer in buffers.items():
            if number not in range(len(parameters)) or shape_of(buffer) != shape_of(parameters[number]):
                raise ValueError(f"the momentum of parameter {number} does not fit it")
        return {number: {"momentum_buffer": torch.empty_like(parameters[number]).copy_(buffer)} for number, buffer in buffers.items()}

    def restore(self, state: dict[str, Any], run: Run) -> None:
        """Continue after the epoch that `state` was saved at. ValueError if it is not of this training."""
        load_weights(self.kept, state.get("state_dict"), run.last)
        if self.averaged:
            load_weights(self.network, state.get("trained"), run.last)
            self.averaged.n_averaged.fill_(1)       # else the next step would start the average anew
        try:
            self.criterion.load_state_dict(state["criterion"])
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": self.momenta(state["optimizer"]["state"])})
            self.first_epoch, self.best_accuracy = state["epoch"] + 1, float(state["best_accuracy"])
            self.set_lr(self.first_epoch, 0)
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{run.last} does not hold the state of this training: {error}; --overwrite starts anew") from error


def begin(training: Training, run: Run, arguments: dict[str, Any], description: dict[str, Any], resume: bool, overwrite: bool,
          runtime: Runtime) -> bool:
    """Open the run's files, and continue from what they hold; whether it starts from epoch 1 instead."""
    details = {**description, "precision": runtime.precision}       # `auto` among the arguments does not tell it
    state = runtime.broadcast(run.open(arguments, details, resume, overwrite) if runtime.is_main else None)
    if state:
        if state.get("precision", runtime.precision) != runtime.precision:
            raise ValueError(f"{run.last} was trained in {state['precision']}, and this run would go on in {runtime.precision}: resume "
                             f"with precision {state['precision']}, or choose another --save_model")
        training.restore(state, run)
    elif resume:
        runtime.say(f"nothing to resume in {run.folder}: starting from epoch 1")
    return not state


def fit(training: Training, run: Run, description: dict[str, Any], runtime: Runtime) -> None:
    """Train from training.first_epoch to the last epoch, and record each; `description` goes into every checkpoint."""
    started = time.perf_counter()
    for epoch in range(training.first_epoch, training.epochs + 1):
        epoch_start = time.perf_counter()
        training.criterion.progress = (epoch - 1) / training.epochs
        torch.manual_seed(epoch_seed(training.seed, epoch, 1 + runtime.rank))  # for what a loss or a layer draws; 0 is like no part
        loss = train_epoch(training, epoch, runtime)
        images_per_second = training.images_per_epoch / (time.perf_counter() - epoch_start)
        class_accuracy, accuracy = torch.full((training.num_classes,), math.nan), math.nan
        if epoch % training.validate_after_every == 0 or epoch == training.epochs:
            class_accuracy, accuracy = validate(training, runtime)
        is_best = accuracy > training.best_accuracy
        training.best_accuracy = accuracy if is_best else training.best_accuracy
        measures = {"epoch": epoch, "lr": training.optimizer.param_groups[0]["lr"], "loss": loss, "accuracy": accuracy,
                    "tau": float(getattr(training.criterion, "exponent", math.nan)), "seconds": time.perf_counter() - epoch_start,
                    "images_per_second": images_per_second}
        if runtime.is_main:
            row = log_row(measures, class_accuracy.tolist(), training.criterion.weight.tolist())
            run.finish_epoch(row, {**training.state(), "epoch": epoch, "accuracy": accuracy, "precision": runtime.precision, **description},
                             is_best)
        left = (time.perf_counter() - started) / (epoch - training.first_epoch + 1) * (training.epochs - epoch)
        runtime.say(progress_line(training, measures, left))
    runtime.say(f"best validation accuracy {training.best_accuracy:.4f}: {run.best}")


def validate(training: Training, runtime: Runtime) -> tuple[Tensor, float]:
    """Count, and let the difficulty set the next weights; accuracy of each class, (C,), and of all images."""
    runtime.synchronize(training.network)
    model = training.model
    if training.averaged:
        runtime.synchronize(training.kept)
        model = training.kept
    confusion = count_confusion(model, training.val_batches(), training.num_classes, runtime)
    correct, total = confusion.diagonal(), confusion.sum(1)
    training.criterion.update(correct, total)
    return correct / total, (correct.sum() / total.sum()).item()


def progress_line(training: Training, measures: dict[str, Any], seconds_left: float) -> str:
    """The one line that an epoch prints."""
    weight, tau = training.criterion.weight, "-" if math.isnan(measures["tau"]) else f"{measures['tau']:.3f}"
    return (f"epoch {measures['epoch']}/{training.epochs}  loss {measures['loss']:.4f}  val accuracy {measures['accuracy']:.4f}  "
            f"tau {tau}  weights {weight.min():.3f}..{weight.max():.3f}  {measures['images_per_second']:.3g} images/s  "
            f"{seconds_left / 60:.1f} min left")


def train_epoch(training: Training, epoch: int, runtime: Runtime) -> float:
    """One pass over the training set; the mean loss. ValueError as soon as a loss or gradient is not finite."""
    loss_sum, count, last_finite = torch.zeros((), dtype=torch.double, device=runtime.device), 0, math.nan
    parameters = [p for p in training.network.parameters() if p.requires_grad]
    batches = tqdm(training.train_batches(epoch), f"epoch {epoch}", training.batches_per_epoch, leave=False, unit="batch",
                   disable=None if runtime.is_main else True)      # None: a bar on a terminal, nothing in a pipe
    training.model.train()
    for batch, (inputs, labels) in enumerate(batches):
        raise_if_stopped()
        training.set_lr(epoch, batch)
        training.optimizer.zero_grad()
        loss = backward(training, inputs.to(runtime.device, non_blocking=True), labels.to(runtime.device, non_blocking=True), runtime)
        gradient = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not torch.isfinite(loss + gradient):     # the one wait for the device: better than a poisoned epoch
            raise ValueError(f"epoch {epoch}, batch {batch + 1}: loss {loss.item():g}, gradient norm {gradient.item():g}; the last "
                             f"finite loss was {last_finite:g}; the last good checkpoint is kept, a smaller learning rate may help")
        training.step()
        last_finite = loss.item()
        loss_sum += loss * len(labels)
        count += len(labels)
    return runtime.sum(loss_sum).item() / (count * runtime.world_size)


def backward(training: Training, inputs: Tensor, labels: Tensor, runtime: Runtime) -> Tensor:
    """The gradient of a batch's loss, in `accumulate` parts that need less memory; the loss, detached."""
    parts = []
    for part, part_labels in zip(inputs.chunk(training.accumulate), labels.chunk(training.accumulate), strict=True):
        with runtime.autocast():
            logits = training.model(part)
        loss = training.criterion(logits.float(), part_labels) * (len(part) / len(inputs))
        loss.backward()
        parts.append(loss.detach())
    return torch.stack(parts).sum()


@torch.no_grad()
def count_confusion(model: nn.Module, batches: Batches, num_classes: int, runtime: Runtime) -> Tensor:
    """How many images of class i (row) were taken for class j (column): (C, C) integers, each image counted in one process."""
    counts = torch.zeros(num_classes * num_classes, dtype=torch.long, device=runtime.device)
    model.eval()
    for inputs, labels in batches:
        raise_if_stopped()
        with runtime.autocast():
            logits = model(inputs.to(runtime.device, non_blocking=True))
        cells = labels.to(runtime.device, non_blocking=True) * num_classes + logits.argmax(1)
        counts.index_add_(0, cells, torch.ones_like(cells))
    return runtime.sum(counts).view(num_classes, num_classes)


def shot_accuracy(correct: Tensor, total: Tensor, class_counts: list[int]) -> dict[str, float]:
    """Accuracy over the images of all, many-, medium- and few-shot classes; nan for a group without images."""
    counts = torch.tensor(class_counts, device=correct.device)
    groups = {"all": counts >= 0, "many": counts > MANY_ABOVE, "medium": (counts >= FEW_BELOW) & (counts <= MANY_ABOVE),
              "few": counts < FEW_BELOW}
    return {name: (correct[group].sum() / total[group].sum()).item() for name, group in groups.items()}
