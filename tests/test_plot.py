"""The pictures of a run: which files, from which logs, and what a damaged log says."""

import gzip
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from longtail.logs import cells, csv_text, load_log
from longtail.plot import draw_classes, draw_curves, draw_overlay, has_weights, main, tell_apart
from longtail.records import Description, EpochRow
from longtail.run import Run


@pytest.fixture
def run_folder(tmp_path):
    """A run of four epochs and three classes, the second epoch without validation, the third one best."""

    def write(name: str, loss_type: str = "CDB-CE") -> Path:
        run = Run(tmp_path / name, "toy_imbalance10")
        arguments = {"loss_type": loss_type, "tau": 1.5}
        run.open(Description(arguments=arguments, class_counts=[50, 500, 5], class_names=list("abc")))
        for epoch, accuracy in enumerate((0.2, float("nan"), 0.8, 0.5), 1):
            row = EpochRow(
                epoch=epoch,
                lr=0.1,
                loss=2.0 / epoch,
                accuracy=accuracy,
                tau=1.5,
                class_accuracy=[accuracy] * 3,
                class_weight=[0.5, 1.0, 1.5],
            )
            run.finish_epoch(row, {}, False)
        return run.folder

    return write


def test_the_log_is_read_back(run_folder):
    log = load_log(run_folder("a"))
    assert log.best == 2
    assert log.label == "CDB-CE, tau 1.5"
    assert log.class_weight.shape == (4, 3)
    assert log.class_counts.tolist() == [50, 500, 5]


