"""compare.py against differences and intervals worked out by hand."""

import json
import re
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from longtail import compare
from longtail.compare import main
from longtail.hits import pack_hits
from longtail.logs import cells, csv_text
from longtail.records import EpochRow

COUNTS = [200, 50, 10]  # one class of each group


def write_run(folder, seed, accuracy, *, test=None, done=2, **arguments):
    """A run of two epochs, of which `done` are in the log.

    Its best epoch is the first, with `accuracy` of the three classes; in the second all three are 0.
    """
    folder.mkdir(parents=True)
    description = {
        "arguments": {"loss_type": "CE", "tau": "dynamic", "seed": seed, "max_epochs": 2, **arguments},
        "class_counts": COUNTS,
        "class_names": ["a", "b", "c"],
    }
    (folder / "x.json").write_text(json.dumps(description))
    rows = [
        cells(EpochRow(epoch=epoch, loss=1.0, accuracy=value, class_accuracy=classes, class_weight=[1.0] * 3))
        for epoch, value, classes in ((1, 0.5, accuracy), (2, 0.4, (0.0, 0.0, 0.0)))
    ][:done]
    (folder / "x.csv").write_text(csv_text(list(rows[0]), rows, header=True))
    if test:
        (folder / "test.json").write_text(json.dumps({"classes": class_figures(test)}))
    return str(folder)


def class_figures(correct):
    """What a test writes of three classes with 10 test images each."""
    return [
        {"name": name, "training_images": count, "correct": right, "images": 10}
        for name, count, right in zip("abc", COUNTS, correct, strict=True)
    ]


def settings(tmp_path, **more):
    """Two settings with seeds 0 to 2: test accuracy of all 60, 70, 80 % against 50, 50, 50."""
    a = [
        write_run(tmp_path / f"a{seed}", seed, (0.9, 0.5, 0.1), loss_type="CDB-CE", test=test, **more)
        for seed, test in enumerate([(9, 6, 3), (9, 7, 5), (9, 8, 7)])
    ]
    b = [write_run(tmp_path / f"b{seed}", seed, (0.8, 0.4, 0.3), test=(9, 5, 1), **more) for seed in range(3)]
    return a, b


