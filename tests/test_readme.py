"""Run the code that the pages show."""

import math
import textwrap

import pytest
import torch
from torch import nn

from conftest import ROOT


def test_the_trained_network_of_the_page(capsys):
    """Run the code of CIFAR-LT/README.md, from this clone, on a grey picture."""
    code = (ROOT / "CIFAR-LT/README.md").read_text().split("\n    import torch\n    model = ", 1)[1].split("\n\n", 1)[0]
    names = {"torch": torch, "picture": torch.full((3, 32, 32), 128, dtype=torch.uint8)}
    exec(textwrap.dedent(f"    model = {code}").replace("path/to/the/clone", str(ROOT)), names)
    assert names["scores"].shape == (1, 100) and capsys.readouterr().out.strip() in names["model"].class_names


def test_the_loss_of_the_page():
    """README's loop for one epoch, on a network that calls everything class 0, with 4, 3 and eight times 1 images.

    The expected weights follow from the formulas: 100 more images at the mean accuracy of the classes, 0.1, then
    equations 5 and 2 of the paper.
    """
    code = (ROOT / "README.md").read_text().split("    from cdb_loss import CDBLoss\n", 1)[1].split("\n\n", 1)[0]
    model = nn.Linear(2, 10)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    with torch.no_grad():
        model.bias[0] = 1.0
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, *range(2, 10)])
    batches = [(torch.randn(len(part), 2), part) for part in labels.split(4)]
    names = {"torch": torch, "device": "cpu", "model": model, "epochs": 1, "held_out_batches": batches}
    names["train"] = lambda model, criterion: criterion(model(torch.randn(3, 2)), torch.tensor([0, 1, 2])).backward()
    exec(textwrap.dedent("    from cdb_loss import CDBLoss\n" + code), names)
    totals = [4, 3] + 8 * [1]
    accuracy = [(hits + 100 * 0.1) / (total + 100) for hits, total in zip([4] + 9 * [0], totals, strict=True)]
    tau = 2 / (1 + math.exp(1 - max(accuracy) / (min(accuracy) + 0.01)))
    raw = [(1 - a) ** tau for a in accuracy]
    assert names["class_accuracy"].tolist() == [1.0] + 9 * [0.0]
    assert names["criterion"].weight.tolist() == pytest.approx([10 * r / sum(raw) for r in raw], abs=1e-5)