def test_pictures_of_one_run_and_of_two(run_folder, capsys):
    one, two = run_folder("a"), run_folder("b", "CE")
    assert main([str(one)]) == 0
    drawn = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.name for path in drawn] == ["toy_imbalance10_curves.png", "toy_imbalance10_weights.png", "classes.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.parent == one for path in drawn)
    assert main([str(one), str(two / "toy_imbalance10.csv"), "--out", str(one / "both")]) == 0
    assert {path.name for path in (one / "both").glob("*.png")} == {
        "1_toy_imbalance10_curves.png",
        "1_toy_imbalance10_weights.png",
        "2_toy_imbalance10_curves.png",
        "2_toy_imbalance10_weights.png",
        "classes.png",
        "curves.png",
    }


def test_runs_one_level_down_are_found(run_folder, tmp_path, capsys):
    run_folder("a")
    run_folder("b", "CE")
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path)]) == 0
    drawn = [Path(line) for line in capsys.readouterr().out.split()]
    assert len(drawn) == 6 and all(path.parent == tmp_path for path in drawn)


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been saved."""
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: saved.append(figure))
    return saved


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_loss_and_accuracy_of_several_runs_lie_over_one_another(run_folder, figures, tmp_path):
    """Losses 2, 1, 0.67, 0.5; the second epoch was not validated; the third is kept."""
    draw_overlay([load_log(run_folder("a")), load_log(run_folder("b", "CE"))], tmp_path / "x.png")
    loss, accuracy = figures[0].axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[2, 1, 0.6667, 0.5]] * 2
    assert [line.get_ydata().tolist() for line in accuracy.lines] == [[0.2, 0.8, 0.5], [0.8]] * 2
    assert accuracy.lines[1].get_xdata().tolist() == [3]
    assert [line.get_label() for line in accuracy.lines[::2]] == ["CDB-CE, tau 1.5: 0.800", "CE: 0.800"]


def test_panels_that_say_nothing_are_left_out(run_folder, figures, tmp_path):
    log = load_log(run_folder("a"))
    draw_curves(log, tmp_path / "x.png")
    without_tau = {**log.measures, "tau": np.full(4, math.nan)}
    draw_curves(replace(log, measures=without_tau, class_weight=np.ones((4, 3))), tmp_path / "y.png")
    assert titles(figures[0]) == ["training loss", "validation accuracy", "tau", "class weights"]
    assert titles(figures[1]) == ["training loss", "validation accuracy"]
    assert not has_weights(replace(log, class_weight=np.ones((4, 3)))) and has_weights(log)


def test_a_single_epoch_is_a_dot(run_folder, figures, tmp_path):
    log = load_log(run_folder("a"))
    first = replace(
        log,
        measures={name: values[:1] for name, values in log.measures.items()},
        class_accuracy=log.class_accuracy[:1],
        class_weight=log.class_weight[:1],
        best=0,
    )
    draw_curves(first, tmp_path / "x.png")
    draw_curves(log, tmp_path / "y.png")
    assert {line.get_marker() for axes in figures[0].axes for line in axes.lines} == {"o"}
    assert figures[1].axes[0].lines[0].get_marker() == "None"


def test_runs_of_one_loss_are_labelled_by_their_folders(run_folder):
    ce, one, two = (load_log(run_folder(name, loss)) for name, loss in (("a", "CE"), ("b", "CDB-CE"), ("c", "CDB-CE")))
    assert tell_apart([ce, one]) == ["CE", "CDB-CE, tau 1.5"]
    assert tell_apart([ce, one, two]) == ["a, CE", "b, CDB-CE, tau 1.5", "c, CDB-CE, tau 1.5"]
    assert tell_apart([one, replace(one, name="toy_imbalance5")]) == [
        "b/toy_imbalance10, CDB-CE, tau 1.5",
        "b/toy_imbalance5, CDB-CE, tau 1.5",
    ]


def test_a_class_without_validation_samples_leaves_the_means_of_the_others(run_folder, tmp_path, figures):
    """The classes of 500, 50 and 5 images are each a third.

    With a fourth of 3 images, which has no validation sample, the rarest third are two.
    """
    log = load_log(run_folder("a"))
    accuracy = np.column_stack([log.class_accuracy, np.full(4, math.nan)])
    log = replace(log, class_accuracy=accuracy, class_weight=np.ones((4, 4)), class_counts=np.array([50, 500, 5, 3]))
    draw_curves(log, tmp_path / "x.png")
    rarest = next(line for line in figures[0].axes[1].lines if line.get_label() == "rarest third")
    assert rarest.get_ydata().tolist() == [0.2, 0.8, 0.5]
    draw_classes([replace(log, class_counts=np.array([50, 500, 5, 5]))], tmp_path / "y.png")
    assert figures[1].axes[0].lines[1].get_ydata()[:3].tolist() == [0.8, 0.8, 0.8]


def test_gzipped_log(run_folder, capsys):
    """As reproduce.py keeps it."""
    folder = run_folder("a")
    log = folder / "toy_imbalance10.csv"
    (folder / "toy_imbalance10.csv.gz").write_bytes(gzip.compress(log.read_bytes(), mtime=0))
    assert np.array_equal(
        load_log(log).class_accuracy, load_log(folder / "toy_imbalance10.csv.gz").class_accuracy, equal_nan=True
    )
    log.unlink()
    assert main([str(folder)]) == 0
    assert [Path(line).name for line in capsys.readouterr().out.split()] == [
        "toy_imbalance10_curves.png",
        "toy_imbalance10_weights.png",
        "classes.png",
    ]


def test_damaged_and_missing_logs(run_folder, failing, tmp_path):
    folder = run_folder("a")
    assert "no log at" in failing(main, tmp_path / "nothing.csv")
    (tmp_path / "empty").mkdir()
    assert "no run" in failing(main, tmp_path / "empty")
    description = folder / "toy_imbalance10.json"
    text = description.read_text()
    for bad in (
        "",
        "[]",
        "{}",
        json.dumps({"class_counts": "x", "arguments": {}}),
        *(text.replace("50,", f"{number},") for number in ("[1]", '"many"')),
    ):
        description.write_text(bad)
        assert "toy_imbalance10.json" in failing(main, folder)
    description.write_text(json.dumps({**json.loads(text), "class_counts": [1, 2, 3, 4]}))
    assert re.search("toy_imbalance10.csv .* 3 classes", failing(main, folder))
    description.unlink()
    assert re.search("toy_imbalance10.json .*found", failing(main, folder / "toy_imbalance10.csv"))
    description.write_text(text)
    (folder / "toy_imbalance10.csv").write_text("epoch,loss\n1,x\n")
    assert "toy_imbalance10.csv" in failing(main, folder)
    assert not list(folder.glob("*.png"))


def test_the_kept_epoch_where_the_mean_of_the_classes_chooses_it(tmp_path):
    """Top-1 falls from 0.60 to 0.55, but the classes' mean rises from 0.3 to 0.5."""
    rows = [
        cells(EpochRow(epoch=epoch, loss=1.0, accuracy=top1, class_accuracy=classes, class_weight=[1.0] * 3))
        for epoch, top1, classes in (
            (1, 0.60, (0.9, 0.0, 0.0)),
            (2, math.nan, [math.nan] * 3),
            (3, 0.55, (0.5, 0.5, math.nan)),
        )
    ]
    (tmp_path / "x.csv").write_text(csv_text(list(rows[0]), rows, header=True))
    for details, kept in (({"keep_by_class": True}, 2), ({}, 0)):
        (tmp_path / "x.json").write_text(
            json.dumps({"arguments": {"loss_type": "CE"}, "class_counts": [90, 5, 5], **details})
        )
        assert load_log(tmp_path).best == kept
