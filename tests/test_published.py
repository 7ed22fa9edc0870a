"""The published checkpoint gives the published number, on the real test images where they are at hand."""

import json
from pathlib import Path

import numpy as np
import pytest

import cifar_test
from builders import write_python2
from cifar_pickle import read_pickle
from conftest import ROOT, SHARED_DATA
from longtail.checkpoints import load_checkpoint

WEIGHTS = sorted((ROOT / "pretrained_weights").glob("cifar100_*.pth"))
RESULTS = ROOT / "CIFAR-LT/results"
DATA = ROOT / "CIFAR-LT/data"


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory) -> Path:
    """The test images of every fifth class, from where the commands look or from the development data."""
    if (DATA / "cifar-100-python").is_dir():
        content = read_pickle(DATA / "cifar-100-python/test")
        pixels, labels = content[b"data"], np.array(content[b"fine_labels"])
        names = read_pickle(DATA / "cifar-100-python/meta")[b"fine_label_names"]
    elif SHARED_DATA.is_dir():
        pixels, labels = development_images()
        text = (SHARED_DATA / "cifar-100/fine_label_names.txt").read_text()
        names = [name.encode() for name in text.split()]
    else:
        pytest.skip(f"CIFAR-100 is neither in {DATA} (cifar_train.py --download) nor in {SHARED_DATA}")
    root = tmp_path_factory.mktemp("real")
    folder = root / "cifar-100-python"
    folder.mkdir()
    fifth = labels % 5 == 0
    write_python2(folder / "test", {b"data": pixels[fifth], b"fine_labels": labels[fifth].tolist()})
    write_python2(folder / "meta", {b"fine_label_names": names})
    (folder / "train").write_bytes(b"")
    return root


def development_images() -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test images (10000, 3072), and their labels, from sheets of 20 rows of 25."""
    from PIL import Image

    paths = sorted((SHARED_DATA / "cifar-100").glob("test_*.webp"))
    sheets = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    pixels = [sheet.reshape(20, 32, 25, 32, 3).transpose(0, 2, 4, 1, 3).reshape(500, 3072) for sheet in sheets]
    return np.concatenate(pixels), np.load(SHARED_DATA / "cifar-100/labels.npz")["test"]


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_checkpoint_gives_the_number_of_the_table(path, cifar100, tmp_path):
    """On every fifth class, whose 2,000 images take a fifth of the time; bf16 and fp32 differ by some of them."""
    published = json.loads((RESULTS / f"{path.stem}/test.json").read_text())
    assert path.stat().st_size < 5_000_000
    assert load_checkpoint(path)["arguments"]["seed"] == int(path.stem.rpartition("seed")[2])
    out = tmp_path / "figures.json"
    assert cifar_test.main(["--saved_model_path", str(path), "--data_root", str(cifar100), "--json", str(out)]) == 0
    found, expected = (
        [(entry["name"], entry["correct"]) for entry in figures["classes"][::5]]
        for figures in (json.loads(out.read_text()), published)
    )
    assert [name for name, _ in found] == [name for name, _ in expected]
    hits, published_hits = (np.array([correct for _, correct in pairs]) for pairs in (found, expected))
    assert abs(hits - published_hits).max() <= 3 and hits.sum() == pytest.approx(published_hits.sum(), abs=6)
    assert published["accuracy"] == pytest.approx(sum(entry["correct"] for entry in published["classes"]) / 10_000)
    assert path.name in (ROOT / "pretrained_weights/README.md").read_text()


def test_accuracy_under_the_released_test_constants_is_that_of_its_file():
    figures = json.loads((RESULTS / "cifar100_imbalance200_CDB-CE_1.5_seed0/test_released-test.json").read_text())
    assert figures["normalization"] == "released-test"
    assert f"gets {100 * figures['accuracy']:.2f}" in (ROOT / "CIFAR-LT/DISCUSSION.md").read_text()
