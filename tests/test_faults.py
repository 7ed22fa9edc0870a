"""A small count of each fault; `make faults` tries many more. And the harness itself: it must notice a loss."""

import pytest

from conftest import ROOT
from faults import run as faults


@pytest.mark.parametrize(
    "checks",
    [
        (
            "killed",
            "stopped",
            "full_disk",
            "long_run",
            "notices_other_weights",
            "notices_a_write_in_place",
            "notices_a_hanging_run",
            "notices_a_leak",
            "notices_runs_that_nothing_stopped",
        ),
        ("restarted",),
    ],
    ids="-".join,
)
def test_faults(checks, shell):
    run = shell(ROOT / "tests/faults/check.py", *checks, timeout=400)
    assert run.returncode == 0, run.stderr


def test_the_table_ends_in_its_sum(capsys, monkeypatch):
    rows = [faults.Row("kills", 3, []), faults.Row("disks", 2, ["gone", "gone too", "and more"])]
    assert faults.table(rows) == (
        "kind   tried  survived  lost\nkills      3         3     0\ndisks      2         0     2\n5 tried, 2 lost"
    )
    monkeypatch.setattr(faults, "plan", lambda args, work: iter([("kills", lambda: rows)]))
    assert faults.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "5 tried, 2 lost"
    assert faults.main(["--kind", "earthquake"]) == 2
