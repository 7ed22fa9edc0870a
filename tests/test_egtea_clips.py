"""Split files and names of verbs."""

import pytest

from egtea_clips import (
    check_labels,
    clip_folder,
    count_labels,
    natural_order,
    read_class_names,
    read_clips,
    split_identity,
    video_of,
)


def test_split_lines(tmp_path):
    path = tmp_path / "train_split.txt"
    path.write_text("OP01-R01-Pizza-1-2-F1-F2 43 13 24\n\nP02-R01-Pizza-3-4-F3-F4 1 2 3 9\n")
    assert read_clips(path) == [("OP01-R01-Pizza-1-2-F1-F2", 12), ("P02-R01-Pizza-3-4-F3-F4", 1)]
    assert video_of("OP01-R01-Pizza-1-2-F1-F2") == "OP01-R01-Pizza"
    assert count_labels(read_clips(path), 14) == [0, 1, *[0] * 10, 1, 0]
    with pytest.raises(ValueError, match="train_split.txt: class 13 of OP01.* 12"):
        check_labels(path, read_clips(path), 12)


def test_identity_is_the_name_and_gits_id_without_the_place(tmp_path):
    (tmp_path / "split.txt").write_text("hello\n")
    # git hash-object
    assert split_identity(tmp_path / "split.txt") == "split.txt ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a-b-c-d 1 2 3\na-b-c-e 1 zero 3\n", "line 2: 'a-b-c-e 1 zero 3'"),
        ("a-b-c-d 1 0 3", "line 1.*from 1 to 1000"),
        ("a-b-c-d 1", "line 1"),
        ("../../x 1", "line 1"),
        ("/etc/x 1", "line 1"),
        ("jump/. 1", "line 1"),
        ("jump/clip", "line 1"),
        ("jump/clip 0", "line 1"),
        ("jump/clip 3\njump/clip 4", "line 2: jump/clip .*twice"),
        ("a-b-c-d 3", "line 1: 'a-b-c-d 3'"),
        ("a-b-c-d 3 1", "line 1: 'a-b-c-d 3 1'"),
        ("a-b-c-d 1 2 3\na-b-c-d 1 2 3\n", "line 2: a-b-c-d .*twice"),
        ("\n", "holds no clip"),
        ("\x00\x01\xff", "is not text"),
        (".. 1 1 1", "line 1: '..'"),
        ("a-b-c-/../etc 1", "line 1: .* is neither"),
        ("a-b-c-d 1 1001 3", "line 1.*from 1 to 1000"),
        (f"a-b-c-d 1 {'9' * 5000} 3", "line 1"),
        ("a-b-c-d 1 \xb2 3", "is not text"),
    ],
)
def test_damaged_split(tmp_path, text, match):
    (tmp_path / "split.txt").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=match):
        read_clips(tmp_path / "split.txt")


def test_missing_split_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.txt.*make_splits.py"):
        read_clips(tmp_path / "none.txt")


def test_class_names(tmp_path):
    path = tmp_path / "verbs.txt"
    path.write_text("1 take\nput down 3\n")
    assert read_class_names(path, 3) == ["take", "class 2", "put down"]
    assert read_class_names(tmp_path / "none.txt", 2) == ["class 1", "class 2"]
    path.write_text("take\n")
    with pytest.raises(ValueError, match="'take' is not"):
        read_class_names(path, 3)
    path.write_text("1 take\n1 put\n")
    with pytest.raises(ValueError, match="class 1 .*'take' and 'put'"):
        read_class_names(path, 3)


def test_a_split_in_other_digits(tmp_path):
    (tmp_path / "split.txt").write_text("a-b-c-d 1 \u0663 3")
    with pytest.raises(ValueError, match="line 1"):
        read_clips(tmp_path / "split.txt")


def test_lines_of_clips_of_ones_own(tmp_path):
    """Names may hold blanks, dashes and numbers; what follows the last blank is the class."""
    path = tmp_path / "val_split.txt"
    path.write_text("long jump/garden 2 1\t12\n7/a-b-c-d 1 1 3\n", encoding="utf-8")
    assert read_clips(path) == [("long jump/garden 2 1", 11), ("7/a-b-c-d 1 1", 2)]
    assert clip_folder("long jump/garden 2 1") == "long jump/garden 2 1"
    assert clip_folder("OP01-R01-Pizza-1-2-F1-F2") == "OP01-R01-Pizza/OP01-R01-Pizza-1-2-F1-F2"


def test_names_are_ordered_by_their_numbers():
    names = ["img_10.jpg", "img_9.jpg", "img_1.jpg", "img_01.jpg", "b2", "b", "a3b12", "a3b2"]
    ordered = ["a3b2", "a3b12", "b", "b2", "img_01.jpg", "img_1.jpg", "img_9.jpg", "img_10.jpg"]
    assert sorted(names, key=natural_order) == sorted(ordered, key=natural_order) == ordered
