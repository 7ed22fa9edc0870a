"""Draw the order of an epoch's images: each once, or classes by a probability."""

import torch
from torch import Tensor


def class_probabilities(sampling: str, counts: Tensor, progress: float, weight: Tensor) -> Tensor | None:
    """Return the probability of each class, (C,), after the share `progress` of training; None if every image is used
    once an epoch.

    Kang et al., ICLR 2020, section 3: equation 1 with q = 0 (balanced) and 1/2 (square root), equation 4
    (progressive). "difficulty" is proportional to the weights of the CDB loss.
    """
    if sampling == "uniform":
        return None
    counts = counts.double()
    share, even = counts / counts.sum(), torch.full_like(counts, 1 / len(counts))
    return {
        "balanced": even,
        "square_root": counts.sqrt() / counts.sqrt().sum(),
        "progressive": (1 - progress) * share + progress * even,
        "difficulty": weight.double() / weight.double().sum(),
    }[sampling]


def draw_epoch(labels: Tensor, probabilities: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return the indices (N,) of an epoch's images: a permutation, or draws of a class by its probability and of any
    image in it.
    """
    if probabilities is None:
        return torch.randperm(len(labels), generator=generator)
    counts = labels.bincount(minlength=len(probabilities))
    classes = torch.multinomial(probabilities, len(labels), replacement=True, generator=generator)
    share_of_class = torch.rand(len(labels), dtype=torch.double, generator=generator)
    place_in_class = (share_of_class * counts[classes]).long()
    images_by_class = labels.argsort(stable=True)
    first_of_class = counts.cumsum(0) - counts
    return images_by_class[first_of_class[classes] + place_in_class]
