"""The paper's loss against numbers worked out by hand."""

import math
import re
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cdb_loss
from cdb_loss import CDBLoss, dynamic_tau

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 2])
CE = [math.log(math.e**2 + 2) - 2, math.log(math.e + 2) - 1, math.log(3)]  # of the three rows above


@pytest.mark.parametrize(
    ("accuracy", "paper", "released"),
    [((0.9, 0.0), 2.000, 1.000), ((0.9, 0.3), 1.741, 0.948), ((0.7, 0.7), 0.993, 0.728), ((0.0, 0.0), 0.5379, 0.5)],
)
def test_dynamic_tau(accuracy, paper, released):
    assert dynamic_tau(torch.tensor(accuracy)).item() == pytest.approx(paper, abs=5e-4)
    assert dynamic_tau(torch.tensor(accuracy), released=True).item() == pytest.approx(released, abs=5e-4)


def test_a_loss_prints_what_differs_from_cross_entropy():
    assert str(CDBLoss(3)) == "CDBLoss(3, tau=dynamic, reduction=mean, difficulty=paper)"
    assert str(CDBLoss(3, tau=2, ignore_index=0, class_counts=[3, 2, 1])) == (
        "CDBLoss(3, tau=2, reduction=mean, difficulty=paper, ignore_index=0, class_counts=True)"
    )


def test_weights_follow_difficulty():
    loss = CDBLoss(num_classes=4, tau=1.0)
    loss.update_from_accuracy(torch.tensor([0.9, 0.5, 0.5, 0.1]))  # difficulty 0.1 0.5 0.5 0.9, sum 2
    assert loss.weight.tolist() == pytest.approx([0.2, 1.0, 1.0, 1.8])


def test_weights_from_counts_with_tau_2():
    loss = CDBLoss(3, tau=2)
    loss.update(
        torch.tensor([3, 1, 0]), torch.tensor([4, 2, 8])
    )  # d = 1/4, 1/2, 1; d**2 = 1/16, 4/16, 16/16; sum 21/16
    assert loss.weight.tolist() == pytest.approx([3 / 21, 12 / 21, 48 / 21])


def test_dynamic_tau_sets_the_exponent():
    loss = CDBLoss(2)
    assert math.isnan(loss.exponent)
    loss.update_from_accuracy(torch.tensor([0.9, 0.3]))
    ratio = (0.7 / 0.1) ** 1.74051  # b = .9/.31 - 1 = 1.90323; 2 / (1 + e**-b) = 1.74051
    assert loss.exponent.item() == pytest.approx(1.74051, abs=1e-5)
    assert (loss.weight[1] / loss.weight[0]).item() == pytest.approx(ratio, rel=1e-4)
    released = CDBLoss(2, tau="dynamic-released")
    released.update_from_accuracy(torch.tensor([0.9, 0.3]))
    assert released.exponent.item() == pytest.approx(0.94801, abs=1e-5)


def test_mean_divides_by_the_batch_size():
    loss = CDBLoss(3, tau=1)
    assert loss(LOGITS, LABELS).item() == pytest.approx(sum(CE) / 3)  # uniform before the first update
    loss.update_from_accuracy(torch.tensor([0.8, 0.6, 0.4]))  # d = 1/5 2/5 3/5 -> weights 1/2 1 3/2
    assert loss(LOGITS[:2], LABELS[:2]).item() == pytest.approx((0.5 * CE[0] + CE[1]) / 2)


def test_weighted_mean_is_pytorchs():
    loss = CDBLoss(3, tau=1, reduction="weighted_mean")
    loss.update_from_accuracy(torch.tensor([0.8, 0.6, 0.4]))
    expected = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 1.5]))(LOGITS[:2], LABELS[:2])
    assert loss(LOGITS[:2], LABELS[:2]).item() == pytest.approx(expected.item())


