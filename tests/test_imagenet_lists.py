"""Lists of images: what a line may be, what is refused, and how images are found on disk."""

import dataclasses
import re
from pathlib import Path

import pytest

from builders import SPLITS, make_folder
from imagenet_lists import check_classes, check_folders, check_leaks, locate, parse_line, read_class_names, read_list


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_folder(tmp_path / "data", {"train": [4, 2, 1], "val": [2, 2, 2], "test": [1, 1, 1]})


def lists(root: Path):
    return [read_list(root / f"Small_{split}.txt", root, 3) for split in SPLITS]


def test_a_list_is_read_in_order(folder):
    train = lists(folder)[0]
    assert train.names()[4] == "train/n00000001/n00000001_train0.JPEG"
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert train.class_counts(3) == [4, 2, 1]
    assert train.class_names(3) == ["n00000000", "n00000001", "n00000002"]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("train/a.JPEG", "is not `path label`"),
        ("train/a.JPEG x", "is not `path label`"),
        ("train/a.JPEG -1", "is not `path label`"),
        ("train/a.JPEG 1.0", "is not `path label`"),
        ("", "is not `path label`"),
        (" 1", "is not `path label`"),
        ("train/a.JPEG 3", r"label 3 .* 0 and 2 \(num_classes 3\)"),
        ("/etc/a.JPEG 0", "leaves data_root"),
        ("train/../../a.JPEG 0", "leaves data_root"),
        ("~/a.JPEG 0", "leaves data_root"),
        ("train/a.JPEG ²", "is not `path label`"),
        ("train/\0/a.JPEG 0", "is not `path label`"),
        ("train/a.JPEG0", "is not `path label`"),
        (",1", "is not `path label`"),
        ("path,label", "start with #"),
        ("train\\cat\\1.jpg 0", r"train\\cat\\1.jpg .*backslash"),
    ],
)
def test_bad_lines(line, match):
    with pytest.raises(ValueError, match=match):
        parse_line(line, 3)


def test_a_path_may_hold_spaces_and_dots():
    assert parse_line("train/a b/..c.JPEG 2\n", 3) == ("train/a b/..c.JPEG", 2)


@pytest.mark.parametrize(
    "line",
    ["a b/c 1.jpg\t2", "a b/c 1.jpg,2", "a b/c 1.jpg;2", "a b/c 1.jpg    2", "  a b/c 1.jpg , 2  ", "./a b//c 1.jpg 2"],
)
def test_what_may_stand_before_a_label(line):
    assert parse_line(line, 3) == ("a b/c 1.jpg", 2)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_as_a_spreadsheet_saves_it(folder, end):
    """A byte order mark, a heading behind a #, commas and tabs, blank lines."""
    (folder / "sheet.csv").write_text("\ufeff# path,label", encoding="utf-8")
    with open(folder / "sheet.csv", "a", newline="", encoding="utf-8") as file:
        file.write(end.join(["", "é/a.jpg,0", "", "b.jpg\t2", "   ", " # the last one", "c d.jpg 1", ""]))
    images = read_list(folder / "sheet.csv", folder, 3)
    assert images.names() == ["é/a.jpg", "b.jpg", "c d.jpg"] and images.labels.tolist() == [0, 2, 1] and not images.note
    (folder / "marked.csv").write_bytes(b"\xef\xbb\xbfa.jpg 0\n")
    assert read_list(folder / "marked.csv", folder, 3).names() == ["a.jpg"]


def test_the_first_line_with_a_backslash_is_named(folder):
    (folder / "windows.txt").write_text("a/b.jpg 0\n\n" + "train\\n1\\c.jpg 1\n" * 5000)
    with pytest.raises(ValueError, match=r"windows.txt, line 3: .*train\\n1\\c.jpg"):
        read_list(folder / "windows.txt", folder, 3)


def test_a_training_list_may_repeat_a_path(folder):
    """Three lines of one image and two of another one: five images, of which three are reported as repetitions."""
    (folder / "over.txt").write_text("# oversampled\na 0\nb 1\na 0\nb 1\n./a 0\n")
    images = read_list(folder / "over.txt", folder, 3, repeats=True)
    assert images.names() == ["a", "b", "a", "b", "a"] and images.class_counts(3) == [3, 2, 0]
    assert images.note == f"{folder}/over.txt: 3 of 5 lines repeat a path (a, in lines 2 and 4); each line counts"
    with pytest.raises(ValueError, match="over.txt, line 4: a .*line 2"):
        read_list(folder / "over.txt", folder, 3)
    (folder / "over.txt").write_text("a 0\nb 1\na 2\n")
    with pytest.raises(ValueError, match="over.txt, line 3: a .*line 1 .*label 0 .*2"):
        read_list(folder / "over.txt", folder, 3, repeats=True)


