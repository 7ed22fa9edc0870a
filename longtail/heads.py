"""Classifiers that networks of two experiments share."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = ("linear", "cosine", "scaled_cosine")  # the last: COSINE_SCALE times the cosines, for losses that take logits
COSINE_SCALE = 32.0  # Son et al., "Difficulty-aware Balancing Margin Loss", AAAI 2025, implementation details


class CosineHead(nn.Module):
    """Return the cosines of the angles between features (N, F) and class vectors, (N, C), times `scale`.

    The margins of LDAM and DBM are defined on cosines, and these losses have a scale of their own.
    It computes in fp32 under autocast too: the loss multiplies by 30, and neighbouring bf16 numbers near 1 differ by
    1/128 or 1/256.
    """

    def __init__(self, in_features: int, num_classes: int, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.scale * F.linear(F.normalize(x.float()), F.normalize(self.weight))


def scale_outputs(head: nn.Module, scale: float) -> None:
    """Make logits of a cosine head's outputs, whose softmax is a probability; a linear head's are logits already."""
    if isinstance(head, CosineHead):
        head.scale *= scale


def build_head(head: str, in_features: int, num_classes: int) -> nn.Module:
    """Return the classifier that `head`, one of HEADS, names. Raise ValueError for another name."""
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, not {head!r}")
    if head == "linear":
        return nn.Linear(in_features, num_classes)
    return CosineHead(in_features, num_classes, COSINE_SCALE if head == "scaled_cosine" else 1.0)
