"""The losses that CDB-CE is compared with, and the flags that choose among all of them.

Every loss is a module: `criterion(logits, labels)` with logits (N, C) and labels (N,) gives a scalar, the mean over the
batch unless said otherwise. `weight`, shape (C,), is the weight of each class (ones where a loss has none), `update` takes
validation counts as CDBLoss.update does, and `start_epoch` the share of training that is done.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.cli import number_in

RIVALS = ("CE", "FL", "EQL", "CB_Softmax", "CB_Focal", "LDAM-DRW", "Balanced_Softmax", "Logit_Adjustment")
LOSS_TYPES = (*RIVALS, "CDB-CE", "CDB-FL")
LDAM_MAX_MARGIN, LDAM_SCALE = 0.5, 30.0   # Cao et al., section 4 and released code
DRW_START = 2 / 3                         # the paper's first step of the learning rate, 160 of 240 epochs


def focal_factor(cross_entropy: Tensor, gamma: float) -> Tensor:
    """Return (1 - p) ** gamma for the probability p that belongs to a cross-entropy; Lin et al., ICCV 2017, equation 4."""
    miss = -torch.expm1(-cross_entropy)
    return miss.clamp_min(torch.finfo(miss.dtype).tiny) ** gamma   # a gradient that is finite at p = 1, gamma < 1


def reduce_loss(losses: Tensor, weights: Tensor, reduction: str) -> Tensor:
    """Weight the losses of a batch, both of shape (N,), and return their mean, or for "weighted_mean" the sum over the summed weights.

    In a torch.distributed job the summed weights are those of the whole batch, so every process has to take part.
    """
    total = (weights * losses).sum()
    if reduction == "mean":
        return total / len(losses)
    denominator = weights.sum()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(denominator)
        denominator = denominator / torch.distributed.get_world_size()
    return total / denominator.clamp_min(torch.finfo(total.dtype).tiny)   # a batch without weight: 0 / tiny = 0


class ClassLoss(nn.Module):
    """Cross-entropy (CE), and what all the baselines share: class counts (C,), class weights, and no need of validation."""

    def __init__(self, class_counts: list[int]):
        super().__init__()
        if min(class_counts, default=0) < 1:
            raise ValueError(f"every class needs a training sample; the class counts are {class_counts}")
        self.register_buffer("class_counts", torch.tensor(class_counts, dtype=torch.float), persistent=False)
        self.register_buffer("weight", torch.ones(len(class_counts)), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    def start_epoch(self, progress: float) -> None:
        """Tell the loss which share of training, 0 to 1, is done."""

    def update(self, correct: Tensor, total: Tensor) -> None:
        """Take validation counts, (C,) each, as CDBLoss.update does; a loss that weighs by training counts ignores them."""


class FocalLoss(ClassLoss):
    """-(1 - p_y) ** gamma log p_y over the softmax; Lin et al., "Focal Loss", ICCV 2017, equation 4."""

    def __init__(self, class_counts: list[int], gamma: float = 1.0):
        super().__init__(class_counts)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none")
        return (focal_factor(losses, self.gamma) * losses).mean()


class EqualizationLoss(ClassLoss):
    """Softmax equalization loss; Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020, section 3.4.

    A class whose share of the training set is below lambda_ is left out of another class's softmax denominator with
    probability gamma, drawn anew for each sample and class: rare classes are pushed down less.
    """

    def __init__(self, class_counts: list[int], gamma: float = 0.9, lambda_: float = 0.005):
        super().__init__(class_counts)
        self.gamma = gamma
        self.register_buffer("rare", self.class_counts / self.class_counts.sum() < lambda_, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        ignored = self.rare & (torch.rand_like(logits) < self.gamma)
        ignored = ignored & ~F.one_hot(labels, logits.shape[1]).bool()
        return F.cross_entropy(logits.masked_fill(ignored, torch.finfo(logits.dtype).min), labels)


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """(1 - beta) / (1 - beta ** n_c), scaled to sum to C; Cui et al., CVPR 2019, equation 2 and section 4. Shape (C,)."""
    weights = (1 - beta) / -torch.expm1(class_counts.double() * torch.log(torch.tensor(beta, dtype=torch.double)))
    return (weights / weights.sum() * len(weights)).float()


class ClassBalancedLoss(ClassLoss):
    """Weights by the effective number of samples; Cui et al., "Class-Balanced Loss", CVPR 2019.

    With focal_gamma None it is the softmax cross-entropy (equation 9), else the focal loss over C sigmoids, summed over
    the classes (equation 13).
    """

    def __init__(self, class_counts: list[int], beta: float = 0.9999, focal_gamma: float | None = None):
        super().__init__(class_counts)
        self.focal_gamma = focal_gamma
        self.weight.copy_(effective_number_weights(self.class_counts, beta))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.focal_gamma is None:
            losses = F.cross_entropy(logits, labels, reduction="none")
        else:
            targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
            binary = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            losses = (focal_factor(binary, self.focal_gamma) * binary).sum(1)
        return reduce_loss(losses, self.weight[labels], "mean")


class LDAMLoss(ClassLoss):
    """Label-distribution-aware margins, deferred re-weighting; Cao et al., NeurIPS 2019, equations 12 and 13, algorithm 1.

    Expects cosines (a normalised head). The true class has to win by a margin proportional to n_c ** -1/4, at most
    LDAM_MAX_MARGIN. From DRW_START on, the classes weigh by their effective number, divided by the summed weights.
    """

    def __init__(self, class_counts: list[int], beta: float = 0.9999):
        super().__init__(class_counts)
        margins = self.class_counts ** -0.25
        self.register_buffer("margins", margins / margins.max() * LDAM_MAX_MARGIN, persistent=False)
        self.register_buffer("deferred_weight", effective_number_weights(self.class_counts, beta), persistent=False)

    def start_epoch(self, progress: float) -> None:
        """Weigh by the effective number from DRW_START on."""
        if progress >= DRW_START:
            self.weight.copy_(self.deferred_weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        margins = F.one_hot(labels, logits.shape[1]) * self.margins
        losses = F.cross_entropy(LDAM_SCALE * (logits - margins), labels, reduction="none")
        return reduce_loss(losses, self.weight[labels], "weighted_mean")


class LogitAdjustmentLoss(ClassLoss):
    """Cross-entropy of logits + log prior; Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 10."""

    def __init__(self, class_counts: list[int], strength: float = 1.0):
        super().__init__(class_counts)
        log_prior = (self.class_counts / self.class_counts.sum()).log()
        self.register_buffer("adjustment", strength * log_prior, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + self.adjustment, labels)


class BalancedSoftmaxLoss(ClassLoss):
    """Softmax with each exponential multiplied by n_c; Ren et al., "Balanced Meta-Softmax", NeurIPS 2020, equation 3.

    Mathematically the logit-adjusted loss at strength 1; both names are kept, since tables list both.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + self.class_counts.log(), labels)


