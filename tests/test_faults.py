"""A small count of each fault; `make faults` tries many more. And the harness itself: it must notice a loss."""

import random

import pytest
import torch

import records
from faults import run as faults


@pytest.fixture
def rng() -> random.Random:
    return random.Random(1)


def survives(row: faults.Row, tried: int) -> None:
    assert (row.tried, row.losses) == (tried, [])


def test_killed_runs_end_as_undisturbed_ones(tmp_path, rng):
    survives(faults.killed(faults.imagenet(tmp_path), 4, tmp_path, rng), 4)


def test_a_file_size_limit_leaves_the_last_checkpoint_whole(tmp_path, rng):
    survives(faults.full_disk(faults.imagenet(tmp_path), 1, tmp_path, rng), 1)


def test_signals_stop_and_the_run_resumes(tmp_path, rng):
    survives(faults.stopped(faults.imagenet(tmp_path), 2, tmp_path, rng), 2)


def test_a_lost_partner_ends_the_job_and_a_restart_recovers(tmp_path, rng):
    survives(faults.partner_killed(1, tmp_path, rng), 1)
    survives(faults.restarted(1, tmp_path, rng), 1)


def test_a_long_run_stays_as_it_is(tmp_path):
    survives(faults.long_run(40, tmp_path, growth=0.15), 1)


def test_the_harness_notices_a_checkpoint_that_is_not_atomic(tmp_path, rng, monkeypatch):
    """Written in place, a kill in the middle of the write spoils it."""
    def write_in_place(path, content):
        with records.open(path, "wb") as file:
            file.write(content)

    monkeypatch.setattr(records, "open", open, raising=False)
    monkeypatch.setattr(records, "write_atomically", write_in_place)
    experiment, folder = faults.imagenet(tmp_path), faults.fresh(tmp_path)
    assert faults.ended(faults.start(experiment, folder, faults.die_in_write(5))) == -9        # description, log, best, last, log, best
    assert "is damaged" in faults.unreadable(folder)[0]


def test_the_harness_notices_a_run_that_resumes_to_other_weights(tmp_path):
    experiment = faults.imagenet(tmp_path)
    reference, _ = faults.uninterrupted(experiment, tmp_path)
    other, _ = faults.uninterrupted(experiment, tmp_path)
    assert faults.differences(other, reference) == []
    state = records.load_checkpoint(other / "last_run.pth")
    state["classifier"]["fc.bias"][0] += 1e-7
    torch.save(state, other / "last_run.pth")
    (other / "last_run.pth.partial").write_bytes(b"")
    assert faults.differences(other, reference) == ["has last_run.pth.partial, unlike an undisturbed run", "last_run.pth differs"]


def test_the_table_ends_in_its_sum(capsys, monkeypatch):
    rows = [faults.Row("kills", 3, []), faults.Row("disks", 2, ["gone", "gone too", "and more"])]
    assert faults.table(rows) == ("kind   tried  survived  lost\n"
                                  "kills      3         3     0\n"
                                  "disks      2         0     2\n"
                                  "5 tried, 2 lost")
    monkeypatch.setattr(faults, "plan", lambda args, work: iter([("kills", lambda: rows)]))
    assert faults.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "5 tried, 2 lost"
    assert faults.main(["--kind", "earthquake"]) == 2
