"""Post-hoc logit adjustment against numbers worked out by hand."""

import math

import pytest
import torch

from longtail.devices import Runtime
from longtail.posthoc import STRENGTHS, LogitShift, best_of, extract

CPU = Runtime(torch.device("cpu"))


def test_the_shift_is_strength_times_log_prior():
    """Counts 3 and 1: priors 3/4 and 1/4."""
    shifted = LogitShift([3, 1], 2.0)(torch.tensor([[1.0, 0.0]]))
    assert shifted.tolist()[0] == pytest.approx([1 - 2 * math.log(0.75), -2 * math.log(0.25)])


def test_validation_chooses_the_smallest_of_the_best_strengths():
    """Scores differ by 1 for the common class, the shift by strength x log 3 = 1.0986.

    From 0.92 on the rare image is right, and from 1.83 on the common one, ahead by 2, is wrong.
    """
    outputs = [(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([1, 0]))]
    strengths = [step / 10 for step in range(31)]
    assert best_of(strengths, lambda strength: LogitShift([3, 1], strength), outputs, 2, CPU) == 1.0
    assert best_of([2.0, 3.0], lambda strength: LogitShift([3, 1], strength), outputs, 2, CPU) == 2.0


def test_strengths_reach_to_three():
    """The rare image is behind by 3: 3 / log 3 = 2.731, so the first tenth that is enough is 2.8."""
    outputs = [(torch.tensor([[3.0, 0.0], [9.0, 0.0]]), torch.tensor([1, 0]))]
    assert best_of(STRENGTHS, lambda strength: LogitShift([3, 1], strength), outputs, 2, CPU) == 2.8


def test_one_image_of_many_decides():
    """At strength 1 one of 300 rare images more is right: 0.0017 of the mean class accuracy."""
    rare = torch.tensor([[0.5, 0.0]] + 299 * [[9.0, 0.0]])
    outputs = [(torch.cat([rare, torch.tensor([[9.0, 0.0]])]), torch.tensor(300 * [1] + [0]))]
    assert best_of([0.0, 1.0], lambda strength: LogitShift([3, 1], strength), outputs, 2, CPU) == 1.0


def test_each_class_counts_alike():
    """Three images of class 0 and one of class 1.

    A strength that loses one of three to win the one is better by mean class accuracy.
    """
    outputs = [(torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.5, 0.0], [1.0, 0.0]]), torch.tensor([0, 0, 0, 1]))]
    assert best_of([0.0, 1.0], lambda strength: LogitShift([3, 1], strength), outputs, 2, CPU) == 1.0


def test_outputs_are_those_of_evaluation_in_fp32():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    images, labels = torch.ones(3, 2), torch.tensor([0, 1, 0])
    ((output, kept),) = extract(model, [(images, labels)], CPU)
    assert torch.equal(output, model[0](images)) and torch.equal(kept, labels) and not output.requires_grad


def test_outputs_are_computed_in_the_precision_of_the_runtime():
    """In bf16, which has 8 binary digits, a third is 171 / 512."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1 / 3)
    ((output, _),) = extract(model, [(torch.ones(1, 1), torch.tensor([0]))], Runtime(torch.device("cpu"), bf16=True))
    assert output.item() == 171 / 512 and output.dtype == torch.float32
