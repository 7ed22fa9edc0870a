"""The log for TensorBoard, read back by TensorBoard's own reader."""

import math
import sys

import pytest

import cifar_train
from longtail.logs import cells, read_log
from longtail.run import Run

DIGITS = ("--dataset", "digits", "--imbalance", "100", "--loss_type", "CDB-CE", "--device", "cpu")


def curves(folder) -> dict[str, list[tuple[int, float]]]:
    """Every curve's points, over all event files of the folder; without the reader's purge, which would hide doubled
    ones."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.iterdir()):
        reader = EventAccumulator(str(file), size_guidance={"scalars": 0}, purge_orphaned_data=False)
        reader.Reload()
        for name in reader.Tags()["scalars"]:
            found.setdefault(name, []).extend((event.step, event.value) for event in reader.Scalars(name))
    return found


def expected(log) -> dict[str, list[tuple[int, float]]]:
    rows = [cells(row) for row in read_log(log)]
    names = [name for name in rows[0] if name != "epoch" and not name.startswith(("accuracy_", "weight_"))]
    return {
        name: [(int(row["epoch"]), pytest.approx(float(row[name]), rel=1e-6)) for row in rows if row[name]]
        for name in names
    }


def test_events_are_the_log_also_after_resuming(shallow_networks, tmp_path, monkeypatch):
    """Killed when both epochs are in the events and one in the checkpoint; then begun without the flag and resumed
    with it."""
    pytest.importorskip("tensorboard")
    train = [*DIGITS, "--save_model", str(tmp_path), "--max_epochs", "2"]
    events = tmp_path / "tensorboard/digits_imbalance100"
    log, last = tmp_path / "digits_imbalance100.csv", tmp_path / "last_digits_imbalance100.pth"
    states, finish = [], Run.finish_epoch

    def finish_and_copy(run, *arguments):
        finish(run, *arguments)
        states.append(last.read_bytes())

    monkeypatch.setattr(Run, "finish_epoch", finish_and_copy)
    assert cifar_train.main([*train, "--tensorboard"]) == 0
    measured = curves(events)
    assert measured == expected(log)
    assert {"loss", "accuracy", "tau", "lr", "seconds", "images_per_second"} == set(measured)
    assert not any(math.isnan(value) for points in measured.values() for _, value in points)
    last.write_bytes(states[0])
    assert cifar_train.main([*train, "--resume", "--tensorboard"]) == 0
    assert curves(events) == expected(log) and len(curves(events)["loss"]) == 2
    assert cifar_train.main([*train, "--overwrite"]) == 0
    assert not events.exists()
    last.write_bytes(states[0])
    assert cifar_train.main([*train, "--resume", "--tensorboard"]) == 0
    assert curves(events) == expected(log) and len(curves(events)["loss"]) == 2


def test_without_the_package_one_line_says_what_to_install(failing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    error = failing(cifar_train.main, *DIGITS, "--tensorboard", "--save_model", tmp_path / "run")
    assert "pip install tensorboard" in error
    assert not (tmp_path / "run").exists()
