"""Class-wise Difficulty-Balanced loss, in one file that needs PyTorch alone.

Sinha, Ohashi, Nakamura, "Class-Wise Difficulty-Balanced Loss for Solving Class-Imbalance", ACCV 2020, arXiv 2010.01824.

A class that the network gets wrong on held-out data is difficult, however many training images it has; its samples
weigh more in the next epoch. With A_c the accuracy of class c on held-out data:

    difficulty  d_c = 1 - A_c                                             paper, equation 1
    weight      w_c = d_c ** tau, scaled so that the C weights sum to C   paper, equation 2
    loss        mean over the batch of  -w_y log p_y                      paper, equation 3

As published, a class that is solved in one epoch has weight 0 in the next and may be forgotten. `difficulty="smoothed"`
is safe on easy and on small data; `difficulty="paper"`, the default, is what the paper's numbers were made with.

CDBLoss is an nn.CrossEntropyLoss and takes what that takes. In your own training loop (`train_batches` and
`val_batches` yield images and labels on the device):

    criterion = CDBLoss(num_classes=10, difficulty="smoothed")   # .to(device) as any module
    for epoch in range(epochs):
        model.train()
        for images, labels in train_batches:
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for images, labels in val_batches:
                criterion.count(model(images), labels)
        accuracy = criterion.update()                            # of each class; sets the weights of the next epoch

Save `criterion.state_dict()` with your checkpoint: a resumed run then continues with the same weights. In a
torch.distributed job every process calls `update()`, which sums what they have counted.
"""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CDBLoss", "dynamic_tau"]
__version__ = "3.0.0"

DYNAMIC_TAU = ("dynamic", "dynamic-released")
DIFFICULTIES = ("paper", "smoothed")
REDUCTIONS = ("mean", "weighted_mean", "sum", "none")
DISCOUNT = 0.9  # smoothed: factor on the older counts at each validation pass
PSEUDO_IMAGES = 100  # smoothed: images that each class gets besides its own, at the mean of the class accuracies
SETTINGS = "_extra_state"  # the key under which nn.Module saves what get_extra_state returns


def dynamic_tau(accuracy: Tensor, released: bool = False) -> Tensor:
    """Return the exponent for class accuracies of shape (C,), a scalar tensor: the more unequal they are, the larger.

    b = max A / (min A + 0.01) - 1. The paper's equation 5: 2 / (1 + exp(-b)), up to 2. The released CIFAR and EGTEA
    code: 1 / (1 + exp(-(b + 1))), up to 1.
    """
    bias = accuracy.max() / (accuracy.min() + 0.01) - 1
    return torch.sigmoid(bias + 1) if released else 2 * torch.sigmoid(bias)


def focal_factor(cross_entropy: Tensor, gamma: float) -> Tensor:
    """Return (1 - p) ** gamma for the probability p of a cross-entropy; Lin et al., ICCV 2017, equation 4."""
    miss = -torch.expm1(-cross_entropy)
    return miss.clamp_min(torch.finfo(miss.dtype).tiny) ** gamma  # a gradient that is finite at p = 1, gamma < 1


