"""Hits of single images, and McNemar's test of two networks."""

import numpy as np
import pytest
import torch
from torch import nn

from longtail.devices import Runtime
from longtail.hits import count_with_hits, mcnemar, pack_hits, unpack_hits

CPU = Runtime(torch.device("cpu"))
LOGITS = torch.eye(3)[[0, 1, 2, 2, 0]]
LABELS = torch.tensor([0, 1, 1, 2, 2])
HITS = [True, True, False, True, False]


def test_hits_stand_in_the_order_of_the_images():
    batches = zip(LOGITS.split(2), LABELS.split(2), strict=True)
    confusion, hits = count_with_hits(nn.Identity(), batches, 3, CPU)
    assert confusion.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]
    assert hits.tolist() == HITS


def test_two_processes_put_their_hits_between_one_another(monkeypatch):
    """Process 0 has images 0, 2 and 4, process 1 has 1 and 3; a sum over both is made by hand."""
    monkeypatch.setattr(Runtime, "sum", lambda _, values: torch.tensor([5]) if len(values) == 1 else values)
    parts = []
    for rank in (0, 1):
        mine = [(LOGITS[rank::2], LABELS[rank::2])]
        parts.append(count_with_hits(nn.Identity(), mine, 3, Runtime(torch.device("cpu"), 1, rank, 2))[1])
    assert (parts[0] | parts[1]).tolist() == HITS


def test_a_process_without_images(monkeypatch):
    """The third of three processes, with two images."""
    monkeypatch.setattr(Runtime, "sum", lambda _, values: torch.tensor([2]) if len(values) == 1 else values)
    third = Runtime(torch.device("cpu"), 1, 2, 3)
    assert count_with_hits(nn.Identity(), [], 3, third)[1].tolist() == [False, False]


def test_hits_are_packed_from_the_highest_bit():
    """10110000 1 is B0 80 in bytes, and 101100 001000 0000 in base 64: s, I, A."""
    hits = [True, False, True, True, False, False, False, False, True]
    assert pack_hits(torch.tensor(hits)) == "sIA="
    assert unpack_hits("sIA=", 9).tolist() == hits
    with pytest.raises(ValueError, match="2 bytes"):
        unpack_hits("sIA=", 17)


def test_mcnemar_counts_the_images_on_which_two_networks_differ():
    """8 against 2 of 10: twice the chance of at most 2 heads, 2 x (1 + 10 + 45) / 1024."""
    first = np.array([1] * 8 + [0] * 2 + [1] * 5 + [0] * 5, bool)
    second = np.array([0] * 8 + [1] * 2 + [1] * 5 + [0] * 5, bool)
    result = mcnemar(first, second)
    assert (result.only_first, result.only_second, result.p) == (8, 2, pytest.approx(0.109375))
    assert mcnemar(first, first).p == 1
