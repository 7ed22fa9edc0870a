"""Class-wise Difficulty-Balanced loss, in one file that needs PyTorch alone.

Sinha, Ohashi, Nakamura, "Class-Wise Difficulty-Balanced Loss for Solving Class-Imbalance", ACCV 2020, arXiv 2010.01824.

A class that the network gets wrong on held-out data is difficult, however many training images it has; its samples weigh
more in the next epoch. With A_c the accuracy of class c on held-out data:

    difficulty  d_c = 1 - A_c
    weight      w_c = d_c ** tau, scaled so that the C weights sum to C
    loss        mean over the batch of  -w_y log p_y

In your own training loop (`train_batches` and `val_batches` yield images and labels):

    criterion = CDBLoss(num_classes=10)                        # tau="dynamic"; .to(device) as any module
    for epoch in range(epochs):
        for images, labels in train_batches:
            optimizer.zero_grad()
            criterion(network(images), labels).backward()
            optimizer.step()
        correct, total = torch.zeros(2, 10, dtype=torch.long)
        for images, labels in val_batches:
            hits = labels[network(images).argmax(1) == labels]
            correct += hits.bincount(minlength=10)
            total += labels.bincount(minlength=10)
        criterion.update(correct, total)                       # the weights of the next epoch

Save `criterion.state_dict()` with your checkpoint: a resumed run then continues with the same weights. In a
torch.distributed job, sum `correct` and `total` over the processes before `update`.
"""

import math

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

DYNAMIC_TAU = ("dynamic", "dynamic-released")
REDUCTIONS = ("mean", "weighted_mean")


def dynamic_tau(accuracy: Tensor, released: bool = False) -> Tensor:
    """The exponent that fits how unequal the class accuracies, shape (C,), are; a scalar tensor.

    b = max A / (min A + 0.01) - 1. The paper: 2 / (1 + exp(-b)), up to 2. The released CIFAR and EGTEA code:
    1 / (1 + exp(-(b + 1))), up to 1.
    """
    bias = accuracy.max() / (accuracy.min() + 0.01) - 1
    return torch.sigmoid(bias + 1) if released else 2 * torch.sigmoid(bias)


def read_tau(text: str) -> float | str:
    """Return the tau that `text` means: 'dynamic', 'dynamic-released' or a number above 0. Raise ValueError for anything else."""
    if text in DYNAMIC_TAU:
        return text
    try:
        return CDBLoss(1, float(text)).tau
    except ValueError:
        raise ValueError(f"must be a number above 0, 'dynamic' or 'dynamic-released', not {text!r}") from None


def focal_factor(cross_entropy: Tensor, gamma: float) -> Tensor:
    """(1 - p) ** gamma for the probability p that belongs to a cross-entropy; Lin et al., ICCV 2017, equation 4."""
    miss = -torch.expm1(-cross_entropy)
    return miss.clamp_min(torch.finfo(miss.dtype).tiny) ** gamma   # a gradient that is finite at p = 1, gamma < 1


def reduce_loss(losses: Tensor, weights: Tensor, reduction: str) -> Tensor:
    """Weight the losses of a batch, both of shape (N,), and reduce them to a scalar.

    "mean" divides by N, as the paper does; "weighted_mean" by the summed weights, as PyTorch and the released ImageNet-LT
    code do. There, in a torch.distributed job, the sum is that of the whole batch, so every process has to take part.
    """
    total = (weights * losses).sum()
    if reduction == "mean":
        return total / len(losses)
    denominator = weights.sum()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(denominator)
        denominator = denominator / torch.distributed.get_world_size()
    return total / denominator.clamp_min(torch.finfo(total.dtype).tiny)   # a batch without weight: 0 / tiny = 0


