"""Which images of a test set a network has right: counted, kept in a test's JSON, compared between two networks."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from longtail.devices import Runtime
from longtail.metrics import Batches, add_up, predictions


@torch.no_grad()
def count_with_hits(model: nn.Module, batches: Batches, num_classes: int, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Return the confusion matrix as `count_confusion` does, and for each image whether it is right, (N,) booleans.

    Images are in the order of their set. Of several processes number r has the images r, r + world_size, ... of it,
    as the evaluation batches of the three experiments deal them.
    """
    parts = list(predictions(model, batches, runtime))
    mine = torch.cat([torch.zeros(0, dtype=torch.long, device=runtime.device), *right_in(parts)])
    images = runtime.sum(torch.tensor([len(mine)], device=runtime.device))
    hits = torch.zeros(int(images), dtype=torch.long, device=runtime.device)
    hits[runtime.rank :: runtime.world_size] = mine
    return add_up(parts, num_classes, runtime), runtime.sum(hits).bool()


def right_in(parts: list[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    """Yield for each batch of labels and predicted classes a 1 where they agree."""
    for labels, predicted in parts:
        yield (labels == predicted).long()


def pack_hits(hits: Tensor) -> str:
    """Return hits (N,) as text: eight images a byte, the first in the highest bit, in base 64."""
    return base64.b64encode(np.packbits(hits.cpu().numpy()).tobytes()).decode()


def unpack_hits(text: str, images: int) -> np.ndarray:
    """Return the hits (images,) that a text holds. Raise ValueError if it holds another number."""
    packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if len(packed) != (images + 7) // 8:
        raise ValueError(f"hits has {len(packed)} bytes, which are not those of {images} images")
    return np.unpackbits(packed, count=images).astype(bool)


@dataclass(frozen=True)
class McNemar:
    """How two networks differ on the same images: how many only the first has right, how many only the second.

    p: the probability of a split at least as uneven if both were as good; McNemar's exact test, two-sided.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Compare two networks by their hits (N,) on the same images."""
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    p = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    return McNemar(only_first, only_second, p)
