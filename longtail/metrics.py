"""Measures of a model, from integer counts: confusion matrix, accuracy of all, many-, medium- and few-shot classes,
macro F1."""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from longtail.cli import printable
from longtail.devices import Runtime
from longtail.records import ClassFigures, ClassJson, TestFigures, TestJson
from longtail.signals import raise_if_stopped

Batches = Iterable[tuple[Tensor, Tensor]]  # inputs and labels
MANY_ABOVE, FEW_BELOW = 100, 20  # training images of a class; Liu et al., "Open Long-Tailed Recognition", CVPR 2019
SHOTS = ("all", "many", "medium", "few")
SHOT_SIZES = f"many > {MANY_ABOVE} training images, medium {FEW_BELOW}-{MANY_ABOVE}, few < {FEW_BELOW}"


def predictions(model: nn.Module, batches: Batches, runtime: Runtime) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the labels of each batch, and the classes that the model predicts for its images."""
    model.eval()
    for inputs, labels in batches:
        raise_if_stopped()
        with runtime.autocast():
            logits = model(inputs)
        yield labels, logits.argmax(1)


@torch.no_grad()
def count_correct(model: nn.Module, batches: Batches, num_classes: int, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Return how many images of each class the model gets right, and how many there are, (C,) integers each.

    Both are summed over the processes. `batches` yields this process's images and labels, on the runtime's device. A
    confusion matrix would say it too, but of 10,000 classes it has 800 MB.
    """
    counts = torch.zeros(2, num_classes, dtype=torch.long, device=runtime.device)
    for labels, predicted in predictions(model, batches, runtime):
        right = predicted == labels
        counts.index_add_(1, labels, torch.stack([right, torch.ones_like(right)]).long())
    correct, total = runtime.sum(counts)
    return correct, total


@torch.no_grad()
def add_up(pairs: Iterable[tuple[Tensor, Tensor]], num_classes: int, runtime: Runtime) -> Tensor:
    """Return the confusion matrix (C, C) of batches of labels and predicted classes, summed over the processes."""
    counts = torch.zeros(num_classes * num_classes, dtype=torch.long, device=runtime.device)
    for labels, predicted in pairs:
        cells = labels * num_classes + predicted
        counts.index_add_(0, cells, torch.ones_like(cells))
    return runtime.sum(counts).view(num_classes, num_classes)


def count_confusion(model: nn.Module, batches: Batches, num_classes: int, runtime: Runtime) -> Tensor:
    """Return how many images of class i (row) were predicted as class j (column): (C, C) integers.

    `batches` is as in `predictions`; the sum is over the processes.
    """
    return add_up(predictions(model, batches, runtime), num_classes, runtime)


def shot_groups(class_counts: Sequence[int]) -> dict[str, Tensor]:
    """Return for each group of SHOTS which classes belong to it, (C,), by their numbers of training images."""
    counts = torch.tensor(class_counts)
    return {
        "all": counts >= 0,
        "many": counts > MANY_ABOVE,
        "medium": (counts >= FEW_BELOW) & (counts <= MANY_ABOVE),
        "few": counts < FEW_BELOW,
    }


def shot_sizes(class_counts: Sequence[int]) -> dict[str, int]:
    """Return the number of classes in each group of SHOTS."""
    return {name: int(group.sum()) for name, group in shot_groups(class_counts).items()}


def shot_accuracy(correct: Tensor, total: Tensor, class_counts: list[int]) -> dict[str, float]:
    """Return the accuracy over the images of each group of SHOTS; nan for a group without images.

    Counts have shape (C,).
    """
    shares = {}
    for name, group in shot_groups(class_counts).items():
        group = group.to(correct.device)
        shares[name] = (correct[group].sum() / total[group].sum()).item()
    return shares


def macro_f1(confusion: Tensor) -> float:
    """Return F1 averaged over the classes that occur as labels or as predictions, from a confusion matrix (C, C)."""
    confusion = confusion.cpu()  # not every GPU has float64
    either = confusion.sum(0) + confusion.sum(1)
    return (2 * confusion.diagonal().double() / either)[either > 0].mean().item()


def balanced_accuracy(correct: Tensor, total: Tensor) -> float:
    """Return the mean of the accuracies of the classes that have images, so that each counts alike; counts are (C,)."""
    correct, total = correct.cpu(), total.cpu()  # not every GPU has float64
    return (correct.double() / total)[total > 0].mean().item()


def precisions(confusion: Tensor) -> Tensor:
    """Return the share of the predictions of each class that are right, (C,); 0 for a class that is never predicted."""
    return confusion.diagonal().double() / confusion.sum(0).clamp_min(1)


def report(confusion: Tensor, class_counts: list[int] | None, names: list[str] | None) -> TestFigures:
    """Return what a test finds, from a confusion matrix (C, C).

    `class_counts` are the training images of each class, if they are known.
    """
    correct, total = confusion.diagonal(), confusion.sum(1)
    names = names or [str(c) for c in range(len(total))]
    names = [printable(name) for name in names]
    wrong = confusion - correct.diag()
    precision = precisions(confusion).tolist()
    shots = None
    if class_counts:
        shots = {name: none_if_nan(share) for name, share in shot_accuracy(correct, total, class_counts).items()}
    classes = []
    for c, share in enumerate((correct / total).tolist()):
        figures = ClassFigures(
            name=names[c],
            training_images=class_counts[c] if class_counts else None,
            accuracy=none_if_nan(share),
            precision=precision[c],
            correct=int(correct[c]),
            images=int(total[c]),
            taken_for=names[int(wrong[c].argmax())] if wrong[c].any() else None,
        )
        classes.append(figures)
    return TestFigures(
        images=int(total.sum()),
        accuracy=(correct.sum() / total.sum()).item(),
        balanced_accuracy=balanced_accuracy(correct, total),
        f1=macro_f1(confusion),
        shots=shots,
        classes=classes,
    )


def class_figures(figures: TestJson) -> list[ClassJson]:
    """Return the figures of each class from a test's JSON. EGTEA's older files list them as verbs, and count clips.

    Raise KeyError where the file has neither.
    """
    if "classes" in figures:
        classes: list[ClassJson] = figures["classes"]
        return classes
    return [
        {
            "name": verb["name"],
            "training_images": verb["training_clips"],
            "accuracy": verb["recall"],
            "precision": verb["precision"],
            "correct": verb["correct"],
            "images": verb["clips"],
        }
        for verb in figures["verbs"]
    ]


def none_if_nan(share: float) -> float | None:
    """Return `share`, or None for nan, which JSON does not have."""
    return None if math.isnan(share) else share
