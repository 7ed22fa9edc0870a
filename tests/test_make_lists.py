"""From a folder of images to lists: how many go where, what is left out, and what is said of it.

Counts are worked out by hand.
"""

import errno
import os
import signal
from pathlib import Path

import pytest
import yaml

import make_lists
from conftest import ROOT
from image_builders import jpeg
from imagenet_config import read_config
from imagenet_lists import read_class_names, read_list

SPLITS = ("train", "val", "test")


def make_images(root: Path, counts: dict[str, int], content: bytes = b"") -> Path:
    """Files called 000.jpg and so on in a folder for each class."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / name / f"{number:03d}.jpg").write_bytes(content)
    return root


def made(root: Path, out: Path, *flags: object) -> dict[str, list[str]]:
    """The lines of each list."""
    assert make_lists.main([str(root), "--out", str(out), *map(str, flags)]) == 0
    return {split: (out / f"{split}.txt").read_text().splitlines() for split in SPLITS}


def counts(lines: list[str]) -> list[int]:
    labels = [int(line.split()[-1]) for line in lines]
    return [labels.count(label) for label in range(max(labels) + 1)]


def test_a_third_at_most_and_twenty_by_default(tmp_path, capsys):
    """90 - 20 - 20, a third of 30 each, one of three each, and a class of two stays whole."""
    root = make_images(tmp_path / "images", {"a": 90, "b b": 30, "c": 3, "d": 2})
    lists = made(root, tmp_path / "out")
    assert counts(lists["train"]) == [50, 10, 1, 2] and counts(lists["val"]) == counts(lists["test"]) == [20, 10, 1]
    assert len(set(lists["train"] + lists["val"] + lists["test"])) == 90 + 30 + 3 + 2
    assert (
        lists["train"] == sorted(lists["train"], key=lambda line: (int(line.split()[-1]), line))
        and "b b/0" in lists["val"][20]
    )
    output = capsys.readouterr().out
    assert "4 classes: 63 images for training, 31 for validation, 31 for the test" in output
    assert "largest class 50 (a), smallest 1 (c); classes: 0 many, 1 medium, 3 few" in output
    assert "in training alone, without images for validation and test: d (2)" in output
    assert f"--cfg {tmp_path}/out/config.yaml" in output.splitlines()[-1] and output.splitlines()[-1].startswith(
        "next: python "
    )
    names = {"train.txt", "val.txt", "test.txt", "classes.txt", "config.yaml", "tail.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert read_class_names(tmp_path / "out/classes.txt", 4) == ["a", "b b", "c", "d"]
    for split in SPLITS:
        assert len(read_list(tmp_path / f"out/{split}.txt", root, 4)) == len(lists[split])


def test_the_seed_decides_what_is_drawn(tmp_path, capsys):
    """One class's draw does not depend on the others."""
    root = make_images(tmp_path / "images", {"b": 30, "c": 30})
    first, again, other = (
        made(root, tmp_path / str(number), "--val", 3, "--test", 5, "--seed", seed)
        for number, seed in enumerate((1, 1, 2))
    )
    assert first == again and first["val"] != other["val"] and counts(first["train"]) == [22, 22]
    assert counts(first["val"]) == [3, 3] and counts(first["test"]) == [5, 5]
    make_images(root, {"a": 30})
    more = made(root, tmp_path / "more", "--val", 3, "--test", 5, "--seed", 1)
    assert [line.split()[0] for line in more["val"][3:]] == [line.split()[0] for line in first["val"]]


def test_the_configuration_is_ready(tmp_path, capsys):
    root = make_images(tmp_path / 'ima"ges é', {"x: #1": 30, "[y]": 30}, jpeg(size=(100, 70)))
    made(root, tmp_path / "out")
    text = (tmp_path / "out/config.yaml").read_text()
    values = yaml.safe_load(text)
    assert values.pop("difficulty") == "smoothed"
    config = read_config(tmp_path / "out/config.yaml")
    assert config.difficulty == "smoothed"
    assert (
        config.path("data_root") == root
        and config.path("model_dir") == tmp_path / "out/cdb"
        and config.loss_type == "CDB-CE"
    )
    assert (config.num_classes, config.image_size, config.test_resize) == (2, 64, 64)  # 70 pixels, in steps of 32
    assert (config.num_epochs, config.batch_size, config.lr) == (90, 64, 0.1)  # 20 training images
    assert read_class_names(config.path("class_list"), 2) == ["[y]", "x: #1"]
    assert all("#" in line for line in text.splitlines())


