"""What a model is worth, from integer counts: confusion matrix, accuracy of all, many-, medium- and few-shot classes, macro F1."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from longtail.devices import Runtime
from longtail.signals import raise_if_stopped

Batches = Iterable[tuple[Tensor, Tensor]]      # inputs and labels
MANY_ABOVE, FEW_BELOW = 100, 20     # training images of a class; Liu et al., "Open Long-Tailed Recognition", CVPR 2019
SHOTS = ("all", "many", "medium", "few")
SHOT_SIZES = f"many > {MANY_ABOVE} training images, medium {FEW_BELOW}-{MANY_ABOVE}, few < {FEW_BELOW}"


@torch.no_grad()
def count_confusion(model: nn.Module, batches: Batches, num_classes: int, runtime: Runtime) -> Tensor:
    """Return how many images of class i (row) were taken for class j (column): (C, C) integers, summed over the processes.

    `batches` yields this process's images and labels, on the runtime's device.
    """
    counts = torch.zeros(num_classes * num_classes, dtype=torch.long, device=runtime.device)
    model.eval()
    for inputs, labels in batches:
        raise_if_stopped()
        with runtime.autocast():
            logits = model(inputs)
        cells = labels * num_classes + logits.argmax(1)
        counts.index_add_(0, cells, torch.ones_like(cells))
    return runtime.sum(counts).view(num_classes, num_classes)


def shot_accuracy(correct: Tensor, total: Tensor, class_counts: list[int]) -> dict[str, float]:
    """Return the accuracy over the images of each group of SHOTS; nan for a group without images. Counts have shape (C,)."""
    counts = torch.tensor(class_counts, device=correct.device)
    groups = {"all": counts >= 0, "many": counts > MANY_ABOVE, "medium": (counts >= FEW_BELOW) & (counts <= MANY_ABOVE),
              "few": counts < FEW_BELOW}
    return {name: (correct[group].sum() / total[group].sum()).item() for name, group in groups.items()}


def macro_f1(confusion: Tensor) -> float:
    """Return F1 averaged over the classes that occur as labels or as predictions, from a confusion matrix (C, C)."""
    either = confusion.sum(0) + confusion.sum(1)
    return (2 * confusion.diagonal().double() / either)[either > 0].mean().item()
