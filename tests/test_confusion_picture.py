"""The hardest classes, and what they are mistaken for: worked out by hand, and drawn."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from longtail import confusion_picture
from longtail.confusion_picture import answers, draw_confusion, hardest
from longtail.metrics import balanced_accuracy, report

LABELS, TAKEN = np.array([0] * 4 + [1] * 4 + [2] * 2 + [3] * 3), np.array([0, 0, 0, 1, 1, 1, 3, 3, 0, 0, 3, 3, 3])
# accuracies 3/4, 2/4, 0, 1; class 4 has no images
CONFUSION = torch.from_numpy(confusion_matrix(LABELS, TAKEN, labels=range(5)))


def test_the_hardest_classes_by_hand():
    assert hardest(CONFUSION, 3) == [2, 1, 0] and hardest(CONFUSION, 30) == [2, 1, 0, 3]
    figures = report(CONFUSION, [10] * 5, list("abcde")).entries()
    assert [entry["taken_for"] for entry in figures["classes"]] == ["b", "d", "a", None, None]
    assert figures["balanced_accuracy"] == pytest.approx((3 / 4 + 2 / 4 + 0 + 1) / 4)
    assert figures["accuracy"] == pytest.approx(8 / 13)
    assert balanced_accuracy(CONFUSION.diagonal(), CONFUSION.sum(1)) == pytest.approx(
        balanced_accuracy_score(LABELS, TAKEN)
    )


def test_of_equally_hard_classes_the_larger_comes_first():
    assert hardest(torch.tensor([[0, 1, 0], [0, 3, 3], [2, 3, 0]]), 3) == [2, 0, 1]


def test_what_the_hardest_are_taken_for():
    """Classes 2 and 1: of the first two images went to 0; of the second two are right and two went to 3."""
    assert answers(CONFUSION, [2, 1], 2) == ([0, 3], pytest.approx(torch.tensor([[0, 2, 0, 0], [2, 0, 2, 0]])))
    columns, counts = answers(CONFUSION, [2, 1, 0], 1)
    assert columns == [0] and counts.tolist() == [
        [0, 2, 0],
        [2, 0, 2],
        [3, 0, 1],
    ]  # right, as 0, as any other
    assert torch.equal(counts.sum(1), CONFUSION.sum(1)[[2, 1, 0]])


def test_the_picture_has_a_row_for_each_class(tmp_path, monkeypatch, recwarn):
    """Forty classes, of which thirty are drawn. Names are cut; a formula or letters that the font lacks do no harm."""
    rng, drawn = np.random.default_rng(0), []
    monkeypatch.setattr(confusion_picture, "answers", lambda *given: drawn.append(given[1]) or answers(*given))
    confusion = torch.from_numpy(rng.integers(0, 5, (40, 40)))
    names = [f"class ${c}$ 漢 {'long ' * (c % 9)}" for c in range(40)]
    draw_confusion(confusion, names, tmp_path / "x.png")
    accuracy = confusion.diagonal() / confusion.sum(1)
    assert len(drawn[0]) == 30 and accuracy[drawn[0]].tolist() == sorted(accuracy.tolist())[:30]
    assert Image.open(tmp_path / "x.png").width > 1000 and not recwarn.list
