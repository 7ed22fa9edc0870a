"""The cards of the trained networks say what their logs say, counted here again, and their code loads them."""

import csv
import gzip
import hashlib
import json
import re
import textwrap

import numpy as np
import pytest
import torch

from conftest import ROOT
from reproduction import weights

PAGE = ROOT / "pretrained_weights/README.md"
FILES = sorted(PAGE.parent.glob("cifar100_*.pth"))


def card_of(name: str) -> str:
    return PAGE.read_text().split(f"## {name}.pth\n", 1)[1].split("\n## ", 1)[0]


def test_the_page_is_what_the_script_writes(tmp_path, monkeypatch):
    for path in FILES:
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.setattr(weights, "WEIGHTS", tmp_path)
    weights.write_cards()
    assert (tmp_path / "README.md").read_text() == PAGE.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_cards_figures_are_those_of_the_log(path):
    """Percentages from the numbers of right images, sizes from the run's settings, the epoch from the log's rows."""
    card, result = card_of(path.stem), ROOT / "CIFAR-LT/results" / path.stem
    classes = json.loads((result / "test.json").read_text())["classes"]
    groups = {
        "all": classes,
        "many": [entry for entry in classes if entry["training_images"] > 100],
        "medium": [entry for entry in classes if 20 <= entry["training_images"] <= 100],
        "few": [entry for entry in classes if entry["training_images"] < 20],
    }
    for group, entries in groups.items():
        right = sum(entry["correct"] for entry in entries)
        assert f"\n| {group} | {len(entries)} | {right / len(entries):.2f} |" in card  # 100 test images a class
    never = [entry["name"] for entry in classes if entry["correct"] == 0]
    assert (f"Of {len(never)} of them it classifies every test image wrongly." in card) == bool(never)
    (settings,) = result.glob("cifar100_imbalance*.json")
    counts = json.loads(settings.read_text())["class_counts"]
    assert f"trained on {sum(counts):,} images, from {counts[0]} of the largest class to {counts[-1]} of " in card
    with gzip.open(settings.with_suffix(".csv.gz"), "rt") as log:
        accuracy = [float(row["accuracy"]) for row in csv.DictReader(log)]
    assert f": epoch {1 + int(np.argmax(accuracy))} of {len(accuracy)} of the `" in card
    assert "2,500 other images, the last 25 of each class" in card and f"accuracy {100 * max(accuracy):.2f} %" in card
    assert f"`{hashlib.sha256(path.read_bytes()).hexdigest()}`" in card


@pytest.mark.parametrize(("imbalance", "published"), [("200_CDB-CE_1.5", "37.40"), ("100_CDB-CE_dynamic", "42.57")])
def test_a_card_gives_the_papers_number(imbalance, published):
    (path,) = PAGE.parent.glob(f"cifar100_imbalance{imbalance}*.pth")
    assert re.search(rf"\| all \| .* \| {published} \|\n", card_of(path.stem))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_pages_code_loads_each_network(path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code = PAGE.read_text().split("\n\n    import longtail\n", 1)[1].split("\n\n", 1)[0]
    names = {"picture": torch.full((3, 32, 32), 128, dtype=torch.uint8)}
    exec(textwrap.dedent(f"    import longtail\n{code}").replace("NAME", path.stem), names)
    assert capsys.readouterr().out.strip() in names["model"].class_names
