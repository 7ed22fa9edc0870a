"""Classifiers on what a trained network puts out: no training, one number chosen on validation."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from longtail.devices import Runtime
from longtail.metrics import Batches, balanced_accuracy, count_correct
from longtail.signals import raise_if_stopped

STRENGTHS = [step / 10 for step in range(31)]  # of logit adjustment, tried on validation

Outputs = list[tuple[Tensor, Tensor]]  # what a network puts out for a batch, (N, F) or (N, C), and the labels


class LogitShift(nn.Module):
    """Scores minus strength times log prior: post-hoc logit adjustment, Menon et al., ICLR 2021, equation 9.

    class_counts: training samples of each class, (C,). At strength 1 a network trained with cross-entropy is
    Bayes-optimal for the balanced error, if its probabilities are right.
    """

    shift: Tensor

    def __init__(self, class_counts: Sequence[int], strength: float):
        super().__init__()
        counts = torch.tensor(class_counts, dtype=torch.float)
        self.register_buffer("shift", strength * (counts / counts.sum()).log())

    def forward(self, logits: Tensor) -> Tensor:
        return logits - self.shift


@torch.no_grad()
def extract(model: nn.Module, batches: Batches, runtime: Runtime) -> Outputs:
    """Return what the model puts out for this process's batches, in fp32, and the labels."""
    model.eval()
    parts = []
    for images, labels in batches:
        raise_if_stopped()
        with runtime.autocast():
            output = model(images)
        parts.append((output.float(), labels))
    return parts


def without_bf16(runtime: Runtime) -> Runtime:
    """Return the runtime without bf16.

    In bf16 scores that lie close together become equal, and argmax then returns the lower class.
    """
    return dataclasses.replace(runtime, bf16=False)


def best_of(
    values: Sequence[float], build: Callable[[float], nn.Module], outputs: Outputs, num_classes: int, runtime: Runtime
) -> float:
    """Return the value whose classifier build(value) has the best mean class accuracy on `outputs`.

    If several values are equally good, return the first. On a balanced set the best value is the one with the most
    images right.
    """

    def accuracy(value: float) -> float:
        counts = count_correct(build(value).to(runtime.device), outputs, num_classes, without_bf16(runtime))
        return round(balanced_accuracy(*counts), 9)  # equal up to rounding is equal

    return max(values, key=accuracy)
