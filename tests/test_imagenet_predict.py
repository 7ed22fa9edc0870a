"""Predictions for images of one's own, against a forward pass that is made here; what is said of wrong
paths.
"""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from builders import IMAGE_COUNTS, jpeg, make_folder, train_imagenet
from imagenet_model import load_model
from imagenet_run import BEST
from imagenet_transforms import MEAN, STD
from longtail.checkpoints import load_checkpoint
from main import main


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("small"), IMAGE_COUNTS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data) -> Path:
    """A run whose classes have names."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "names.txt").write_text("cat\nsea, deep\ndög\n", encoding="utf-8")
    return train_imagenet(folder, data, "x", class_list=folder / "names.txt", num_epochs=2)


def predicted(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def expected(trained: Path, file: Path) -> torch.Tensor:
    """Class probabilities of an image whose shorter side is 36: the middle 32 x 32, normalised, through the network."""
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(np.float32) / 255
    top, left = (pixels.shape[0] - 32) // 2, (pixels.shape[1] - 32) // 2
    image = torch.from_numpy((pixels[top : top + 32, left : left + 32] - MEAN) / np.array(STD)).float().permute(2, 0, 1)
    model = load_model(load_checkpoint(trained / BEST), BEST, 3).eval()
    with torch.no_grad():
        return model(image[None]).softmax(1)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_with_an_unreadable_image(workers, trained, tmp_path, capsys):
    """Rows in the order of the paths; the cut image has its error, the others the network's probabilities, the largest
    first.
    """
    images = tmp_path / "images"
    (images / "deep, er").mkdir(parents=True)
    for number, name in enumerate(("b.jpg", "deep, er/c.JPEG", "a.jpeg")):
        (images / name).write_bytes(jpeg((60 * number, 200, 90)))
    (images / "cut.jpg").write_bytes(jpeg()[:400])
    (images / "notes.txt").write_text("no image")
    code = main(
        [
            "--predict",
            str(images),
            "--model_dir",
            str(trained),
            "--out",
            str(tmp_path / "p.csv"),
            "--workers",
            str(workers),
        ]
    )
    rows = predicted((tmp_path / "p.csv").read_text(encoding="utf-8"))
    assert code == 1
    assert [row["path"] for row in rows] == [
        str(images / name) for name in ("a.jpeg", "b.jpg", "cut.jpg", "deep, er/c.JPEG")
    ]
    assert re.search(f"1 of 4 images .*: {images}/cut.jpg", capsys.readouterr().err)
    assert rows[2]["error"].startswith(f"{images}/cut.jpg is not an image") and rows[2]["class_1"] == ""
    names = ["cat", "sea, deep", "dög"]
    for row in (rows[0], rows[1], rows[3]):
        assert list(row) == [
            "path",
            "class_1",
            "probability_1",
            "class_2",
            "probability_2",
            "class_3",
            "probability_3",
            "error",
        ]
        values, order = expected(trained, Path(row["path"])).sort(descending=True)
        assert [row[f"class_{rank}"] for rank in (1, 2, 3)] == [names[c] for c in order] and row["error"] == ""
        assert [float(row[f"probability_{rank}"]) for rank in (1, 2, 3)] == pytest.approx(values.tolist(), abs=1e-4)


def test_an_image_is_printed_and_nothing_else(trained, tmp_path, capsys, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    monkeypatch.chdir(tmp_path)
    assert main(["--predict", "a.jpg", "--model_dir", os.path.relpath(trained), "--top", "1"]) == 0
    output = capsys.readouterr().out
    (row,) = predicted(output)
    assert row["path"] == "a.jpg" and float(row["probability_1"]) == pytest.approx(
        expected(trained, Path("a.jpg")).max().item(), abs=1e-4
    )
    assert output.splitlines()[0] == "path,class_1,probability_1,error" and len(output.splitlines()) == 2


def test_a_list_with_labels_below_data_root_agrees_with_the_test(trained, data, tmp_path, capsys):
    """The first class of each image of the test list, counted here, gives the numbers of --test."""
    assert main(["--test", "--model_dir", str(trained)]) == 0
    capsys.readouterr()
    assert main(["--predict", str(data / "Small_test.txt"), "--data_root", str(data), "--model_dir", str(trained)]) == 0
    rows, names = predicted(capsys.readouterr().out), ["cat", "sea, deep", "dög"]
    labels = [int(line.split()[1]) for line in (data / "Small_test.txt").read_text().splitlines()]
    hits = [
        sum(row["class_1"] == names[label] == names[c] for row, label in zip(rows, labels, strict=True))
        for c in range(3)
    ]
    figures = json.loads((trained / "test.json").read_text())
    assert [entry["correct"] for entry in figures["classes"]] == hits and len(rows) == 15
    assert [entry["name"] for entry in figures["classes"]] == names


def test_a_list_of_paths_starts_at_its_own_folder(trained, tmp_path, capsys):
    """A byte order mark, a comment, a name that ends in a number, an absolute path, a label, a missing image."""
    (tmp_path / "lists").mkdir()
    for name in ("lists/one 1", "lists/b.jpg", "far.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "lists/l.csv").write_text(
        f"\ufeff# mine\none 1\nb.jpg,2\n{tmp_path}/far.jpg\n../far.jpg\nnone.jpg 0\n", encoding="utf-8"
    )
    assert main(["--predict", str(tmp_path / "lists/l.csv"), "--model_dir", str(trained)]) == 1
    captured = capsys.readouterr()
    rows = predicted(captured.out)
    assert [row["path"] for row in rows] == ["one 1", "b.jpg", f"{tmp_path}/far.jpg", "../far.jpg", "none.jpg"]
    assert [bool(row["error"]) for row in rows] == [False] * 4 + [True]
    assert f"{tmp_path}/lists/none.jpg cannot be read" in rows[4]["error"]
    assert "1 of 5 images" in captured.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--predict", "{tmp}/none.jpg"],
            "none.jpg .*--predict",
        ),
        (["--predict", "{tmp}"], "holds no image"),
        (["--predict", "{tmp}/empty.txt"], "empty.txt lists no image"),
        (["--predict", "{tmp}", "--out", "{tmp}/none/x.csv"], "x.csv: there is no folder"),
        (["--predict", "{tmp}/none.jpg", "--out", "{tmp}"], "is a folder; name a file"),
        (["--predict", "{tmp}", "--test"], "--test, --predict"),
        (["--test", "--top", "3"], "--top .*--predict"),
        (["--predict", "{tmp}", "--top", "0"], "--top: .*'0'"),
        (["--predict", "{tmp}", "--resume"], "belong to training"),
    ],
)
def test_wrong_commands(flags, message, trained, tmp_path, failing):
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    assert re.search(message, failing(main, *(flag.format(tmp=tmp_path) for flag in flags), "--model_dir", trained))


def test_predict_needs_a_model(tmp_path, failing):
    assert re.search("--cfg FILE .*--predict .*--model_dir", failing(main, "--predict", tmp_path))
    assert re.search(
        f"{tmp_path}/config.yaml .*--model_dir", failing(main, "--predict", tmp_path, "--model_dir", tmp_path)
    )


def test_a_test_names_the_hardest_classes_and_draws_them(trained, capsys):
    (trained / "confusion.png").unlink(missing_ok=True)
    assert main(["--test", "--model_dir", str(trained)]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("hardest classes"))
    assert sorted(line.split("  ")[1].strip() for line in lines[start + 1 : start + 4]) == ["cat", "dög", "sea, deep"]
    assert lines[-2].split() == ["all", "many", "medium", "few", "balanced", "F1"]
    figures = json.loads((trained / "test.json").read_text())
    assert float(lines[-1].split()[4]) == pytest.approx(figures["balanced_accuracy"], abs=1e-4)
    assert figures["balanced_accuracy"] == pytest.approx(
        np.mean([entry["correct"] / 5 for entry in figures["classes"]])
    )
    assert (trained / "confusion.png").stat().st_size > 5000


def test_a_released_checkpoint_predicts_numbers_for_names(trained, data, tmp_path, capsys):
    """It has no class names; the configuration comes from the command line."""
    best = load_checkpoint(trained / BEST)
    (tmp_path / "released").mkdir()
    torch.save(
        {"state_dict_best": {part: best[part] for part in ("feat_model", "classifier")}}, tmp_path / "released" / BEST
    )
    shutil.copy(trained / "config.yaml", tmp_path / "released.yaml")
    (tmp_path / "a.jpg").write_bytes(jpeg())
    flags = ["--cfg", str(tmp_path / "released.yaml"), "--model_dir", str(tmp_path / "released")]
    assert main(["--predict", str(tmp_path / "a.jpg"), *flags]) == 0
    (row,) = predicted(capsys.readouterr().out)
    assert {row["class_1"], row["class_2"], row["class_3"]} == {"0", "1", "2"}


def test_files_that_are_left_out_are_counted(trained, tmp_path, capsys):
    """Of a phone's HEIC files, a file without an ending and a text nothing is predicted, and one line says so."""
    for name in ("a.jpg", "b.heic", "c.HEIC", "d", "e.txt"):
        (tmp_path / name).write_bytes(jpeg())
    assert main(["--predict", str(tmp_path), "--model_dir", str(trained)]) == 0
    captured = capsys.readouterr()
    assert [row["path"] for row in predicted(captured.out)] == [str(tmp_path / "a.jpg")]
    assert f"{tmp_path}: 1 images; 4 files" in captured.err and ".heic: 1" in captured.err
