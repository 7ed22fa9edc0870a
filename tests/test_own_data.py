"""Files as users have them, from the command line: what is read, what is refused, and in which words."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import EGTEA_train
import imagenet_readers
from builders import (
    IMAGE_COUNTS,
    egtea_flags,
    encoded,
    jpeg,
    last_checkpoint,
    make_clips,
    make_folder,
    train_imagenet,
    with_orientation,
    write_config,
)
from imagenet_readers import ViewSettings
from imagenet_run import BEST
from longtail.logs import read_log
from main import main

PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"


@pytest.fixture
def data(tmp_path) -> Path:
    return make_folder(tmp_path / "data", IMAGE_COUNTS)


def rewritten(data: Path, split: str, change) -> None:
    """Put the lines of a list through `change`, which takes and returns them."""
    file = data / f"Small_{split}.txt"
    file.write_bytes("\n".join(change(file.read_text().splitlines())).encode())


def test_a_spreadsheets_list_trains_as_the_plain_one(data, tmp_path, capsys):
    """A byte order mark, a comment, tabs, commas, blank lines, spaces and CRLF: the same bits after an epoch."""
    plain = train_imagenet(tmp_path, data, "plain", num_epochs=1)
    separators = ("\t", ",", "    ", ", ")
    rewritten(
        data,
        "train",
        lambda lines: [
            "\ufeff# path and label\r",
            *(line.replace(" ", separators[number % 4]) + "\r\n\r" for number, line in enumerate(lines)),
        ],
    )
    odd = train_imagenet(tmp_path, data, "odd", num_epochs=1)
    weights = [last_checkpoint(folder)["classifier"]["fc.weight"] for folder in (plain, odd)]
    assert weights[0].equal(weights[1])


def test_a_path_twice_in_training_counts_twice_and_is_reported_once(data, tmp_path, capsys):
    """The third class has three images; its first one is listed three times."""
    rewritten(data, "train", lambda lines: [*lines, lines[-3], lines[-3]])
    folder = train_imagenet(tmp_path, data, "x", num_epochs=2)
    output = capsys.readouterr().out
    assert len(re.findall("Small_train.txt: 2 of 23 lines .*train/n00000002/", output)) == 1
    assert last_checkpoint(folder)["class_counts"] == [12, 6, 5] and "23 training images" in output


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        (
            "train",
            lambda lines: [*lines[:7], *(line.replace("/", "\\") for line in lines[7:])],
            r"Small_train.txt, line 8: .*n00000000_train7.JPEG .*backslash",
        ),
        (
            "val",
            lambda lines: [*lines, "train/n00000001/n00000001_train2.JPEG 1"],
            "n00000001_train2.JPEG .*{data}/Small_train.txt .*{data}/Small_val.txt",
        ),
        (
            "test",
            lambda lines: [*lines, "./train/n00000002/n00000002_val0.JPEG\t2"],
            "_val0.JPEG .*{data}/Small_val.txt ",
        ),
        ("val", lambda lines: [*lines, lines[0]], "line 1 .*training list"),
        ("train", lambda lines: [*lines, lines[0][:-1] + "2"], "line 1 .*label 0 .*2"),
    ],
)
def test_lists_that_are_refused(split, change, message, data, tmp_path, failing):
    rewritten(data, split, change)
    assert re.search(message.format(data=data), failing(main, "--cfg", write_config(tmp_path, data, "x")))
    assert not (tmp_path / "x").exists()


def replace_images(data: Path, contents: list[bytes]) -> list[Path]:
    """Put other files in place of the first training images of class 0."""
    paths = [data / line.split()[0] for line in (data / "Small_train.txt").read_text().splitlines()[: len(contents)]]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def test_a_run_on_odd_images(data, tmp_path, monkeypatch, capsys):
    """16 bits, floats, a photograph on its side, transparent, two animations, which are named once: what the network
    sees of each.
    """
    grey = np.full((36, 40), 0.5, dtype=np.float32)
    ramp = np.tile(np.linspace(0, 65535, 36).astype(np.uint16), (36, 1))
    clear, frames = (
        Image.new("RGBA", (40, 36), (0, 0, 0, 0)),
        [Image.new("RGB", (40, 36), color) for color in ("red", "blue")],
    )
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    contents = [
        encoded(Image.fromarray(ramp), "PNG"),
        encoded(Image.fromarray(grey), "TIFF"),
        with_orientation(6),
        encoded(clear, "PNG"),
        animation,
        animation,
    ]
    paths, seen = replace_images(data, contents), {}

    def view(path: Path, seed: int | None, settings: ViewSettings) -> tuple[np.ndarray, bool]:
        result = read_view(path, None, ViewSettings(32, 32))
        seen[path.read_bytes()] = result[0]
        return result

    read_view = imagenet_readers.read_view
    monkeypatch.setattr(imagenet_readers, "read_view", view)
    train_imagenet(tmp_path, data, "x", num_epochs=2)
    means = [seen[content].mean((0, 1)).tolist() for content in contents[:5]]
    assert means[0] == pytest.approx([127.5] * 3, abs=2)  # it was 254.4
    assert means[1] == [128] * 3  # 127.5 is rounded to even; it was 0
    assert (
        seen[contents[2]][0, 0, 2] > 240 and seen[contents[2]][0, 0, 0] < 15
    )  # blue is at the top left, where red was
    assert means[3] == [255] * 3 and means[4] == [255, 0, 0]
    output = capsys.readouterr().out
    assert output.count("has several frames or pages: the first one is used") == 1
    assert any(f"{path} has several" in output for path in paths[4:])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            encoded(Image.fromarray(np.full((9, 9), 2.0, dtype=np.float32)), "TIFF"),
            "floats .*from 2 to 2",
        ),
        (jpeg()[:400], "Truncated File Read"),
        (PAGE, "its format is unknown"),
    ],
)
def test_images_that_are_refused(content, reason, data, tmp_path, failing):
    (path,) = replace_images(data, [content])
    assert re.search(f"{path} .*: .*{reason}", failing(main, "--cfg", write_config(tmp_path, data, "x")))


def test_a_web_page_in_place_of_a_checkpoint(data, tmp_path, failing):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / BEST).write_bytes(PAGE)
    file = write_config(tmp_path, data, "x", backbone="resnet18", pretrained=tmp_path / "x" / BEST)
    for flags in (["--test"], ["--model_dir", tmp_path / "y"]):
        assert f"{tmp_path}/x/{BEST} is a web page" in failing(main, "--cfg", file, *flags)


def test_validation_that_is_not_balanced(data, tmp_path, capsys):
    """Class 0 has three validation images, the others two and one.

    What is kept, and said, is the mean of the class accuracies.
    """
    rewritten(data, "val", lambda lines: [*lines[:3], *lines[3:5], lines[6]])
    folder = train_imagenet(tmp_path, data, "x", num_epochs=4, lr=0.2)
    rows = read_log(folder / "x.csv")
    means = [np.mean(row.class_accuracy) for row in rows]
    assert last_checkpoint(folder)["best_accuracy"] == pytest.approx(max(means), abs=1e-4)
    assert json.loads((folder / "test.json").read_text())["epoch"] == 1 + int(np.argmax(np.round(means, 3)))
    output = capsys.readouterr().out
    assert (
        f"best validation accuracy (mean of classes) {max(means):.4f}"[:-1] in output
        and output.count("(mean of classes ") == 4
    )


def test_a_rare_class_without_validation_images(data, tmp_path, failing, capsys):
    """The published difficulty has no answer for it, and names the one that has."""
    rewritten(data, "val", lambda lines: lines[:6])
    settings = {"loss_type": "CDB-CE", "num_epochs": 2}
    error = failing(main, "--cfg", write_config(tmp_path, data, "x", **settings))
    assert "Small_val.txt" in error and "class 2" in error and "difficulty: smoothed" in error
    folder = train_imagenet(tmp_path, data, "y", **settings, difficulty="smoothed")
    assert capsys.readouterr().out.count("Small_val.txt has no ") == 1
    assert all(row.class_weight[2] > 0 and math.isnan(row.class_accuracy[2]) for row in read_log(folder / "y.csv"))


def test_frames_that_were_deleted(tmp_path, failing):
    """Named before training."""
    data = make_clips(tmp_path / "egtea")
    clip = data / "frames/P01-R01-Tea/P01-R01-Tea-3-F000003"
    assert (clip / "9.frames").exists()
    (clip / "000004.jpg").unlink()
    arguments = egtea_flags(data, tmp_path / "run", "--max_epochs", 1)
    error = failing(EGTEA_train.main, *arguments)
    assert f"{clip} holds 8 of the 9 frames" in error
    assert not list((tmp_path / "run").glob("*.pth"))