@pytest.mark.parametrize(
    ("images", "epochs", "batch_size"), [(1000, 90, 64), (4800, 40, 64), (20_000, 20, 64), (50_000, 90, 512)]
)
def test_a_recipe_for_so_many_images(images, epochs, batch_size, tmp_path):
    """3,000 steps of 64 images are 40 epochs of 4,800."""
    settings = make_lists.recipe(tmp_path, {"a": ["none.jpg"] * images})
    assert (settings["num_epochs"], settings["batch_size"]) == (epochs, batch_size)
    assert (settings["image_size"], settings["test_resize"]) == (224, 256)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("val", {"train": [20, 6], "val": [4, 5], "test": [10, 3]}),
        ("test", {"train": [20, 6], "val": [10, 3], "test": [4, 5]}),
        ("val test", {"train": [30, 9], "val": [4, 5], "test": [4, 5]}),
        ("", {"train": [10, 3], "val": [10, 3], "test": [10, 3]}),
    ],
)
def test_folders_as_imagefolder_has_them(given, expected, tmp_path, capsys):
    """30 and 9 training images, 4 and 5 where a folder has them: what is missing is cut from train, at most a third."""
    root = make_images(
        tmp_path,
        {
            "train/a": 30,
            "train/b": 9,
            **{f"{split}/{name}": count for split in given.split() for name, count in (("a", 4), ("b", 5))},
        },
    )
    lists = made(root, tmp_path / "out", "--val", 12, "--test", 15)
    assert {split: counts(lines) for split, lines in lists.items()} == expected
    assert all(
        line.startswith(f"{split if split in given.split() else 'train'}/") for split in SPLITS for line in lists[split]
    )


def test_lists_among_the_class_folders_are_no_class(tmp_path, capsys):
    """Their picture is an image, too."""
    root = make_images(tmp_path, {"a": 3, "b": 3})
    first = made(root, root / "lists")
    assert (root / "lists/tail.png").exists() and made(root, root / "lists", "--overwrite") == first


def test_a_class_may_be_called_train(tmp_path, capsys):
    root = make_images(tmp_path, {"car": 3, "train": 3, "val": 3})
    made(root, tmp_path / "out")
    assert (tmp_path / "out/classes.txt").read_text() == "car\ntrain\nval\n"