class CDBLoss(nn.CrossEntropyLoss):
    """Cross-entropy, or focal loss, weighted by class difficulty. A drop-in replacement for nn.CrossEntropyLoss.

    tau: a number above 0, "dynamic" (the paper's rule) or "dynamic-released" (the released code's).
    reduction: "mean" over the elements that count (paper); "weighted_mean", what nn.CrossEntropyLoss(weight=...) calls
        mean: divided by their summed weights; "sum"; "none". The loss of a batch in which no element counts is 0.
    focal_gamma: above 0 gives the focal variant, CDB-FL.
    allow_absent: with "paper", whether a class may be missing from the held-out data; it then keeps its weight.
    difficulty: "paper" takes it from the last validation pass alone. "smoothed" takes it from the counts of all passes,
        older ones discounted by DISCOUNT a pass, and PSEUDO_IMAGES more for each class at the mean class accuracy. The
        moving average steadies the weights. It does not know more than the held-out images, which are the same in each
        pass. The images of mean accuracy keep each weight above 0, and a class without images of its own has theirs.
    class_counts: training images of each class. With them the logits are adjusted by their logarithms: CDB-BS,
        difficulty weights on Balanced Softmax (Ren et al., NeurIPS 2020, equation 3), this repository's own
        combination.
    ignore_index, label_smoothing: as in nn.CrossEntropyLoss.
    weight: costs of your own, (C,). An element of class c then weighs costs[c] times the difficulty weight of c.

    State is in buffers: `weight`, shape (C,), the difficulty weights, which sum to C and are 1 until the first update;
    `exponent`, the tau in effect (nan while a dynamic tau has seen nothing); and for "smoothed" `correct` and `total`,
    shape (C,), the discounted counts. They stay in 32 bit at least. A state dict also holds the settings tau,
    difficulty and class_counts: one with other settings is refused.
    """

    weight: Tensor
    exponent: Tensor
    correct: Tensor
    total: Tensor
    costs: Tensor | None
    log_counts: Tensor | None
    if TYPE_CHECKING:  # nn.Module says that a call returns Any

        def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

    def __init__(
        self,
        num_classes: int,
        tau: float | str = "dynamic",
        reduction: str = "mean",
        focal_gamma: float = 0.0,
        allow_absent: bool = False,
        difficulty: str = "paper",
        class_counts: Sequence[int] | Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        weight: Sequence[float] | Tensor | None = None,
    ):
        check_settings(num_classes, tau, reduction, difficulty, focal_gamma, label_smoothing)
        super().__init__(
            torch.ones(num_classes, dtype=torch.float32),
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
        self.num_classes = int(num_classes)
        self.tau = tau if isinstance(tau, str) else float(tau)
        self.focal_gamma = focal_gamma
        self.allow_absent = allow_absent
        self.difficulty = difficulty
        self.class_counts: list[float] | None = None
        self._counted: Tensor | None = None  # (2, C) since the last update: correct, total
        self._warned = False
        self.register_buffer("exponent", torch.tensor(math.nan, dtype=torch.float32))
        self._keep_fixed_tau()
        if difficulty == "smoothed":
            self.register_buffer("correct", torch.zeros(num_classes, dtype=torch.float32))
            self.register_buffer("total", torch.zeros(num_classes, dtype=torch.float32))
        log_counts = costs = None
        if class_counts is not None:
            self.class_counts = class_values("class_counts", class_counts, num_classes, smallest=1)
            log_counts = torch.tensor(self.class_counts, dtype=torch.float32).log()
        if weight is not None:
            costs = torch.tensor(class_values("weight", weight, num_classes, smallest=0), dtype=torch.float32)
        self.register_buffer("log_counts", log_counts, persistent=False)
        self.register_buffer("costs", costs, persistent=False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss: a scalar, or with reduction "none" one for each element.

        input: logits, (N, C), (C,) or (N, C, d1, ...). target: class indices, (N,), () or (N, d1, ...), or class
        probabilities of the shape of the logits. 16-bit logits are taken to 32 bit for the loss. As that of
        nn.CrossEntropyLoss, the loss has the logits' type, under torch.autocast 32 bit.
        """
        self._check_classes(input)
        logits = widened(input)
        weight = self.weight.to(logits.dtype)
        if self.costs is not None:
            weight = weight * self.costs.to(logits.dtype)
        if self.log_counts is not None:
            logits = logits + self.log_counts.to(logits.dtype).view(-1, *[1] * (logits.dim() - 2))
        if target.is_floating_point():
            if self.focal_gamma:
                raise ValueError("the focal loss needs class indices as targets, not probabilities")
            losses = F.cross_entropy(logits, target, weight, reduction="none", label_smoothing=self.label_smoothing)
            valid = weights = torch.ones_like(losses)  # as in PyTorch, whose weighted mean counts elements here
        else:
            target = target.long()
            valid = target != self.ignore_index
            weights = weight[target.where(valid, 0)]
            losses = F.cross_entropy(
                logits,
                target,
                None if self.focal_gamma else weight,
                ignore_index=self.ignore_index,
                reduction="none",
                label_smoothing=self.label_smoothing,
            )
            if self.focal_gamma:
                losses = weights * (focal_factor(losses, self.focal_gamma) * losses)
        return reduce_loss(losses, weights, valid, self.reduction).to(result_type(input))

    @torch.no_grad()
    def count(self, input: Tensor, target: Tensor) -> None:
        """Count a batch of held-out data for `update()`: whether each prediction is correct. Nothing waits for a GPU.

        input: logits as for forward, or predicted classes, integers of the shape of the class indices. target: as for
        forward; of probabilities the largest is the class. Elements of ignore_index are left out.
        """
        if input.is_floating_point():
            self._check_classes(input)
            axis = min(1, input.dim() - 1)
            if target.is_floating_point():
                target = target.argmax(axis)
            input = input.argmax(axis)
        if input.shape != target.shape:
            raise ValueError(
                f"predicted classes have shape {tuple(input.shape)}, and the targets {tuple(target.shape)}: both need "
                "one class for each element"
            )
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

    @torch.no_grad()
    def update(
        self, correct: Tensor | Sequence[int] | None = None, total: Tensor | Sequence[int] | None = None
    ) -> Tensor:
        """Set the weights from held-out data. Return the accuracy of each class, (C,), on the CPU; nan without images.

        Without arguments it takes what `count` has counted, in a torch.distributed job the sum over all processes,
        each of which has to call this, and starts counting at 0 again.
        correct, total: how many images of each class were predicted correctly, and how many there are, by your own
        count: tensors, arrays or lists of C integers. They are not summed over processes: counts that were gathered
        already would then be multiplied by the number of processes.

        Raises ValueError for counts that cannot be, if no image was counted, and, with "paper", for a class without
        images.
        """
        if correct is None and total is None:
            counted = self._sum_of_counted()
            self.reset()
            correct, total = counted[0], counted[1]
        if correct is None or total is None:
            raise ValueError("update takes both correct and total, or neither of them after count(logits, target)")
        correct, total = self._checked("correct", correct), self._checked("total", total)
        wrong = ((correct < 0) | (correct > total)).nonzero().flatten().tolist()
        if wrong:
            c = wrong[0]
            raise ValueError(
                f"correct must lie between 0 and total; class {c} has {int(correct[c])} of {int(total[c])}"
            )
        if self.difficulty == "paper":
            self._set_weights(correct.double() / total.clamp_min(1), present=total > 0)
        else:
            if not total.any():
                raise ValueError("no held-out image of any class: difficulty cannot be measured")
            for average, counts in ((self.correct, correct), (self.total, total)):
                average.mul_(DISCOUNT).add_(counts.to(average.device))
            self._set_weights(smoothed_accuracy(self.correct.cpu().double(), self.total.cpu().double()))
        return correct / total

    @torch.no_grad()
    def update_from_accuracy(self, accuracy: Tensor | Sequence[float]) -> None:
        """Set the weights from accuracies in 0..1, shape (C,), for callers that have no counts.

        Raises ValueError with "smoothed", which needs counts.
        """
        if self.difficulty == "smoothed":
            raise ValueError(
                "difficulty 'smoothed' needs counts, which an accuracy does not tell: call update(correct, total)"
            )
        accuracy = torch.as_tensor(accuracy).cpu().double()
        if accuracy.shape != self.weight.shape:
            raise ValueError(f"accuracy must have shape ({self.num_classes},), not {tuple(accuracy.shape)}")
        wrong = (~((accuracy >= 0) & (accuracy <= 1))).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(f"accuracies must lie between 0 and 1; class {wrong[0]} has {accuracy[wrong[0]].item()}")
        self._set_weights(accuracy)

    def start_epoch(self, progress: float) -> None:
        """Do nothing: difficulty changes after a validation pass. A loop may call this on each of its losses."""

    def extra_repr(self) -> str:
        """Return the settings that differ from nn.CrossEntropyLoss's, for print(criterion)."""
        tau = self.tau if isinstance(self.tau, str) else f"{self.tau:g}"
        parts = [f"{self.num_classes}, tau={tau}, reduction={self.reduction}, difficulty={self.difficulty}"]
        for name, default in (("focal_gamma", 0.0), ("label_smoothing", 0.0), ("ignore_index", -100)):
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        if self.log_counts is not None:
            parts.append("class_counts=True")
        if self.costs is not None:
            parts.append("weight=True")
        return ", ".join(parts)

    def get_extra_state(self) -> Tensor:
        """Return the settings that a state dict belongs to, as the bytes of a JSON object."""
        settings = {"tau": self.tau, "difficulty": self.difficulty, "class_counts": self.class_counts}
        return torch.frombuffer(bytearray(json.dumps(settings).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Raise ValueError for the state of a loss with other settings."""
        saved = json.loads(bytes(state.tolist()))
        here = json.loads(bytes(self.get_extra_state().tolist()))
        for key, value in here.items():
            if saved[key] != value:
                raise ValueError(
                    f"the state is of a CDBLoss with {key} {shortened(saved[key])}, not {shortened(value)}: build the "
                    "loss with the same settings"
                )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Check the settings before a tensor changes. A state without settings, of an older version, is taken."""
        key = prefix + SETTINGS
        if key in state_dict:
            self.set_extra_state(state_dict[key])
        else:
            state_dict[key] = self.get_extra_state()
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._keep_fixed_tau()

    def _keep_fixed_tau(self) -> None:
        """Let a tau that is a number be the one in effect."""
        if not isinstance(self.tau, str):
            self.exponent = torch.full_like(self.exponent, self.tau)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move the buffers, but keep them in 32 bit: `.half()` would let counts overflow."""
        moved: nn.Module = super()._apply(lambda tensor: kept_wide(tensor, fn), recurse)  # type: ignore[no-untyped-call]
        return moved

    def _check_classes(self, logits: Tensor) -> None:
        """Raise ValueError unless the logits are of C classes."""
        classes = logits.shape[min(1, logits.dim() - 1)]
        if classes != self.num_classes:
            raise ValueError(
                f"logits of shape {tuple(logits.shape)} are of {classes} classes; the loss has {self.num_classes}"
            )

    def _sum_of_counted(self) -> Tensor:
        """Return what all processes have counted, (2, C). Raise ValueError if that is nothing."""
        counted = self._counted
        if counted is None:
            counted = torch.zeros(2, self.num_classes, dtype=torch.long, device=self.weight.device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counted)
        if not counted.any():
            raise ValueError("nothing was counted: call count(logits, target) on held-out data before update()")
        return counted

    def _checked(self, name: str, counts: Tensor | Sequence[int]) -> Tensor:
        """Return C integers on the CPU. ValueError for anything else."""
        counts = torch.as_tensor(counts).cpu()
        is_integer = not (counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool)
        if counts.shape != self.weight.shape or not is_integer:
            raise ValueError(
                f"{name} must hold one integer for each of the {self.num_classes} classes, "
                f"not {counts.dtype} of shape {tuple(counts.shape)}"
            )
        return counts

    def _set_weights(self, accuracy: Tensor, present: Tensor | None = None) -> None:
        """Apply equation 2 to accuracies on the CPU, (C,), of the classes that are `present`; others keep weights."""
        if present is None:
            present = torch.ones_like(accuracy, dtype=torch.bool)
        absent = (~present).nonzero().flatten().tolist()
        if absent and (not self.allow_absent or len(absent) == len(present)):
            raise ValueError(
                f"no held-out image of class {first_few(absent)}: its difficulty is unknown; "
                'difficulty="smoothed" gives it the mean accuracy'
            )
        if self.tau in DYNAMIC_TAU:
            self.exponent.copy_(dynamic_tau(accuracy[present], released=self.tau == "dynamic-released"))
        raw = (1 - accuracy[present]) ** self.exponent.cpu().double()
        if not raw.sum() > 0:  # every class is solved: the last weights stay
            return
        weight = self.weight.cpu()
        share = len(weight) - weight[~present].double().sum()
        weight[present] = (raw / raw.sum() * share).to(weight.dtype)
        self.weight.copy_(weight)
        self._warn_of_zeros(weight)

    def _warn_of_zeros(self, weight: Tensor) -> None:
        """Say once which classes have weight 0."""
        solved = (weight == 0).nonzero().flatten().tolist()
        if solved and not self._warned:
            self._warned = True
            warnings.warn(
                f"every held-out image of class {first_few(solved)} was correct: its weight is 0, and training may "
                'forget it; difficulty="smoothed" keeps each weight above 0',
                stacklevel=5,  # where update was called, behind no_grad
            )


def check_settings(
    num_classes: int, tau: float | str, reduction: str, difficulty: str, focal_gamma: float, label_smoothing: float
) -> None:
    """Raise ValueError for a setting of CDBLoss that cannot be."""
    if not isinstance(num_classes, Integral) or num_classes < 1:
        raise ValueError(
            f"num_classes must be a whole number of at least 1, not {shortened(num_classes)}; weights of your own go "
            "into weight="
        )
    is_number = isinstance(tau, Real) and not isinstance(tau, bool)
    if isinstance(tau, str):
        is_valid = tau in DYNAMIC_TAU
    else:
        is_valid = is_number and 0 < tau < math.inf
    if not is_valid:
        raise ValueError(f"tau must be a number above 0, 'dynamic' or 'dynamic-released', not {shortened(tau)}")
    for name, value, choices in (("reduction", reduction, REDUCTIONS), ("difficulty", difficulty, DIFFICULTIES)):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    if not 0 <= focal_gamma < math.inf:
        raise ValueError(f"focal_gamma must be 0 or more, not {focal_gamma!r}")
    if not 0 <= label_smoothing <= 1 or (focal_gamma and label_smoothing):
        raise ValueError(
            f"label_smoothing must lie between 0 and 1, and be 0 with focal_gamma, not {label_smoothing!r}"
        )


def class_values(name: str, values: Sequence[float] | Tensor, num_classes: int, smallest: float) -> list[float]:
    """Return a finite number of at least `smallest` for each class. Raise ValueError for other values."""
    numbers = [float(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]
    if len(numbers) != num_classes:
        raise ValueError(f"{name} must hold a number for each of the {num_classes} classes, not {len(numbers)} numbers")
    for c, number in enumerate(numbers):
        if not smallest <= number < math.inf:
            raise ValueError(f"{name} must hold finite numbers of at least {smallest:g}; class {c} has {number:g}")
    return numbers


def first_few(values: Sequence[object], most: int = 5) -> str:
    """Return the first values for a message, and how many more there are."""
    text = ", ".join(map(str, values[:most]))
    return text if len(values) <= most else f"{text} and {len(values) - most} more"


def shortened(value: object) -> str:
    """Return a value for a message, in a line of moderate length."""
    if isinstance(value, list):
        return f"[{first_few(value)}]"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value)


def widened(logits: Tensor) -> Tensor:
    """Return logits in 32 bit at least."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def result_type(logits: Tensor) -> torch.dtype:
    """Return the type that nn.CrossEntropyLoss gives the loss of these logits."""
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


def smoothed_accuracy(correct: Tensor, total: Tensor) -> Tensor:
    """Return correct / total of each class, (C,), after PSEUDO_IMAGES more images at the mean class accuracy.

    The mean is over the classes that have images, however many.
    """
    present = total > 0
    largest = total.max()
    scale = largest / total[present]  # 1 where classes have equally many images: sums of integers, nothing is rounded
    mean = (correct[present] * scale).sum() / (largest * present.sum())
    return (correct + PSEUDO_IMAGES * mean) / (total + PSEUDO_IMAGES)


def reduce_loss(losses: Tensor, weights: Tensor, valid: Tensor, reduction: str) -> Tensor:
    """Reduce weighted losses, one for each element, as CDBLoss's `reduction` says.

    weights and valid have the shape of losses: the weight of each element's class, and whether it counts (is not
    ignored). In a torch.distributed job "weighted_mean" divides by the sum over the whole batch, so every process has
    to take part.
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
    return losses.sum() / denominator.masked_fill(denominator == 0, math.inf)  # a batch without weight has loss 0
