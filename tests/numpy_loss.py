"""The CDB loss in NumPy, written from the paper's equations and nn.CrossEntropyLoss's documentation, with loops."""

import math
from dataclasses import dataclass, field

import numpy as np


def elements(logits: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logits as rows, (N, C), and labels (N,) or probabilities (N, C) with them."""
    if logits.ndim == 1:
        return logits[None], values[None]
    rows = np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])
    if values.shape == logits.shape:
        return rows, np.moveaxis(values, 1, -1).reshape(rows.shape)
    return rows, values.reshape(-1)


def log_softmax(row: np.ndarray) -> np.ndarray:
    top = row.max()
    return row - top - math.log(sum(math.exp(value - top) for value in row))


def loss_of(logits, target, weight, reduction, gamma=0.0, smoothing=0.0, ignore=-100, class_counts=None, costs=None):
    """The reduced loss; with "none" that of each element, in the order of `elements`."""
    classes = len(weight)
    cost = np.asarray(weight, float) * (1 if costs is None else np.asarray(costs, float))
    losses, divisors = [], []
    for row, label in zip(*elements(logits, target), strict=True):
        logs = log_softmax(row if class_counts is None else row + np.log(class_counts))
        if isinstance(label, np.ndarray):
            mixed = (1 - smoothing) * label + smoothing / classes
            losses.append(-(cost * mixed * logs).sum())
            divisors.append((1, 1))
        elif label == ignore:
            losses.append(0.0)
            divisors.append((0, 0))
        else:
            factor = (1 - math.exp(logs[label])) ** gamma if gamma else 1
            uniform = -(cost * logs).sum() / classes
            losses.append((1 - smoothing) * -cost[label] * factor * logs[label] + smoothing * uniform)
            divisors.append((1, cost[label]))
    if reduction == "none":
        return np.array(losses)
    total = sum(losses)
    if reduction == "sum":
        return total
    number, summed = np.sum(divisors, axis=0)
    if reduction == "mean":
        return total / number if number else 0.0
    return total / summed if summed else 0.0


@dataclass
class Difficulty:
    """The weights that follow from each validation pass."""

    classes: int
    tau: float | str
    smoothed: bool
    weight: list[float] = field(default_factory=list)
    right: np.ndarray | float = 0.0
    seen: np.ndarray | float = 0.0

    def update(self, correct: list[int], total: list[int]) -> None:
        accuracy = (
            [c / t for c, t in zip(correct, total, strict=True) if t]
            if not self.smoothed
            else self.average(correct, total)
        )
        tau = self.tau
        if isinstance(tau, str):
            bias = max(accuracy) / (min(accuracy) + 0.01) - 1
            tau = 2 / (1 + math.exp(-bias)) if tau == "dynamic" else 1 / (1 + math.exp(-bias - 1))
        raw = [(1 - a) ** tau for a in accuracy]
        if sum(raw):
            self.weight = [self.classes * value / sum(raw) for value in raw]

    def average(self, correct: list[int], total: list[int]) -> list[float]:
        """Accuracies from the passes so far, each older one at 0.9, with 100 images more at the mean accuracy."""
        self.right = 0.9 * self.right + np.array(correct)
        self.seen = 0.9 * self.seen + np.array(total)
        own = [r / s for r, s in zip(self.right, self.seen, strict=True) if s]
        mean = sum(own) / len(own)
        return [(r + 100 * mean) / (s + 100) for r, s in zip(self.right, self.seen, strict=True)]
