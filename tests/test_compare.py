"""compare.py against differences and intervals worked out by hand."""

import json
import shutil
from pathlib import Path

import pytest

from conftest import ROOT
from longtail import compare
from longtail.compare import main
from longtail.run import log_row

COUNTS = [200, 50, 10]  # one class of each group


def write_run(folder, seed, accuracy, *, loss="CE", epochs=2, test=None, done=2):
    """A run of `epochs`, of which `done` are in the log.

    Its best epoch is the first, with `accuracy` of the three classes.
    """
    folder.mkdir(parents=True)
    description = {
        "arguments": {"loss_type": loss, "tau": "dynamic", "seed": seed, "max_epochs": epochs},
        "class_counts": COUNTS,
        "class_names": ["a", "b", "c"],
    }
    (folder / "x.json").write_text(json.dumps(description))
    rows = [
        log_row({"epoch": epoch, "lr": 0.1, "loss": 1.0, "accuracy": value, "tau": 1.0}, accuracy, [1.0] * 3)
        for epoch, value in zip(range(1, done + 1), (0.5, 0.4), strict=False)
    ]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (folder / "x.csv").write_text("\n".join(lines) + "\n")
    if test:
        classes = [
            {"name": name, "training_images": count, "correct": correct, "images": 10}
            for name, count, correct in zip("abc", COUNTS, test, strict=True)
        ]
        (folder / "test.json").write_text(json.dumps({"classes": classes}))
    return str(folder)


def settings(tmp_path, **more):
    """Two settings with seeds 0 to 2: test accuracy of all 60, 70, 80 % against 50, 50, 50."""
    a = [
        write_run(tmp_path / f"a{seed}", seed, (0.9, 0.5, 0.1), loss="CDB-CE", test=test, **more)
        for seed, test in enumerate([(9, 6, 3), (9, 7, 5), (9, 8, 7)])
    ]
    b = [write_run(tmp_path / f"b{seed}", seed, (0.8, 0.4, 0.3), test=(9, 5, 1), **more) for seed in range(3)]
    return a, b


def table(output):
    """The cells of the printed rows by the name of the group."""
    return {
        cells[0]: cells[1:]
        for line in output.splitlines()
        if line.startswith("| ")
        for cells in ([cell.strip() for cell in line.strip("| ").split("|")],)
    }


