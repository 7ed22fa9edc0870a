"""Distillation: a network learns from labels, and from the probabilities that trained networks give the same images.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, sections 2 and 5.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.devices import Runtime
from longtail.metrics import Batches

TEMPERATURE = 2.0


@dataclass(frozen=True)
class Teacher:
    """A trained network that evaluates on the runtime's device, and what makes logits of its outputs."""

    model: nn.Module
    scale: float = 1.0


class Distillation:
    """Half of a loss on the labels, and half of TEMPERATURE ** 2 KL(teachers || student) at that temperature.

    The teachers' probabilities need the images, which a training loop does not hand to its loss. So `batches` computes
    them where the images are made and sends them along with the labels, in one tensor; the loop needs no change, and
    splits it like any labels. The distillation itself is the loop's loss_function.
    """

    def __init__(self, loss: nn.Module, scale: float, teachers: Sequence[Teacher], runtime: Runtime):
        """`loss` takes the student's outputs and labels; `scale` makes logits of these outputs."""
        self.loss, self.scale, self.teachers, self.runtime = loss, scale, teachers, runtime

    def batches(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images of `batches` and their targets, (N, 1 + C): the label, then the teachers' probabilities."""
        for images, labels in batches:
            yield images, torch.cat([labels[:, None], self.probabilities(images)], dim=1)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return the mean of the teachers' probabilities at the temperature, (N, C)."""
        total = torch.zeros((), device=images.device)
        for teacher in self.teachers:
            with self.runtime.autocast():
                outputs = teacher.model(images)
            total = total + (teacher.scale * outputs.float() / TEMPERATURE).softmax(1)
        return total / len(self.teachers)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of the student's outputs, (N, C), against what `batches` yields."""
        labels, probabilities = targets[:, 0].long(), targets[:, 1:]
        student = (self.scale * outputs / TEMPERATURE).log_softmax(1)
        divergence = F.kl_div(student, probabilities, reduction="batchmean")
        loss: Tensor = (self.loss(outputs, labels) + TEMPERATURE**2 * divergence) / 2
        return loss
