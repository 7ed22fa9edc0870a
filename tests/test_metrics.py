"""Confusion counts and the accuracy of groups of classes."""

import math

import pytest
import torch
from torch import nn

from longtail.devices import Runtime
from longtail.metrics import class_figures, count_confusion, count_correct, report, shot_accuracy

CPU = Runtime(torch.device("cpu"))


def test_confusion_counts_every_image_once():
    model = nn.Identity()
    logits = torch.eye(3)[[0, 1, 2, 2, 0]]
    labels = torch.tensor([0, 1, 1, 2, 2])
    confusion = count_confusion(model, zip(logits.split(2), labels.split(2), strict=True), 3, CPU)
    assert confusion.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]


def test_correct_images_are_counted_for_each_class():
    """Right are one of two images of class 0, one of two of class 1, the only one of class 2; class 3 has none."""
    logits = torch.eye(4)[[0, 1, 2, 2, 3]]
    labels = torch.tensor([0, 1, 1, 2, 0])
    correct, total = count_correct(nn.Identity(), zip(logits.split(2), labels.split(2), strict=True), 4, CPU)
    assert (correct.tolist(), total.tolist()) == ([1, 1, 1, 0], [2, 2, 1, 0])


def test_counting_needs_memory_for_the_classes_and_not_for_their_square():
    """A matrix of 60,000 classes would have 29 GB."""
    labels = torch.tensor([59_999, 3])
    correct, total = count_correct(nn.Identity(), [(torch.eye(2), labels)], 60_000, CPU)
    assert (int(correct.sum()), int(total.sum()), int(total[59_999])) == (0, 2, 1)


def test_shots():
    correct, total = torch.tensor([9, 8, 4, 2]), torch.tensor([10, 10, 10, 10])
    assert shot_accuracy(correct, total, [101, 100, 20, 19]) == pytest.approx(
        {"all": 0.575, "many": 0.9, "medium": 0.6, "few": 0.2}
    )
    assert math.isnan(shot_accuracy(correct, total, [500] * 4)["few"])


def test_figures_of_classes_and_of_older_tests_of_verbs():
    """Of 4 clips of `take` 3 are right; of the 5 that were called `take` too."""
    confusion = torch.tensor([[3, 1], [2, 4]])
    take = report(confusion, [9, 8], ["take", "put"]).entries()["classes"][0]
    assert (take["accuracy"], take["precision"], take["taken_for"]) == (0.75, pytest.approx(0.6), "put")
    verb = {"name": "take", "training_clips": 9, "clips": 4, "correct": 3, "precision": 0.6, "recall": 0.75}
    [older] = class_figures({"verbs": [verb]})
    assert older == {key: pytest.approx(take[key]) if key == "precision" else take[key] for key in older}
    assert older.keys() == take.keys() - {"taken_for"}