def test_an_image_in_two_lists_is_a_leak(folder):
    train, val, test = lists(folder)
    check_leaks(train, val, test)
    leaking = test.with_paths([val.names()[1], train.names()[0]])
    with pytest.raises(ValueError, match=rf"{val.names()[1]} .*Small_val.txt .*Small_test.txt.*\(2 such"):
        check_leaks(train, val, leaking)
    repeated = train.with_paths([*train.names(), train.names()[0]])
    check_leaks(repeated, val, test)


def test_any_path_survives_the_array_of_bytes(folder):
    paths = ["a.jpg", "train/é ü/漢.jpg", "bad\udcff.jpg"]
    images = lists(folder)[0].with_paths(paths)
    assert images.names() == paths and len(images) == 3
    assert images.path(1) == f"{folder}/train/é ü/漢.jpg" and images.path(-1) == f"{folder}/bad\udcff.jpg"


def test_a_bad_list_names_file_and_line(folder):
    file = folder / "bad.txt"
    for content, match in (
        (b"a 0\nb 1\na 2\n", "bad.txt, line 3: a .*line 1"),
        (b"a 0\nb 9\n", "bad.txt, line 2: label 9"),
        (b"\xff\xfe 1\n", "bad.txt is not text"),
        (b"", "bad.txt lists no image"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=match):
            read_list(file, folder, 3)
    with pytest.raises(FileNotFoundError, match="none.txt .*fetch_lists.py"):
        read_list(folder / "none.txt", folder, 3)


def test_every_class_needs_an_image(folder):
    (folder / "gap.txt").write_text("a 0\nb 2\n")
    with pytest.raises(ValueError, match="gap.txt .*class 1; .*num_classes - 1 = 2"):
        check_classes(read_list(folder / "gap.txt", folder, 3), 3)


def test_all_there(folder):
    assert locate(*lists(folder))[0].names() == lists(folder)[0].names()


def test_flat_validation_images_are_found(tmp_path):
    root = make_folder(tmp_path, {"train": [1, 1, 1], "val": [1, 1, 1], "test": [2, 2, 2]}, flat_test=True)
    test = locate(*lists(root))[2]
    assert test.names()[2] == "val/ILSVRC2012_val_00010000.JPEG"
    assert all((root / path).is_file() for path in test.names())


def test_missing_images_are_counted_and_five_named(folder):
    for path in lists(folder)[0].names()[1:]:
        (folder / path).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"^6 of 16 .*data_root .*data: \S+/n00000000_train1\.JPEG, (\S+, ){4}\.\.\. .*Small_train.txt\)$",
    ):
        locate(*lists(folder))
    with pytest.raises(FileNotFoundError, match="data_root .*nowhere .*--data_root"):
        locate(*(dataclasses.replace(images, root=folder / "nowhere") for images in lists(folder)))


def test_published_lists_are_accepted(shared_data):
    for split, blob in (
        ("val", "3ed3188b2f44829ce2dec1cc27040d8d40984088"),
        ("test", "76a2fb9749d6cd29e765cc4f8c270f2504131e2f"),
    ):
        images = read_list(shared_data / "imagenet_lt" / f"ImageNet_LT_{split}.txt", shared_data, 1000)
        assert images.blob == blob
        assert set(images.class_counts(1000)) == {20 if split == "val" else 50}
        assert images.class_names(1000)[0] == "n01440764"


@pytest.mark.parametrize(
    "line",
    ["train/a.jpg 3 45", "train/a.jpg,3,45", "a b/c.PNG\tdog\t1", "train/a.JPEG 0.5 1", "a.jpg 0 2"],
)
def test_three_columns_are_refused_with_an_example(line, folder):
    (folder / "three.txt").write_text(f"# a comment\n{line}\n")
    with pytest.raises(ValueError) as error:
        read_list(folder / "three.txt", folder, 3)
    assert "three.txt, line 2" in str(error.value) and repr(line) in str(error.value)


@pytest.mark.parametrize("line", ["a.jpg.png 1", "a b.jpg c.jpg 1", "no ending at all 1", "v1.jpg/x 1", "a.jpg(2) 1"])
def test_two_columns_may_look_like_three(line):
    path, label = parse_line(line, 3)
    assert f"{path} {label}" == line


