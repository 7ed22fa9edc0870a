"""Each rival loss against a value computed by hand or by an independent formula."""

import math
import re
from argparse import ArgumentParser, Namespace

import pytest
import torch

import cdb_loss
from cdb_loss import CDBLoss
from conftest import ROOT
from longtail.loss_flags import add_loss_arguments, build_loss, complete_loss_arguments
from longtail.losses import (
    BETA,
    DIFFICULTY,
    EQL_GAMMA,
    GAMMA,
    LDAM_MAX_MARGIN,
    LDAM_SCALE,
    LOSSES,
    REDUCTION,
    TAU,
    BalancedSoftmaxLoss,
    CDBMarginLoss,
    ClassBalancedFocalLoss,
    ClassBalancedLoss,
    ClassLoss,
    DBMLoss,
    EqualizationLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustmentLoss,
    build_rival,
    effective_number_weights,
    loss_settings,
)

RIVALS = [loss.name for loss in LOSSES if not loss.measures_difficulty]
COUNTS = [100, 10, 1]
LOGITS = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.2, 0.1]])
LABELS = torch.tensor([0, 2])


def softmax(row):
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


P = [softmax(row)[label] for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)]


def test_cross_entropy():
    assert ClassLoss(COUNTS)(LOGITS, LABELS).item() == pytest.approx(-(math.log(P[0]) + math.log(P[1])) / 2)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal(gamma):
    expected = sum(-((1 - p) ** gamma) * math.log(p) for p in P) / 2
    assert FocalLoss(COUNTS, gamma)(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_equalization_leaves_rare_classes_out_of_the_denominator():
    loss = EqualizationLoss(COUNTS, gamma=1.0, lambda_=0.05)  # shares .901 .090 .009: class 2 is rare
    first = -math.log(math.e / (math.e + 1))  # class 2 ignored, since it is not the label
    second = -math.log(P[1])  # class 2 is the label, and stays
    assert loss(LOGITS, LABELS).item() == pytest.approx((first + second) / 2)


def test_equalization_draws_with_probability_gamma():
    torch.manual_seed(0)
    loss = EqualizationLoss([1000, 1], gamma=0.9, lambda_=0.005)
    logits, labels = torch.zeros(20_000, 2), torch.zeros(20_000, dtype=torch.long)
    assert loss(logits, labels).item() / math.log(2) == pytest.approx(0.1, abs=0.01)  # ignored: loss 0; else log 2
    assert EqualizationLoss([1000, 1], gamma=0.0)(logits, labels).item() == pytest.approx(math.log(2))


def test_equalization_takes_a_class_at_the_threshold_for_frequent():
    """Shares 16, 10 and 6 of 32, against 10 / 32."""
    assert EqualizationLoss([16, 10, 6], lambda_=0.3125).rare.tolist() == [False, False, True]


def test_effective_number_weights():
    raw = [0.1 / (1 - 0.9**n) for n in COUNTS]
    expected = [3 * value / sum(raw) for value in raw]
    assert effective_number_weights(torch.tensor([100.0, 10.0, 1.0]), 0.9).tolist() == pytest.approx(expected)


def test_class_balanced_softmax():
    weight = effective_number_weights(torch.tensor([100.0, 10.0, 1.0]), 0.9).tolist()
    expected = -(weight[0] * math.log(P[0]) + weight[2] * math.log(P[1])) / 2
    assert ClassBalancedLoss(COUNTS, 0.9)(LOGITS, LABELS).item() == pytest.approx(expected)


def test_class_balanced_focal_is_over_sigmoids():
    weight = effective_number_weights(torch.tensor([100.0, 10.0, 1.0]), 0.9).tolist()
    expected = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        for c, logit in enumerate(row):
            p = 1 / (1 + math.exp(-logit if c == label else logit))
            expected -= weight[label] * (1 - p) ** 2 * math.log(p) / 2
    assert ClassBalancedFocalLoss(COUNTS, 0.9, 2)(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_ldam_margins_and_deferred_weights():
    loss = LDAMLoss([16, 1], beta=0.9)  # n ** -1/4 = 1/2, 1: margins .25, .5
    assert loss.margins.tolist() == pytest.approx([LDAM_MAX_MARGIN / 2, LDAM_MAX_MARGIN])
    logits, labels = torch.tensor([[0.3, 0.1], [0.2, 0.4]]), torch.tensor([0, 1])

    def margin_loss(own, other, margin):
        return math.log(1 + math.exp(LDAM_SCALE * (other - own + margin)))

    each = [margin_loss(0.3, 0.1, 0.25), margin_loss(0.4, 0.2, 0.5)]
    assert loss(logits, labels).item() == pytest.approx(sum(each) / 2, rel=1e-5)
    loss.start_epoch(0.66)
    assert loss.weight.tolist() == [1, 1]
    loss.start_epoch(160 / 240)
    weights = [0.1 / (1 - 0.9**16), 1.0]
    expected = (weights[0] * each[0] + weights[1] * each[1]) / sum(weights)
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    each = [margin_loss(0.3, 0.1, 0.25), margin_loss(0.2, 0.4, 0.25)]  # two of class 0: its weight cancels out
    assert loss(logits, torch.tensor([0, 0])).item() == pytest.approx(sum(each) / 2, rel=1e-5)


def test_logit_adjustment():
    prior = [100 / 111, 10 / 111, 1 / 111]
    expected = (
        -sum(
            math.log(softmax([z + math.log(q) for z, q in zip(row, prior, strict=True)])[label])
            for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)
        )
        / 2
    )
    assert LogitAdjustmentLoss(COUNTS)(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_balanced_softmax():
    expected = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        terms = [n * math.exp(z) for n, z in zip(COUNTS, row, strict=True)]
        expected -= math.log(terms[label] / sum(terms)) / 2
    assert BalancedSoftmaxLoss(COUNTS)(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


def dbm_loss(cosines, label, margin, counts):
    """The loss of one image by its angles: the true class's grows by `margin`."""
    angles = [math.acos(cosine) for cosine in cosines]
    angles[label] += margin
    terms = [n * math.exp(32 * math.cos(angle)) for n, angle in zip(counts, angles, strict=True)]
    return -math.log(terms[label] / sum(terms))


def test_dbm_margins_grow_with_rarity_and_with_the_difficulty_of_a_wrong_image():
    """Margins 0.1 * 10 / 40 and 0.1. The second image is wrong at cosine -0.28: 0.1 (1 + 1.28 / 2) = 0.164.

    The third is right by its cosine 0.5 against 0.48, though the prior alone would call it the other class.
    """
    loss = DBMLoss([40, 10], reduction="none")
    cosines = torch.tensor([[0.6, 0.55], [0.6, -0.28], [0.48, 0.5]])
    margins = [0.025, 0.164, 0.1]
    labels = [0, 1, 1]
    expected = [
        dbm_loss(row, label, margin, [40, 10])
        for row, label, margin in zip(cosines.tolist(), labels, margins, strict=True)
    ]
    assert loss(cosines, torch.tensor(labels)).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("cosine", [1.0, -1.0, 1 - 1e-7, -1 + 1e-7, 1 + 1e-6, -1 - 1e-6])
def test_dbm_has_finite_gradients_at_the_smallest_and_the_largest_angle(cosine):
    """Near 0 and pi the sine's gradient, which has no bound, is left out: 32 cos(margin) remains."""
    cosines = torch.tensor([[cosine, 0.1]], requires_grad=True)
    loss = DBMLoss([2, 1])(cosines, torch.tensor([0]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(cosines.grad).all()
    assert cosines.grad.abs().max() <= 32


def test_difficulty_weighs_what_margins_move():
    """Of 2 classes with 3/4 and 1/4 right at tau 1: weights 0.5 and 1.5."""
    criterion = CDBMarginLoss([40, 10], CDBLoss(2, 1.0, class_counts=[40, 10]))
    criterion.start_epoch(0.5)
    criterion.update(torch.tensor([3, 1]), torch.tensor([4, 4]))
    assert criterion.weight.tolist() == pytest.approx([0.5, 1.5]) and criterion.exponent == 1
    expected = 0.5 * dbm_loss([0.6, 0.55], 0, 0.025, [40, 10]) + 1.5 * dbm_loss([0.6, -0.28], 1, 0.164, [40, 10])
    loss = criterion(torch.tensor([[0.6, 0.55], [0.6, -0.28]]), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(expected / 2, rel=1e-4)


def test_what_makes_logits_of_cosines():
    scales = {loss.name: loss.cosine_scale for loss in LOSSES}
    assert (scales["LDAM-DRW"], scales["DBM-BS"], scales["CDB-DBM"], scales["Balanced_Softmax"]) == (30, 32, 32, 0)


@pytest.mark.parametrize(
    ("loss_type", "name"), [("CB_Softmax", "weight"), ("CB_Focal", "weight"), ("LDAM-DRW", "deferred_weight")]
)
def test_build_rival_passes_beta_on(loss_type, name):
    """Of 1 and 2 images, at beta 1/2: 1 and (1/2) / (3/4) = 2/3, scaled to 6/5 and 4/5."""
    assert getattr(build_rival(loss_type, [1, 2], beta=0.5), name).tolist() == pytest.approx([1.2, 0.8])


@pytest.mark.parametrize("loss_type", RIVALS)
def test_every_loss_builds_runs_and_updates(loss_type):
    loss = build_rival(loss_type, COUNTS)
    logits = LOGITS.clone().requires_grad_()
    loss(logits, LABELS).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0
    loss.update(torch.tensor([5, 2, 0]), torch.tensor([5, 5, 5]))
    assert loss.weight.sum().item() == pytest.approx(3)


def test_build_rival_passes_the_settings_on():
    assert build_rival("FL", COUNTS, gamma=3.0).gamma == 3
    assert build_rival("EQL", COUNTS, eql_lambda=0.5).rare.tolist() == [False, True, True]
    assert build_rival("EQL", COUNTS, eql_gamma=0.3).gamma == 0.3
    assert build_rival("CB_Focal", COUNTS, gamma=3.0).gamma == 3
    with pytest.raises(ValueError, match="'Focal'"):
        build_rival("Focal", COUNTS)
    with pytest.raises(ValueError, match="class 1"):
        build_rival("CE", [3, 0])


# The table of losses.


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_loss_of_one_true_class_refuses_probabilities(loss):
    criterion = build_loss(defaults(loss.name), COUNTS, CDBLoss)
    probabilities = torch.tensor([[0.5, 0.25, 0.25]])
    if loss.name in ("FL", "EQL", "CB_Focal", "LDAM-DRW", "DBM-BS", "CDB-FL", "CDB-DBM"):
        with pytest.raises(ValueError, match="class indices"):
            criterion(torch.zeros(1, 3), probabilities)
    else:
        assert torch.isfinite(criterion(torch.zeros(1, 3), probabilities))


def defaults(loss_type: str) -> Namespace:
    """The settings of a loss without any flag but its name."""
    parser = ArgumentParser()
    add_loss_arguments(parser)
    args = parser.parse_args(["--loss_type", loss_type])
    complete_loss_arguments(args)
    return args


def test_the_published_defaults():
    """Focal gamma 1 of the released code, beta of Cui et al., 0.9 and 0.005 of Tan et al., the paper's tau."""
    assert {setting.name: setting.default for setting in loss_settings()} == {
        "gamma": 1.0,
        "beta": 0.9999,
        "eql_gamma": 0.9,
        "eql_lambda": 0.005,
        "tau": "dynamic",
        "difficulty": "paper",
        "reduction": "mean",
    }


@pytest.mark.parametrize("loss_type", RIVALS)
def test_the_table_and_the_classes_have_the_same_defaults(loss_type):
    plain = build_rival(loss_type, COUNTS)
    from_table = build_loss(defaults(loss_type), COUNTS, CDBLoss)
    torch.manual_seed(0)
    expected = plain(LOGITS, LABELS)
    torch.manual_seed(0)
    assert from_table(LOGITS, LABELS) == expected
    assert getattr(from_table, "gamma", None) == getattr(plain, "gamma", None)


def test_the_table_takes_what_cdb_loss_takes():
    assert TAU.words == cdb_loss.DYNAMIC_TAU
    assert DIFFICULTY.words == cdb_loss.DIFFICULTIES
    assert set(REDUCTION.words) < set(cdb_loss.REDUCTIONS)


@pytest.mark.parametrize(
    ("setting", "value", "meaning"),
    [
        (TAU, "dynamic", "dynamic"),
        (TAU, "1.5", 1.5),
        (TAU, 2, 2.0),
        (TAU, 0, None),
        (TAU, math.nan, None),
        (TAU, math.inf, None),
        (TAU, True, None),
        (TAU, "fast", None),
        (DIFFICULTY, "smoothed", "smoothed"),
        (DIFFICULTY, 1.5, None),
        (GAMMA, "0", 0.0),
        (GAMMA, "100", None),
        (BETA, 0, None),
        (BETA, 1, None),
        (EQL_GAMMA, "1", 1.0),
        (EQL_GAMMA, "1.01", None),
    ],
)
def test_values_of_a_setting(setting, value, meaning):
    if meaning is not None:
        assert setting.read(value) == meaning
    else:
        with pytest.raises(ValueError, match=re.escape(f"must be {setting.allowed}, not {value!r}")):
            setting.read(value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss_type", "CDB-CE", "--gamma", "2"], "--gamma 2.0 .* CDB-CE.*FL, CB_Focal, CDB-FL"),
        (["--loss_type", "CE", "--tau", "1.5"], "--tau 1.5 .* CE: .*CDB-CE, CDB-FL, CDB-BS"),
        (["--loss_type", "CE", "--tau", "dynamic"], "--tau dynamic .* CE"),
        (["--loss_type", "EQL", "--reduction", "mean"], "--reduction mean .* EQL"),
        (["--loss_type", "FL", "--beta", "0.5"], "--beta 0.5 .* FL"),
    ],
)
def test_a_flag_without_effect_is_refused(flags, message):
    """Also one that repeats the default: whoever types it believes that it does something."""
    parser = ArgumentParser()
    add_loss_arguments(parser)
    with pytest.raises(ValueError, match=message):
        complete_loss_arguments(parser.parse_args(flags))


def test_a_new_loss_is_a_class_and_an_entry_of_the_table(shell, tmp_path):
    """Flags and their check, help, a training, the names in tables and pictures, and the YAML follow."""
    lines = (ROOT / "ImageNet-LT/config/ImageNet_LT/feat_uniform.yaml").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("loss_type")]
    (tmp_path / "x.yaml").write_text("\n".join([*lines, "loss_type: Tempered", "heat: 3"]))
    run = shell(ROOT / "tests/new_loss.py", tmp_path)
    assert run.stdout == "works everywhere\n", run.stderr


def test_two_processes_are_one(processes, tmp_path):
    """The batch is in loss_in_processes.py: images 0, 1 and 2 are recognised, image 3 is not. The mean of the losses of
    both processes is the loss of the whole batch.
    """
    run = processes(2, ROOT / "tests/loss_in_processes.py", tmp_path)
    assert run.returncode == 0, run.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    margins, deferred = [0.25, 0.5], [0.1 / (1 - 0.9**16), 1.0]
    whole = {"CDB": [], "LDAM-DRW": []}
    for (a, b), label in zip([(0.3, 0.1), (0.2, 0.4), (0.5, 0.0), (0.1, 0.6)], [0, 1, 0, 0], strict=True):
        gap = (b - a) * (1 if label == 0 else -1)
        whole["CDB"].append(([0.5, 1.5][label], math.log(1 + math.exp(gap))))
        whole["LDAM-DRW"].append((deferred[label], math.log(1 + math.exp(LDAM_SCALE * (gap + margins[label])))))
    for name, pairs in whole.items():
        expected = sum(weight * loss for weight, loss in pairs) / sum(weight for weight, _ in pairs)
        assert (first[name] + second[name]) / 2 == pytest.approx(expected, rel=1e-5)
    # Counted twice: class 0 has 4 of 6, class 1 2 of 2; with 100 more at their mean, 5 / 6.
    raw = [(2 + 100 / 6) / 106, 100 / 6 / 102]
    for found in (first, second):
        assert found["accuracy"] == pytest.approx([2 / 3, 1])
        assert found["total"] == [6, 2]
        assert found["weight"] == pytest.approx([2 * value / sum(raw) for value in raw])
        assert found["alone"] == pytest.approx([2 / 3, 1])
        assert found["by hand"] == pytest.approx([0.5, 1.5])