class CDBLoss(nn.Module):
    """Cross-entropy, or focal loss, weighted by class difficulty.

    tau: a number above 0, "dynamic" (the paper's rule) or "dynamic-released" (the released code's).
    reduction: "mean" over the batch (paper) or "weighted_mean" (divided by the batch's summed weights).
    focal_gamma: above 0 gives the focal variant, CDB-FL.
    allow_absent: whether a class may be missing from the held-out data; it then keeps its weight.

    All state is in two buffers: `weight`, shape (C,), summing to C, uniform until the first update; and `exponent`, the
    tau in effect (nan while a dynamic tau has seen nothing).
    """

    def __init__(self, num_classes: int, tau: float | str = "dynamic", reduction: str = "mean",
                 focal_gamma: float = 0.0, allow_absent: bool = False):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes}")
        if tau not in DYNAMIC_TAU and not (isinstance(tau, (int, float)) and 0 < tau < math.inf):
            raise ValueError(f"tau must be a number above 0, 'dynamic' or 'dynamic-released', not {tau!r}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, not {reduction!r}")
        if not 0 <= focal_gamma < math.inf:
            raise ValueError(f"focal_gamma must be 0 or more, not {focal_gamma!r}")
        self.tau, self.reduction, self.focal_gamma, self.allow_absent = tau, reduction, focal_gamma, allow_absent
        self.register_buffer("weight", torch.ones(num_classes))
        self.register_buffer("exponent", torch.tensor(math.nan if tau in DYNAMIC_TAU else float(tau)))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits (N, C), labels (N,) of class indices; a scalar."""
        losses = F.cross_entropy(logits, labels, reduction="none")
        if self.focal_gamma:
            losses = focal_factor(losses, self.focal_gamma) * losses
        return reduce_loss(losses, self.weight[labels], self.reduction)

    def start_epoch(self, progress: float) -> None:
        """Do nothing: the weights depend on held-out accuracy alone, not on the share of training that is done."""

    def update(self, correct: Tensor, total: Tensor) -> None:
        """Set the weights from held-out counts: images of each class recognised, and in all; integers, shape (C,) each.

        Raises ValueError for a wrong shape, counts that cannot be, and a class without any image (see allow_absent).
        """
        for name, counts in (("correct", correct), ("total", total)):
            if counts.shape != self.weight.shape or counts.is_floating_point():
                raise ValueError(f"{name} must hold one integer for each of the {len(self.weight)} classes, "
                                 f"not {counts.dtype} of shape {tuple(counts.shape)}")
        if (correct < 0).any() or (correct > total).any():
            raise ValueError(f"correct must lie between 0 and total; got {correct.tolist()} of {total.tolist()}")
        self._set_weights(correct.double() / total.clamp_min(1), present=total > 0)

    def update_from_accuracy(self, accuracy: Tensor) -> None:
        """Set the weights from accuracies in 0..1, shape (C,), for whoever has only those."""
        if accuracy.shape != self.weight.shape:
            raise ValueError(f"accuracy must have shape ({len(self.weight)},), not {tuple(accuracy.shape)}")
        if not ((accuracy >= 0) & (accuracy <= 1)).all():
            raise ValueError(f"accuracies must lie between 0 and 1; got {accuracy.tolist()}")
        self._set_weights(accuracy.double(), present=torch.ones_like(accuracy, dtype=torch.bool))

    @torch.no_grad()
    def _set_weights(self, accuracy: Tensor, present: Tensor) -> None:
        absent = (~present).nonzero().flatten().tolist()
        if absent and (not self.allow_absent or len(absent) == len(present)):
            raise ValueError(f"no held-out image of class {', '.join(map(str, absent))}: its difficulty is unknown")
        accuracy, present = accuracy.to(self.weight.device), present.to(self.weight.device)
        if self.tau in DYNAMIC_TAU:
            self.exponent.copy_(dynamic_tau(accuracy[present], released=self.tau == "dynamic-released"))
        raw = (1 - accuracy[present]) ** self.exponent.double()
        if raw.sum() > 0:                                       # every class solved: the last weights stand
            share = len(self.weight) - self.weight[~present].double().sum()
            self.weight[present] = (raw / raw.sum() * share).to(self.weight.dtype)
