"""What a run leaves behind must survive a crash, and is never deleted unasked."""

import errno
import gzip
import json
import math
import os
from pathlib import Path
from unittest import mock

import pytest

import cifar_train
from longtail import run as run_module
from longtail.checkpoints import save_checkpoint
from longtail.run import Run, log_row, read_log

ARGUMENTS = {"seed": 0, "lr": 0.1, "resume": False}


MAY_CHANGE = {"resume", "overwrite", "download", "n_gpus", "device", "workers", "compile", "tensorboard", "precision"}


SETTINGS = {key for key, value in vars(cifar_train.parse_arguments([])).items() if not isinstance(value, Path)} | {
    "workers"
}


def finish(run: Run, epoch: int, is_best: bool = False, **state) -> None:
    row = log_row({"epoch": epoch, "loss": 1 / 3, "accuracy": math.nan}, [0.5, 1.0], [1.5, 0.5])
    run.finish_epoch(row, {"epoch": epoch, "arguments": ARGUMENTS, "optimizer": {}, **state}, is_best)


def test_a_file_of_absurd_size_is_not_read(tmp_path):
    with open(tmp_path / "x.csv", "wb") as file:
        file.truncate(1 << 40)  # a hole: no disk holds so much
    with pytest.raises(ValueError, match=r"x\.csv has 1,099,511,627,776 bytes"):
        read_log(tmp_path / "x.csv")


def test_existing_run_is_never_touched(tmp_path):
    run = Run(tmp_path, "x")
    assert run.open(ARGUMENTS, {}, resume=False, overwrite=False) is None
    finish(run, 1, is_best=True)
    before = {path: path.read_bytes() for path in run.files}
    with pytest.raises(FileExistsError, match="--resume.*--overwrite.*--save_model"):
        run.open(ARGUMENTS, {}, resume=False, overwrite=False)
    assert before == {path: path.read_bytes() for path in run.files}
    assert run.open(ARGUMENTS, {}, resume=False, overwrite=True) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.lock"]