def build_rival(loss_type: str, class_counts: list[int], *, gamma: float = 1.0, beta: float = 0.9999, eql_gamma: float = 0.9,
                eql_lambda: float = 0.005) -> ClassLoss:
    """Return the loss that `loss_type`, one of RIVALS, names; each takes from the settings what it needs."""
    choices = {
        "CE": lambda: ClassLoss(class_counts),
        "FL": lambda: FocalLoss(class_counts, gamma),
        "EQL": lambda: EqualizationLoss(class_counts, eql_gamma, eql_lambda),
        "CB_Softmax": lambda: ClassBalancedLoss(class_counts, beta),
        "CB_Focal": lambda: ClassBalancedLoss(class_counts, beta, gamma),
        "LDAM-DRW": lambda: LDAMLoss(class_counts, beta),
        "Balanced_Softmax": lambda: BalancedSoftmaxLoss(class_counts),
        "Logit_Adjustment": lambda: LogitAdjustmentLoss(class_counts),
    }
    if loss_type not in choices:
        raise ValueError(f"loss_type must be one of {', '.join(RIVALS)}, not {loss_type!r}")
    return choices[loss_type]()


def add_loss_arguments(parser: argparse.ArgumentParser, read_tau: Callable[[str], float | str], reductions: Sequence[str],
                       difficulties: Sequence[str] = ()) -> None:
    """Add --loss_type and the settings of each loss. `read_tau` converts --tau or raises ValueError; `reductions` are those of CDB."""

    def tau(text: str) -> float | str:
        try:
            return read_tau(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    group = parser.add_argument_group("loss")
    group.add_argument("--loss_type", choices=LOSS_TYPES, default="CDB-CE", help="default: %(default)s")
    group.add_argument("--tau", type=tau, default="dynamic",
                       help="CDB: how strongly difficulty weighs; 'dynamic' (paper, the default), 'dynamic-released' or a number")
    group.add_argument("--reduction", choices=reductions, default="mean",
                       help="CDB: mean over the batch (paper, the default), or weighted_mean, divided by the batch's summed weights")
    group.add_argument("--gamma", type=number_in(0, 100), default=1.0, help="FL, CB_Focal, CDB-FL: focusing exponent; default: 1")
    group.add_argument("--beta", type=number_in(0, 1, include_low=False), default=0.9999,
                       help="CB_*, LDAM-DRW: effective-number parameter; default: 0.9999")
    group.add_argument("--eql_gamma", type=number_in(0, 1.000001), default=0.9,
                       help="EQL: probability of leaving a rare class out; default: 0.9")
    group.add_argument("--eql_lambda", type=number_in(0, 1.000001), default=0.005,
                       help="EQL: a class with a smaller share of the training set is rare; default: 0.005")
