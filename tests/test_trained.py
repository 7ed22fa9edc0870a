"""Networks that are taken away: load_run, torch.hub and ONNX say what the experiments' own tests say."""

import csv
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import longtail
from builders import IMAGE_COUNTS, jpeg, make_folder, train_imagenet
from conftest import ROOT
from longtail.checkpoints import load_checkpoint, save_checkpoint
from main import main

PUBLISHED = ROOT / "pretrained_weights/cifar100_imbalance200_CDB-CE_1.5_seed0.pth"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and ten images of other sizes than it was trained with."""
    folder = tmp_path_factory.mktemp("trained")
    data = make_folder(folder / "data", IMAGE_COUNTS)
    (folder / "new").mkdir()
    for number in range(10):
        color = (25 * number, 255 - 20 * number, 90)
        (folder / f"new/{number}.jpg").write_bytes(jpeg(color, size=(60 + number, 50)))
    return train_imagenet(folder, data, "x", num_epochs=2), folder / "new"


@pytest.fixture(scope="module")
def predictions(trained, tmp_path_factory) -> list[tuple[str, str, float]]:
    """Path, class and probability of the ten, by the command line."""
    folder, new = trained
    out = tmp_path_factory.mktemp("out") / "x.csv"
    assert main(["--predict", str(new), "--model_dir", str(folder), "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.open()))
    return [(row["path"], row["class_1"], float(row["probability_1"])) for row in rows]


def assert_same(model, logits_of, predictions) -> None:
    for path, name, probability in predictions:
        likely = logits_of(model.transform(path)[None]).softmax(1)[0]
        assert model.class_names[likely.argmax()] == name
        assert likely.max().item() == pytest.approx(probability, abs=2e-6)


@torch.no_grad()
def test_a_run_by_load_run_and_by_torch_hub(trained, predictions):
    for model in (
        longtail.load_run(trained[0]),
        torch.hub.load(str(ROOT), "trained", source="local", weights=str(trained[0])),
    ):
        assert not model.training and len(predictions) == 10
        assert_same(model, model, predictions)


def test_a_run_in_onnx(trained, predictions, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from export_onnx import export

    export(str(trained[0]), str(tmp_path / "x.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    model = longtail.load_run(trained[0])
    assert_same(model, lambda batch: torch.from_numpy(session.run(None, {"images": batch.numpy()})[0]), predictions)
    batch = torch.randn(3, *model.input_shape)  # of another size than in the export
    with torch.no_grad():
        assert np.allclose(session.run(None, {"images": batch.numpy()})[0], model(batch).numpy(), atol=1e-4)


def test_a_picture_may_come_in_any_form(trained):
    """Of PIL, an array, tensors of bytes and of floats, a path: the same input. Grey becomes grey RGB."""
    model = longtail.load_run(trained[0])
    path = trained[1] / "3.jpg"
    picture = Image.open(path).convert("RGB")
    array = np.array(picture)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = model.transform(picture)
    assert expected.shape == model.input_shape
    for form in (array, tensor, tensor / 255, str(path), path):
        assert torch.equal(model.transform(form), expected)
    grey = np.full((40, 50), 100, np.uint8)
    assert torch.equal(model.transform(grey), model.transform(np.repeat(grey[:, :, None], 3, 2)))
    with pytest.raises(ValueError, match="must have the shape"):
        model.transform(torch.zeros(40, 50))


def test_a_network_of_cifar():
    """A picture of its size becomes what the hub's entry makes of it; the colour of another one stays."""
    model = longtail.load_run(PUBLISHED)
    entry = torch.hub.load(str(ROOT), "resnet32_cifar100_lt", source="local", imbalance=200)
    picture = torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.transform(picture), entry.transform(picture))
    assert torch.equal(model(model.transform(picture)[None]), entry(entry.transform(picture)[None]))
    assert model.class_names == entry.class_names and len(model.class_names) == 100
    large = torch.tensor([10, 120, 250], dtype=torch.uint8)[:, None, None].expand(3, 70, 90)
    assert torch.equal(model.transform(large), model.transform(large[:, :32, :32]))


def test_a_clip_is_seen_as_in_a_test(tmp_path):
    """Of seven frames the centres of three parts, and of each its middle: from files by EGTEA's own reader."""
    from egtea_dataset import frame_names, normalize, read_centre
    from egtea_trained import to_input

    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (7, 40, 60, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number:06d}.png")
    clip = read_centre(tmp_path, frame_names(tmp_path), 3, 30)
    expected = normalize(torch.from_numpy(clip[None]))[0]
    assert torch.equal(to_input(frames, 3, 30), expected)
    assert torch.equal(to_input(torch.from_numpy(frames).permute(0, 3, 1, 2), 3, 30), expected)


def test_networks_that_are_not_there(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} .*final_model_checkpoint.pth"):
        longtail.load_run(tmp_path)
    for name in ("best_a.pth", "best_b.pth"):
        save_checkpoint(tmp_path / name, load_checkpoint(PUBLISHED))
    with pytest.raises(ValueError, match="several runs.*best_a.pth"):
        longtail.load_run(tmp_path)
    assert longtail.load_run(tmp_path / "best_a.pth").input_shape == (3, 32, 32)
    save_checkpoint(tmp_path / "other.pth", {"state_dict": {"layer": torch.zeros(1)}})
    with pytest.raises(ValueError, match="other.pth"):
        longtail.load_run(tmp_path / "other.pth")
    assert "longtail.trained" in sys.modules
