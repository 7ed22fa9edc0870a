"""The paper's splits from EGTEA's annotations: a small fixture everywhere, the real ones where they are."""

import re
from pathlib import Path

import pytest

import make_splits
from egtea_clips import read_class_names, read_clips

TRAIN = [
    "P01-R01-Tea-1 1 2 3",
    "P20-R01-Tea-2 4 1 6 7",
    "P19-R02-Tea-3 1 1 1",
    "P26-R01-Pizza-4 1 2 1",
    "P2-R01-Tea-5 1 3 1",
    "OP01-R01-Tea-6 1 1 1",
    "P27-R01-Tea-7 1 1 1",
    "P200-R01-Tea-8 1 1 1",
]
TEST = ["OP02-R01-Tea-9 1 1 1", "P21-R02-Tea-10 1 2 1"]


@pytest.fixture
def annotations(tmp_path) -> Path:
    folder = tmp_path / "action_annotation"
    folder.mkdir()
    (folder / "train_split1.txt").write_text("\n".join(TRAIN) + "\n")
    (folder / "test_split1.txt").write_text("\n".join(TEST) + "\n")
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_subjects_20_to_26_validate(annotations, tmp_path, capsys):
    (annotations / "verb_idx.txt").write_text("Take 1\nPut down 2\n")
    arguments = ["--annotations", str(annotations), "--out", str(tmp_path / "data")]
    assert make_splits.main(arguments) == 0
    assert lines(tmp_path / "data/val_split.txt") == [TRAIN[1], TRAIN[3]]
    assert lines(tmp_path / "data/train_split.txt") == [TRAIN[0], TRAIN[2], *TRAIN[4:]]
    assert lines(tmp_path / "data/test_split.txt") == TEST
    assert lines(tmp_path / "data/verbs.txt") == ["1 Take", "2 Put down"]
    assert "train_split.txt: 6 clips; of each class 4 1 1" in capsys.readouterr().out
    assert make_splits.main(arguments) == 0  # the same again is no conflict


def test_other_split_files_are_left_alone(annotations, tmp_path, failing):
    (tmp_path / "test_split.txt").write_text("mine\n")
    error = failing(make_splits.main, "--annotations", annotations, "--out", tmp_path)
    assert "test_split.txt" in error and "--overwrite" in error
    assert not (tmp_path / "train_split.txt").exists()
    assert make_splits.main(["--annotations", str(annotations), "--out", str(tmp_path), "--overwrite"]) == 0
    assert lines(tmp_path / "test_split.txt") == TEST


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("P01-R01-Tea-1 1 2", "line 9: 'P01-R01-Tea-1 1 2'"),
        ("P01-R01-Tea-99 1 x 3", "line 9"),
        ("P01-R01-Tea-99 1 0 3", "line 9"),
        (TRAIN[0], "line 9: P01-R01-Tea-1 "),
        ("P01-R01-Tea-99 1 999999999 3", "line 9"),
        ("P01-R01-Tea-99 1 \u0661 3", "line 9"),
        ("../a-b-c-d 1", "line 9"),
        ("P01 1 1 1", "is not named as a clip"),
    ],
)
def test_damaged_annotations(annotations, tmp_path, failing, line, match):
    with open(annotations / "train_split1.txt", "a") as file:
        file.write(line + "\n")
    assert match in failing(make_splits.main, "--annotations", annotations, "--out", tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ("1 take\n0 none\n", "verb_idx.txt, line 2: '0 none'"),
        ("take\n", "line 1: 'take' is not"),
        ("1 take\n\nput 1\n", "line 3: class 1 "),
        ("7\n", "line 1: '7' is not"),
        ("\u0661 take\n", "line 1"),
        ("1001 take\n", "line 1"),
        ("take -1\n", "line 1: 'take -1' is not"),
    ],
)
def test_names_that_training_would_refuse(annotations, tmp_path, failing, names, match):
    (annotations / "verb_idx.txt").write_text(names, encoding="utf-8")
    assert match in failing(make_splits.main, "--annotations", annotations, "--out", tmp_path / "data")
    assert not (tmp_path / "data").exists()
    (tmp_path / "verbs.txt").write_text(names, encoding="utf-8")
    with pytest.raises(ValueError, match="verbs.txt"):
        read_class_names(tmp_path / "verbs.txt", 2)


def test_training_reads_the_names_as_they_are_written(annotations, tmp_path):
    (annotations / "verb_idx.txt").write_text("2 Put down\n\nTake 1\n")
    assert make_splits.main(["--annotations", str(annotations), "--out", str(tmp_path)]) == 0
    assert read_class_names(tmp_path / "verbs.txt", 3) == ["Take", "Put down", "class 3"]


def test_missing_annotations_and_unwritable_folders(annotations, tmp_path, failing, started):
    run = started(make_splits.__file__, "--annotations", tmp_path / "none", cwd=Path("/"))
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("make_splits.py: error: no ") and run.stderr.count("\n") == 1
    (tmp_path / "file").write_text("")
    assert "cannot be written" in failing(
        make_splits.main, "--annotations", annotations, "--out", tmp_path / "file/data"
    )
    (annotations / "train_split1.txt").write_text(TRAIN[0])
    assert "val_split.txt" in failing(make_splits.main, "--annotations", annotations, "--out", tmp_path / "data")


