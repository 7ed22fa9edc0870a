"""Classifiers that networks of two experiments share."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = ("linear", "cosine")


class CosineHead(nn.Module):
    """Return the cosines of the angles between features (N, F) and class vectors, (N, C).

    LDAM's margins are defined on them.

    It computes in fp32 under autocast too: the loss multiplies by 30, and neighbouring bf16 numbers near 1 differ by
    1/128 or 1/256.
    """

    def __init__(self, in_features: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(F.normalize(x.float()), F.normalize(self.weight))


def build_head(head: str, in_features: int, num_classes: int) -> nn.Module:
    """Return the classifier that `head`, one of HEADS, names. Raise ValueError for another name."""
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, not {head!r}")
    return nn.Linear(in_features, num_classes) if head == "linear" else CosineHead(in_features, num_classes)
