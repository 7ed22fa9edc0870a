"""What a run leaves behind must survive a crash, and is never deleted unasked."""

import errno
import json
import os
import shutil
from pathlib import Path
from unittest import mock

import pytest

import cifar_train
from longtail.checkpoints import save_checkpoint
from longtail.logs import read_log
from longtail.records import Description, EpochRow
from longtail.run import Remedies, Run

ARGUMENTS = {"seed": 0, "lr": 0.1, "resume": False}


MAY_CHANGE = {
    "resume",
    "overwrite",
    "download",
    "n_gpus",
    "device",
    "workers",
    "compile",
    "tensorboard",
    "precision",
    "teacher",
    "refit",
}


SETTINGS = {key for key, value in vars(cifar_train.parse_arguments([])).items() if not isinstance(value, Path)} | {
    "workers"
}


def described(**arguments) -> Description:
    return Description(arguments={**ARGUMENTS, **arguments})


def finish(run: Run, epoch: int, keep: bool = False, **state) -> None:
    row = EpochRow(epoch=epoch, loss=1 / 3, class_accuracy=[0.5, 1.0], class_weight=[1.5, 0.5])
    run.finish_epoch(row, {"epoch": epoch, "arguments": ARGUMENTS, "optimizer": {}, **state}, keep)


def test_existing_run_is_never_touched(tmp_path):
    run = Run(tmp_path, "x")
    assert run.open(described()) is None
    finish(run, 1, keep=True)
    before = {path: path.read_bytes() for path in run.files}
    with pytest.raises(FileExistsError, match="--resume.*--overwrite.*--save_model"):
        run.open(described())
    assert before == {path: path.read_bytes() for path in run.files}


def test_a_program_without_flags_reads_of_none(tmp_path):
    Run(tmp_path, "x").open(described())
    again = Run(tmp_path, "x", remedies=Remedies('mode "resume"', 'mode "overwrite"', "another folder"))
    with pytest.raises(FileExistsError, match='"resume".*"overwrite".*folder') as caught:
        again.open(described())
    assert "--" not in str(caught.value).removeprefix(str(tmp_path))