def test_focal_variant():
    loss = CDBLoss(3, tau=1, focal_gamma=2)
    loss.update_from_accuracy(torch.tensor([0.8, 0.6, 0.4]))
    factors = [(1 - math.exp(-ce)) ** 2 for ce in CE]
    expected = (0.5 * factors[0] * CE[0] + factors[1] * CE[1] + 1.5 * factors[2] * CE[2]) / 3
    assert loss(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_focal_gradient_is_finite_for_a_certain_prediction():
    logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
    CDBLoss(2, focal_gamma=0.5)(logits, torch.tensor([0])).backward()
    assert torch.isfinite(logits.grad).all()


def test_solved_class_has_no_weight():
    loss = CDBLoss(2, tau=1.5)
    loss.update_from_accuracy(torch.tensor([1.0, 0.5]))
    assert loss.weight.tolist() == pytest.approx([0.0, 2.0])


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
def test_batch_without_weight_has_loss_0_and_gradient_0(reduction):
    loss = CDBLoss(2, tau=1.5, reduction=reduction)
    loss.update_from_accuracy(torch.tensor([1.0, 0.5]))
    logits = torch.zeros(3, 2, requires_grad=True)
    value = loss(logits, torch.zeros(3, dtype=torch.long))
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


def test_all_solved_keeps_the_last_weights():
    loss = CDBLoss(2, tau=1)
    loss.update_from_accuracy(torch.tensor([0.75, 0.25]))
    loss.update_from_accuracy(torch.tensor([1.0, 1.0]))
    assert loss.weight.tolist() == pytest.approx([0.5, 1.5])


def test_absent_class_is_named_or_keeps_its_weight():
    correct, total = torch.tensor([1, 0, 1]), torch.tensor([2, 0, 4])
    with pytest.raises(ValueError, match="class 1"):
        CDBLoss(3).update(correct, total)
    loss = CDBLoss(3, tau=1, allow_absent=True)
    loss.update(correct, total)  # d = 1/2, -, 3/4; 2 to share out: 4/5, 6/5
    assert loss.weight.tolist() == pytest.approx([0.8, 1.0, 1.2])
    with pytest.raises(ValueError, match="class 0, 1, 2"):
        loss.update(torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long))


# Smoothed difficulty: counts of earlier passes times 0.9 a pass, and 100 pseudo-images of each class at the overall
# accuracy.


def test_smoothed_difficulty_of_two_passes():
    loss = CDBLoss(2, tau=1, difficulty="smoothed")
    loss.update([8, 2], [10, 10])  # overall 1/2: d = 1 - (8 + 50) / 110 and 1 - (2 + 50) / 110
    assert loss.weight.tolist() == pytest.approx([2 * 52 / 110, 2 * 58 / 110])
    loss.update([10, 0], [10, 10])  # 17.2 and 1.8 of 19 right, overall still 1/2
    assert loss.weight.tolist() == pytest.approx([2 * (19 - 17.2 + 50) / 119, 2 * (19 - 1.8 + 50) / 119])


def test_dynamic_tau_comes_from_the_smoothed_accuracies():
    loss = CDBLoss(2, difficulty="smoothed")
    loss.update([8, 2], [10, 10])  # accuracies 58/110, 52/110: b = .527273 / .482727 - 1 = .092279
    assert loss.exponent.item() == pytest.approx(2 / (1 + math.exp(-0.092279)), abs=1e-5)


def test_smoothed_difficulty_of_a_class_without_images_is_the_overall_one():
    """Accuracy 6 / 20 in all: d = (4 + 70) / 110, 70 / 100, (10 + 70) / 110."""
    loss = CDBLoss(3, tau=1, difficulty="smoothed")
    loss.update([6, 0, 0], [10, 0, 10])
    raw = [74 / 110, 0.7, 80 / 110]
    assert loss.weight.tolist() == pytest.approx([3 * value / sum(raw) for value in raw])
    with pytest.raises(ValueError, match="no held-out image of any class"):
        loss.update([0, 0, 0], [0, 0, 0])


def test_smoothed_difficulty_forgets_no_solved_class():
    """100 passes with class 0 solved leave it the share of the pseudo-images; without one mistake anywhere the last
    weights stand.
    """
    loss = CDBLoss(2, tau=2, difficulty="smoothed")
    for _ in range(100):
        loss.update([10, 5], [10, 10])  # 100 of each class count in the end: d = .25 * 100 / 200, (50 + 25) / 200
    assert loss.weight.tolist() == pytest.approx([2 * 0.125**2 / (0.125**2 + 0.375**2), 1.8], rel=1e-3)
    never_wrong = CDBLoss(2, difficulty="smoothed")
    never_wrong.update([10, 10], [10, 10])
    assert never_wrong.weight.tolist() == [1, 1]


def test_smoothing_takes_the_noise_out_of_equal_classes():
    """Deviation of d from 25 images: sqrt(.4 * .6 / 25) = .098, of the weights at tau 2 about 2 * .098 / .6 = .327. The
    discounted average divides it by sqrt(19), and 100 pseudo-images beside 250 multiply by 250 / 350: .0535.
    """
    generator = torch.Generator().manual_seed(0)
    paper, smoothed = CDBLoss(100, tau=2), CDBLoss(100, tau=2, difficulty="smoothed")
    for _ in range(60):
        correct = torch.binomial(torch.full((100,), 25.0), torch.full((100,), 0.4), generator=generator).long()
        for loss in (paper, smoothed):
            loss.update(correct, [25] * 100)
    assert paper.weight.std().item() == pytest.approx(0.327, rel=0.2)
    assert smoothed.weight.std().item() == pytest.approx(0.0535, rel=0.2)


def test_smoothed_state_resumes():
    first, second = CDBLoss(2, difficulty="smoothed"), CDBLoss(2, difficulty="smoothed")
    first.update([8, 2], [10, 10])
    second.load_state_dict(first.state_dict())
    for loss in (first, second):
        loss.update([9, 4], [10, 10])
    assert first.weight.tolist() == second.weight.tolist()
    assert set(CDBLoss(2).state_dict()) == set(CDBLoss(2, class_counts=[2, 1]).state_dict()) == {"weight", "exponent"}


