"""Every loss takes what nn.CrossEntropyLoss takes, and equals it where no class weighs more than another."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cdb_loss import CDBLoss
from longtail.losses import LOSSES, build_rival

RIVALS = [loss.name for loss in LOSSES if not loss.measures_difficulty]
LABELS_ONLY = ["FL", "EQL", "CB_Focal", "LDAM-DRW", "DBM-BS"]
C = 5
COUNTS = [80, 40, 20, 10, 5]
BALANCED = [16] * C  # a constant added to all logits, or equal weights: cross-entropy
LIKE_CROSS_ENTROPY = {
    "CE": {},
    "FL": {"gamma": 0.0},
    "EQL": {"eql_gamma": 0.0},
    "CB_Softmax": {},
    "Balanced_Softmax": {},
    "Logit_Adjustment": {},
}


def all_equal_losses(**options):
    """Each loss with settings by which it is cross-entropy."""
    yield CDBLoss(C, **options)
    yield CDBLoss(C, difficulty="smoothed", class_counts=BALANCED, **options)
    for name, setting in LIKE_CROSS_ENTROPY.items():
        if not (name in ("FL", "EQL") and options.get("label_smoothing")):
            yield build_rival(name, BALANCED, **setting, **options)


@st.composite
def inputs(draw):
    """Logits and targets of each shape, kind and width that nn.CrossEntropyLoss takes, and its options."""
    batch = draw(st.sampled_from([(), (1,), (4,), (3, 2), (2, 3, 2), (2, 1, 2, 3)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    shape = (*batch[:1], C, *batch[1:])
    logits = torch.randn(shape, generator=generator, dtype=draw(st.sampled_from([torch.float32, torch.float64])))
    options = {
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1])),
    }
    if draw(st.booleans()):
        return (
            logits,
            logits.new_empty(shape).uniform_(0.1, 1, generator=generator).softmax(min(1, len(batch))),
            options,
        )
    options["ignore_index"] = draw(st.sampled_from([-100, 255, 2]))
    labels = torch.randint(C, batch, generator=generator)
    ignored = torch.rand(batch, generator=generator) < draw(st.sampled_from([0.0, 0.3]))
    if ignored.all():  # PyTorch's mean is nan there; see test_nothing_counts
        ignored = torch.zeros_like(ignored)
    labels = labels.masked_fill(ignored, options["ignore_index"])
    return logits, labels if (labels != options["ignore_index"]).any() else labels.fill_(1), options


@settings(max_examples=60, deadline=None)
@given(inputs())
def test_equal_weights_are_cross_entropy(case):
    logits, target, options = case
    reference = logits.clone().requires_grad_()
    expected = nn.CrossEntropyLoss(**options)(reference, target)
    expected.sum().backward()
    for criterion in all_equal_losses(**options):
        if target.is_floating_point() and getattr(criterion, "labels_only", ""):
            continue
        leaf = logits.clone().requires_grad_()
        loss = criterion(leaf, target)
        loss.sum().backward()
        assert loss.shape == expected.shape
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(leaf.grad, reference.grad, rtol=1e-5, atol=1e-6)


def surely(loss_type, **options):
    """A rival without chance: EQL leaves every rare class out."""
    chance = {"EQL": {"eql_gamma": 1.0}}
    return build_rival(loss_type, COUNTS, **chance.get(loss_type, {}), **options)


def weighted(reduction):
    """A CDB loss whose weights are 0.2, 0.6, 1, 1.4, 1.8."""
    criterion = CDBLoss(C, tau=1, reduction=reduction)
    criterion.update([9, 7, 5, 3, 1], [10] * C)
    return criterion


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_weights_apply_as_in_pytorch(probabilities, label_smoothing):
    """ "weighted_mean" is what nn.CrossEntropyLoss(weight=...) calls mean, whatever the target."""
    torch.manual_seed(0)
    logits = torch.randn(4, C, 3)
    target = (
        torch.rand(4, C, 3).softmax(1)
        if probabilities
        else torch.tensor([[0, 4, -100], [1, 1, 2], [3, 0, 0], [-100, 2, 4]])
    )
    criterion = weighted("weighted_mean")
    criterion.label_smoothing = label_smoothing
    expected = nn.CrossEntropyLoss(torch.tensor([0.2, 0.6, 1.0, 1.4, 1.8]), label_smoothing=label_smoothing)(
        logits, target
    )
    assert criterion(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


def log_softmax(row):
    row = np.asarray(row, dtype=float)
    return row - math.log(np.exp(row).sum())


def test_pixels_are_elements():
    """(2, 5, 8, 8): the mean over 128 pixels, summed up one by one."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, C, 8, 8), torch.randint(C, (2, 8, 8))
    weight = [0.2, 0.6, 1.0, 1.4, 1.8]
    expected = np.mean(
        [
            -weight[labels[n, i, j]] * log_softmax(logits[n, :, i, j])[labels[n, i, j]]
            for n in range(2)
            for i in range(8)
            for j in range(8)
        ]
    )
    assert weighted("mean")(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss_type", ["Balanced_Softmax", "Logit_Adjustment"])
def test_counts_are_added_along_the_classes(loss_type):
    """Also where the picture is as wide as there are classes, (N, 5, 2, 5)."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, C, 2, C), torch.randint(C, (2, 2, C))
    expected = np.mean(
        [
            -log_softmax(logits[n, :, i, j].numpy() + np.log(COUNTS))[labels[n, i, j]]
            for n in range(2)
            for i in range(2)
            for j in range(C)
        ]
    )
    assert build_rival(loss_type, COUNTS)(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    assert CDBLoss(C, class_counts=COUNTS)(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_labels_to_ignore():
    """Labels of -100 leave the mean to the others: one image of weight 1.8, one of 0.2, two that do not count."""
    logits, labels = torch.zeros(4, C), torch.tensor([4, -100, 0, -100])
    assert weighted("mean")(logits, labels).item() == pytest.approx((1.8 + 0.2) / 2 * math.log(5))
    assert weighted("none")(logits, labels).tolist() == pytest.approx([1.8 * math.log(5), 0, 0.2 * math.log(5), 0])


def test_mixup_targets():
    """Probabilities .7 of class 0 (weight .2) and .3 of class 4 (weight 1.8), even logits: (.14 + .54) log 5."""
    target = torch.tensor([[0.7, 0.0, 0.0, 0.0, 0.3]])
    assert weighted("mean")(torch.zeros(1, C), target).item() == pytest.approx(0.68 * math.log(5))


def test_one_sample_without_a_batch_axis():
    assert weighted("mean")(torch.zeros(C), torch.tensor(3)).item() == pytest.approx(1.4 * math.log(5))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_any_integer_type(dtype):
    assert weighted("mean")(torch.zeros(2, C), torch.tensor([0, 4], dtype=dtype)).item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("loss_type", ["CDB", *RIVALS])
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "sum"])
def test_nothing_counts(loss_type, reduction):
    """The loss and the gradient are 0, where PyTorch's mean is nan."""
    criterion = (
        CDBLoss(C, reduction=reduction) if loss_type == "CDB" else build_rival(loss_type, COUNTS, reduction=reduction)
    )
    logits = torch.zeros(2, C, requires_grad=True)
    loss = criterion(logits, torch.full((2,), -100))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss_type", ["CDB", *RIVALS])
def test_half_precision(loss_type, dtype):
    """The losses of 16-bit logits are those of the same logits in 32 bit, rounded once, and so is their sum."""
    torch.manual_seed(0)
    logits, labels = torch.randn(4096, C).to(dtype).requires_grad_(), torch.randint(C, (4096,))
    for reduction in ("none", "sum"):
        criterion = weighted(reduction) if loss_type == "CDB" else surely(loss_type, reduction=reduction)
        loss = criterion(logits, labels)
        assert loss.dtype == dtype
        assert torch.equal(loss, criterion(logits.float(), labels).to(dtype))
    loss.backward()
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize("loss_type", LABELS_ONLY)
def test_what_has_no_meaning_is_refused_in_one_line(loss_type):
    with pytest.raises(ValueError, match=r"^\w+ needs class indices[^\n]*$"):
        build_rival(loss_type, COUNTS)(torch.zeros(2, C), torch.full((2, C), 0.2))
    with pytest.raises(ValueError, match=r"^\w+ [^\n]*label_smoothing[^\n]*$"):
        build_rival(loss_type, COUNTS, label_smoothing=0.1)


def test_the_focal_variant_refuses_probabilities():
    with pytest.raises(ValueError, match="class indices as targets"):
        CDBLoss(C, focal_gamma=1)(torch.zeros(2, C), torch.full((2, C), 0.2))
    with pytest.raises(ValueError, match="label_smoothing .*focal_gamma"):
        CDBLoss(C, focal_gamma=1, label_smoothing=0.1)


@pytest.mark.parametrize("loss_type", RIVALS)
def test_rivals_on_pixels_are_rivals_on_rows(loss_type):
    """The losses of (N, C, H, W) are those of its pixels as rows of (N * H * W, C)."""
    torch.manual_seed(0)
    criterion = surely(loss_type, reduction="none")
    logits, labels = torch.randn(2, C, 3, 4), torch.randint(C, (2, 3, 4))
    labels[0, 0, 0] = -100
    rows = criterion(logits.permute(0, 2, 3, 1).reshape(-1, C), labels.flatten())
    torch.testing.assert_close(criterion(logits, labels).flatten(), rows)
    torch.testing.assert_close(criterion(logits[0, :, 1, 2], labels[0, 1, 2]), rows[6])  # without a batch axis


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list, lambda values: torch.tensor(values, dtype=torch.int32)])
def test_update_takes_tensors_arrays_and_lists(kind):
    criterion = CDBLoss(3, tau=1)
    criterion.update(kind([3, 1, 0]), kind([4, 2, 4]))  # d = 1/4, 1/2, 1
    assert criterion.weight.tolist() == pytest.approx([3 / 7, 6 / 7, 12 / 7])


