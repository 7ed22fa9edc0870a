"""Class-wise Difficulty-Balanced loss, in one file that needs PyTorch alone.

Sinha, Ohashi, Nakamura, "Class-Wise Difficulty-Balanced Loss for Solving Class-Imbalance", ACCV 2020, arXiv 2010.01824.

A class that the network gets wrong on held-out data is difficult, however many training images it has; its samples
weigh more in the next epoch. With A_c the accuracy of class c on held-out data:

    difficulty  d_c = 1 - A_c                                             paper, equation 1
    weight      w_c = d_c ** tau, scaled so that the C weights sum to C   paper, equation 2
    loss        mean over the batch of  -w_y log p_y                      paper, equation 3

As published, a class that is solved in one epoch has weight 0 in the next and may be forgotten. `difficulty="smoothed"`
is safe on easy and on small data; `difficulty="paper"`, the default, is what the paper's numbers were made with.

CDBLoss takes what nn.CrossEntropyLoss takes. In your own training loop (`train_batches` and `val_batches` yield images
and labels on the device):

    criterion = CDBLoss(num_classes=10, difficulty="smoothed")   # .to(device) as any module
    for epoch in range(epochs):
        model.train()
        for images, labels in train_batches:
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
        model.eval()
        counts = torch.zeros(2, 10, dtype=torch.long, device=device)
        with torch.no_grad():
            for images, labels in val_batches:
                hits = labels[model(images).argmax(1) == labels]
                counts += torch.stack([hits.bincount(minlength=10), labels.bincount(minlength=10)])
        criterion.update(*counts)                                # recognised, in all; the weights of the next epoch

Save `criterion.state_dict()` with your checkpoint: a resumed run then continues with the same weights. In a
torch.distributed job, sum `counts` over the processes before `update`.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

DYNAMIC_TAU = ("dynamic", "dynamic-released")
DIFFICULTIES = ("paper", "smoothed")
REDUCTIONS = ("mean", "weighted_mean", "sum", "none")
DISCOUNT = 0.9  # smoothed: factor on the older counts at each validation pass
PSEUDO_IMAGES = 100  # smoothed: held-out images of overall accuracy that each class gets besides its own


def dynamic_tau(accuracy: Tensor, released: bool = False) -> Tensor:
    """Return the exponent for class accuracies of shape (C,), a scalar tensor: the more unequal they are, the larger.

    b = max A / (min A + 0.01) - 1. The paper's equation 5: 2 / (1 + exp(-b)), up to 2. The released CIFAR and EGTEA
    code: 1 / (1 + exp(-(b + 1))), up to 1.
    """
    bias = accuracy.max() / (accuracy.min() + 0.01) - 1
    return torch.sigmoid(bias + 1) if released else 2 * torch.sigmoid(bias)


def read_tau(text: str) -> float | str:
    """Return the tau that `text` names: 'dynamic', 'dynamic-released' or a number. ValueError for anything else."""
    try:
        return CDBLoss(1, text if text in DYNAMIC_TAU else float(text)).tau
    except ValueError:
        raise ValueError(f"must be a number above 0, 'dynamic' or 'dynamic-released', not {text!r}") from None


def focal_factor(cross_entropy: Tensor, gamma: float) -> Tensor:
    """Return (1 - p) ** gamma for the probability p of a cross-entropy; Lin et al., ICCV 2017, equation 4."""
    miss = -torch.expm1(-cross_entropy)
    return miss.clamp_min(torch.finfo(miss.dtype).tiny) ** gamma  # a gradient that is finite at p = 1, gamma < 1


class CDBLoss(nn.Module):
    """Cross-entropy, or focal loss, weighted by class difficulty. A drop-in replacement for nn.CrossEntropyLoss.

    tau: a number above 0, "dynamic" (the paper's rule) or "dynamic-released" (the released code's).
    reduction: "mean" over the elements that count (paper); "weighted_mean", what nn.CrossEntropyLoss(weight=...) calls
        mean: divided by their summed weights; "sum"; "none". The loss of a batch in which no element counts is 0.
    focal_gamma: above 0 gives the focal variant, CDB-FL.
    allow_absent: with "paper", whether a class may be missing from the held-out data; it then keeps its weight.
    difficulty: "paper" takes it from the last validation pass alone. "smoothed" is the posterior mean of a class's
        error rate: its counts of all passes, older ones discounted by DISCOUNT a pass (a power prior; Ibrahim and Chen,
        2000), and PSEUDO_IMAGES more at the overall error rate (a Beta prior). A class without held-out images has the
        overall difficulty.
    class_counts: training images of each class. With them the logits are adjusted by their logarithms: CDB-BS,
        difficulty weights on Balanced Softmax (Ren et al., NeurIPS 2020, equation 3), this repository's own
        combination.
    ignore_index, label_smoothing: as in nn.CrossEntropyLoss.

    State is in buffers: `weight`, shape (C,), summing to C, uniform until the first update; `exponent`, the tau in
    effect (nan while a dynamic tau has seen nothing); and for "smoothed" `correct` and `total`, shape (C,), the
    discounted counts.
    """

    weight: Tensor
    exponent: Tensor
    correct: Tensor
    total: Tensor
    log_counts: Tensor | None

    def __init__(
        self,
        num_classes: int,
        tau: float | str = "dynamic",
        reduction: str = "mean",
        focal_gamma: float = 0.0,
        allow_absent: bool = False,
        difficulty: str = "paper",
        class_counts: Sequence[int] | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes}")
        if tau not in DYNAMIC_TAU and not (isinstance(tau, (int, float)) and 0 < tau < math.inf):
            raise ValueError(f"tau must be a number above 0, 'dynamic' or 'dynamic-released', not {tau!r}")
        for name, value, choices in (("reduction", reduction, REDUCTIONS), ("difficulty", difficulty, DIFFICULTIES)):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        if not 0 <= focal_gamma < math.inf:
            raise ValueError(f"focal_gamma must be 0 or more, not {focal_gamma!r}")
        if not 0 <= label_smoothing <= 1 or (focal_gamma and label_smoothing):
            raise ValueError(
                f"label_smoothing must lie between 0 and 1, and be 0 with focal_gamma, not {label_smoothing!r}"
            )
        if class_counts is not None and (len(class_counts) != num_classes or min(class_counts) < 1):
            raise ValueError(
                f"class_counts must hold a number above 0 for each of the {num_classes} classes, not {class_counts}"
            )
        self.num_classes, self.tau, self.reduction, self.focal_gamma = num_classes, tau, reduction, focal_gamma
        self.allow_absent, self.difficulty = allow_absent, difficulty
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.register_buffer("weight", torch.ones(num_classes))
        self.register_buffer("exponent", torch.tensor(math.nan if tau in DYNAMIC_TAU else float(tau)))
        if difficulty == "smoothed":
            self.register_buffer("correct", torch.zeros(num_classes))
            self.register_buffer("total", torch.zeros(num_classes))
        prior = None if class_counts is None else torch.as_tensor(class_counts, dtype=torch.float).log()
        self.register_buffer("log_counts", prior, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss: a scalar, or with reduction "none" one for each element.

        logits: (N, C), (C,) or (N, C, d1, ...). target: class indices, (N,), () or (N, d1, ...), or class probabilities
        of the shape of logits. 16-bit logits are taken to 32 bit for the loss.
        """
        wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        weight = self.weight.to(wide.dtype)
        if self.log_counts is not None:
            wide = wide + self.log_counts.to(wide.dtype).view(-1, *[1] * (wide.dim() - 2))
        if target.is_floating_point():
            if self.focal_gamma:
                raise ValueError("the focal loss needs class indices as targets, not probabilities")
            losses = F.cross_entropy(wide, target, weight, reduction="none", label_smoothing=self.label_smoothing)
            counts = weights = torch.ones_like(losses)  # as in PyTorch, whose weighted mean counts elements here
        else:
            target = target.long()
            counts = target != self.ignore_index
            weights = weight[target.where(counts, 0)]
            losses = F.cross_entropy(
                wide,
                target,
                None if self.focal_gamma else weight,
                ignore_index=self.ignore_index,
                reduction="none",
                label_smoothing=self.label_smoothing,
            )
            if self.focal_gamma:
                losses = weights * (focal_factor(losses, self.focal_gamma) * losses)
        return reduce_loss(losses, weights, counts, self.reduction).to(logits.dtype)

    @torch.no_grad()
    def update(self, correct: Tensor | Sequence[int], total: Tensor | Sequence[int]) -> None:
        """Set the weights from held-out counts: images of each class recognised, and in all; tensors, arrays or lists
        of C integers.

        Raises ValueError for a wrong shape, counts that cannot be, no image at all, and, with "paper", a class without
        any image.
        """
        correct, total = self._checked("correct", correct), self._checked("total", total)
        if (correct < 0).any() or (correct > total).any():
            raise ValueError(f"correct must lie between 0 and total; got {correct.tolist()} of {total.tolist()}")
        if self.difficulty == "paper":
            self._set_weights(correct.double() / total.clamp_min(1), present=total > 0)
            return
        if not total.any():
            raise ValueError("no held-out image of any class: difficulty cannot be measured")
        for average, counts in ((self.correct, correct), (self.total, total)):
            average.mul_(DISCOUNT).add_(counts.to(average.device))
        self._set_weights(smoothed_accuracy(self.correct.cpu().double(), self.total.cpu().double()))

    def update_from_accuracy(self, accuracy: Tensor | Sequence[float]) -> None:
        """Set the weights from accuracies in 0..1, shape (C,), for callers that have no counts. "smoothed" needs
        counts: ValueError.
        """
        if self.difficulty == "smoothed":
            raise ValueError(
                "difficulty 'smoothed' needs counts, which an accuracy does not tell: call update(correct, total)"
            )
        accuracy = torch.as_tensor(accuracy).cpu().double()
        if accuracy.shape != self.weight.shape:
            raise ValueError(f"accuracy must have shape ({self.num_classes},), not {tuple(accuracy.shape)}")
        if not ((accuracy >= 0) & (accuracy <= 1)).all():
            raise ValueError(f"accuracies must lie between 0 and 1; got {accuracy.tolist()}")
        self._set_weights(accuracy)

    def start_epoch(self, progress: float) -> None:
        """Do nothing: difficulty changes after a validation pass. A loop may call this on each of its losses."""

    def extra_repr(self) -> str:
        """Return the settings that differ from nn.CrossEntropyLoss's, for print(criterion)."""
        usual = {"focal_gamma": 0.0, "label_smoothing": 0.0, "ignore_index": -100}
        more = "".join(
            f", {name}={getattr(self, name)}" for name, default in usual.items() if getattr(self, name) != default
        )
        more += ", class_counts=True" if self.log_counts is not None else ""
        return f"{self.num_classes}, tau={self.tau}, reduction={self.reduction}, difficulty={self.difficulty}{more}"

    def _checked(self, name: str, counts: Tensor | Sequence[int]) -> Tensor:
        """Return C integers on the CPU. ValueError for anything else."""
        counts = torch.as_tensor(counts).cpu()
        if (
            counts.shape != self.weight.shape
            or counts.is_floating_point()
            or counts.is_complex()
            or counts.dtype == torch.bool
        ):
            raise ValueError(
                f"{name} must hold one integer for each of the {self.num_classes} classes, "
                f"not {counts.dtype} of shape {tuple(counts.shape)}"
            )
        return counts

    @torch.no_grad()
    def _set_weights(self, accuracy: Tensor, present: Tensor | None = None) -> None:
        """Apply equation 2 to accuracies on the CPU, shape (C,), for the classes that are `present`; the others keep
        their weights.
        """
        present = torch.ones_like(accuracy, dtype=torch.bool) if present is None else present
        absent = (~present).nonzero().flatten().tolist()
        if absent and (not self.allow_absent or len(absent) == len(present)):
            raise ValueError(
                f"no held-out image of class {', '.join(map(str, absent))}: its difficulty is unknown; "
                '--difficulty smoothed (difficulty="smoothed") gives it the overall one'
            )
        if self.tau in DYNAMIC_TAU:
            self.exponent.copy_(dynamic_tau(accuracy[present], released=self.tau == "dynamic-released"))
        raw = (1 - accuracy[present]) ** self.exponent.cpu().double()
        if raw.sum() > 0:  # if every class is solved, the last weights stay
            weight = self.weight.cpu()
            share = len(weight) - weight[~present].double().sum()
            weight[present] = (raw / raw.sum() * share).to(weight.dtype)
            self.weight.copy_(weight)


def smoothed_accuracy(correct: Tensor, total: Tensor) -> Tensor:
    """Return the posterior mean of each class's accuracy, shape (C,), from its counts, under a Beta prior at the
    overall accuracy.
    """
    overall = correct.sum() / total.sum()
    return (correct + PSEUDO_IMAGES * overall) / (total + PSEUDO_IMAGES)


def reduce_loss(losses: Tensor, weights: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """Reduce weighted losses, one for each element, as CDBLoss's `reduction` says.

    weights and counts have the shape of losses: the weight of each element's class, and whether it counts (is not
    ignored). In a torch.distributed job "weighted_mean" divides by the sum over the whole batch, so every process has
    to take part.
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
    return losses.sum() / denominator.clamp_min(torch.finfo(losses.dtype).tiny)  # a batch without weight: 0 / tiny = 0