def test_smoothed_difficulty_needs_counts():
    with pytest.raises(ValueError, match="needs counts"):
        CDBLoss(2, difficulty="smoothed").update_from_accuracy([0.5, 0.5])


def test_balanced_softmax_with_difficulty():
    """Counts 3 and 1, even logits: probabilities 3/4 and 1/4; weights 1/2 and 3/2."""
    loss = CDBLoss(2, tau=1, class_counts=[3, 1])
    loss.update_from_accuracy([0.75, 0.25])
    expected = (0.5 * math.log(4 / 3) + 1.5 * math.log(4)) / 2
    assert loss(torch.zeros(2, 2), torch.tensor([0, 1])).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"\[3, 0\]"):
        CDBLoss(2, class_counts=[3, 0])


@pytest.mark.parametrize("tau", [0, -1, math.nan, math.inf, "fast", None])
def test_wrong_tau(tau):
    with pytest.raises(ValueError, match=re.escape(repr(tau))):
        CDBLoss(3, tau=tau)


@pytest.mark.parametrize(
    ("correct", "total", "match"),
    [
        (torch.zeros(2, dtype=torch.long), torch.ones(3, dtype=torch.long), r"correct.*\(2,\)"),
        (torch.zeros(3), torch.ones(3, dtype=torch.long), "float32"),
        (torch.tensor([2, 0, 0]), torch.ones(3, dtype=torch.long), r"\[2, 0, 0\]"),
        (torch.tensor([-1, 0, 0]), torch.ones(3, dtype=torch.long), "-1"),
    ],
)
def test_wrong_counts(correct, total, match):
    with pytest.raises(ValueError, match=match):
        CDBLoss(3).update(correct, total)


@pytest.mark.parametrize("accuracy", [[0.5, 1.5], [-0.1, 0.5], [math.nan, 0.5], [0.5]])
def test_wrong_accuracy(accuracy):
    with pytest.raises(ValueError, match="accurac"):
        CDBLoss(2).update_from_accuracy(torch.tensor(accuracy))


@pytest.mark.parametrize(
    "setting", [{"num_classes": 0}, {"num_classes": 2, "reduction": "all"}, {"num_classes": 2, "focal_gamma": -1.0}]
)
def test_wrong_settings(setting):
    with pytest.raises(ValueError, match=re.escape(str(list(setting.values())[-1]))):
        CDBLoss(**setting)


def test_state_resumes_and_is_a_buffer():
    loss, resumed = CDBLoss(2), CDBLoss(2)
    loss.update_from_accuracy(torch.tensor([0.9, 0.3]))
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(resumed.weight, loss.weight)
    assert torch.equal(resumed.exponent, loss.exponent)
    assert not list(loss.parameters())
    assert loss.to("meta").weight.device.type == "meta"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 25), min_size=2, max_size=50),
    st.one_of(st.sampled_from(["dynamic", "dynamic-released"]), st.floats(0.1, 5)),
)
def test_weights_always_sum_to_the_number_of_classes_and_fall_with_accuracy(correct, tau):
    loss = CDBLoss(len(correct), tau=tau)
    loss.update(torch.tensor(correct), torch.full((len(correct),), 25))
    assert loss.weight.sum().item() == pytest.approx(len(correct), rel=1e-5)
    assert (loss.weight >= 0).all()
    by_accuracy = loss.weight[torch.tensor(correct).argsort()]
    assert min(correct) == 25 or (by_accuracy.diff() <= 1e-6).all()


def test_the_example_of_the_docstring_runs():
    """It trains a linear classifier on two overlapping classes, with one of ten times as many samples."""
    example = textwrap.dedent(re.search(r"(?s)(    criterion = CDBLoss.*?)\n\nSave", cdb_loss.__doc__)[1])
    example = (
        example.replace("num_classes=10", "num_classes=2")
        .replace("minlength=10", "minlength=2")
        .replace("(2, 10,", "(2, 2,")
    )
    generator = torch.Generator().manual_seed(0)

    def samples(counts):
        labels = torch.arange(2).repeat_interleave(torch.tensor(counts))
        return torch.randn(len(labels), 2, generator=generator) + labels[:, None] * 1.5, labels

    network = nn.Linear(2, 2)
    scope = {
        "CDBLoss": CDBLoss,
        "torch": torch,
        "model": network,
        "device": "cpu",
        "epochs": 30,
        "train_batches": [samples([200, 20])],
        "val_batches": [samples([100, 100])],
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.5),
    }
    exec(compile(example, "docstring", "exec"), scope)
    assert scope["counts"][1].tolist() == [100, 100] and not network.training
    assert scope["criterion"].weight[1] > 1 > scope["criterion"].weight[0]
    assert len(example.splitlines()) <= 15