def test_a_run_that_is_killed_while_it_is_replaced_is_still_a_run(tmp_path, monkeypatch):
    """Else the config.yaml of ImageNet-LT's would be taken for the user's own, and --resume and --overwrite refused."""
    run = Run(tmp_path, "x")
    run.open(ARGUMENTS, {}, resume=False, overwrite=False)
    finish(run, 1, is_best=True)
    with monkeypatch.context() as patch:
        patch.setattr(run, "_write_settings", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.open(ARGUMENTS, {}, resume=False, overwrite=True)
    assert [path for path in run.files if path.exists()] == [run.settings]
    assert run.open(ARGUMENTS | {"seed": 1}, {}, resume=True, overwrite=False) is None  # starts again
    assert json.loads(run.settings.read_text())["arguments"]["seed"] == 1


def test_resume_returns_the_last_state_and_cuts_the_log(tmp_path):
    run = Run(tmp_path, "x")
    assert run.open(ARGUMENTS, {}, resume=True, overwrite=False) is None  # nothing to resume
    for epoch in (1, 2):
        finish(run, epoch)
    last = run.last.read_bytes()
    finish(run, 3)
    run.last.write_bytes(last)  # as if killed before `last` was in place
    (tmp_path / "last_x.pth.partial").write_bytes(b"half")
    state = run.open({**ARGUMENTS, "resume": True}, {}, resume=True, overwrite=False)
    assert state["epoch"] == 2
    assert [row["epoch"] for row in read_log(run.log)[1]] == ["1", "2"]
    assert not list(tmp_path.glob("*.partial"))


def test_a_resumed_run_says_with_what_it_went_on(tmp_path):
    run = Run(tmp_path, "x")
    run.open(ARGUMENTS, {"precision": "bf16", "versions": {"torch": "1"}}, resume=False, overwrite=False)
    finish(run, 1)
    before = json.loads(run.settings.read_text())
    run.open(ARGUMENTS, {"precision": "bf16", "versions": {"torch": "2"}}, resume=True, overwrite=False)
    assert json.loads(run.settings.read_text()) == before  # nothing has been trained yet
    finish(run, 2)
    finish(run, 3)
    resumed = [{"epoch": 2, "precision": "bf16", "versions": {"torch": "2"}}]
    assert json.loads(run.settings.read_text()) == {**before, "resumed": resumed}


def test_a_fresh_start_removes_nothing_of_others(tmp_path):
    (tmp_path / "confusion.png").write_bytes(b"somebody's")
    run = Run(tmp_path, "x", results=["confusion.png"])
    run.open(ARGUMENTS, {}, resume=False, overwrite=False)
    finish(run, 1, is_best=True)
    assert (tmp_path / "confusion.png").exists()
    run = Run(tmp_path, "x", results=["confusion.png"])
    run.open(ARGUMENTS, {}, resume=False, overwrite=True)
    assert not (tmp_path / "confusion.png").exists()


def test_a_row_that_found_no_space_is_taken_back(tmp_path, monkeypatch):
    run = Run(tmp_path, "x")
    run.open(ARGUMENTS, {}, resume=False, overwrite=False)
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
    with pytest.raises(OSError, match="x.csv could not be written: No space left on device"):
        finish(run, 2)
    monkeypatch.undo()
    assert run.log.read_text() == before


def test_half_a_row_that_a_kill_left_is_dropped(tmp_path):
    run = Run(tmp_path, "x")
    run.open(ARGUMENTS, {}, resume=False, overwrite=False)
    for epoch in (1, 2):
        finish(run, epoch)
    whole, last = run.log.read_bytes(), run.last.read_bytes()
    finish(run, 3)
    row = run.log.read_bytes()[len(whole) :]
    for torn in (row[:1], row[: len(row) // 2], row[:-1], row):
        run.log.write_bytes(whole + torn)
        run.last.write_bytes(last)
        assert run.open(ARGUMENTS, {}, resume=True, overwrite=False)["epoch"] == 2
        assert run.log.read_bytes() == whole


def test_a_run_whose_state_is_gone_is_not_deleted_by_resume(tmp_path):
    """One logged epoch without a state is what a kill leaves; two are somebody's run."""
    for epochs, kept in ((1, False), (2, True)):
        run = Run(tmp_path / str(epochs), "x")
        run.open({}, {}, resume=False, overwrite=False)
        for epoch in range(1, epochs + 1):
            finish(run, epoch, is_best=True)
        run.last.unlink()
        before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
        if kept:
            with pytest.raises(
                ValueError, match=r"last_x.pth is missing, though .*x.csv holds 2 epochs; --overwrite starts again"
            ):
                run.open({}, {}, resume=True, overwrite=False)
            assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before
        else:
            assert run.open({}, {}, resume=True, overwrite=False) is None
            assert not run.best.exists()


def test_weights_without_a_log_are_not_deleted_by_resume(tmp_path):
    """Downloaded, or of a run whose folder's name was its own."""
    run = Run(tmp_path, "x")
    run.best.write_bytes(b"somebody's weights")
    with pytest.raises(ValueError, match=r"last_x.pth is missing, though .*best_x.pth is there"):
        run.open(ARGUMENTS, {}, resume=True, overwrite=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "best_x.pth": b"somebody's weights",
        "x.lock": b"",
    }


def test_resume_refuses_another_experiment(tmp_path):
    run = Run(tmp_path, "x")
    run.open(ARGUMENTS, {}, resume=False, overwrite=False)
    finish(run, 1)
    with pytest.raises(ValueError, match=r"with lr 0\.1, not 0\.2"):
        run.open({**ARGUMENTS, "lr": 0.2}, {}, resume=True, overwrite=False)


@pytest.mark.parametrize("key", sorted(SETTINGS))
def test_resume_keeps_every_setting_but_those_of_execution(tmp_path, key):
    run, arguments = Run(tmp_path, "x"), dict.fromkeys(SETTINGS, 0)
    run.open(arguments, {}, resume=False, overwrite=False)
    finish(run, 1, arguments=arguments)
    if key in MAY_CHANGE:
        assert run.open({**arguments, key: 1}, {}, resume=True, overwrite=False)["epoch"] == 1
    else:
        with pytest.raises(ValueError, match=f"with {key} 0, not 1"):
            run.open({**arguments, key: 1}, {}, resume=True, overwrite=False)


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_two_cannot_train_one_run(flag, tmp_path):
    first = Run(tmp_path, "x")
    first.open(ARGUMENTS, {}, resume=False, overwrite=False)
    finish(first, 1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match=r"x\.json: another process trains this run"):
        Run(tmp_path, "x").open(ARGUMENTS, {}, **{"resume": False, "overwrite": False, flag: True})
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    Run(tmp_path, "y").open(ARGUMENTS, {}, resume=False, overwrite=False)  # another run in the same folder may
    del first
    assert Run(tmp_path, "x").open(ARGUMENTS, {}, resume=True, overwrite=False)["epoch"] == 1


def test_log_row_and_format(tmp_path):
    run = Run(tmp_path, "x")
    run.open(ARGUMENTS, {}, resume=False, overwrite=False)
    finish(run, 1)
    columns, rows = read_log(run.log)
    assert columns == ["epoch", "loss", "accuracy", "accuracy_0", "accuracy_1", "weight_0", "weight_1"]
    assert list(rows[0].values()) == ["1", "0.3333", "", "0.5", "1", "1.5", "0.5"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch,loss\n",
        "epoch,loss\n1\n",
        "epoch,loss\n1,2,3\n",
        "epoch,loss\nx,1\n",
        "loss\n1\n",
        "epoch,loss\n1,one\n",
        "epoch,loss\n0,1\n",
        "epoch\0,loss\n1,1\n",
        'epoch,loss\n1,"2\n',
        "epoch,loss\n1,nan\n",
        "epoch,loss\n1,-inf\n",
        "epoch,loss\n1,1e999\n",
        "epoch,loss\n1,1_0\n",
        "epoch,loss\n\u0661,1\n",
        "epoch,loss\n1,1\n1,1\n",
        "epoch,loss\n2,1\n1,1\n",
        "epoch,loss\n" + 5000 * "9" + ",1\n",
        "epoch,loss,loss\n1,1,1\n",
    ],
)
def test_damaged_logs(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=r"x\.csv"):
        read_log(tmp_path / "x.csv")


def test_log_that_is_not_text(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match=r"x\.csv"):
        read_log(tmp_path / "x.csv")


def test_gzipped_logs(tmp_path, monkeypatch):
    log, text = tmp_path / "x.csv.gz", b"epoch,loss\n1,0.5\n2,0.25\n"
    log.write_bytes(gzip.compress(text))
    assert read_log(log) == (["epoch", "loss"], [{"epoch": "1", "loss": "0.5"}, {"epoch": "2", "loss": "0.25"}])
    damaged = bytearray(gzip.compress(text))
    damaged[12] ^= 255
    for content in (text, b"", gzip.compress(text)[:-9], damaged, gzip.compress(b"epoch,loss\n1\n")):
        log.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.csv\.gz (is not a run's log|holds no finished epoch)"):
            read_log(log)
    monkeypatch.setattr(run_module, "LARGEST_LOG", 1000)
    log.write_bytes(gzip.compress(text + b"3,0.125\n" * 1000))  # small, until it is unpacked
    with pytest.raises(ValueError, match="it is too large"):
        read_log(log)


def test_an_empty_state_is_refused_and_the_run_stays(tmp_path):
    run = Run(tmp_path, "x")
    run.open(ARGUMENTS, {}, resume=False, overwrite=False)
    finish(run, 1, is_best=True)
    save_checkpoint(run.last, {})
    before = {path: path.read_bytes() for path in run.files}
    with pytest.raises(ValueError, match="does not hold a run's state"):
        run.open(ARGUMENTS, {}, resume=True, overwrite=False)
    assert before == {path: path.read_bytes() for path in run.files}


def test_a_log_of_short_rows_is_refused_at_the_first(tmp_path):
    (tmp_path / "x.csv").write_text("epoch\n" + "1\n" * (1 << 24))  # 3 GB, if they were rows
    with pytest.raises(ValueError, match="epoch 1 follows epoch 1"):
        read_log(tmp_path / "x.csv")


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
    run.open({}, {}, False, False)
    (tmp_path / "confusion.png").write_bytes(b"of those weights")
    (tmp_path / "test.json").write_text(content)
    run.finish_epoch({"epoch": 1, "accuracy": 0.5}, {"epoch": 1}, is_best=False)
    assert (tmp_path / "test.json").exists() and (tmp_path / "confusion.png").exists()
    run.finish_epoch({"epoch": 2, "accuracy": 0.6}, {"epoch": 2}, is_best=True)
    assert (tmp_path / "test.json").exists() == stays and not (tmp_path / "confusion.png").exists()
