"""The published checkpoint gives the published number, on the real test images where they are at hand."""

import json

import numpy as np
import pytest

import cifar_test
from builders import write_python2
from conftest import ROOT, SHARED_DATA
from longtail.checkpoints import load_checkpoint

WEIGHTS = sorted((ROOT / "pretrained_weights").glob("cifar100_*.pth"))
RESULTS = ROOT / "CIFAR-LT/results"
DATA = ROOT / "CIFAR-LT/data"


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    """The 10,000 test images, where the commands look for them.

    Else they come from the development data, with a training file that is empty.
    """
    from PIL import Image

    if (DATA / "cifar-100-python").is_dir():
        return DATA
    if not SHARED_DATA.is_dir():
        pytest.skip(f"CIFAR-100 is neither in {DATA} (cifar_train.py --download) nor in {SHARED_DATA}")
    root = tmp_path_factory.mktemp("real")
    folder = root / "cifar-100-python"
    folder.mkdir()
    sheets = [
        np.asarray(Image.open(path).convert("RGB")) for path in sorted((SHARED_DATA / "cifar-100").glob("test_*.webp"))
    ]
    pixels = [sheet.reshape(20, 32, 25, 32, 3).transpose(0, 2, 4, 1, 3).reshape(500, 3072) for sheet in sheets]
    labels = np.load(SHARED_DATA / "cifar-100/labels.npz")["test"].tolist()
    write_python2(folder / "test", {b"data": np.concatenate(pixels), b"fine_labels": labels})
    names = (SHARED_DATA / "cifar-100/fine_label_names.txt").read_text().split()
    write_python2(folder / "meta", {b"fine_label_names": [name.encode() for name in names]})
    (folder / "train").write_bytes(b"")
    return root


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_checkpoint_gives_the_number_of_the_table(path, cifar100, tmp_path):
    published = json.loads((RESULTS / f"{path.stem}/test.json").read_text())
    assert path.stat().st_size < 5_000_000
    assert load_checkpoint(path)["arguments"]["seed"] == int(path.stem.rpartition("seed")[2])
    out = tmp_path / "figures.json"
    assert cifar_test.main(["--saved_model_path", str(path), "--data_root", str(cifar100), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["accuracy"] == pytest.approx(
        published["accuracy"], abs=0.003
    )  # bf16 and fp32 differ by some images of 10,000
    assert figures["shots"]["few"] == pytest.approx(published["shots"]["few"], abs=0.01)
    assert path.name in (ROOT / "pretrained_weights/README.md").read_text()


def test_accuracy_under_the_released_test_constants_is_that_of_its_file():
    figures = json.loads((RESULTS / "cifar100_imbalance200_CDB-CE_1.5_seed0/test_released-test.json").read_text())
    assert figures["normalization"] == "released-test"
    assert f"gets {100 * figures['accuracy']:.2f}" in (ROOT / "CIFAR-LT/DISCUSSION.md").read_text()