def make_lists_of(folder, **lines: list[str]):
    """Lists with these lines, in the order given."""
    for name, content in lines.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in content))
    return [read_list(folder / f"{name}.txt", folder, 3, repeats=True) for name in lines]


TRAIN = ["train/cat/1.jpg 0", "train/cat/2.jpg 0", "train/dog/1.jpg 1", "train/eel/1.jpg 2"]


def test_a_list_that_numbers_the_classes_in_another_order_is_named(folder):
    train, val = make_lists_of(folder, a=TRAIN, b=["val/cat/7.jpg 0", "val/dog/7.jpg 2", "val/eel/7.jpg 1"])
    for named in (False, True):
        with pytest.raises(ValueError) as error:
            check_folders(train, val, named=named)
        message = str(error.value)
        assert re.search("b.txt: val/dog/7.jpg .*label 2.* dog .*label 1", message) and "a.txt" in message
        assert "(2 such lines)" in message
    check_folders(train, *make_lists_of(folder, b=["val/cat/7.jpg 0", "val/dog/7.jpg 1", "val/other/7.jpg 0"]))


def test_a_few_corrected_labels_are_right_where_a_file_names_the_classes(folder):
    train, val = make_lists_of(folder, a=TRAIN, b=["v/cat/7.jpg 0", "v/dog/7.jpg 2", "v/eel/7.jpg 2"])
    check_folders(train, val, named=True)
    with pytest.raises(ValueError, match="v/dog/7.jpg has label 2"):
        check_folders(train, val)


def test_a_line_that_contradicts_its_own_list_is_named(folder):
    """One of 21 lines: the other 20 say which folder is whose."""
    lines = [f"train/cat/{number}.jpg 0" for number in range(20)] + ["train/dog/1.jpg 1", "train/cat/odd.jpg 1"]
    with pytest.raises(ValueError, match=r"train/cat/odd.jpg .*label 1.* cat .*label 0 .*\(1 such"):
        check_folders(*make_lists_of(folder, a=lines))


@pytest.mark.parametrize(
    ("train", "val"),
    [
        # folders of locations, as cameras have them: the second one is of one class by chance
        (["a/1.jpg 0", "a/2.jpg 1", "b/1.jpg 2"], ["b/9.jpg 0"]),
        # by patient: each has one class in training, and two patients the same
        (["p1/1.jpg 0", "p2/1.jpg 0", "p3/1.jpg 1", "p4/1.jpg 2"], ["p1/2.jpg 1"]),
        # labels with noise
        (["cat/1.jpg 0", "cat/2.jpg 0", "cat/3.jpg 1", "dog/1.jpg 1", "dog/2.jpg 0", "eel/1.jpg 2"], ["eel/2.jpg 0"]),
        # all in one folder
        (["imgs/1.jpg 0", "imgs/2.jpg 1", "imgs/3.jpg 2"], ["imgs/4.jpg 1"]),
        # Places' outdoor and indoor below several classes, and its flat validation folder
        (["abbey/outdoor/1.jpg 0", "bank/outdoor/1.jpg 1", "canal/1.jpg 2"], ["val/1.jpg 1", "outdoor/2.jpg 1"]),
        # iNaturalist's numbers
        (["train/Aves/10/1.jpg 0", "train/Aves/2/1.jpg 1", "train/Fungi/7/1.jpg 2"], ["val/Aves/10/5.jpg 0"]),
    ],
)
def test_folders_that_do_not_name_the_classes_say_nothing(train, val, folder):
    check_folders(*make_lists_of(folder, a=train, b=val))


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (TRAIN, ["cat", "dog", "eel"]),
        (["imgs/1.jpg 0", "imgs/2.jpg 1", "imgs/3.jpg 2"], ["0", "1", "2"]),
        (["1.jpg 0", "2.jpg 1", "3.jpg 2"], ["0", "1", "2"]),
        (["t/abbey/out/1.jpg 0", "t/bank/out/1.jpg 1", "t/canal/1.jpg 2"], ["abbey/out", "bank/out", "canal"]),
        (["imgs/1.jpg 0", "2/2.jpg 1", "imgs/3.jpg 2"], ["0", "2 (1)", "2 (2)"]),
    ],
)
def test_two_classes_never_share_a_name(lines, names, folder):
    (images,) = make_lists_of(folder, a=lines)
    assert images.class_names(3) == names and len(set(names)) == 3


def test_names_that_a_file_has_twice_get_their_labels(folder):
    """ImageNet's names have two cranes."""
    (folder / "names.txt").write_text("crane\nheron\ncrane\n")
    assert read_class_names(folder / "names.txt", 3) == ["crane (0)", "heron", "crane (2)"]