def test_check_finds_what_cannot_be_used(tmp_path, capsys):
    """A truncated image, a web page, an empty file and a strip; a class of nothing else is named."""
    root = make_images(tmp_path / "images", {"a": 9, "b": 4}, jpeg())
    bad = {
        "a/1cut.jpg": jpeg()[:400],
        "a/2page.png": b"<!DOCTYPE html><html></html>",
        "c/3empty.jpg": b"",
        "b/4strip.jpg": jpeg(size=(60_000, 1)),
    }
    (root / "c").mkdir()
    for name, content in bad.items():
        (root / name).write_bytes(content)
    lists = made(root, tmp_path / "out", "--check")
    assert [counts(lists[split]) for split in SPLITS] == [[3, 2], [3, 1], [3, 1]]
    lines = (tmp_path / "out/unusable.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in lines] == [repr(name) for name in sorted(bad)]
    assert (
        "is not an image that can be decoded: Image is incomplete or truncated" in lines[0]
        and "its format is unknown" in lines[1]
    )
    assert "15360000 x 256 pixels" in lines[2]
    output = capsys.readouterr().out
    assert "left out, because they cannot be used: 4, listed" in output
    assert "left out, classes without an image that can be used: c" in output
    (root / "a/1cut.jpg").unlink()
    made(root, tmp_path / "out", "--overwrite")
    assert not (tmp_path / "out/unusable.txt").exists()


def test_odd_names(tmp_path, capsys):
    """Hidden files, other files, a circle of links, folders in a class, and names that no list can hold."""
    root = make_images(
        tmp_path / "images",
        {"a/deep er": 3, "b": 3, ".hidden": 3, "#c": 3, "~d": 1, "lost+found": 3, "a/lost+found": 1},
    )
    for name in (
        ".DS_Store",
        "._000.jpg",
        "notes.txt",
        "b.JPEG",
        "two\nlines.jpg",
        "back\\slash.jpg",
        " space.jpg",
        "comma, .jpg",
        "é.PNG",
    ):
        (root / "a" / name).write_bytes(b"")
    os.symlink(root / "a", root / "a/circle")
    os.symlink(root / "b", root / "linked")
    lists = made(root, tmp_path / "out", "--val", 1, "--test", 1)
    lines = sorted(line for split in lists.values() for line in split if line.startswith("a/"))
    assert lines == [
        "a/ space.jpg 1",
        "a/b.JPEG 1",
        "a/comma, .jpg 1",
        *(f"a/deep er/00{number}.jpg 1" for number in range(3)),
        "a/é.PNG 1",
    ]
    unusable = (tmp_path / "out/unusable.txt").read_text()
    assert (
        "'a/two\\nlines.jpg': a list cannot hold its name" in unusable
        and "a/back\\slash.jpg holds a backslash" in unusable
    )
    assert (tmp_path / "out/classes.txt").read_text() == "#c\na\nb\nlinked\n~d\n"
    train = read_list(tmp_path / "out/train.txt", root, 5)
    assert all((root / path).is_file() for path in train.paths) and train.class_counts(5) == [1, 5, 1, 1, 1]
    assert "left out, because their names do not end as those of images do: 1 (.txt)" in capsys.readouterr().out


def test_wrong_folders(tmp_path, failing):
    out = tmp_path / "out"
    assert "none is not a folder; it must hold one folder of images for" in failing(
        make_lists.main, tmp_path / "none", "--out", out
    )
    root = make_images(tmp_path / "images", {"a": 2, "b": 2})
    assert "no image is left for val: at least one class must have 3 images" in failing(
        make_lists.main, root, "--out", out
    )
    assert "1 class folders hold images" in failing(
        make_lists.main, make_images(tmp_path / "one", {"a": 5}), "--out", out
    )
    split = make_images(tmp_path / "split", {"train/a": 5, "train/b": 5, "val/c": 1})
    assert "val holds images of class c, of which train/ has none" in failing(make_lists.main, split, "--out", out)
    flat = make_images(tmp_path / "flat", {"train/a": 5, "train/b": 5, "val": 3})
    assert "the folder val/ holds no class folder with images" in failing(make_lists.main, flat, "--out", out)
    assert "images/b holds images, as a class does" in failing(make_lists.main, root, "--out", root / "b")
    assert "must be a whole number of at least 1" in failing(make_lists.main, root, "--out", out, "--val", 0)
    assert not out.exists()


def test_a_folder_that_cannot_be_read_is_named(tmp_path, failing, monkeypatch):
    root = make_images(tmp_path / "images", {"a": 5, "b/deep": 5})
    real = os.scandir

    def locked(path):
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", locked)
    error = failing(make_lists.main, root, "--out", tmp_path / "out")
    assert "b/deep cannot be read: Permission denied; allow that, or move the folder away" in error
    assert not (tmp_path / "out").exists()


def test_a_stop_signal_writes_no_list(tmp_path, monkeypatch, capsys):
    root = make_images(tmp_path / "images", {"a": 5, "b": 5})
    real = make_lists.split_classes

    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(make_lists, "split_classes", stopped)
    assert make_lists.main([str(root), "--out", str(tmp_path / "out")]) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; no list was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lists_are_not_replaced_unasked(tmp_path, failing, capsys):
    root = make_images(tmp_path / "images", {"a": 3, "b": 3})
    before = made(root, tmp_path / "out")
    error = failing(make_lists.main, root, "--out", tmp_path / "out", "--seed", 5)
    assert (
        f"{tmp_path}/out/config.yaml exists: choose another --out, or replace it and the lists with --overwrite"
        in error
    )
    assert made(root, tmp_path / "out", "--overwrite") == before
    for name in ("classes.txt", "unusable.txt", "tail.png"):
        place = tmp_path / name.partition(".")[0]
        place.mkdir()
        (place / name).write_text("somebody's")
        assert f"{place / name} exists: choose another --out" in failing(make_lists.main, root, "--out", place)
        assert (place / name).read_text() == "somebody's"
    (tmp_path / "file").write_text("")
    assert "file" in failing(make_lists.main, root, "--out", tmp_path / "file/out")


def test_the_script_starts_in_any_folder(tmp_path, shell):
    root = make_images(tmp_path / "images", {"a": 3, "b": 3})
    result = shell(ROOT / "ImageNet-LT/data/make_lists.py", root, "--out", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    command = result.stdout.splitlines()[-1].split()
    assert (tmp_path / command[2]).resolve() == ROOT / "ImageNet-LT/main.py" and Path(
        command[4]
    ) == tmp_path / "out/config.yaml"


def test_what_is_written_is_no_image_of_the_next_call(tmp_path, failing):
    root = make_images(tmp_path / "images", {"a": 9, "b": 9})
    for out in (root, root / "lists/new"):
        assert "is among the images" in failing(make_lists.main, root, "--out", out)
    assert made(root, root / "lists") == made(root, root / "lists", "--overwrite")
    split = tmp_path / "split"
    make_images(split / "train", {"a": 9, "b": 9})
    assert "is among the images" in failing(make_lists.main, split, "--out", split / "val")


@pytest.mark.parametrize(("images", "side", "batch_size"), [(65, 40, 63), (66, 40, 64), (65, 90, 64), (4033, 40, 62)])
def test_small_images_are_not_left_alone_in_a_batch(images, side, batch_size, tmp_path):
    """40 pixels are trained in 32, of which layer4 sees one; 65 in batches of 64 would leave one image, 63 leaves two;
    4033 one in both.
    """
    make_images(tmp_path / "a", {"x": images}, jpeg(size=(side, side)))
    settings = make_lists.recipe(tmp_path, {"a": [f"a/x/{number:03d}.jpg" for number in range(images)]})
    assert settings["batch_size"] == batch_size and settings["image_size"] == (32 if side == 40 else 64)
