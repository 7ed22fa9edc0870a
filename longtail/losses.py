"""The rivals of the CDB loss.

Every loss is a module and takes what nn.CrossEntropyLoss takes: `criterion(logits, target)` with logits (N, C), (C,) or
(N, C, d1, ...), and as target class indices or, where that has a meaning, class probabilities. `weight`, shape (C,), is
the weight of each class, ones where a loss has none. A training loop calls `start_epoch(progress)` before each epoch
and `update(correct, total)` after each validation pass, whatever the loss.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.heads import COSINE_SCALE

RIVALS = ("CE", "FL", "EQL", "CB_Softmax", "CB_Focal", "LDAM-DRW", "Balanced_Softmax", "Logit_Adjustment", "DBM-BS")
LDAM_MAX_MARGIN, LDAM_SCALE = 0.5, 30.0  # Cao et al., section 4 and released code
DBM_MAX_MARGIN, DBM_SCALE = 0.1, COSINE_SCALE  # K and s of Son et al., AAAI 2025, implementation details
SMALLEST_SQUARED_SINE = 1e-6  # below it fp32 knows an angle too little to take the sine's gradient
COSINE_LOSSES = {"LDAM-DRW": LDAM_SCALE, "DBM-BS": DBM_SCALE, "CDB-DBM": DBM_SCALE}  # and what they multiply cosines by
DRW_START = 2 / 3  # the paper's first step of the learning rate, 160 of 240 epochs


def focal_factor(cross_entropy: Tensor, gamma: float) -> Tensor:
    """Return (1 - p) ** gamma for the probability p of a cross-entropy; Lin et al., ICCV 2017, equation 4."""
    miss = -torch.expm1(-cross_entropy)
    return miss.clamp_min(torch.finfo(miss.dtype).tiny) ** gamma  # a gradient that is finite at p = 1, gamma < 1


def along_classes(values: Tensor, logits: Tensor) -> Tensor:
    """Return `values`, shape (C,), in a shape that broadcasts along the class axis of the logits."""
    return values.to(logits.dtype).view(-1, *[1] * (logits.dim() - 2))


def one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """Return a boolean tensor of the logits' shape: True at each label's class."""
    axis = min(1, logits.dim() - 1)
    return torch.zeros_like(logits, dtype=torch.bool).scatter(axis, labels.unsqueeze(axis), True)


def reduce_loss(losses: Tensor, weights: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """Reduce weighted losses, one for each element: "none", "sum", "mean" over the elements that count, or
    "weighted_mean".

    weights and counts have the shape of losses: the weight of each element's class, and whether it counts (is not
    ignored). "weighted_mean" divides by the summed weights, as PyTorch's weighted mean does; in a torch.distributed job
    by those of the whole batch, so every process has to take part. Without an element that counts the loss is 0.
    """
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "mean":
        return losses.sum() / counts.sum().clamp_min(1)
    denominator = (weights * counts).sum()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(denominator)
        denominator = denominator / torch.distributed.get_world_size()
    return losses.sum() / denominator.clamp_min(torch.finfo(losses.dtype).tiny)


class ClassLoss(nn.Module):
    """Cross-entropy (CE), and what all rivals share: class counts (C,), class weights, and no use for validation.

    reduction, ignore_index and label_smoothing are those of nn.CrossEntropyLoss; "weighted_mean" is its weighted mean.
    "mean" divides by the elements that count; if none counts, the loss is 0. ValueError for a class without training
    samples.
    """

    labels_only = (
        ""  # why a loss takes class indices alone, without label smoothing; empty if it takes probabilities too
    )
    reductions = ("mean", "weighted_mean", "sum", "none")

    def __init__(
        self,
        class_counts: list[int],
        *,
        reduction: str = "mean",
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        if min(class_counts, default=0) < 1:
            raise ValueError(f"every class needs a training sample; the class counts are {class_counts}")
        if reduction not in self.reductions:
            raise ValueError(f"reduction must be one of {', '.join(self.reductions)}, not {reduction!r}")
        if label_smoothing and self.labels_only:
            raise ValueError(f"{type(self).__name__} takes no label_smoothing: {self.labels_only}")
        self.reduction, self.ignore_index, self.label_smoothing = reduction, ignore_index, label_smoothing
        self.register_buffer("class_counts", torch.tensor(class_counts, dtype=torch.float), persistent=False)
        self.register_buffer("weight", torch.ones(len(class_counts)), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss: a scalar, or with reduction "none" one for each element. 16-bit logits are taken to 32 bit
        for it.
        """
        wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        if target.is_floating_point():
            if self.labels_only:
                raise ValueError(
                    f"{type(self).__name__} needs class indices as targets, not probabilities: {self.labels_only}"
                )
            losses = self.elementwise(wide, target)
            counts = weights = torch.ones_like(losses)  # as in PyTorch, whose weighted mean counts elements here
        else:
            target = target.long()
            losses, counts = self.elementwise(wide, target), target != self.ignore_index
            weights = self.weight.to(wide.dtype)[target.where(counts, 0)]
        return reduce_loss(losses, weights, counts, self.reduction).to(logits.dtype)

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the weighted loss of each element; 0 where the target is ignore_index."""
        return self.cross_entropy(logits, target)

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the weighted cross-entropy of each element."""
        return F.cross_entropy(
            logits,
            target,
            self.weight.to(logits.dtype),
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    def start_epoch(self, progress: float) -> None:
        """Do nothing; a loss that changes during training overrides it. `progress` is the share of training that is
        done, 0 to 1.
        """

    def update(self, correct: Tensor, total: Tensor) -> None:
        """Do nothing: difficulty means nothing to a loss that weighs by counts."""

    def extra_repr(self) -> str:
        """Return what print(criterion) shows."""
        return f"{len(self.weight)}, reduction={self.reduction}"


class FocalLoss(ClassLoss):
    """-(1 - p_y) ** gamma log p_y over the softmax; Lin et al., "Focal Loss", ICCV 2017, equation 4."""

    labels_only = "its factor depends on the probability of one true class"

    def __init__(self, class_counts: list[int], gamma: float = 1.0, **options: Any):
        super().__init__(class_counts, **options)
        self.gamma = gamma

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        losses = self.cross_entropy(logits, target)
        return focal_factor(losses, self.gamma) * losses


class EqualizationLoss(ClassLoss):
    """Softmax equalization loss; Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020, section
    3.4.

    A class whose share of the training set is below lambda_ is left out of another class's softmax denominator with
    probability gamma, drawn again for each sample and class: rare classes are pushed down less.
    """

    labels_only = "which classes it leaves out depends on one true class"

    def __init__(self, class_counts: list[int], gamma: float = 0.9, lambda_: float = 0.005, **options: Any):
        super().__init__(class_counts, **options)
        self.gamma = gamma
        self.register_buffer("rare", self.class_counts / self.class_counts.sum() < lambda_, persistent=False)

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        others = ~one_hot(target.where(target != self.ignore_index, 0), logits)
        left_out = self.rare.view(-1, *[1] * (logits.dim() - 2)) & others & (torch.rand_like(logits) < self.gamma)
        return self.cross_entropy(logits.masked_fill(left_out, torch.finfo(logits.dtype).min), target)


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """Return (1 - beta) / (1 - beta ** n_c), scaled to sum to C, shape (C,); Cui et al., CVPR 2019, equation 2 and
    section 4.
    """
    weights = (1 - beta) / -torch.expm1(class_counts.double() * torch.log(torch.tensor(beta, dtype=torch.double)))
    return (weights / weights.sum() * len(weights)).float()


class ClassBalancedLoss(ClassLoss):
    """Softmax cross-entropy weighted by the effective number of samples; Cui et al., "Class-Balanced Loss", CVPR 2019,
    equation 9.
    """

    def __init__(self, class_counts: list[int], beta: float = 0.9999, **options: Any):
        super().__init__(class_counts, **options)
        self.weight.copy_(effective_number_weights(self.class_counts, beta))


class ClassBalancedFocalLoss(ClassBalancedLoss):
    """The same weights on the focal loss over C sigmoids, summed over classes; Cui et al., CVPR 2019, equation 13."""

    labels_only = "its weight is that of one true class"

    def __init__(self, class_counts: list[int], beta: float = 0.9999, gamma: float = 1.0, **options: Any):
        super().__init__(class_counts, beta, **options)
        self.gamma = gamma

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        counts = target != self.ignore_index
        labels = target.where(counts, 0)
        binary = F.binary_cross_entropy_with_logits(logits, one_hot(labels, logits).to(logits.dtype), reduction="none")
        losses = (focal_factor(binary, self.gamma) * binary).sum(min(1, logits.dim() - 1))
        return losses * self.weight.to(logits.dtype)[labels] * counts


class LDAMLoss(ClassLoss):
    """Label-distribution-aware margins, deferred re-weighting; Cao et al., NeurIPS 2019, equations 12 and 13, algorithm
    1.

    Expects cosines (a normalised head). The true class has to win by a margin proportional to n_c ** -1/4, at most
    LDAM_MAX_MARGIN. From DRW_START on, the classes weigh by their effective number, divided by the summed weights.
    """

    labels_only = "its margin belongs to one true class"

    def __init__(self, class_counts: list[int], beta: float = 0.9999, **options: Any):
        super().__init__(class_counts, **{"reduction": "weighted_mean", **options})
        margins = self.class_counts**-0.25
        self.register_buffer("margins", margins / margins.max() * LDAM_MAX_MARGIN, persistent=False)
        self.register_buffer("deferred_weight", effective_number_weights(self.class_counts, beta), persistent=False)

    def start_epoch(self, progress: float) -> None:
        """Take the deferred weights once `progress` reaches DRW_START."""
        if progress >= DRW_START:
            self.weight.copy_(self.deferred_weight)

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        true_class = one_hot(target.where(target != self.ignore_index, 0), logits)
        return self.cross_entropy(LDAM_SCALE * (logits - true_class * along_classes(self.margins, logits)), target)


class LogitAdjustmentLoss(ClassLoss):
    """Cross-entropy of logits + log prior; Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation
    10.
    """

    def __init__(self, class_counts: list[int], strength: float = 1.0, **options: Any):
        super().__init__(class_counts, **options)
        log_prior = (self.class_counts / self.class_counts.sum()).log()
        self.register_buffer("adjustment", strength * log_prior, persistent=False)

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.cross_entropy(logits + along_classes(self.adjustment, logits), target)


class BalancedSoftmaxLoss(ClassLoss):
    """Softmax with each exponential multiplied by n_c; Ren et al., "Balanced Meta-Softmax", NeurIPS 2020, equation 3.

    Mathematically the logit-adjusted loss at strength 1; both names are kept, since tables list both.
    """

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.cross_entropy(logits + along_classes(self.class_counts.log(), logits), target)


class BalancingMargin(nn.Module):
    """Turn cosines, (N, C, ...), into logits in which the true class has to win by an angle.

    The difficulty-aware balancing margin of Son et al., AAAI 2025, equations 6 to 9: the true class's angle grows by
    m = DBM_MAX_MARGIN n_min / n_c, and by m (1 - cosine) / 2 more if another class has the larger cosine. All cosines
    are multiplied by DBM_SCALE.
    """

    def __init__(self, class_counts: Sequence[int]):
        super().__init__()
        counts = torch.tensor(class_counts, dtype=torch.float)
        self.register_buffer("margins", DBM_MAX_MARGIN * counts.min() / counts, persistent=False)

    def forward(self, cosines: Tensor, target: Tensor) -> Tensor:
        axis = min(1, cosines.dim() - 1)
        labels = target.clamp(
            0, cosines.shape[axis] - 1
        )  # an ignored element gets a margin, which the loss does not see
        cosine = cosines.gather(axis, labels.unsqueeze(axis)).squeeze(axis)
        is_wrong = cosines.argmax(axis) != labels
        margin = self.margins.to(cosines.dtype)[labels]
        margin = margin * (1 + is_wrong * (1 - cosine) / 2)
        sine = (1 - cosine**2).clamp_min(SMALLEST_SQUARED_SINE).sqrt()
        moved = cosine * margin.cos() - sine * margin.sin()  # cos(angle + margin), with a finite gradient at 0 and pi
        return DBM_SCALE * cosines.scatter(axis, labels.unsqueeze(axis), moved.unsqueeze(axis))


class DBMLoss(BalancedSoftmaxLoss):
    """Balanced Softmax over cosines with a BalancingMargin; Son et al., "DBM Loss", AAAI 2025, equation 11 (DBM-BS).

    Expects cosines (a normalised head), as LDAMLoss does.
    """

    labels_only = "its margin belongs to one true class"

    def __init__(self, class_counts: list[int], **options: Any):
        super().__init__(class_counts, **options)
        self.margin = BalancingMargin(class_counts)

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().elementwise(self.margin(logits, target), target)


class CDBMarginLoss(nn.Module):
    """A loss of logits over cosines with a BalancingMargin; CDBLoss's difficulty sets weights beside the margins."""

    def __init__(self, class_counts: Sequence[int], loss: nn.Module):
        super().__init__()
        self.margin, self.loss = BalancingMargin(class_counts), loss

    @property
    def weight(self) -> Tensor:
        return self.loss.weight

    @property
    def exponent(self) -> Tensor:
        return self.loss.exponent

    def forward(self, cosines: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.margin(cosines, target), target)

    def start_epoch(self, progress: float) -> None:
        self.loss.start_epoch(progress)

    def update(self, correct: Tensor, total: Tensor) -> None:
        self.loss.update(correct, total)


def build_rival(
    loss_type: str,
    class_counts: list[int],
    *,
    gamma: float = 1.0,
    beta: float = 0.9999,
    eql_gamma: float = 0.9,
    eql_lambda: float = 0.005,
    **options: Any,
) -> ClassLoss:
    """Return the loss that goes by one of the RIVALS; each takes from the settings what it needs, all take ClassLoss's
    options.
    """
    choices = {
        "CE": (ClassLoss, {}),
        "FL": (FocalLoss, {"gamma": gamma}),
        "EQL": (EqualizationLoss, {"gamma": eql_gamma, "lambda_": eql_lambda}),
        "CB_Softmax": (ClassBalancedLoss, {"beta": beta}),
        "CB_Focal": (ClassBalancedFocalLoss, {"beta": beta, "gamma": gamma}),
        "LDAM-DRW": (LDAMLoss, {"beta": beta}),
        "Balanced_Softmax": (BalancedSoftmaxLoss, {}),
        "Logit_Adjustment": (LogitAdjustmentLoss, {}),
        "DBM-BS": (DBMLoss, {}),
    }
    if loss_type not in choices:
        raise ValueError(f"loss_type must be one of {', '.join(RIVALS)}, not {loss_type!r}")
    loss, settings = choices[loss_type]
    return loss(class_counts, **settings, **options)
