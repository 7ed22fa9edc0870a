"""From a folder of images to lists: how many go where, what is left out, and what is said of it.

Counts are worked out by hand.
"""

import errno
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, features

import make_lists
from builders import jpeg
from conftest import ROOT
from imagenet_config import read_config
from imagenet_lists import read_class_names, read_list
from imagenet_recipe import recipe, view_sizes

SPLITS = ("train", "val", "test")


def make_images(root: Path, counts: dict[str, int], content: bytes = b"") -> Path:
    """Files called 000.jpg and so on in a folder for each class."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / name / f"{number:03d}.jpg").write_bytes(content)
    return root


def different_images(root: Path, counts: dict[str, int]) -> Path:
    """The same, with another colour in each: no two are copies of each other."""
    make_images(root, counts)
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.write_bytes(jpeg((12 * number, 90, 0)))
    return root


def made(root: Path, out: Path, *flags: object) -> dict[str, list[str]]:
    """The lines of each list."""
    assert make_lists.main([str(root), "--out", str(out), *map(str, flags)]) == 0
    return {split: (out / f"{split}.txt").read_text().splitlines() for split in SPLITS}


def counts(lines: list[str]) -> list[int]:
    labels = [int(line.split()[-1]) for line in lines]
    return [labels.count(label) for label in range(max(labels) + 1)]


def test_a_fifth_at_most_and_twenty_by_default(tmp_path, capsys):
    """140 - 20 - 20, a fifth of 34 each, one of five each, and a class of four stays whole."""
    root = make_images(tmp_path / "images", {"a": 140, "b b": 34, "c": 5, "d": 4})
    lists = made(root, tmp_path / "out")
    assert counts(lists["train"]) == [100, 22, 3, 4] and counts(lists["val"]) == counts(lists["test"]) == [20, 6, 1]
    assert len(set(lists["train"] + lists["val"] + lists["test"])) == 140 + 34 + 5 + 4
    assert (
        lists["train"] == sorted(lists["train"], key=lambda line: (int(line.split()[-1]), line))
        and "b b/0" in lists["val"][20]
    )
    output = capsys.readouterr().out
    assert re.search("4 classes: 129 .*, 27 .*, 27 ", output)
    assert "largest class 100 (a), smallest 3 (c)" in output and "0 many, 2 medium, 2 few" in output
    assert "14 of their 39 images" in output
    assert ": d (4)" in output
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
    assert (config.difficulty, config.tau) == ("smoothed", 0.5)
    assert (
        config.path("data_root") == root
        and config.path("model_dir") == tmp_path / "out/cdb"
        and config.loss_type == "CDB-BS"
    )
    assert (config.num_classes, config.image_size, config.test_resize) == (2, 64, 64)  # 70 pixels, in steps of 32
    assert (config.num_epochs, config.batch_size, config.lr) == (90, 64, 0.1)  # 36 training images
    assert read_class_names(config.path("class_list"), 2) == ["[y]", "x: #1"]
    assert all("#" in line for line in text.splitlines())


@pytest.mark.parametrize(
    ("images", "epochs", "batch_size", "lr"),
    [(1000, 90, 64, 0.1), (4800, 40, 64, 0.1), (49_999, 20, 64, 0.1), (50_000, 90, 512, 0.2)],
)
def test_a_recipe_for_so_many_images(images, epochs, batch_size, lr, tmp_path):
    """3,000 steps of 64 images are 40 epochs of 4,800."""
    settings = recipe(tmp_path, {"a": ["none.jpg"] * images})
    assert (settings["num_epochs"], settings["batch_size"], settings["lr"]) == (epochs, batch_size, lr)
    assert (settings["image_size"], settings["test_resize"]) == (224, 256)
    assert not {"pretrained", "optimizer", "head_lr", "warmup_epochs"} & settings.keys()


@pytest.mark.parametrize(
    ("side", "sizes"),
    [(31, (32, 32)), (64, (64, 64)), (223, (192, 192)), (224, (224, 256)), (255, (224, 256)), (256, (224, 256))],
)
def test_views_of_small_images_are_small(side, sizes, tmp_path):
    """In steps of 32 pixels; from 224 on as in the paper."""
    make_images(tmp_path / "a", {"x": 3}, jpeg(size=(side + 50, side)))
    assert view_sizes(tmp_path, [f"a/x/00{number}.jpg" for number in range(3)]) == sizes


@pytest.mark.parametrize(
    ("backbone", "images", "expected"),
    [
        ("resnet18", 9600, {"num_epochs": 10, "optimizer": "sgd", "lr": 0.01, "head_lr": 0.1}),
        ("resnet50", 100, {"num_epochs": 30, "optimizer": "sgd"}),
        ("timm/vit_tiny_patch16_224", 96_000, {"num_epochs": 5, "optimizer": "adamw", "lr": 0.0001, "head_lr": 0.001}),
        ("timm/convnext_atto", 9600, {"optimizer": "adamw"}),
        ("timm/mobilenetv3_small_050", 9600, {"optimizer": "sgd"}),
    ],
)
def test_pretrained_weights_get_a_recipe_for_fine_tuning(backbone, images, expected, tmp_path):
    """1,500 steps of 64 images are 10 epochs of 9,600; at 224 pixels, however small the images are."""
    if backbone.startswith("timm"):
        pytest.importorskip("timm")
    make_images(tmp_path, {"x": 1}, jpeg(size=(64, 64)))
    settings = recipe(tmp_path, {"a": ["x/000.jpg"] * images}, backbone, "imagenet")
    assert {key: settings[key] for key in expected} == expected
    assert (settings["image_size"], settings["test_resize"], settings["warmup_epochs"]) == (224, 256, 1)
    assert settings["pretrained"] == "imagenet" and settings["backbone"] == backbone


def test_a_configuration_for_fine_tuning_is_read(tmp_path, capsys, failing):
    root = make_images(tmp_path / "images", {"a": 30, "b": 30}, jpeg())
    made(root, tmp_path / "out", "--backbone", "resnet50", "--pretrained=imagenet")
    config = read_config(tmp_path / "out/config.yaml")
    assert (config.backbone, config.pretrained, config.head_lr) == ("resnet50", "imagenet", 0.1)
    (tmp_path / "weights.pth").write_bytes(b"")
    made(root, tmp_path / "own", "--pretrained", tmp_path / "weights.pth")
    assert read_config(tmp_path / "own/config.yaml").path("pretrained") == tmp_path / "weights.pth"
    command = [root, "--out", tmp_path / "x"]
    assert f"--pretrained {tmp_path}/none.pth" in failing(
        make_lists.main, *command, "--pretrained", tmp_path / "none.pth"
    )
    assert re.search("--backbone .*resnet10", failing(make_lists.main, *command, "--backbone", "resnet1"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("val", {"train": [24, 8], "val": [4, 5], "test": [6, 1]}),
        ("test", {"train": [24, 8], "val": [6, 1], "test": [4, 5]}),
        ("val test", {"train": [30, 9], "val": [4, 5], "test": [4, 5]}),
        ("", {"train": [18, 7], "val": [6, 1], "test": [6, 1]}),
    ],
)
def test_folders_as_imagefolder_has_them(given, expected, tmp_path, capsys):
    """30 and 9 training images, 4 and 5 where a folder has them: what is missing is cut from train, at most a fifth."""
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
    root = make_images(tmp_path, {"a": 5, "b": 5})
    first = made(root, root / "lists")
    assert (root / "lists/tail.png").exists() and made(root, root / "lists", "--overwrite") == first


def test_a_class_may_be_called_train(tmp_path, capsys):
    root = make_images(tmp_path, {"car": 5, "train": 5, "val": 5})
    made(root, tmp_path / "out")
    assert (tmp_path / "out/classes.txt").read_text() == "car\ntrain\nval\n"


def test_check_finds_what_cannot_be_used(tmp_path, capsys):
    """A truncated image, a web page, an empty file and a strip; a class of nothing else is named."""
    root = different_images(tmp_path / "images", {"a": 15, "b": 5})
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
    assert [counts(lists[split]) for split in SPLITS] == [[9, 3], [3, 1], [3, 1]]
    lines = (tmp_path / "out/unusable.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in lines] == [repr(name) for name in sorted(bad)]
    assert (
        "is not an image that can be decoded: Truncated File Read" in lines[0] and "its format is unknown" in lines[1]
    )
    assert "15360000 x 256 pixels" in lines[2]
    output = capsys.readouterr().out
    assert "cannot be used: 4, " in output
    assert "can be used: c" in output
    (root / "a/1cut.jpg").unlink()
    made(root, tmp_path / "out", "--overwrite")
    assert not (tmp_path / "out/unusable.txt").exists()


def test_odd_names(tmp_path, capsys):
    """Hidden files, other files, a circle of links, folders in a class, and names that no list can hold."""
    root = make_images(
        tmp_path / "images",
        {"a/deep er": 3, "b": 5, ".hidden": 3, "#c": 5, "~d": 1, "lost+found": 3, "a/lost+found": 1, "a/@eaDir": 2},
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
    assert all((root / path).is_file() for path in train.names()) and train.class_counts(5) == [3, 5, 3, 3, 1]
    assert ": 1 (.txt)" in capsys.readouterr().out


def test_wrong_folders(tmp_path, failing):
    out = tmp_path / "out"
    assert f"{tmp_path}/none is not a folder" in failing(make_lists.main, tmp_path / "none", "--out", out)
    root = make_images(tmp_path / "images", {"a": 2, "b": 2})
    assert re.search("for val: .* 5 images", failing(make_lists.main, root, "--out", out))
    assert "1 class folders" in failing(make_lists.main, make_images(tmp_path / "one", {"a": 5}), "--out", out)
    split = make_images(tmp_path / "split", {"train/a": 5, "train/b": 5, "val/c": 1})
    assert re.search("val .*class c, .*train/", failing(make_lists.main, split, "--out", out))
    flat = make_images(tmp_path / "flat", {"train/a": 5, "train/b": 5, "val": 3})
    assert "no class folder" in failing(make_lists.main, flat, "--out", out)
    assert "images/b holds images" in failing(make_lists.main, root, "--out", root / "b")
    assert re.search("--val: .*'0'", failing(make_lists.main, root, "--out", out, "--val", 0))
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
    assert "b/deep cannot be read" in error
    assert not (tmp_path / "out").exists()


def test_a_stop_signal_writes_no_list(tmp_path, monkeypatch, capsys):
    root = make_images(tmp_path / "images", {"a": 5, "b": 5})
    real = make_lists.split_classes

    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(make_lists, "split_classes", stopped)
    assert make_lists.main([str(root), "--out", str(tmp_path / "out")]) == 128 + signal.SIGTERM
    assert "SIGTERM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lists_are_not_replaced_unasked(tmp_path, failing, capsys):
    root = make_images(tmp_path / "images", {"a": 5, "b": 5})
    before = made(root, tmp_path / "out")
    error = failing(make_lists.main, root, "--out", tmp_path / "out", "--seed", 5)
    assert re.search(f"{tmp_path}/out/config.yaml .*--out.*--overwrite", error)
    assert made(root, tmp_path / "out", "--overwrite") == before
    for name in ("classes.txt", "unusable.txt", "tail.png"):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        (out / name).write_text("a user's")
        assert re.search(f"{out / name} .*--out", failing(make_lists.main, root, "--out", out))
        assert (out / name).read_text() == "a user's"
    (tmp_path / "file").write_text("")
    assert "file" in failing(make_lists.main, root, "--out", tmp_path / "file/out")


def test_the_script_starts_in_any_folder(tmp_path, shell):
    root = make_images(tmp_path / "images", {"a": 5, "b": 5})
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
    settings = recipe(tmp_path, {"a": [f"a/x/{number:03d}.jpg" for number in range(images)]})
    assert settings["batch_size"] == batch_size and settings["image_size"] == (32 if side == 40 else 64)


def test_the_tail_counts_classes_at_its_borders(tmp_path, capsys):
    """101, 100, 20 and 19 training images: many, medium, medium, few."""
    sizes = {"a": 101, "b": 100, "c": 20, "d": 19}
    root = make_images(tmp_path, {f"{split}/{name}": size for split in SPLITS for name, size in sizes.items()})
    made(root, tmp_path / "out")
    output = capsys.readouterr().out
    assert "largest class 101 (a), smallest 19 (d)" in output and "1 many, 2 medium, 1 few" in output


@pytest.mark.parametrize(
    "names",
    [("train", "valid", "test"), ("Training", "Validation", "Testing"), ("TRAIN", "val", "evaluation")],
)
def test_what_others_call_the_splits(names, tmp_path, capsys):
    """Roboflow has valid/, others Training/ and Testing/. A folder beside them is named."""
    train, val, test = names
    folders = {f"{name}/{c}": count for name, count in ((train, 6), (val, 2), (test, 3)) for c in "ab"}
    root = make_images(tmp_path, {**folders, "extra/a": 1})
    lists = made(root, tmp_path / "out")
    assert [counts(lists[split]) for split in SPLITS] == [[6, 6], [2, 2], [3, 3]]
    assert lists["val"][0] == f"{val}/a/000.jpg 0"
    assert "nor test: extra" in capsys.readouterr().out


def test_folders_that_look_like_splits_are_no_classes(tmp_path, failing):
    root = make_images(tmp_path / "a", {f"{name}/{c}": 6 for name in ("first", "second") for c in ("cat", "dog")})
    error = failing(make_lists.main, root, "--out", tmp_path / "out")
    assert re.search(f"{root} holds first/, second/, .* cat, dog", error)
    twice = make_images(tmp_path / "b", {f"{name}/{c}": 6 for name in ("train", "val", "Valid") for c in "ab"})
    error = failing(make_lists.main, twice, "--out", tmp_path / "out")
    assert f"{twice} holds Valid/ and val/" in error


def test_classes_may_lie_deeper(tmp_path, capsys):
    """Two groups, three kinds, four sorts; one kind has images of its own."""
    folders = {"Fruit/Apple/Red": 6, "Fruit/Apple/Green": 5, "Fruit/Pear/Abate": 5, "Roots/Leek": 5}
    root = make_images(tmp_path / "images", folders)
    made(root, tmp_path / "one")
    assert (tmp_path / "one/classes.txt").read_text() == "Fruit\nRoots\n"
    assert re.search("depth 1; --depth .*: 3 at 2, 4 at 3", capsys.readouterr().out)
    lists = made(root, tmp_path / "three", "--depth", 3)
    assert (tmp_path / "three/classes.txt").read_text() == "Abate\nGreen\nLeek\nRed\n"
    assert counts(lists["train"]) == [3, 3, 3, 4]
    make_images(root, {"Roots/Radish/Red": 5})  # now two classes would be called Red
    made(root, tmp_path / "full", "--depth", 3)
    assert (tmp_path / "full/classes.txt").read_text() == (
        "Fruit/Apple/Green\nFruit/Apple/Red\nFruit/Pear/Abate\nRoots/Leek\nRoots/Radish/Red\n"
    )


def test_a_class_may_lie_deeper_in_one_split(tmp_path, capsys):
    """As the mushrooms of a public set of groceries."""
    folders = {"train/Roots/Leek": 5, "train/Roots/Beet": 5, "test/Roots/Leek": 2, "test/Roots/Long/Beet": 3}
    lists = made(make_images(tmp_path, folders), tmp_path / "out", "--depth", 3)
    assert counts(lists["test"]) == [3, 2] and lists["test"][0] == "test/Roots/Long/Beet/000.jpg 0"


def test_copies_of_an_image_stay_in_one_list(tmp_path, capsys):
    """Ten images of which nine are one: whichever are drawn, the copies are trained on."""
    root = make_images(tmp_path / "images", {"a": 10, "b": 10})
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.write_bytes(jpeg((0, 0, 200)) if number < 9 else jpeg((20 * number % 256, number, 0)))
    lists = made(root, tmp_path / "out", "--check")
    copies = {f"a/00{number}.jpg" for number in range(9)}
    assert copies <= {line.split()[0] for line in lists["train"]}
    assert counts(lists["train"])[1] == 6 and len(set(lists["train"] + lists["val"] + lists["test"])) == 20
    assert "8 files are copies" in capsys.readouterr().out


def test_a_copy_of_a_test_image_is_not_trained_on(tmp_path, capsys):
    root = make_images(tmp_path / "images", {f"{split}/{c}": 5 for split in SPLITS for c in "ab"})
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.write_bytes(jpeg((8 * number, number, 0)))
    (root / "train/a/000.jpg").write_bytes((root / "test/a/003.jpg").read_bytes())
    lists = made(root, tmp_path / "out", "--check")
    assert [len(lists[split]) for split in SPLITS] == [9, 10, 10]
    assert "train/a/000.jpg': a copy" in (tmp_path / "out/unusable.txt").read_text()


def test_smaller_copies_are_written_once(tmp_path, capsys):
    """Of 100 x 80 pixels 50 x 40 are left; a photograph of 40 and a damaged file are copied as they are."""
    root = make_images(tmp_path / "images", {"a": 5, "b": 5}, jpeg(size=(100, 80)))
    (root / "a/000.jpg").write_bytes(jpeg(size=(40, 60)))
    (root / "a/cut.jpg").write_bytes(jpeg()[:300])
    Image.new("RGB", (200, 80)).save(root / "b/flat.bmp")
    lists = made(root, tmp_path / "out", "--short_side", 40)
    images = {line.split()[0] for lines in lists.values() for line in lines}
    assert len(images) == 12 and "b/flat.bmp.png" in images
    copies = tmp_path / "out/images"
    assert read_config(tmp_path / "out/config.yaml").path("data_root") == copies
    sizes = {path: Image.open(copies / path).size for path in images - {"a/cut.jpg"}}
    assert sizes.pop("a/000.jpg") == (40, 60) and sizes.pop("b/flat.bmp.png") == (100, 40)
    assert set(sizes.values()) == {(50, 40)}
    assert (copies / "a/cut.jpg").read_bytes() == (root / "a/cut.jpg").read_bytes()


@pytest.mark.skipif("avif" not in features.get_supported_modules(), reason="this Pillow cannot read AVIF")
def test_avif_is_read(tmp_path, capsys):
    root = different_images(tmp_path / "images", {"a": 5, "b": 5})
    Image.new("RGB", (50, 40), "red").save(root / "a/x.avif")
    lists = made(root, tmp_path / "out", "--check")
    assert "a/x.avif" in {line.split()[0] for lines in lists.values() for line in lines}


def test_images_of_sixteen_bits_are_reported(tmp_path, capsys):
    """Of two with 12 bits the brightest value is said; the ten others have 8."""
    root = different_images(tmp_path / "images", {"a": 5, "b": 5})
    for name, value in (("x", 1000), ("y", 4000)):
        Image.fromarray(np.full((40, 40), value, dtype=np.uint16)).save(root / f"a/{name}.png")
    made(root, tmp_path / "out", "--check")
    assert re.search("2 images .*16 bits, .* 4,000; .*`white_level`", capsys.readouterr().out)
