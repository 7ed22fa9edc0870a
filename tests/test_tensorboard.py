"""The log for TensorBoard, read back by TensorBoard's own reader."""

import math
import sys

import pytest

import cifar_train
from longtail.run import read_log

DIGITS = ("--dataset", "digits", "--loss_type", "CDB-CE", "--device", "cpu")


def curves(folder) -> dict[str, list[tuple[int, float]]]:
    """Every curve's points, over all event files of the folder; without the reader's purge, which would hide doubled ones."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.iterdir()):
        reader = EventAccumulator(str(file), size_guidance={"scalars": 0}, purge_orphaned_data=False)
        reader.Reload()
        for name in reader.Tags()["scalars"]:
            found.setdefault(name, []).extend((event.step, event.value) for event in reader.Scalars(name))
    return found


def expected(log) -> dict[str, list[tuple[int, float]]]:
    rows = read_log(log)[1]
    names = [name for name in rows[0] if name != "epoch" and not name.startswith(("accuracy_", "weight_"))]
    return {name: [(int(row["epoch"]), pytest.approx(float(row[name]), rel=1e-6)) for row in rows if row[name]] for name in names}


def test_events_are_the_log_also_after_resuming(tmp_path):
    """Begun without the flag, resumed with it, killed after its events were written, and resumed once more."""
    pytest.importorskip("tensorboard")
    train = [*DIGITS, "--save_model", str(tmp_path), "--max_epochs"]
    events = tmp_path / "tensorboard/digits_imbalance20"
    log, last = tmp_path / "digits_imbalance20.csv", tmp_path / "last_digits_imbalance20.pth"
    assert cifar_train.main([*train, "3", "--tensorboard"]) == 0
    measured = curves(events)
    assert measured == expected(log)
    assert {"loss", "accuracy", "tau", "lr", "seconds", "images_per_second"} == set(measured)
    assert not any(math.isnan(value) for points in measured.values() for _, value in points)
    early = last.read_bytes()
    assert cifar_train.main([*train, "3", "--overwrite"]) == 0
    assert not events.exists() or curves(events) == measured
    last.write_bytes(early)
    assert cifar_train.main([*train, "3", "--resume", "--tensorboard"]) == 0
    assert curves(events) == expected(log)


def test_without_the_package_one_line_says_what_to_install(failing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    error = failing(cifar_train.main, *DIGITS, "--tensorboard", "--save_model", tmp_path / "run")
    assert "pip install tensorboard" in error
    assert not (tmp_path / "run").exists()