def test_real_annotations(shared_data, tmp_path, capsys):
    """Clip counts and verb counts of the paper."""
    assert make_splits.main(["--annotations", str(shared_data / "egtea"), "--out", str(tmp_path)]) == 0
    counts = {name: len(lines(tmp_path / f"{name}_split.txt")) for name in ("train", "val", "test")}
    assert counts == {"train": 6372, "val": 1927, "test": 2022}
    assert (
        "of each class 429 779 1421 822 129 1335 130 308 223 249 54 54 139 42 78 117 26 15 22"
        in capsys.readouterr().out
    )


def test_annotations_of_absurd_size_are_not_read(annotations, tmp_path, failing):
    with open(annotations / "train_split1.txt", "wb") as file:
        file.truncate(1 << 40)
    assert re.search(
        "train_split1.txt .*1,099,511,627,776",
        failing(make_splits.main, "--annotations", annotations, "--out", tmp_path),
    )


def class_folders(root: Path, clips: dict[str, list[str]]) -> Path:
    for name, stems in clips.items():
        (root / name).mkdir(parents=True)
        for stem in stems:
            (root / name / f"{stem}.mp4").touch()
    return root


def split_folders(root: Path, out: Path) -> dict[str, list[tuple[str, int]]]:
    """The clips of train, val and test, as training reads them."""
    assert make_splits.main(["--folders", str(root), "--out", str(out)]) == 0
    return {name: read_clips(out / f"{name}_split.txt") for name in ("train", "val", "test")}


def test_a_fifth_of_each_class_is_held_out_and_one_clip_from_five_on(tmp_path, capsys):
    """Single clips: of 23 classes' fifth are 4, of 5 one, of 4 none. Numeric folders are ordered by number."""
    sizes = {"2": 23, "10": 5, "jump": 4}
    root = class_folders(tmp_path / "clips", {name: [f"x{n}" for n in range(size)] for name, size in sizes.items()})
    (root / "2/._x0.mp4").touch()
    (root / "10").rename(tmp_path / "elsewhere")
    (root / "10").symlink_to(tmp_path / "elsewhere")
    splits = split_folders(root, tmp_path / "out")
    counts = {split: [sum(label == c for _, label in clips) for c in range(3)] for split, clips in splits.items()}
    assert counts == {"train": [15, 3, 4], "val": [4, 1, 0], "test": [4, 1, 0]}
    assert read_class_names(tmp_path / "out/classes.txt", 3) == ["2", "10", "jump"]
    names = [name for clips in splits.values() for name, _ in clips]
    assert len(set(names)) == 32 and all(name.partition("/")[0] in sizes for name in names)
    output = capsys.readouterr().out
    assert "jump (4)" in output and "22 clips; of each class 15 3 4" in output
    assert split_folders(root, tmp_path / "again") == splits


def test_clips_of_one_video_stay_in_one_split(tmp_path, capsys):
    """Ten videos of three clips, also across classes; a class whose names tell nothing is split clip by clip."""
    cut = [f"garden{video}_{clip}" for video in range(10) for clip in range(3)]
    clips = {"jump": cut, "run": [f"garden{video}_9" for video in range(10)], "walk": [f"walk_{n}" for n in range(10)]}
    splits = split_folders(class_folders(tmp_path / "clips", clips), tmp_path / "out")
    split_of = {}
    for split, members in splits.items():
        for name, _ in members:
            if "garden" in name:
                split_of.setdefault(name.partition("/")[2].partition("_")[0], set()).add(split)
    assert len(split_of) == 10 and all(len(found) == 1 for found in split_of.values())
    counts = {split: [sum(label == c for _, label in members) for c in range(3)] for split, members in splits.items()}
    assert counts == {"train": [18, 6, 6], "val": [6, 2, 2], "test": [6, 2, 2]}
    assert re.search("clips are split one by one.*: walk", capsys.readouterr().out)


def test_each_split_has_a_clip_even_of_a_class_with_few_videos(tmp_path):
    """Three videos of 5, 4 and 3 clips, of which a fifth is 2: the smaller two are held out whole."""
    stems = [f"{video}_{clip}" for video, count in (("a", 5), ("b", 4), ("c", 3)) for clip in range(count)]
    clips = {"jump": stems, "run": [f"x{n}" for n in range(6)]}
    splits = split_folders(class_folders(tmp_path / "clips", clips), tmp_path / "out")
    counts = {split: sum(label == 0 for _, label in members) for split, members in splits.items()}
    assert counts == {"train": 5, "val": 3, "test": 4}


@pytest.mark.parametrize(
    ("clips", "match"),
    [
        ({"jump": ["a"] * 1}, "1 class folders"),
        ({"jump": ["a"], "run": ["b"]}, "for validation"),
        ({"jump": ["a"], "run": ["b\nc"]}, "rename it"),
        ({"jump": ["a"], "run\n": ["b"]}, "rename it"),
    ],
)
def test_class_folders_that_cannot_be_split(tmp_path, failing, clips, match):
    root = class_folders(tmp_path / "clips", clips)
    assert match in failing(make_splits.main, "--folders", root, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "--out" in failing(make_splits.main, "--folders", root)
