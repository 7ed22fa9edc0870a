"""The paper's loss against numbers worked out by hand."""

import math
import re
import textwrap
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cdb_loss
from cdb_loss import CDBLoss, dynamic_tau

pytestmark = pytest.mark.filterwarnings("ignore:every held-out image:UserWarning")
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
    with pytest.raises(ValueError, match="no held-out image"):
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


def test_smoothing_takes_out_the_noise_that_changes_from_pass_to_pass():
    """With fresh images in each pass. Real passes see the same ones, whose luck stays: that, no average takes out.

    Deviation of d from 25 images: sqrt(.4 * .6 / 25) = .098, of the weights at tau 2 about 2 * .098 / .6 = .327. The
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
    tensors = {"weight", "exponent", "_extra_state"}
    assert set(CDBLoss(2).state_dict()) == set(CDBLoss(2, class_counts=[2, 1]).state_dict()) == tensors


def test_smoothed_difficulty_needs_counts():
    with pytest.raises(ValueError, match="needs counts"):
        CDBLoss(2, difficulty="smoothed").update_from_accuracy([0.5, 0.5])


def test_balanced_softmax_with_difficulty():
    """Counts 3 and 1, even logits: probabilities 3/4 and 1/4; weights 1/2 and 3/2."""
    loss = CDBLoss(2, tau=1, class_counts=[3, 1])
    loss.update_from_accuracy([0.75, 0.25])
    expected = (0.5 * math.log(4 / 3) + 1.5 * math.log(4)) / 2
    assert loss(torch.zeros(2, 2), torch.tensor([0, 1])).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="class_counts .*class 1 has 0"):
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
        (torch.tensor([2, 0, 0]), torch.ones(3, dtype=torch.long), "class 0 has 2 of 1"),
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
    example = example.replace("num_classes=10", "num_classes=2")
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
    assert scope["accuracy"][0] > scope["accuracy"][1] > 0.5 and not network.training
    assert scope["criterion"].weight[1] > 1 > scope["criterion"].weight[0]
    assert len(example.splitlines()) <= 15


# Counting and updating.


def test_count_and_update_are_the_counts_by_hand():
    """Class 0: 2 of 3 recognised, class 1: 0 of 1; one element is ignored. d = 1/3 and 1: weights 1/2 and 3/2."""
    loss = CDBLoss(2, tau=1)
    loss.count(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    loss.count(torch.tensor([[5.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, -100]))
    assert loss.update().tolist() == pytest.approx([2 / 3, 0])
    assert loss.weight.tolist() == pytest.approx([0.5, 1.5])
    with pytest.raises(ValueError, match="nothing was counted"):
        loss.update()


def test_update_with_counts_leaves_what_was_counted():
    loss = CDBLoss(2, tau=1)
    loss.count(torch.tensor([1, 1]), torch.tensor([0, 1]))
    loss.update([1, 1], [2, 2])
    assert loss.weight.tolist() == [1, 1]
    assert loss.update().tolist() == [0, 1]


def test_reset_forgets_what_was_counted():
    loss = CDBLoss(2, tau=1, allow_absent=True)
    loss.count(torch.tensor([1]), torch.tensor([0]))
    loss.reset()
    loss.count(torch.tensor([1, 0]), torch.tensor([1, 1]))
    accuracy = loss.update()
    assert math.isnan(accuracy[0]) and accuracy[1] == 0.5


def test_what_is_counted_is_no_part_of_the_state():
    loss, other = CDBLoss(2, tau=1), CDBLoss(2, tau=1)
    loss.count(torch.tensor([1]), torch.tensor([0]))
    assert "_counted" not in dict(loss.named_buffers())
    other.load_state_dict(loss.state_dict())
    with pytest.raises(ValueError, match="nothing was counted"):
        other.update()


def test_probabilities_count_as_their_largest_class():
    loss = CDBLoss(2, tau=1)
    loss.count(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([[0.7, 0.3], [0.1, 0.9]]))
    assert loss.update().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("predictions", "target"),
    [
        (torch.zeros(4, 1, dtype=torch.long), torch.zeros(4, dtype=torch.long)),
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)),
        (torch.zeros(4, 2), torch.zeros(5, dtype=torch.long)),
    ],
)
def test_predictions_that_do_not_fit_their_targets(predictions, target):
    """The first would be compared with every target."""
    with pytest.raises(ValueError, match="shape"):
        CDBLoss(2).count(predictions, target)


def test_one_of_both_counts():
    with pytest.raises(ValueError, match="both correct and total"):
        CDBLoss(2).update([1, 1])


# What was silently wrong.


def test_a_state_of_other_settings_is_refused():
    state = CDBLoss(2, tau=2).state_dict()
    loss = CDBLoss(2, tau=0.5)
    with pytest.raises(ValueError, match="tau 2.0, not 0.5"):
        loss.load_state_dict(state)
    with pytest.raises(ValueError, match="'paper', not 'smoothed'"):
        CDBLoss(2, tau=2, difficulty="smoothed").load_state_dict(state, strict=False)
    with pytest.raises(ValueError, match=r"class_counts None, not \[3.0, 1.0\]"):
        CDBLoss(2, tau=2, class_counts=[3, 1]).load_state_dict(state)
    assert loss.exponent == 0.5
    other = nn.ModuleDict({"criterion": CDBLoss(2, tau=2)})
    with pytest.raises(ValueError, match="tau 2.0, not 0.5"):
        nn.ModuleDict({"criterion": loss}).load_state_dict(other.state_dict())


def test_a_refused_state_changes_nothing():
    other, loss = CDBLoss(2, tau=2), CDBLoss(2, tau=0.5)
    other.update_from_accuracy([0.75, 0.25])
    with pytest.raises(ValueError, match="tau"):
        loss.load_state_dict(other.state_dict())
    assert loss.weight.tolist() == [1, 1]


@pytest.mark.parametrize("exponent", [math.nan, 2.0])
def test_an_older_state_has_no_settings_and_is_taken(exponent):
    """Of a dynamic tau before its first update, or of another tau: here the constructor's 1 stays. d = .2, .6."""
    loss = CDBLoss(2, tau=1)
    loss.load_state_dict({"weight": torch.tensor([0.4, 1.6]), "exponent": torch.tensor(exponent)})
    assert loss.weight.tolist() == pytest.approx([0.4, 1.6]) and loss.exponent == 1
    loss.update_from_accuracy([0.8, 0.4])
    assert loss.weight.tolist() == pytest.approx([0.5, 1.5])
    smoothed = CDBLoss(2, difficulty="smoothed")
    counts = {"correct": torch.tensor([8.0, 2.0]), "total": torch.tensor([10.0, 10.0])}
    smoothed.load_state_dict({"weight": torch.ones(2), "exponent": torch.tensor(math.nan), **counts})
    assert smoothed.correct.tolist() == [8, 2]


