"""The rivals of the CDB loss, and the table of all losses.

Every loss is a module and takes what nn.CrossEntropyLoss takes: `criterion(logits, target)` with logits (N, C), (C,) or
(N, C, d1, ...), and as target class indices or, where that has a meaning, class probabilities. `weight`, shape (C,), is
the weight of each class, ones where a loss has none. A training loop calls, whatever the loss, `start_epoch(progress)`
before each epoch, `count(logits, target)` in validation and `update()` after it; or update(correct, total) alone.

LOSSES, at the end, is the one list of losses: flags, YAML keys, their checks and the names in tables follow from it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.cli import first_few
from longtail.heads import COSINE_SCALE

LDAM_MAX_MARGIN, LDAM_SCALE = 0.5, 30.0  # Cao et al., section 4 and released code
DBM_MAX_MARGIN, DBM_SCALE = 0.1, COSINE_SCALE  # K and s of Son et al., AAAI 2025, implementation details
SMALLEST_SQUARED_SINE = 1e-6  # below it fp32 knows an angle too little to take the sine's gradient
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


def reduce_loss(losses: Tensor, weights: Tensor, valid: Tensor, reduction: str) -> Tensor:
    """Reduce weighted losses, one for each element: "none", "sum", "mean" over the elements that count, or
    "weighted_mean".

    weights and valid have the shape of losses: the weight of each element's class, and whether it counts (is not
    ignored). "weighted_mean" divides by the summed weights, as PyTorch's weighted mean does; in a torch.distributed job
    by those of the whole batch, so every process has to take part. Without an element that counts the loss is 0.
    """
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "mean":
        return losses.sum() / valid.sum().clamp_min(1)
    denominator = (weights * valid).sum()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(denominator)
        denominator = denominator / torch.distributed.get_world_size()
    return losses.sum() / denominator.masked_fill(denominator == 0, math.inf)


def widened(logits: Tensor) -> Tensor:
    """Return logits in 32 bit at least."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def result_type(logits: Tensor) -> torch.dtype:
    """Return the type that nn.CrossEntropyLoss gives the loss of these logits: under torch.autocast 32 bit."""
    device = logits.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return widened(logits).dtype
    return logits.dtype


