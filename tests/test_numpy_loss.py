"""CDBLoss against tests/numpy_loss.py, over what hypothesis draws: loss and gradient's sum, and the weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdb_loss import DIFFICULTIES, DYNAMIC_TAU, REDUCTIONS, CDBLoss
from numpy_loss import Difficulty, loss_of

pytestmark = pytest.mark.filterwarnings("ignore:every held-out image:UserWarning")
C = 4


@st.composite
def cases(draw):
    """A seed, the shape of a batch, options of the loss, and whether targets are probabilities."""
    seed = draw(st.integers(0, 10_000))
    batch = draw(st.sampled_from([(), (1,), (5,), (3, 4), (2, 3, 2)]))
    options = {"reduction": draw(st.sampled_from(REDUCTIONS))}
    if draw(st.booleans()):
        options["class_counts"] = draw(st.lists(st.integers(1, 500), min_size=C, max_size=C))
    if draw(st.booleans()):
        options["weight"] = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=C, max_size=C))
    kind = draw(st.sampled_from(["plain", "smoothing", "focal"]))
    if kind == "smoothing":
        options["label_smoothing"] = draw(st.sampled_from([0.1, 0.7]))
    if kind == "focal":
        options["focal_gamma"] = draw(st.sampled_from([0.5, 1.0, 2.0]))
    if draw(st.booleans()):
        options["ignore_index"] = draw(st.sampled_from([2, 255]))
    return seed, batch, options, kind != "focal" and draw(st.booleans())


@settings(max_examples=150, deadline=None)
@given(cases())
def test_the_loss(case):
    seed, batch, options, probabilities = case
    generator = np.random.default_rng(seed)
    shape = (*batch[:1], C, *batch[1:])
    logits = generator.normal(0, 2, shape)
    ignore = options.get("ignore_index", -100)
    if probabilities:
        target = generator.dirichlet(np.ones(C), batch)
        target = np.moveaxis(target, -1, min(1, len(batch)))
    else:
        target = generator.integers(0, C, batch)
        target = np.where(generator.random(batch) < 0.3, ignore, target)
    accuracy = generator.integers(0, 4, C) / 4
    criterion = CDBLoss(C, tau=1.5, **options)
    criterion.update_from_accuracy(accuracy)
    expected = loss_of(
        logits,
        target,
        C * (1 - accuracy) ** 1.5 / ((1 - accuracy) ** 1.5).sum(),
        options["reduction"],
        options.get("focal_gamma", 0.0),
        options.get("label_smoothing", 0.0),
        ignore,
        options.get("class_counts"),
        options.get("weight"),
    )
    loss = criterion(torch.from_numpy(logits), torch.from_numpy(np.asarray(target)))
    np.testing.assert_allclose(loss.flatten().numpy(), np.ravel(expected), rtol=1e-5, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(DIFFICULTIES),
    st.one_of(st.sampled_from(DYNAMIC_TAU), st.sampled_from([0.3, 1.0, 2.5])),
    st.integers(1, 4),
)
def test_the_weights(seed, difficulty, tau, passes):
    """Passes of 1 to 40 images a class, another number in each: counts are not balanced."""
    generator = np.random.default_rng(seed)
    criterion = CDBLoss(C, tau=tau, difficulty=difficulty)
    reference = Difficulty(C, tau, difficulty == "smoothed", [1.0] * C)
    for _ in range(passes):
        total = generator.integers(1, 40, C)
        correct = generator.binomial(total, 0.6)
        returned = criterion.update(correct, total)
        reference.update(correct.tolist(), total.tolist())
        np.testing.assert_allclose(returned.numpy(), correct / total, rtol=1e-6)
        np.testing.assert_allclose(criterion.weight.numpy(), reference.weight, rtol=2e-5, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(), (7,), (2, 3, 4)]), st.booleans())
def test_counts(seed, batch, as_predictions):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(*batch[:1], C, *batch[1:]))
    predicted = logits.argmax(min(1, len(batch)))
    target = generator.integers(0, C, batch)
    target = np.where(generator.random(batch) < 0.3, 255, target)
    criterion = CDBLoss(C, tau=1.0, difficulty="smoothed", ignore_index=255)
    total = [int((target == c).sum()) for c in range(C)]
    correct = [int(((target == c) & (predicted == c)).sum()) for c in range(C)]
    given_input = torch.from_numpy(np.asarray(predicted if as_predictions else logits))
    criterion.count(given_input, torch.from_numpy(np.asarray(target)))
    if not sum(total):
        with pytest.raises(ValueError, match="nothing was counted"):
            criterion.update()
        return
    expected = Difficulty(C, 1.0, True, [1.0] * C)
    expected.update(correct, total)
    accuracy = criterion.update()
    np.testing.assert_allclose(criterion.weight.numpy(), expected.weight, rtol=1e-5)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(accuracy.numpy(), np.array(correct) / np.array(total), rtol=1e-6)