def table(output):
    """The cells of the printed rows (runs, accuracy, difference, interval) by the group and the setting."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line[:2] == "| "]
    return {(classes, setting): cells for classes, setting, *cells in rows}


def compared(capsys, out, runs, against):
    """What is printed, and the table's cells."""
    assert main([*runs, "--against", *against, "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert output.startswith((out / "compare.md").read_text())
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    return output, table(output)


def test_paired_difference(tmp_path, capsys):
    """Differences 10, 20, 30: mean 20, deviation 10. Student's t is 4.303 for 2 degrees of freedom.

    So the half width is 4.303 * 10 / sqrt 3 = 24.84.
    """
    output, cells = compared(capsys, tmp_path, *settings(tmp_path))
    ours = "CDB-CE, tau dynamic"
    assert cells["all", "CE"] == ["3", "50.00 ± 0.00", "", ""]
    assert cells["all", ours] == ["3", "70.00 ± 10.00", "+20.00", "-4.84 to +44.84"]
    assert cells["many", ours] == ["3", "90.00 ± 0.00", "+0.00", "+0.00 to +0.00"]
    assert cells["few", ours] == ["3", "50.00 ± 20.00", "+40.00", "-9.68 to +89.68"]
    assert "pairs of seeds 0, 1, 2" in output


def test_pairs_have_equal_seeds_in_whatever_order_they_are_given(tmp_path, capsys):
    """60, 70, 80 against 40, 60, 70: 20, 10, 10 with mean 13.33, deviation 5.77, half width 4.303 * 5.77 / sqrt 3."""
    a, _ = settings(tmp_path)
    right = {2: (9, 7, 5), 1: (9, 7, 2), 0: (9, 2, 1)}
    b = [write_run(tmp_path / f"c{seed}", seed, (0, 0, 0), test=test) for seed, test in right.items()]
    _, cells = compared(capsys, tmp_path, a, b)
    assert cells["all", "CDB-CE, tau dynamic"] == ["3", "70.00 ± 10.00", "+13.33", "-1.01 to +27.68"]


def test_seeds_that_only_overlap_are_not_paired(tmp_path, capsys):
    """Welch: variances of the means 100 / 3 and 233.3 / 3, so an error of 10.54 with 3.45 degrees of freedom.

    Student's t for them is 2.961.
    """
    a, _ = settings(tmp_path)
    right = {1: (9, 2, 1), 2: (9, 7, 2), 3: (9, 7, 5)}
    b = [write_run(tmp_path / f"c{seed}", seed, (0, 0, 0), test=test) for seed, test in right.items()]
    output, cells = compared(capsys, tmp_path, a, b)
    assert "not paired" in output
    assert cells["all", "CDB-CE, tau dynamic"] == ["3", "70.00 ± 10.00", "+13.33", "-17.88 to +44.54"]


def test_two_seeds_have_no_interval(tmp_path, capsys):
    a, b = settings(tmp_path)
    output, cells = compared(capsys, tmp_path, a[:2], b[:2])
    assert cells["all", "CDB-CE, tau dynamic"] == ["2", "65.00 ± 7.07", "+15.00", "-"]
    assert "No interval for CDB-CE, tau dynamic" in output


def test_balanced_is_the_mean_of_the_classes_whatever_their_images(tmp_path, capsys):
    """10 of 10, 5 of 10 and 0 of 40 images: 25 % of all, 50 % of a class."""
    a = write_run(tmp_path / "a", 0, (0, 0, 0), test=(10, 5, 0))
    classes = class_figures((10, 5, 0))
    classes[2]["images"] = 40
    (tmp_path / "a/test.json").write_text(json.dumps({"classes": classes}))
    b = write_run(tmp_path / "b", 0, (0, 0, 0), test=(10, 5, 0), loss_type="FL")
    _, cells = compared(capsys, tmp_path, [a], [b])
    assert (cells["all", "CE"][1], cells["balanced", "CE"][1]) == ("25.00", "50.00")


def test_any_number_of_settings_and_single_runs_without_interval(tmp_path, capsys):
    """Four settings; one has one run, so its difference, 10 points, has no interval.

    60, 70, 80 against 50, 50, 50: 20 on average, error 10 / sqrt(3) with 2 degrees of freedom.
    """
    a, b = settings(tmp_path)
    one = write_run(tmp_path / "one", 0, (0, 0, 0), test=(9, 6, 3), loss_type="FL")
    slow = [write_run(tmp_path / f"slow{seed}", seed, (0, 0, 0), test=(9, 5, 1), lr=0.2) for seed in range(3)]
    output, cells = compared(capsys, tmp_path, [*slow, one, *a], b)
    assert [setting for group, setting in cells if group == "all"] == [
        "CE",
        "CE, lr 0.2",
        "FL",
        "CDB-CE, tau dynamic",
    ]
    assert cells["all", "FL"] == ["1", "60.00", "+10.00", "-"]
    assert cells["all", "CDB-CE, tau dynamic"][3] == "-4.84 to +44.84"
    assert "No interval for FL" in output


@pytest.mark.parametrize(("images", "said"), [((10, 10, 10), True), ((20, 5, 5), False)])
def test_two_single_runs_are_compared_image_by_image(images, said, tmp_path, capsys):
    """18 images of 30 are right with the first network, 10 of them and no other with the second.

    8 against 0 of 8: 2 / 256 = 0.0078. Networks that were tested on other images are not compared.
    """
    runs = []
    for name, right, sizes in (("one", 18, (10, 10, 10)), ("two", 10, images)):
        runs.append(write_run(tmp_path / name, 0, (0, 0, 0), loss_type=name, test=(right // 2, right // 2, 0)))
        classes = class_figures((right // 2, right // 2, 0))
        for entry, size in zip(classes, sizes, strict=True):
            entry["images"] = size
        figures = {"images": 30, "classes": classes, "hits": pack_hits(torch.arange(30) < right)}
        (Path(runs[-1]) / "test.json").write_text(json.dumps(figures))
    output, _ = compared(capsys, tmp_path, runs[:1], runs[1:])
    assert bool(re.search("one against two .* 30 images: 8 .*, 0 ", output)) == said
    assert ("p = 0.0078" in output) == said


def test_what_differs_is_in_the_labels_and_seeds_paths_and_ways_of_running_are_not(tmp_path):
    """Of another recipe only its name is said, unless something was changed besides."""
    fast = {"recipe": "fast", "lr": 0.1, "batch_size": 64}
    runs = []
    for seed, more in enumerate(
        (
            {**fast, "device": "cpu", "workers": 2, "teacher": ""},
            {**fast, "teacher": "CE_seed1/best.pth", "teacher_sha256": "12ab", "out": "/tmp/a"},
            {**fast, "teacher": "CE_seed2/best.pth", "teacher_sha256": "34cd", "out": "/tmp/b", "compile": False},
            {"recipe": "strong", "lr": 0.2, "batch_size": 128},
            {"recipe": "strong", "lr": 0.2, "batch_size": 32},
        )
    ):
        runs.append(Path(write_run(tmp_path / f"run{seed}", seed, (0, 0, 0), **more)))
    groups = compare.by_setting(map(compare.read_run, runs))
    assert [[run.seed for run in group] for group in groups] == [[0], [1, 2], [3], [4]]
    assert compare.labels_of(groups) == [
        "CE, recipe fast, batch_size 64",
        "CE, recipe fast, batch_size 64, teacher CE/best.pth",
        "CE, recipe strong, batch_size 128",
        "CE, recipe strong, batch_size 32",
    ]
    assert compare.labels_of([groups[0], groups[2]]) == ["CE, recipe fast", "CE, recipe strong"]


def test_runs_of_older_versions_lack_arguments(tmp_path):
    runs = [
        Path(write_run(tmp_path / "new", 0, (0, 0, 0), flip=False, head=None)),
        Path(write_run(tmp_path / "old", 1, (0, 0, 0))),
    ]
    assert len(compare.by_setting(map(compare.read_run, runs))) == 1


def test_only_a_loss_a_seed_a_length_and_class_counts_are_needed(tmp_path, capsys):
    """As a training loop of one's own writes them."""
    runs = [write_run(tmp_path / loss, 0, (0.9, 0.5, 0.1), loss_type=loss) for loss in ("CDB-CE", "MyLoss")]
    for run in runs:
        settings_file = Path(run) / "x.json"
        description = json.loads(settings_file.read_text())
        del description["arguments"]["tau"], description["class_names"]
        settings_file.write_text(json.dumps(description))
    _, cells = compared(capsys, tmp_path, runs[1:], runs[:1])
    assert cells["many", "MyLoss"] == ["1", "90.00", "+0.00", "-"]


def test_without_test_figures_it_is_the_kept_epoch_on_validation(tmp_path, capsys):
    a, b = settings(tmp_path)
    (tmp_path / "b1" / "test.json").unlink()
    output, cells = compared(capsys, tmp_path, a, b)
    assert "on validation" in output
    assert cells["medium", "CDB-CE, tau dynamic"][1] == "50.00 ± 0.00"
    assert cells["medium", "CE"][1] == "40.00 ± 0.00"


def test_groups_of_a_caller(tmp_path):
    """As ImageNet-LT's main.py has them: its own labels, and another file for the row of logit adjustment."""
    a, b = settings(tmp_path)
    for run in b:
        (Path(run) / "adjusted.json").write_text(json.dumps({"classes": class_figures((9, 8, 7))}))
    runs = [Path(run) for run in b]
    text = compare.compare_runs(
        [
            compare.Group("cross-entropy", runs),
            compare.Group("ours", [Path(run) for run in a]),
            compare.Group("adjusted", runs, "adjusted.json"),
        ],
        tmp_path / "out",
    )
    assert table(text)["all", "adjusted"] == ["3", "80.00 ± 0.00", "+30.00", "+30.00 to +30.00"]
    assert (tmp_path / "out/compare.md").read_text() == text and (tmp_path / "out/compare.png").exists()


@pytest.mark.parametrize(("count", "remark"), [(2, "too few seeds for an interval"), (3, "-4.84 to +44.84 (95 %)")])
def test_the_title_has_an_interval_from_three_seeds_on(count, remark, tmp_path):
    a, b = settings(tmp_path)
    both = [
        compare.read_setting(label, [compare.read_run(Path(run)) for run in runs[:count]], "test.json")
        for label, runs in (("CE", b), ("ours", a))
    ]
    assert compare.title(both).startswith("ours - CE: +") and remark in compare.title(both)


def test_the_picture_is_named_by_loss_or_by_folder(tmp_path, capsys):
    a = [write_run(tmp_path / f"mine{seed}", seed, (0.9, 0.5, 0.1)) for seed in range(2)]
    b = [write_run(tmp_path / f"theirs{seed}", seed, (0.8, 0.4, 0.3)) for seed in range(2)]
    _, cells = compared(capsys, tmp_path, a, b)
    assert {setting for _, setting in cells} == {"CE (mine0)", "CE (theirs0)", "setting"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a, b, path: ([*a, a[0]], b), "has seed 0"),
        (
            lambda a, b, path: ([*a, write_run(path / "half", 3, (0, 0, 0), done=1)], b),
            "1 of 2 epochs",
        ),
        (lambda a, b, path: ([*a, str(path / "nowhere")], b), "nowhere"),
        (
            lambda a, b, path: ([*a, write_run(path / "odd", 3, (0, 0, 0), loss_type="CDB-CE", test=("x", 1, 1))], b),
            "odd/test.json",
        ),
    ],
)
def test_what_cannot_be_compared_is_named(tmp_path, capsys, change, match):
    runs, against = change(*settings(tmp_path), tmp_path)
    assert compare.main([*runs, "--against", *against]) == 2
    assert match in capsys.readouterr().err


def test_on_validation_all_is_the_accuracy_of_the_images(tmp_path, capsys):
    """The log says 0.5 of all images in the kept epoch; the mean of the classes is 30."""
    a, b = ([write_run(tmp_path / f"{side}{seed}", seed, (0.9, 0.0, 0.0)) for seed in range(2)] for side in "ab")
    _, cells = compared(capsys, tmp_path, a, b)
    accuracy = {group: row[1] for (group, setting), row in cells.items() if setting == "CE (a0)"}
    assert (accuracy["all"], accuracy["many"], accuracy["balanced"]) == (
        "50.00 ± 0.00",
        "90.00 ± 0.00",
        "30.00 ± 0.00",
    )


def test_settings_in_folders_of_one_name_have_two_labels(tmp_path, capsys):
    a, b = ([write_run(tmp_path / side / f"seed{seed}", seed, (0.9, 0.5, 0.1)) for seed in range(2)] for side in "ab")
    _, cells = compared(capsys, tmp_path, a, b)
    assert ("all", "CE (a)") in cells and ("all", "CE (b)") in cells


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (("results/CE_strong_seed0", "results/CE_fast_seed0"), ["CE (strong)", "CE (fast)"]),
        (("CE_fast_seed0", "CE_fast_weighted_mean_seed5"), ["CE", "CE (weighted mean)"]),
        (("CE_fast_seed0", "CE_fast_seed5"), ["CE (CE_fast_seed0)", "CE (CE_fast_seed5)"]),
        (("runs/x_y", "runs/x_z", "runs/x"), ["CE (y)", "CE (z)", "CE"]),
    ],
)
def test_equal_labels_get_the_words_that_differ(folders, labels):
    assert compare.labels_with_folders(["CE"] * len(folders), [Path(folder) for folder in folders]) == labels


@pytest.mark.parametrize(("checkpoint", "code"), [("best_x.pth", 0), ("best_y.pth", 2)])
def test_a_test_of_another_run_in_the_folder_is_refused(checkpoint, code, tmp_path, capsys):
    a, b = settings(tmp_path)
    path = tmp_path / "a1/test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoint": checkpoint}))
    assert main([*a, "--against", *b, "--out", str(tmp_path)]) == code
    assert bool(re.search("a1/test.json .*best_y.pth.*best_x.pth", capsys.readouterr().err)) == (code == 2)


def test_older_tests_of_clips_are_read(tmp_path, capsys):
    """CE's committed test is of the older form, which lists verbs: 281 of 367 clips are right, which is 76.57 %.

    CDB-BS's is of today's form: 310 clips, 84.47 %, and 29 more are 7.90 %.
    """
    runs = [str(ROOT / "EGTEA/results/stand-in" / loss) for loss in ("CE", "CDB-BS")]
    output, cells = compared(capsys, tmp_path, runs[1:], runs[:1])
    assert output.startswith("accuracy in % on test")
    assert cells["all", "CE"][1] == "76.57"
    assert cells["all", "CDB-BS, tau 0.5, smoothed"][1:] == ["84.47", "+7.90", "-"]