def kept_wide(tensor: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Return move(tensor), but of a number type with at least 32 bit."""
    moved = move(tensor)
    if moved.dtype in (torch.float16, torch.bfloat16):
        return tensor.to(moved.device)
    return moved


class WideModule(nn.Module):
    """A module whose buffers stay in 32 bit: with `.half()`, class counts would overflow."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        moved: nn.Module = super()._apply(lambda tensor: kept_wide(tensor, fn), recurse)  # type: ignore[no-untyped-call]
        return moved


class ClassLoss(WideModule):
    """Cross-entropy (CE), and what all rivals share: class counts (C,), class weights, and no use for validation.

    reduction, ignore_index and label_smoothing are those of nn.CrossEntropyLoss; "weighted_mean" is its weighted mean.
    "mean" divides by the elements that count; if none counts, the loss is 0. ValueError for a class without training
    samples.
    """

    # Why a loss takes class indices alone, without label smoothing. Empty if it takes probabilities too.
    labels_only = ""
    reductions = ("mean", "weighted_mean", "sum", "none")
    class_counts: Tensor
    weight: Tensor

    def __init__(
        self,
        class_counts: list[int],
        *,
        reduction: str = "mean",
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        empty = [str(c) for c, count in enumerate(class_counts) if not count >= 1]
        if empty or not class_counts:
            raise ValueError(f"every class needs a training sample; class_counts has none of class {first_few(empty)}")
        if reduction not in self.reductions:
            raise ValueError(f"reduction must be one of {', '.join(self.reductions)}, not {reduction!r}")
        if label_smoothing and self.labels_only:
            raise ValueError(f"{type(self).__name__} takes no label_smoothing: {self.labels_only}")
        self.num_classes = len(class_counts)
        self._counted: Tensor | None = None  # (2, C) since the last update: correct, total
        self.reduction = reduction
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.register_buffer("class_counts", torch.tensor(class_counts, dtype=torch.float), persistent=False)
        self.register_buffer("weight", torch.ones(len(class_counts), dtype=torch.float), persistent=False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits: a scalar, or with reduction "none" one for each element.

        16-bit logits are taken to 32 bit for it. As that of nn.CrossEntropyLoss, the loss has the logits' type, under
        torch.autocast 32 bit.
        """
        self.check_classes(input)
        wide = widened(input)
        if target.is_floating_point():
            if self.labels_only:
                raise ValueError(
                    f"{type(self).__name__} needs class indices as targets, not probabilities: {self.labels_only}"
                )
            losses = self.elementwise(wide, target)
            valid = weights = torch.ones_like(losses)  # as in PyTorch, whose weighted mean counts elements here
        else:
            target = target.long()
            losses = self.elementwise(wide, target)
            valid = target != self.ignore_index
            weights = self.weight.to(wide.dtype)[target.where(valid, 0)]
        return reduce_loss(losses, weights, valid, self.reduction).to(result_type(input))

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

    def check_classes(self, logits: Tensor) -> None:
        """Raise ValueError unless the logits are of C classes."""
        classes = logits.shape[min(1, logits.dim() - 1)]
        if classes != self.num_classes:
            raise ValueError(
                f"logits of shape {tuple(logits.shape)} are of {classes} classes; the loss has {self.num_classes}"
            )

    @torch.no_grad()
    def count(self, input: Tensor, target: Tensor) -> None:
        """Count a batch of held-out data for `update()`. Nothing waits for a GPU.

        input: logits, or predicted classes, integers of the shape of the class indices.
        """
        if input.is_floating_point():
            self.check_classes(input)
            axis = min(1, input.dim() - 1)
            if target.is_floating_point():
                target = target.argmax(axis)
            input = input.argmax(axis)
        if input.shape != target.shape:
            raise ValueError(f"predictions of shape {tuple(input.shape)} for targets of shape {tuple(target.shape)}")
        target = target.long()
        valid = target != self.ignore_index
        labels = target.where(valid, 0).flatten()
        hits = (input == target) & valid
        if self._counted is None:
            self._counted = torch.zeros(2, self.num_classes, dtype=torch.long, device=target.device)
        self._counted[0].scatter_add_(0, labels, hits.flatten().long())
        self._counted[1].scatter_add_(0, labels, valid.flatten().long())

    def reset(self) -> None:
        """Forget what `count` has counted since the last update."""
        self._counted = None

    def update(
        self, correct: Tensor | Sequence[int] | None = None, total: Tensor | Sequence[int] | None = None
    ) -> Tensor:
        """Return the accuracy of each class, (C,), on the CPU; nan without images.

        Without arguments, use what `count` has counted (summed over the processes), then reset.
        """
        if correct is None and total is None:
            counted = self._counted
            if counted is None:
                counted = torch.zeros(2, self.num_classes, dtype=torch.long, device=self.weight.device)
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(counted)
            self.reset()
            if not counted.any():
                raise ValueError("nothing was counted: call count(logits, target) on held-out data before update()")
            correct, total = counted[0], counted[1]
        if correct is None or total is None:
            raise ValueError("update takes both correct and total, or neither of them after count(logits, target)")
        return torch.as_tensor(correct).cpu() / torch.as_tensor(total).cpu()

    @property
    def exponent(self) -> Tensor:
        """The tau in effect, which a loss without difficulty weights does not have: nan."""
        return torch.tensor(math.nan)

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
    rare: Tensor

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
        valid = target != self.ignore_index
        labels = target.where(valid, 0)
        binary = F.binary_cross_entropy_with_logits(logits, one_hot(labels, logits).to(logits.dtype), reduction="none")
        losses = (focal_factor(binary, self.gamma) * binary).sum(min(1, logits.dim() - 1))
        return losses * self.weight.to(logits.dtype)[labels] * valid


class LDAMLoss(ClassLoss):
    """Label-distribution-aware margins, deferred re-weighting; Cao et al., NeurIPS 2019, equations 12 and 13, algorithm
    1.

    Expects cosines (a normalised head). The true class has to win by a margin proportional to n_c ** -1/4, at most
    LDAM_MAX_MARGIN. From DRW_START on, the classes weigh by their effective number, divided by the summed weights.
    """

    labels_only = "its margin belongs to one true class"
    margins: Tensor
    deferred_weight: Tensor

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

    adjustment: Tensor

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


class BalancingMargin(WideModule):
    """Turn cosines, (N, C, ...), into logits in which the true class has to win by an angle.

    The difficulty-aware balancing margin of Son et al., AAAI 2025, equations 6 to 9: the true class's angle grows by
    m = DBM_MAX_MARGIN n_min / n_c, and by m (1 - cosine) / 2 more if another class has the larger cosine. All cosines
    are multiplied by DBM_SCALE.
    """

    margins: Tensor

    def __init__(self, class_counts: Sequence[int]):
        super().__init__()
        counts = torch.tensor(class_counts, dtype=torch.float)
        self.register_buffer("margins", DBM_MAX_MARGIN * counts.min() / counts, persistent=False)

    def forward(self, cosines: Tensor, target: Tensor) -> Tensor:
        axis = min(1, cosines.dim() - 1)
        # An ignored element, such as -100, gets the margin of some class, which the loss does not see.
        labels = target.clamp(0, cosines.shape[axis] - 1)
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

    loss: Any

    def __init__(self, class_counts: Sequence[int], loss: nn.Module):
        super().__init__()
        self.margin, self.loss = BalancingMargin(class_counts), loss

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.loss.weight
        return weight

    @property
    def exponent(self) -> Tensor:
        exponent: Tensor = self.loss.exponent
        return exponent

    @property
    def reduction(self) -> str:
        return str(self.loss.reduction)

    def forward(self, cosines: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            raise ValueError(
                "the margin needs class indices as targets, not probabilities: it belongs to one true class"
            )
        loss: Tensor = self.loss(self.margin(cosines, target), target)
        return loss

    def start_epoch(self, progress: float) -> None:
        self.loss.start_epoch(progress)

    def count(self, cosines: Tensor, target: Tensor) -> None:
        self.loss.count(cosines, target)

    def reset(self) -> None:
        self.loss.reset()

    def update(
        self, correct: Tensor | Sequence[int] | None = None, total: Tensor | Sequence[int] | None = None
    ) -> Tensor:
        accuracy: Tensor = self.loss.update(correct, total)
        return accuracy


@dataclass(frozen=True)
class Setting:
    """A setting of a loss. Its `name` is that of a flag and of a YAML key.

    It takes one of the `words`, and where `low` is given a number from `low` to `high`, each of which may be included.
    argument: what the function that builds the loss calls it; the name unless given.
    """

    name: str
    default: float | str
    meaning: str
    words: tuple[str, ...] = ()
    low: float | None = None
    high: float = math.inf
    include_low: bool = True
    include_high: bool = False
    argument: str = ""

    @property
    def allowed(self) -> str:
        """What values it takes, in words."""
        choices = [*self.words]
        if self.low is not None:
            choices.insert(0, f"a number {self._bounds(self.low)}")
        if len(choices) == 1:
            return choices[0]
        return f"{', '.join(choices[:-1])} or {choices[-1]}"

    def _bounds(self, low: float) -> str:
        """Return the limits of its numbers in words."""
        from_low = "of at least" if self.include_low else "above"
        if self.high == math.inf:
            return f"{from_low} {low:g}"
        to_high = "at most" if self.include_high else "below"
        return f"{from_low} {low:g} and {to_high} {self.high:g}"

    def read(self, value: object) -> float | str:
        """Return what a flag's text or a YAML file's value means. Raise ValueError if the setting does not take it."""
        text = str(value)
        if text in self.words:
            return text
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not self._includes(number):
            raise ValueError(f"must be {self.allowed}, not {value!r}")
        return number

    def _includes(self, number: float) -> bool:
        if self.low is None:
            return False
        above = self.low <= number if self.include_low else self.low < number
        below = number <= self.high if self.include_high else number < self.high
        return above and below


@dataclass(frozen=True)
class LossType:
    """A loss that `loss_type` may name.

    build: returns the loss. A rival's takes (class_counts, **settings), one that measures difficulty takes the class
        CDBLoss before them, since each experiment has its own copy of it.
    measures_difficulty: whether its weights come from validation.
    cosine_scale: what the loss multiplies by if it takes cosines, from a normalised head; 0 if it takes logits.
    """

    name: str
    build: Callable[..., nn.Module]
    settings: tuple[Setting, ...] = ()
    measures_difficulty: bool = False
    cosine_scale: float = 0.0

    @property
    def head(self) -> str:
        """The classifier that the loss needs, one of longtail.heads.HEADS."""
        return "cosine" if self.cosine_scale else "linear"


def cdb_ce(cdb_loss: Callable[..., nn.Module], class_counts: list[int], **settings: Any) -> nn.Module:
    """Return the paper's loss, difficulty weights on cross-entropy."""
    return cdb_loss(len(class_counts), **settings)


def cdb_bs(cdb_loss: Callable[..., nn.Module], class_counts: list[int], **settings: Any) -> nn.Module:
    """Return difficulty weights on Balanced Softmax."""
    return cdb_loss(len(class_counts), class_counts=class_counts, **settings)


def cdb_fl(cdb_loss: Callable[..., nn.Module], class_counts: list[int], gamma: float, **settings: Any) -> nn.Module:
    """Return difficulty weights on the focal loss."""
    return cdb_loss(len(class_counts), focal_gamma=gamma, **settings)


def cdb_dbm(cdb_loss: Callable[..., nn.Module], class_counts: list[int], **settings: Any) -> nn.Module:
    """Return difficulty weights on Balanced Softmax over cosines with a BalancingMargin."""
    return CDBMarginLoss(class_counts, cdb_bs(cdb_loss, class_counts, **settings))


GAMMA = Setting("gamma", 1.0, "focusing exponent", low=0, high=100)
BETA = Setting("beta", 0.9999, "effective-number parameter", low=0, high=1, include_low=False)
EQL_GAMMA = Setting(
    "eql_gamma", 0.9, "probability that a rare class is left out", low=0, high=1, include_high=True, argument="gamma"
)
EQL_LAMBDA = Setting(
    "eql_lambda",
    0.005,
    "a class with a smaller share of the training set is rare",
    low=0,
    high=1,
    include_high=True,
    argument="lambda_",
)
TAU = Setting(
    "tau",
    "dynamic",
    "how strongly difficulty weighs: 'dynamic' (paper), 'dynamic-released' or a number",
    words=("dynamic", "dynamic-released"),
    low=0,
    include_low=False,
)
DIFFICULTY = Setting(
    "difficulty",
    "paper",
    "paper: from the last validation pass alone; smoothed: steady, for easy or small data",
    words=("paper", "smoothed"),
)
REDUCTION = Setting(
    "reduction",
    "mean",
    "mean over the batch (paper), or weighted_mean, divided by the batch's summed weights",
    words=("mean", "weighted_mean"),
)
CDB_SETTINGS = (TAU, DIFFICULTY, REDUCTION)

LOSSES = (
    LossType("CE", ClassLoss),
    LossType("FL", FocalLoss, (GAMMA,)),
    LossType("EQL", EqualizationLoss, (EQL_GAMMA, EQL_LAMBDA)),
    LossType("CB_Softmax", ClassBalancedLoss, (BETA,)),
    LossType("CB_Focal", ClassBalancedFocalLoss, (GAMMA, BETA)),
    LossType("LDAM-DRW", LDAMLoss, (BETA,), cosine_scale=LDAM_SCALE),
    LossType("Balanced_Softmax", BalancedSoftmaxLoss),
    LossType("Logit_Adjustment", LogitAdjustmentLoss),
    LossType("DBM-BS", DBMLoss, cosine_scale=DBM_SCALE),
    LossType("CDB-CE", cdb_ce, CDB_SETTINGS, measures_difficulty=True),
    LossType("CDB-FL", cdb_fl, (*CDB_SETTINGS, GAMMA), measures_difficulty=True),
    LossType("CDB-BS", cdb_bs, CDB_SETTINGS, measures_difficulty=True),
    LossType("CDB-DBM", cdb_dbm, CDB_SETTINGS, measures_difficulty=True, cosine_scale=DBM_SCALE),
)


def find_loss(name: str) -> LossType:
    """Return the entry of LOSSES with that name. Raise ValueError if there is none."""
    for loss in LOSSES:
        if loss.name == name:
            return loss
    raise ValueError(f"loss_type must be one of {', '.join(loss.name for loss in LOSSES)}, not {name!r}")


def logit_scale(head: str, loss_type: str | None) -> float:
    """Return what makes logits of a network's outputs: cosines are multiplied as its loss did."""
    if head != "cosine":
        return 1.0
    scales = {loss.name: loss.cosine_scale for loss in LOSSES}
    return scales.get(loss_type or "") or LDAM_SCALE


def loss_settings() -> tuple[Setting, ...]:
    """Return the settings of all losses, each once."""
    settings = {setting.name: setting for loss in LOSSES for setting in loss.settings}
    return tuple(settings.values())


def losses_with(setting: Setting) -> list[str]:
    """Return the names of the losses that read a setting."""
    return [loss.name for loss in LOSSES if setting in loss.settings]


def build_rival(name: str, class_counts: list[int], **options: Any) -> nn.Module:
    """Return a loss that needs no validation. `options` are its settings as LOSSES names them, and ClassLoss's."""
    loss = find_loss(name)
    if loss.measures_difficulty:
        raise ValueError(f"{name} measures difficulty: build it from CDBLoss")
    for setting in loss.settings:
        if setting.name in options:
            options[setting.argument or setting.name] = options.pop(setting.name)
    return loss.build(class_counts, **options)
