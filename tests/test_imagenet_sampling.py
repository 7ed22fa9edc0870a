"""The order of an epoch: probabilities by hand, frequencies by counting."""

import pytest
import torch

from imagenet_sampling import class_probabilities, draw_epoch


def test_probabilities_by_hand():
    counts, weight = torch.tensor([90, 9, 1]), torch.tensor([0.3, 1.2, 1.5])
    assert class_probabilities("uniform", counts, 0.5, weight) is None
    expected = {
        "balanced": [1 / 3, 1 / 3, 1 / 3],
        "square_root": [9.48683 / 13.48683, 3 / 13.48683, 1 / 13.48683],
        "progressive": [0.75 * 0.9 + 0.25 / 3, 0.75 * 0.09 + 0.25 / 3, 0.75 * 0.01 + 0.25 / 3],  # a quarter done
        "difficulty": [0.1, 0.4, 0.5],
    }
    for sampling, values in expected.items():
        assert class_probabilities(sampling, counts, 0.25, weight).tolist() == pytest.approx(values, rel=1e-5)


def test_uniform_uses_every_image_once():
    order = draw_epoch(torch.tensor([0, 1, 0, 2]), None, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == [0, 1, 2, 3]


def test_drawn_frequencies():
    labels = torch.tensor([0] * 30000 + [1] * 9000 + [2] * 999 + [3])[
        torch.randperm(40000, generator=torch.Generator().manual_seed(1))
    ]
    order = draw_epoch(labels, torch.tensor([0.1, 0.2, 0.0, 0.7], dtype=torch.double), torch.Generator().manual_seed(0))
    drawn = labels[order].bincount(minlength=4).tolist()
    assert len(order) == 40000
    assert (
        drawn[2] == 0 and drawn[0] == pytest.approx(4000, abs=300) and drawn[3] == pytest.approx(28000, abs=450)
    )  # 5 sigma
    images_of_1 = order[labels[order] == 1].bincount(minlength=40000)[labels == 1]
    assert images_of_1.float().mean().item() == pytest.approx(8000 / 9000, abs=0.05)
    assert images_of_1.float().var().item() == pytest.approx(8000 / 9000, abs=0.1)  # uniform within the class: Poisson
