"""How far a classifier's confidence is from its accuracy."""

import torch
from torch import Tensor, nn

from longtail.posthoc import Outputs

BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4


@torch.no_grad()
def bin_sums(classifier: nn.Module, outputs: Outputs, device: torch.device) -> Tensor:
    """Return images, right answers and summed confidence of each bin, (3, BINS), over this process's outputs.

    The confidence is the largest probability. The bins divide it from 0 to 1, each with its upper edge.
    """
    sums = torch.zeros(3, BINS, device=device)
    for inputs, labels in outputs:
        confidence, predicted = classifier(inputs).float().softmax(1).max(1)
        bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        right = (predicted == labels).float()
        sums.index_add_(1, bins, torch.stack([torch.ones_like(right), right, confidence]))
    return sums


def calibration_error(sums: Tensor) -> float:
    """Return the expected calibration error: the mean over images of |accuracy - confidence| of their bin."""
    images, right, confidence = sums.cpu().double()
    error: float = ((right - confidence).abs().sum() / images.sum()).item()
    return error