def test_a_state_is_tensors_alone():
    """For safetensors, and for code that copies each tensor of a state."""
    state = CDBLoss(2, class_counts=[2, 1]).state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32, torch.uint8}
    CDBLoss(2, class_counts=[2, 1]).load_state_dict({key: value.clone() for key, value in state.items()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_16_bit_keeps_the_counts_in_32(dtype):
    """In 16 bit 100,000 images are inf, or 99,840: here d = .2 and .1, and the weights 4/3 and 2/3 of tau 1."""
    loss = CDBLoss(2, tau=1, difficulty="smoothed", class_counts=[300_000, 3])
    nn.Sequential(nn.Linear(2, 2), loss).to(dtype)
    loss.update([80_000, 90_000], [100_000, 100_000])
    assert {buffer.dtype for buffer in loss.buffers()} == {torch.float32}
    assert loss.weight.tolist() == pytest.approx([4 / 3, 2 / 3], rel=2e-3)
    assert loss.log_counts[0].item() == pytest.approx(math.log(300_000))
    assert loss.double().weight.dtype == torch.float64


def test_smoothed_difficulty_of_unequal_classes_is_centred_on_the_mean_of_their_accuracies():
    """Mean of .9 and .1: .5. d = (1 + 50) / 110 and (81 + 50) / 190. By images the centre would be .18."""
    loss = CDBLoss(2, tau=1, difficulty="smoothed")
    loss.update([9, 9], [10, 90])
    raw = [51 / 110, 131 / 190]
    assert loss.weight.tolist() == pytest.approx([2 * value / sum(raw) for value in raw])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(2, 300), st.integers(0, 10_000))
def test_balanced_classes_have_the_bits_of_a_centre_by_images(images, classes, seed):
    """As published runs computed it: all images that are recognised over all images."""
    generator = torch.Generator().manual_seed(seed)
    correct, total = torch.zeros(classes), torch.zeros(classes)
    for _ in range(5):
        correct = correct * 0.9 + torch.randint(images + 1, (classes,), generator=generator)
        total = total * 0.9 + images
    correct, total = correct.double(), total.double()
    centre = correct.sum() / total.sum()
    expected = (correct + 100 * centre) / (total + 100)
    assert torch.equal(cdb_loss.smoothed_accuracy(correct, total), expected)


def test_a_weight_of_0_warns_once():
    loss = CDBLoss(3, tau=1)
    with pytest.warns(UserWarning, match='class 0, 2 .*difficulty="smoothed"') as warned:
        for _ in range(3):
            loss.update([5, 4, 5], [5, 5, 5])
    assert len(warned) == 1 and warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CDBLoss(3, difficulty="smoothed").update([5, 4, 5], [5, 5, 5])


def test_numbers_of_numpy_are_settings():
    assert CDBLoss(np.int64(3), tau=np.float32(1.5)).exponent == 1.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_classes": torch.ones(5)}, "num_classes .* a tensor of shape .5,.*weight="),
        ({"num_classes": 2.5}, "num_classes .*2.5"),
        ({"num_classes": 2, "tau": True}, "tau .*True"),
        ({"num_classes": 2, "tau": torch.ones(2)}, "tau .*a tensor"),
        ({"num_classes": 3, "class_counts": [1, 2, math.nan]}, "class_counts .*class 2 has nan"),
        ({"num_classes": 3, "class_counts": [1, 2]}, "class_counts .*3 classes, not 2"),
        ({"num_classes": 3, "weight": [1, -1, 1]}, "weight .*class 1 has -1"),
        ({"num_classes": 3, "focal_gamma": math.inf}, "focal_gamma .*inf"),
    ],
)
def test_settings_that_were_taken_or_ended_in_a_traceback_of_pytorch(settings, words):
    with pytest.raises(ValueError, match=words):
        CDBLoss(**settings)