def test_update_from_accuracy_takes_an_array():
    criterion = CDBLoss(2, tau=1)
    criterion.update_from_accuracy(np.array([0.75, 0.25]))
    assert criterion.weight.tolist() == pytest.approx([0.5, 1.5])


def test_what_print_shows():
    assert str(CDBLoss(7, tau=1.5)) == "CDBLoss(7, tau=1.5, reduction=mean, difficulty=paper)"
    assert "difficulty=smoothed, label_smoothing=0.1" in str(CDBLoss(7, difficulty="smoothed", label_smoothing=0.1))


def test_compiles_as_one_graph():
    """On the eager backend: what is tested is that nothing breaks the graph."""
    torch.manual_seed(0)
    logits, labels = torch.randn(8, C), torch.randint(C, (8,))
    for criterion in (
        weighted("mean"),
        weighted("weighted_mean"),
        CDBLoss(C, class_counts=COUNTS, focal_gamma=1.0),
        *[surely(name) for name in RIVALS],
    ):
        torch.compiler.reset()  # all losses share one forward, and dynamo stops at eight versions of a function
        compiled = torch.compile(criterion, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(logits, labels), criterion(logits, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss_type", ["CDB", *RIVALS])
def test_under_autocast_the_loss_is_in_32_bit(loss_type, dtype):
    """As nn.CrossEntropyLoss's; a sum over 40,000 elements is inf in fp16, and a gradient goes back in 16 bit."""
    torch.manual_seed(0)
    criterion = weighted("sum") if loss_type == "CDB" else surely(loss_type, reduction="sum")
    inputs = torch.randn(40_000, C)
    labels = torch.randint(C, (40_000,))
    with torch.autocast("cpu", dtype):
        logits = (inputs @ (4 * torch.eye(C))).requires_grad_()
        loss = criterion(logits, labels)
        usual = nn.CrossEntropyLoss()(logits, labels)
    assert logits.dtype == dtype
    assert loss.dtype == usual.dtype == torch.float32
    assert loss.item() == criterion(logits.detach().float(), labels).item() > 4e4
    loss.backward()
    assert logits.grad.dtype == dtype


def test_64_bit_logits_stay_in_64_bit_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert weighted("mean")(torch.zeros(2, C, dtype=torch.double), torch.tensor([0, 1])).dtype == torch.double


def test_is_a_cross_entropy_loss_by_type_and_by_keyword():
    """Frameworks ask for the type: skorch's predict_proba applies a softmax for that one alone."""
    criterion = weighted("mean")
    assert isinstance(criterion, nn.CrossEntropyLoss)
    loss = criterion(input=torch.zeros(1, C), target=torch.tensor([4]))
    assert loss.item() == pytest.approx(1.8 * math.log(C))
    assert build_rival("CE", COUNTS)(input=torch.zeros(1, C), target=torch.tensor([4])).item() == pytest.approx(
        math.log(C)
    )


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_batch_of_solved_classes_has_no_loss(label_smoothing):
    """Class 0 is solved and weighs 0, so the batch's summed weights are 0; PyTorch's quotient would be inf or nan."""
    criterion = CDBLoss(2, tau=1, reduction="weighted_mean", label_smoothing=label_smoothing)
    with pytest.warns(UserWarning, match="class 0"):
        criterion.update([5, 0], [5, 5])
    logits = torch.tensor([[1.0, 2.0], [3.0, 1.0]], requires_grad=True)
    loss = criterion(logits, torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(2, 3), (2, 1), (2, 3, 4), (3,)])
@pytest.mark.parametrize("options", [{}, {"focal_gamma": 1.0}, {"class_counts": COUNTS}])
def test_logits_of_another_number_of_classes_are_refused(shape, options):
    target = torch.zeros(shape[:1] + shape[2:], dtype=torch.long) if len(shape) > 1 else torch.tensor(0)
    for criterion in (CDBLoss(C, **options), build_rival("FL", COUNTS)):
        with pytest.raises(ValueError, match=f"classes; .* {C}"):
            criterion(torch.zeros(shape), target)


@pytest.mark.parametrize("loss_type", RIVALS)
def test_one_loop_serves_every_rival(loss_type):
    """Classes 0 to 4 with 1 image each, of which 0 and 2 are recognised; class 4's is ignored."""
    criterion = build_rival(loss_type, COUNTS)
    logits = torch.eye(C)[[0, 0, 2, 0, 4]]
    criterion.count(logits, torch.tensor([0, 1, 2, 3, -100]))
    accuracy = criterion.update()
    assert accuracy[:4].tolist() == [1, 0, 1, 0] and math.isnan(accuracy[4])
    criterion.count(logits, torch.arange(C))
    criterion.reset()
    with pytest.raises(ValueError, match="nothing was counted"):
        criterion.update()
    assert criterion.update([1] * C, [2] * C).tolist() == [0.5] * C
    with pytest.raises(ValueError, match="both"):
        criterion.update([1] * C)
    with pytest.raises(ValueError, match="shape"):
        criterion.count(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, dtype=torch.long))


class Waits(TorchDispatchMode):
    """Collect the operations whose result's shape or value the host has to wait for, on a GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(operation.tags):
            self.seen.append(str(operation))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss_type", ["CDB", *RIVALS])
def test_counting_does_not_wait_for_a_gpu(loss_type):
    criterion = weighted("mean") if loss_type == "CDB" else build_rival(loss_type, COUNTS)
    with Waits() as waits:
        criterion.count(torch.randn(8, C), torch.arange(8) % C)
        torch.arange(8).bincount()
    assert waits.seen == ["aten.bincount.default"], "which is what would wait"


@pytest.mark.parametrize("loss_type", RIVALS)
def test_rivals_in_a_16_bit_model_keep_their_buffers_in_32(loss_type):
    """1,000,000 images are inf in fp16."""
    criterion = build_rival(loss_type, [1_000_000, 5]).half()
    assert {buffer.dtype for buffer in criterion.buffers()} <= {torch.float32, torch.bool}
    assert criterion.class_counts.tolist() == [1_000_000, 5]
