"""The paper's splits from EGTEA's annotations: a small fixture everywhere, the real ones where they are."""

from pathlib import Path

import pytest

import make_splits
from egtea_clips import read_class_names

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
    assert "train_split.txt: 6 clips; of each verb 4 1 1" in capsys.readouterr().out
    assert make_splits.main(arguments) == 0  # the same again is no conflict


def test_other_split_files_are_left_alone(annotations, tmp_path, failing):
    (tmp_path / "test_split.txt").write_text("mine\n")
    error = failing(make_splits.main, "--annotations", annotations, "--out", tmp_path)
    assert "test_split.txt is there already and differs" in error and "--overwrite" in error
    assert not (tmp_path / "train_split.txt").exists()
    assert make_splits.main(["--annotations", str(annotations), "--out", str(tmp_path), "--overwrite"]) == 0
    assert lines(tmp_path / "test_split.txt") == TEST


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("P01-R01-Tea-1 1 2", "line 9: 'P01-R01-Tea-1 1 2' is not"),
        ("P01-R01-Tea-99 1 x 3", "line 9"),
        ("P01-R01-Tea-99 1 0 3", "line 9"),
        (TRAIN[0], "line 9: P01-R01-Tea-1 is listed twice"),
        ("P01-R01-Tea-99 1 999999999 3", "line 9"),
        ("P01-R01-Tea-99 1 \u0661 3", "line 9"),
        ("../a-b-c-d 1 1 1", "is not named as a clip"),
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
        ("1 take\n0 none\n", "verb_idx.txt, line 2: '0 none' is not a verb's number"),
        ("take\n", "line 1: 'take' is not"),
        ("1 take\n\nput 1\n", "line 3: verb 1 is named twice, 'take' and 'put'"),
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
    assert read_class_names(tmp_path / "verbs.txt", 3) == ["Take", "Put down", "verb 3"]


def test_missing_annotations_and_unwritable_places(annotations, tmp_path, failing, started):
    run = started(make_splits.__file__, "--annotations", tmp_path / "none", cwd=Path("/"))
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("make_splits.py: error: no ") and run.stderr.count("\n") == 1
    (tmp_path / "file").write_text("")
    assert "cannot be written" in failing(
        make_splits.main, "--annotations", annotations, "--out", tmp_path / "file/data"
    )
    (annotations / "train_split1.txt").write_text(TRAIN[0])
    assert "val_split.txt would be empty" in failing(
        make_splits.main, "--annotations", annotations, "--out", tmp_path / "data"
    )


def test_real_annotations(shared_data, tmp_path, capsys):
    """Clip counts and verb counts of the paper."""
    assert make_splits.main(["--annotations", str(shared_data / "egtea"), "--out", str(tmp_path)]) == 0
    counts = {name: len(lines(tmp_path / f"{name}_split.txt")) for name in ("train", "val", "test")}
    assert counts == {"train": 6372, "val": 1927, "test": 2022}
    assert (
        "of each verb 429 779 1421 822 129 1335 130 308 223 249 54 54 139 42 78 117 26 15 22" in capsys.readouterr().out
    )


def test_annotations_of_absurd_size_are_not_read(annotations, tmp_path, failing):
    with open(annotations / "train_split1.txt", "wb") as file:
        file.truncate(1 << 40)
    assert "train_split1.txt has 1,099,511,627,776 bytes" in failing(
        make_splits.main, "--annotations", annotations, "--out", tmp_path
    )
