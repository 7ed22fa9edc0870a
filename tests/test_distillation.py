"""Distillation against numbers computed by hand."""

import math

import pytest
import torch
from torch import nn

from longtail.devices import Runtime
from longtail.distillation import Distillation, Teacher

CPU = Runtime(torch.device("cpu"))
LOG3 = math.log(3)


def linear(*rows: list[float]) -> nn.Linear:
    """Return a layer without bias whose weights are given."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


@pytest.fixture
def two_teachers() -> list[Teacher]:
    """Of a single number x: the first gives logits (2 log 3 x, 0), the second 2 * (0, log 3 x)."""
    return [Teacher(linear([2 * LOG3], [0.0])), Teacher(linear([0.0], [LOG3]), scale=2.0)]


def test_probabilities_are_the_mean_at_temperature_2(two_teachers):
    """At x = 1, half the logits are (log 3, 0) and (0, log 3): 3/4, 1/4 and 1/4, 3/4. At x = 0 all are 1/2."""
    one = Distillation(nn.CrossEntropyLoss(), 1.0, two_teachers[:1], CPU).probabilities(torch.tensor([[1.0], [0.0]]))
    assert one.tolist() == [pytest.approx([0.75, 0.25]), pytest.approx([0.5, 0.5])]
    both = Distillation(nn.CrossEntropyLoss(), 1.0, two_teachers, CPU).probabilities(torch.tensor([[1.0]]))
    assert both.tolist() == [pytest.approx([0.5, 0.5])]
    assert not both.requires_grad


def test_loss_is_half_the_labels_and_half_the_teachers(two_teachers):
    """Student logits (0, 0), teacher 3/4, 1/4: cross-entropy log 2, KL 3/4 log 3/2 + 1/4 log 1/2, times 4.

    The second image: outputs (log 3, 0), which cross-entropy takes as they are: 1/4 for label 1. Twice as large they
    are logits, at temperature 2 again log 3, 0: 3/4, 1/4; the teacher has 1/2, 1/2.
    """
    distillation = Distillation(nn.CrossEntropyLoss(), 2.0, two_teachers[:1], CPU)
    batches = [(torch.tensor([[1.0], [0.0]]), torch.tensor([0, 1]))]
    [(images, targets)] = distillation.batches(batches)
    assert images is batches[0][0]
    labels = (math.log(2) + math.log(4)) / 2
    first = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    second = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    expected = labels / 2 + 4 * (first + second) / 2 / 2
    student = torch.tensor([[0.0, 0.0], [LOG3, 0.0]], requires_grad=True)
    loss = distillation(student, targets)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_student_has_the_gradient_and_the_teacher_none(two_teachers):
    """Student logits (0, 0) of one image: half of (1/2 - 1, 1/2), and half of T (q - p) = 2 (1/2 - 3/4, 1/2 - 1/4)."""
    distillation = Distillation(nn.CrossEntropyLoss(), 1.0, two_teachers[:1], CPU)
    [(_, targets)] = distillation.batches([(torch.tensor([[1.0]]), torch.tensor([0]))])
    student = torch.zeros(1, 2, requires_grad=True)
    distillation(student, targets).backward()
    assert student.grad.tolist() == [pytest.approx([-0.5, 0.5])]
    assert two_teachers[0].model.weight.grad is None


def test_parts_of_a_batch_add_up_to_the_whole(two_teachers):
    distillation = Distillation(nn.CrossEntropyLoss(), 1.0, two_teachers, CPU)
    [(_, targets)] = distillation.batches([(torch.arange(4.0)[:, None], torch.tensor([0, 1, 1, 0]))])
    student = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    parts = [distillation(*part) for part in zip(student.chunk(2), targets.chunk(2), strict=True)]
    assert sum(parts).item() / 2 == pytest.approx(distillation(student, targets).item(), rel=1e-5)