def test_paired_difference(tmp_path, capsys):
    """Differences 10, 20, 30: mean 20, deviation 10. Student's t is 4.303 for 2 degrees of freedom.

    So the half width is 4.303 * 10 / sqrt 3 = 24.84.
    """
    a, b = settings(tmp_path)
    assert main([*a, "--against", *b, "--out", str(tmp_path)]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["all"] == ["70.00 ± 10.00", "50.00 ± 0.00", "+20.00", "-4.84 to +44.84"]
    assert rows["many"] == ["90.00 ± 0.00", "90.00 ± 0.00", "+0.00", "+0.00 to +0.00"]
    assert rows["few"] == ["50.00 ± 20.00", "10.00 ± 0.00", "+40.00", "-9.68 to +89.68"]
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_other_seeds_are_not_paired(tmp_path, capsys):
    """Welch: 60, 70, 80 against 50, 50: error sqrt(100 / 3).

    It has 2 degrees of freedom, since the other side does not vary.
    """
    a, b = settings(tmp_path)
    assert main([*a, "--against", *b[:2], "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "not paired" in output
    assert table(output)["all"] == ["70.00 ± 10.00", "50.00 ± 0.00", "+20.00", "-4.84 to +44.84"]


def test_without_test_figures_it_is_the_kept_epoch_on_validation(tmp_path, capsys):
    a, b = settings(tmp_path)
    (tmp_path / "b1" / "test.json").unlink()
    assert main([*a, "--against", *b, "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "on validation" in output
    assert table(output)["medium"][:2] == ["50.00 ± 0.00", "40.00 ± 0.00"]


def test_the_picture_is_named_by_loss_or_by_folder(tmp_path, capsys):
    a = [write_run(tmp_path / f"mine{seed}", seed, (0.9, 0.5, 0.1)) for seed in range(2)]
    b = [write_run(tmp_path / f"theirs{seed}", seed, (0.8, 0.4, 0.3)) for seed in range(2)]
    main([*a, "--against", *b, "--out", str(tmp_path)])
    assert "| CE (mine0) " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a, b, path: (a[:1], b), "a0 is one run: a spread needs at least two seeds"),
        (lambda a, b, path: ([*a, a[0]], b), "has seed 0, as a run before it"),
        (
            lambda a, b, path: ([*a, write_run(path / "other", 3, (0, 0, 0), loss="FL", test=(1, 1, 1))], b),
            "other/x.csv is of FL, the first run of CDB-CE",
        ),
        (
            lambda a, b, path: ([*a, write_run(path / "half", 3, (0, 0, 0), done=1)], b),
            "has 1 of 2 epochs: only finished runs",
        ),
        (lambda a, b, path: ([*a, str(path / "nowhere")], b), "nowhere"),
        (
            lambda a, b, path: ([*a, write_run(path / "odd", 3, (0, 0, 0), loss="CDB-CE", test=("x", 1, 1))], b),
            "odd/test.json does not hold",
        ),
    ],
)
def test_what_cannot_be_compared_is_named(tmp_path, capsys, change, match):
    runs, against = change(*settings(tmp_path), tmp_path)
    assert compare.main([*runs, "--against", *against]) == 2
    assert match in capsys.readouterr().err


def test_on_validation_all_is_the_accuracy_of_the_images(tmp_path, capsys):
    """The log says 0.5 of all images in the kept epoch; the mean of the classes would be 30."""
    a, b = ([write_run(tmp_path / f"{side}{seed}", seed, (0.9, 0.0, 0.0)) for seed in range(2)] for side in "ab")
    assert main([*a, "--against", *b, "--out", str(tmp_path)]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["all"][:2] == ["50.00 ± 0.00"] * 2 and rows["many"][:2] == ["90.00 ± 0.00"] * 2


def test_settings_in_folders_of_one_name_are_two_columns(tmp_path, capsys):
    a, b = ([write_run(tmp_path / side / f"seed{seed}", seed, (0.9, 0.5, 0.1)) for seed in range(2)] for side in "ab")
    main([*a, "--against", *b, "--out", str(tmp_path)])
    output = capsys.readouterr().out
    assert all(f"| CE ({side}) " in output for side in "ab")


@pytest.mark.parametrize(
    ("run", "other", "names"),
    [
        ("results/CE_strong_seed0", "results/CE_fast_seed0", ("strong", "fast")),
        ("CE_fast_seed0", "CE_fast_weighted_mean_seed5", ("", "weighted mean")),
        ("CE_fast_seed0", "CE_fast_seed5", ("CE_fast_seed0", "CE_fast_seed5")),
        ("strong/x.csv", "fast/x.csv", ("strong", "fast")),
    ],
)
def test_settings_of_one_loss_are_told_apart_by_the_words_that_differ(run, other, names):
    assert compare.apart_by_name(Path(run), Path(other)) == names


@pytest.mark.parametrize(("checkpoint", "code"), [("best_x.pth", 0), ("best_y.pth", 2)])
def test_a_test_of_another_run_in_the_folder_is_refused(checkpoint, code, tmp_path, capsys):
    a, b = settings(tmp_path)
    path = tmp_path / "a1/test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoint": checkpoint}))
    assert main([*a, "--against", *b, "--out", str(tmp_path)]) == code
    assert ("a1/test.json is a test of best_y.pth, not of best_x.pth" in capsys.readouterr().err) == (code == 2)


def test_older_tests_of_clips_are_read(tmp_path, capsys):
    """The committed stand-in lists verbs. CE: 281 of 367 clips are right, which is 76.57 %; 309 of CDB-BS, 84.20 %."""
    runs = {}
    for loss in ("CE", "CDB-BS"):
        runs[loss] = [tmp_path / f"{loss}{seed}" for seed in range(2)]
        for seed, folder in enumerate(runs[loss]):
            shutil.copytree(ROOT / "EGTEA/results/stand-in" / loss, folder)
            settings = json.loads((folder / "model.json").read_text())
            settings["arguments"]["seed"] = seed
            (folder / "model.json").write_text(json.dumps(settings))
    argv = [*runs["CDB-BS"], "--against", *runs["CE"], "--out", tmp_path]
    assert main([str(argument) for argument in argv]) == 0
    output = capsys.readouterr().out
    assert output.startswith("accuracy in % on test")
    assert table(output)["all"][:3] == ["84.20 ± 0.00", "76.57 ± 0.00", "+7.63"]