def test_a_replaced_run_stays_until_the_first_new_epoch_is_saved(tmp_path):
    """Its flags may turn out wrong: too large for the memory, a loss that is not finite."""
    run = Run(tmp_path, "x", results=["test_more.json"], companions={"config.yaml": b"old"})
    run.open(described())
    for epoch in (1, 2):
        finish(run, epoch, keep=True)
    (tmp_path / "test_more.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = Run(tmp_path, "x", results=["test_more.json"], companions={"config.yaml": b"new"})
    del run
    assert again.open(described(seed=1), "overwrite") is None
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    finish(again, 1)
    assert [row.epoch for row in read_log(again.log)] == [1]
    assert not again.best.exists() and not (tmp_path / "test_more.json").exists()
    assert json.loads(again.settings.read_text())["arguments"]["seed"] == 1
    assert (tmp_path / "config.yaml").read_bytes() == b"new"
    finish(again, 2)
    assert [row.epoch for row in read_log(again.log)] == [1, 2]


def test_a_run_that_is_killed_while_it_is_replaced_is_still_a_run(tmp_path, monkeypatch):
    """Else the config.yaml of ImageNet-LT's would look like the user's own, and --resume and --overwrite refused."""
    run = Run(tmp_path, "x")
    run.open(described())
    finish(run, 1, keep=True)
    run.open(described(), "overwrite")
    with monkeypatch.context() as patch:
        patch.setattr(run, "_write_settings", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finish(run, 1)
    assert [path for path in run.files if path.exists()] == [run.settings]
    assert run.open(described(seed=1), "resume") is None  # starts again
    finish(run, 1)
    assert json.loads(run.settings.read_text())["arguments"]["seed"] == 1


@pytest.mark.parametrize(
    ("change", "left", "lost"),
    [
        (lambda log: log.unlink(), [], "1, 2, 3, 4"),
        (lambda log: log.write_bytes(b""), [], "1, 2, 3, 4"),
        (lambda log: log.write_text(log.read_text().splitlines()[0] + "\n"), [], "1, 2, 3, 4"),
        (lambda log: os.truncate(log, log.stat().st_size - 35), [1, 2], "3, 4"),
        (lambda log: log.write_text("".join(log.read_text().splitlines(keepends=True)[:2])), [1], "2, 3, 4"),
    ],
    ids=["deleted", "empty", "header", "cut", "shortened"],
)
def test_a_run_goes_on_without_the_rows_that_its_log_has_lost(change, left, lost, tmp_path):
    run = Run(tmp_path, "x")
    run.open(described())
    for epoch in range(1, 5):
        finish(run, epoch)
    change(run.log)
    assert run.open(described(), "resume")["epoch"] == 4
    assert run.notes == [f"{run.log} has lost the rows of epochs {lost}; training continues without them"]
    finish(run, 5)
    assert [row.epoch for row in read_log(run.log)] == [*left, 5]


def test_a_log_that_is_deleted_or_cut_while_the_run_trains(tmp_path):
    run = Run(tmp_path, "x")
    run.open(described())
    finish(run, 1)
    finish(run, 2)
    os.truncate(run.log, run.log.stat().st_size - 5)
    finish(run, 3)
    assert [row.epoch for row in read_log(run.log)] == [1, 3]
    run.log.unlink()
    finish(run, 4)
    assert [row.epoch for row in read_log(run.log)] == [4]


@pytest.mark.parametrize("change", ["renamed", "deleted"])
def test_a_run_whose_folder_another_run_has_taken_stops(change, tmp_path):
    run = Run(tmp_path / "a", "x")
    run.open(described())
    finish(run, 1)
    if change == "renamed":
        run.folder.rename(tmp_path / "b")
    else:
        shutil.rmtree(run.folder)
    with pytest.raises(OSError, match="a was renamed"):
        finish(run, 2)
    assert not run.folder.exists()
    other = Run(tmp_path / "a", "x")
    other.open(described(seed=1))
    finish(other, 1)
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(OSError, match="a was renamed"):
        finish(run, 2, keep=True)
    assert before == {path: path.read_bytes() for path in run.folder.iterdir()}


def test_resume_refuses_data_of_other_class_counts(tmp_path):
    run = Run(tmp_path, "x")
    run.open(Description(class_counts=[5, 3]))
    finish(run, 1, class_counts=[5, 3])
    assert run.open(Description(class_counts=[5, 3]), "resume")["epoch"] == 1
    with pytest.raises(ValueError, match=r"last_x.pth .*\[5, 3\].*\[5, 2\]"):
        run.open(Description(class_counts=[5, 2]), "resume")


def test_another_number_of_threads_is_reported(tmp_path):
    run = Run(tmp_path, "x")
    run.open(described(), versions={"threads": "2"})
    finish(run, 1)
    run.open(described(), "resume", versions={"threads": "2"})
    assert run.notes == []
    run.open(described(), "resume", versions={"threads": "1"})
    assert len(run.notes) == 1 and "with 2 threads" in run.notes[0] and "OMP_NUM_THREADS=2" in run.notes[0]
    finish(run, 2)
    run.notes.clear()
    run.open(described(), "resume", versions={"threads": "1"})  # as the last time
    assert run.notes == []


def test_resume_returns_the_last_state_and_cuts_the_log(tmp_path):
    run = Run(tmp_path, "x")
    assert run.open(described(), "resume") is None  # nothing to resume
    for epoch in (1, 2):
        finish(run, epoch)
    last = run.last.read_bytes()
    finish(run, 3)
    run.last.write_bytes(last)  # as if killed before `last` was written
    (tmp_path / "last_x.pth.partial").write_bytes(b"half")
    state = run.open(described(resume=True), "resume")
    assert state["epoch"] == 2
    assert [row.epoch for row in read_log(run.log)] == [1, 2]
    assert not list(tmp_path.glob("*.partial"))


def test_a_resumed_run_says_with_what_it_went_on(tmp_path):
    run = Run(tmp_path, "x")
    description = Description(arguments=ARGUMENTS, precision="bf16")
    run.open(description, versions={"torch": "1"})
    finish(run, 1)
    before = json.loads(run.settings.read_text())
    run.open(description, "resume", {"torch": "2"})
    assert json.loads(run.settings.read_text()) == before  # nothing has been trained yet
    finish(run, 2)
    finish(run, 3)
    resumed = [{"epoch": 2, "precision": "bf16", "versions": {"torch": "2"}}]
    assert json.loads(run.settings.read_text()) == {**before, "resumed": resumed}


def test_a_fresh_start_removes_nothing_of_others(tmp_path):
    (tmp_path / "confusion.png").write_bytes(b"a user's")
    run = Run(tmp_path, "x", results=["confusion.png"])
    run.open(described())
    finish(run, 1, keep=True)
    assert (tmp_path / "confusion.png").exists()
    del run
    run = Run(tmp_path, "x", results=["confusion.png"])
    run.open(described(), "overwrite")
    finish(run, 1)
    assert not (tmp_path / "confusion.png").exists()


def test_a_row_that_found_no_space_is_taken_back(tmp_path, monkeypatch):
    run = Run(tmp_path, "x")
    run.open(described())
    finish(run, 1)
    before = run.log.read_text()
    real = open

    def full(path, *rest, **options):
        file = real(path, *rest, **options)
        if path == run.log:
            write = file.write

            def half(text):
                write(text[:5])
                file.flush()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            return mock.Mock(wraps=file, write=half, __enter__=lambda self: self, __exit__=lambda *_: file.close())
        return file

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OSError, match="x.csv .*No space"):
        finish(run, 2)
    monkeypatch.undo()
    assert run.log.read_text() == before


def test_half_a_row_that_a_kill_left_is_dropped(tmp_path):
    run = Run(tmp_path, "x")
    run.open(described())
    for epoch in (1, 2):
        finish(run, epoch)
    whole, last = run.log.read_bytes(), run.last.read_bytes()
    finish(run, 3)
    row = run.log.read_bytes()[len(whole) :]
    for torn in (row[:1], row[: len(row) // 2], row[:-1], row):
        run.log.write_bytes(whole + torn)
        run.last.write_bytes(last)
        assert run.open(described(), "resume")["epoch"] == 2
        assert run.log.read_bytes() == whole


def test_a_run_whose_state_is_gone_is_not_deleted_by_resume(tmp_path):
    """One logged epoch without a state is what a kill leaves; two are a user's run."""
    for epochs, kept in ((1, False), (2, True)):
        run = Run(tmp_path / str(epochs), "x")
        run.open(Description())
        for epoch in range(1, epochs + 1):
            finish(run, epoch, keep=True)
        run.last.unlink()
        before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
        if kept:
            with pytest.raises(ValueError, match="last_x.pth .*x.csv .* 2 epochs.*--overwrite"):
                run.open(Description(), "resume")
            assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before
        else:
            assert run.open(Description(), "resume") is None
            finish(run, 1)
            assert not run.best.exists()


def test_weights_without_a_log_are_not_deleted_by_resume(tmp_path):
    """Downloaded, or of a run whose folder's name was its own."""
    run = Run(tmp_path, "x")
    run.best.write_bytes(b"a user's weights")
    with pytest.raises(ValueError, match="last_x.pth .*best_x.pth"):
        run.open(described(), "resume")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "best_x.pth": b"a user's weights",
        "x.lock": b"",
    }


def test_resume_refuses_another_experiment(tmp_path):
    run = Run(tmp_path, "x")
    run.open(described())
    finish(run, 1)
    with pytest.raises(ValueError, match=r"with lr 0\.1, not 0\.2"):
        run.open(described(lr=0.2), "resume")


@pytest.mark.parametrize("key", sorted(SETTINGS))
def test_resume_keeps_every_setting_but_those_of_execution(tmp_path, key):
    run, arguments = Run(tmp_path, "x"), dict.fromkeys(SETTINGS, 0)
    run.open(Description(arguments=arguments))
    finish(run, 1, arguments=arguments)
    if key in MAY_CHANGE:
        assert run.open(Description(arguments={**arguments, key: 1}), "resume")["epoch"] == 1
    else:
        with pytest.raises(ValueError, match=f"with {key} 0, not 1"):
            run.open(Description(arguments={**arguments, key: 1}), "resume")


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_two_cannot_train_one_run(flag, tmp_path):
    first = Run(tmp_path, "x")
    first.open(described())
    finish(first, 1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match=r"x\.json: another process"):
        Run(tmp_path, "x").open(described(), flag)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    Run(tmp_path, "y").open(described())  # another run in the same folder may
    del first
    assert Run(tmp_path, "x").open(described(), "resume")["epoch"] == 1


def test_an_empty_state_is_refused_and_the_run_stays(tmp_path):
    run = Run(tmp_path, "x")
    run.open(described())
    finish(run, 1, keep=True)
    save_checkpoint(run.last, {})
    before = {path: path.read_bytes() for path in run.files}
    with pytest.raises(ValueError, match="a run's state"):
        run.open(described(), "resume")
    assert before == {path: path.read_bytes() for path in run.files}


@pytest.mark.parametrize(
    ("content", "stays"),
    [
        ('{"checkpoint": "best_x.pth"}', False),
        ('{"run": "x"}', False),
        ('{"classes": []}', False),
        ("{}", True),
        ('{"checkpoint": "best_y.pth"}', True),
        ("[]", True),
        ("no JSON", True),
    ],
)
def test_new_best_weights_end_the_test_of_older_ones(content, stays, tmp_path):
    """A test.json of this run goes with the weights that it tells of; another run's, or what is no test, stays."""
    run = Run(tmp_path, "x", results=["confusion.png"])
    run.open(Description())
    (tmp_path / "confusion.png").write_bytes(b"of those weights")
    (tmp_path / "test.json").write_text(content)
    finish(run, 1)
    assert (tmp_path / "test.json").exists() and (tmp_path / "confusion.png").exists()
    finish(run, 2, keep=True)
    assert (tmp_path / "test.json").exists() == stays and not (tmp_path / "confusion.png").exists()
