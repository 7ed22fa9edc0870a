"""The table comes from logs alone: states, selection, means and spreads, and a README that changes only between its marks."""

import hashlib
import json

import pytest

import reproduce
from reproduce import Entry, Job, main, marks, select, table_rows

MARKS = marks("cifar100")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce, "PAGES", (tmp_path / "README.md", tmp_path / "RESULTS.md"))
    (tmp_path / "README.md").write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")

    def finish(entry: Entry, seed: int, accuracy: float) -> None:
        job = Job(entry, seed, tmp_path)
        job.result.mkdir(parents=True)
        job.result.joinpath(f"{job.log}.csv").write_text("epoch,accuracy\n1,0.2\n2,0.5\n3,0.4\n4,\n")
        shots = {"all": accuracy, "many": 0.6, "medium": 0.4, "few": 0.1}
        job.result.joinpath("test.json").write_text(json.dumps({"accuracy": accuracy, "shots": shots}))

    return finish


def test_table_of_finished_runs(results, tmp_path, capsys):
    entry = Entry("cifar100", 200, "CDB-CE", "1.5", published=37.40)
    assert entry in reproduce.TABLES["cifar100"]
    for seed, accuracy in enumerate((0.38, 0.39, 0.37)):
        results(entry, seed, accuracy)
    row = table_rows(reproduce.TABLES["cifar100"])[0]
    assert row["paper"] == "37.40"
    assert row["this repository"] == "38.00 ± 1.00"
    assert row["seeds"] == "3"
    assert row["best epoch"] == "2 of 4, 2 of 4, 2 of 4"
    assert row["few"] == "10.00 ± 0.00"
    assert main(["--table"]) == 0
    first = (tmp_path / "README.md").read_text()
    assert first.startswith(f"before\n{MARKS[0]}\n| imbalance |")
    assert first.endswith(f"{MARKS[1]}\nafter\n")
    assert "old" not in first
    assert main(["--table"]) == 0
    assert (tmp_path / "README.md").read_text() == first
    capsys.readouterr()
    assert main(["--list", "--only", "imbalance=200,loss_type=CDB-CE,recipe=paper", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == ["finished", "cifar100_imbalance200_CDB-CE_1.5_seed0"]


def test_selection(tmp_path):
    assert [job.name for job in select("imbalance=100,loss_type=CE,recipe=paper", 2, tmp_path)] == [
        "cifar100_imbalance100_CE_seed0", "cifar100_imbalance100_CE_seed1"]
    for only in ("imbalance=7", "epochs=3", "imbalance"):
        with pytest.raises(ValueError, match=only):
            select(only, None, tmp_path)


def test_wrong_selection_is_one_line(failing, results, tmp_path):
    assert "is not finished (open)" in failing(main, "--publish", "--only", "imbalance=100,loss_type=CE,recipe=paper", "--runs", tmp_path)
    assert "matches no run" in failing(main, "--only", "imbalance=3", "--list")
    assert "--seeds" in failing(main, "--seeds", 0)


def test_runs_train_test_and_keep_what_the_table_needs(results, tmp_path, monkeypatch):
    """One real run of the chain, on noise in CIFAR's format and one epoch."""
    from test_cifar_dataset import write_cifar

    write_cifar(tmp_path / "data", per_class=35)
    entry = Entry("cifar100", 10, "CE")
    monkeypatch.setattr(reproduce, "TABLES", {"cifar100": (entry,), "cifar100-fast": (), "tau": ()})
    monkeypatch.setattr(Entry, "flags", [*entry.flags, "--max_epochs", "1"])
    assert main(["--runs", str(tmp_path / "runs"), "--data_root", str(tmp_path / "data")]) == 0
    result = tmp_path / "results" / "cifar100_imbalance10_CE_seed0"
    assert sorted(path.name for path in result.iterdir()) == ["cifar100_imbalance10.csv", "cifar100_imbalance10.json", "test.json"]
    assert "1 of 1" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "results" / "losses.png").stat().st_size > 5000
    monkeypatch.setattr(reproduce, "WEIGHTS", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    assert main(["--runs", str(tmp_path / "runs"), "--publish"]) == 0
    published = (tmp_path / "weights" / "cifar100_imbalance10_CE_seed0.pth").read_bytes()
    assert hashlib.sha256(published).hexdigest() in (tmp_path / "weights" / "README.md").read_text()
    assert str(tmp_path).encode() not in published
    assert str(tmp_path) not in (result / "cifar100_imbalance10.json").read_text()