def test_errors_of_100_000_classes_are_lines():
    many = 100_000
    loss, ones = CDBLoss(many), torch.ones(many, dtype=torch.long)
    calls = [
        lambda: CDBLoss(many, class_counts=[0] * many),
        lambda: loss.update(2 * ones, ones),
        lambda: loss.update(0 * ones, 0 * ones),
        lambda: loss.update_from_accuracy([2.0] * many),
        lambda: loss.load_state_dict(CDBLoss(many, class_counts=ones).state_dict()),
    ]
    for call in calls:
        with pytest.raises(ValueError) as error:
            call()
        assert len(str(error.value)) < 250


# Costs of one's own.


def test_costs_multiply_the_difficulty_weights():
    """Costs 2 and 1, weights 1/2 and 3/2, even logits: (1 + 1.5) / 2 log 2; over the summed products 2.5, log 2."""
    for reduction, expected in (("mean", 1.25 * math.log(2)), ("weighted_mean", math.log(2))):
        loss = CDBLoss(2, tau=1, reduction=reduction, weight=torch.tensor([2.0, 1.0]))
        loss.update_from_accuracy([0.75, 0.25])
        assert loss.weight.tolist() == pytest.approx([0.5, 1.5])
        assert loss(torch.zeros(2, 2), torch.tensor([0, 1])).item() == pytest.approx(expected)
    assert dict(loss.named_buffers())["costs"].tolist() == [2, 1]
    assert "costs" not in dict(CDBLoss(2).named_buffers())
