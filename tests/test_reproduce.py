"""The table comes from logs alone: states, selection, means and spreads.

A README changes only between its marks.
"""

import gzip
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from conftest import ROOT
from longtail.checkpoints import load_checkpoint
from reproduce import main
from reproduction import jobs, pages, plan, weights
from reproduction.jobs import Entry, Job
from reproduction.pages import marks, table_row
from reproduction.plan import all_entries, select

MARKS = marks("cifar100")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(pages, "PAGES", (tmp_path / "README.md", tmp_path / "results.md"))
    monkeypatch.setattr(weights, "WEIGHTS", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    (tmp_path / "README.md").write_text("")
    (tmp_path / "results.md").write_text("\n".join((*marks("open"), f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")))

    def finish(entry: Entry, seed: int, accuracy: float) -> None:
        job = Job(entry, seed, tmp_path)
        job.result.mkdir(parents=True)
        rows = [f"{epoch},1,{accuracy},,1" for epoch, accuracy in enumerate(("0.2", "0.5", "0.4", ""), 1)]
        log = "\n".join(["epoch,loss,accuracy,accuracy_0,weight_0", *rows, ""])
        job.kept_log.write_bytes(gzip.compress(log.encode()))
        settings = job.kept_log.with_suffix("").with_suffix(".json")
        settings.write_text(json.dumps({"arguments": {"loss_type": entry.loss_type}, "class_counts": [4]}))
        shots = {"all": accuracy, "many": accuracy + 0.2, "medium": accuracy + 0.1, "few": accuracy - 0.2}
        job.result.joinpath("test.json").write_text(json.dumps({"accuracy": accuracy, "shots": shots}))

    return finish


def test_table_of_finished_runs(results, tmp_path, capsys):
    entry = Entry("cifar100", 200, "CDB-CE", "1.5", published=37.40)
    assert entry in plan.TABLES["cifar100"]
    for seed, accuracy in enumerate((0.38, 0.39, 0.37)):
        results(entry, seed, accuracy)
    row = table_row(entry, jobs.finished(entry))
    assert row["paper"] == "37.40"
    assert row["this repository"] == "38.00 ± 1.00"
    assert row["seeds"] == "3"
    assert row["best epoch"] == "2 of 4, 2 of 4, 2 of 4"
    assert row["validation"] == "50.00 ± 0.00"
    assert (row["many"], row["medium"], row["few"]) == ("58.00 ± 1.00", "48.00 ± 1.00", "18.00 ± 1.00")
    (line,) = pages.lines([entry, Entry("cifar100", 100, "CE")], lambda entry: entry.label)
    assert (line.group, line.name, line.published) == ("imbalance 200, paper recipe", "CDB-CE, tau 1.5", 37.40)
    assert line.accuracy["all"] == pytest.approx([38, 39, 37])
    assert line.accuracy["few"] == pytest.approx([18, 19, 17])
    assert main(["--table"]) == 0
    first = (tmp_path / "results.md").read_text()
    assert f"before\n{MARKS[0]}\n| loss |" in first
    assert first.endswith(f"{MARKS[1]}\nafter\n")
    assert "old" not in first
    assert main(["--table"]) == 0
    assert (tmp_path / "results.md").read_text() == first
    open_runs = dict(re.findall("- `(.*)`, seeds? (.*)", first))
    assert open_runs.keys() == {other.name for other in all_entries()} - {entry.name}
    assert open_runs["cifar100_imbalance200_CE_fast"] == "0, 1, 2"
    capsys.readouterr()
    assert (
        main(["--list", "--only", "imbalance=200,loss_type=CDB-CE,recipe=paper,batch_size=", "--runs", str(tmp_path)])
        == 0
    )
    assert capsys.readouterr().out.split() == ["finished", "cifar100_imbalance200_CDB-CE_1.5_seed0"]


@pytest.mark.parametrize(
    ("log", "state"), [("epoch,loss\n1,0.2\n2,0.5\n3,0", "epoch 2"), ("", "epoch ?"), ("epoch,loss\n1\n", "epoch ?")]
)
def test_states_of_unfinished_runs(log, state, results, tmp_path):
    """A row is half written, or none is, when a run is killed."""
    job = Job(Entry("cifar100", 100, "CE"), 0, tmp_path)
    assert job.state == "open"
    (tmp_path / job.name).mkdir()
    (tmp_path / job.name / "cifar100_imbalance100.csv").write_text(log)
    assert job.state == state


def test_flags_with_a_number_have_a_word_in_the_name():
    entry = Entry("cifar100", 10, "CDB-CE", "dynamic", batch_size="128")
    assert Job(entry, 0, ROOT).name == "cifar100_imbalance10_CDB-CE_dynamic_batch128_seed0"
    assert entry.flags[-2:] == ["--batch_size", "128"] and entry.label == "CDB-CE, tau dynamic, batch 128"
    assert entry in plan.TABLES["cifar100"]
    longer = Entry("cifar100", 100, "CE", recipe="strong", max_epochs="200", head="cosine", teachers=("A_seed0", "B"))
    assert longer.name == "cifar100_imbalance100_CE_strong_epochs200_cosine_teachers2"
    assert longer.label == "CE, epochs 200, head cosine, teachers 2"
    assert " ".join(longer.flags) == (
        "--dataset cifar100 --imbalance 100 --loss_type CE --recipe strong --max_epochs 200 --head cosine"
    )
    assert [str(job.entry) for job in select("batch_size=128,loss_type=CE,imbalance=10", None, ROOT)] == [
        str(Entry("cifar100", 10, "CE", batch_size="128"))
    ]


def test_teachers_are_runs_or_published_weights(tmp_path):
    (tmp_path / "A_seed0").mkdir()
    job = Job(Entry("cifar100", 100, "CE", teachers=("A_seed0", "B_seed1")), 0, tmp_path)
    assert job.teachers == [tmp_path / "A_seed0", ROOT / "pretrained_weights/B_seed1.pth"]


def test_a_refit_names_its_run(tmp_path):
    """The run's folder, or its log in results/, which is in every clone."""
    entry = plan.strong(100, "CE", refit="A_seed0")
    assert entry.name == "cifar100_imbalance100_CE_strong_refit" and entry.label == "CE, refit"
    assert not entry.is_adjustable and plan.strong(100, "CE").is_adjustable
    assert Job(entry, 0, tmp_path).refitted == jobs.RESULTS / "A_seed0"
    (tmp_path / "A_seed0").mkdir()
    assert Job(entry, 0, tmp_path).refitted == tmp_path / "A_seed0"


def test_what_was_not_measured_is_a_dash():
    assert pages.show([0.5, 0.7]) == "60.00 ± 14.14"
    assert pages.show([None]) == pages.show([float("nan"), 0.5]) == "-"


def test_a_pilots_seeds_are_not_its_rows(results):
    """Seeds 0 and 10 of one setting: each counts in a row of its own."""
    row, pilot = plan.strong(100, "Balanced_Softmax"), plan.pilot("Balanced_Softmax")
    assert row.name == pilot.name
    results(row, 0, 0.5)
    results(pilot, 10, 0.6)
    assert [[job.seed for job in jobs.finished(entry)] for entry in (row, pilot)] == [[0], [10]]
    assert [job.seed for job in select(row.name, None, ROOT)] == [10, 0, 1, 2]


def test_best_epochs_of_many_runs_are_a_range():
    assert pages.best_epochs([29, 30], [30, 30]) == "29 of 30, 30 of 30"
    assert pages.best_epochs([29, 21, 30, 25], [30] * 4) == "21 to 30 of 30"


def test_the_demos_claim(results, tmp_path):
    """Three seeds of 50, 60, 70 % and 60, 80, 100 %.

    Differences 10, 20, 30, so 20 with 4.303 * 10 / sqrt 3 on either side.

    A fourth seed, which only the first loss has, is left out.
    """
    (tmp_path / "results.md").write_text("\n".join(marks("demo")))
    pair = next(pair for pair in plan.DEMO if (pair[0].precision, pair[0].threads) == ("bf16", "2"))
    for entry, right in zip(pair, ((5, 6, 7), (6, 8, 10)), strict=True):
        for seed, correct in enumerate((*right, 1) if entry is pair[0] else right):
            results(entry, seed, 0.5)
            classes = [{"name": "a", "training_images": 200, "correct": correct, "images": 10}]
            (Job(entry, seed, tmp_path).result / "test.json").write_text(json.dumps({"classes": classes}))
    pages.write_demo_table()
    assert (tmp_path / "results.md").read_text().splitlines()[-2] == (
        "| bf16 | 2 | 3 | 60.00 ± 10.00 | 80.00 ± 20.00 | +20.00 | -4.84 to +44.84 |"
    )


def test_is_the_loss_safe(results, tmp_path, monkeypatch):
    """Three seeds of 50, 60, 40 %, of 30, 40, 50 %, and of 70, 90, 50 %.

    Differences 20, 30 and 10, so 20 with 4.303 * 10 / sqrt 3 on either side.

    The only class's weight is 1 and 3 in the two epochs (deviation 1) or always 1.
    """
    (tmp_path / "results.md").write_text("\n".join(marks("safety")))
    _, ce, paper, smoothed = plan.SAFETY[0]
    for entry, right in ((ce, (5, 6, 4)), (paper, (3, 4, 5)), (smoothed, (7, 9, 5))):
        for seed, correct in enumerate(right):
            results(entry, seed, 0.5)
            job = Job(entry, seed, tmp_path)
            classes = [{"name": "a", "training_images": 200, "correct": correct, "images": 10}]
            (job.result / "test.json").write_text(json.dumps({"accuracy": correct / 10, "classes": classes}))
            weights = (1, 3) if entry is paper else (1, 1)
            rows = [f"{epoch},0.1,1,0.5,,1,9,0.5,{weight}\n" for epoch, weight in enumerate(weights, 1)]
            job.kept_log.write_bytes(
                gzip.compress(
                    (
                        "epoch,lr,loss,accuracy,tau,seconds,images_per_second,accuracy_0,weight_0\n" + "".join(rows)
                    ).encode()
                )
            )
            (job.result / f"{job.log.stem}.json").write_text(
                json.dumps({"class_counts": [200], "arguments": {"loss_type": "CE"}})
            )
    pages.write_safety_table()
    page = (tmp_path / "results.md").read_text()
    expected = (
        "| digits, imbalance 50 | 50.00 ± 10.00 (3) | 40.00 ± 10.00 (3) | 70.00 ± 20.00 (3) "
        "| 1.000 | 0.000 | +20.00 | -4.84 to +44.84 |"
    )
    assert expected in page


def test_direct_comparisons_have_three_pairs_or_more(results, tmp_path):
    """50, 60, 70 against 60, 80, 100 %: as for the demo. The next pair of rows has two pairs of seeds.

    The only class has 200 training images.
    """
    (tmp_path / "results.md").write_text("\n".join(marks("pairs")))
    (ours, rival), (other, _) = plan.PAIRS[:2]
    for entry, right in ((rival, (5, 6, 7)), (ours, (6, 8, 10)), (other, (9, 9))):
        for seed, correct in enumerate(right):
            results(entry, seed, 0.5)
            classes = [{"name": "a", "training_images": 200, "correct": correct, "images": 10}]
            (Job(entry, seed, tmp_path).result / "test.json").write_text(json.dumps({"classes": classes}))
    pages.write_pairs_table()
    cell = "+20.00 (-4.84 to +44.84)"
    assert (tmp_path / "results.md").read_text().splitlines()[3:-1] == [
        f"| 100, fast | CDB-CE, tau dynamic | CE | 3 | {cell} | {cell} | - | - |"
    ]


def test_how_far_the_high_rate_came(results, tmp_path):
    """Two epochs at 0.1, one at 0.001. At imbalance 200 the paper's number is reached, so it has no row."""
    (tmp_path / "results.md").write_text("\n".join(marks("cells")))
    rows = ["1,0.1,3,0.2", "2,0.1,2,0.3", "3,0.001,1,0.5"]
    for imbalance in (200, 100):
        job = Job(Entry("cifar100", imbalance, "CE"), 0, tmp_path)
        results(job.entry, 0, 0.5)
        log = "\n".join(["epoch,lr,loss,accuracy,accuracy_0,weight_0", *(f"{row},0.5,1" for row in rows), ""])
        job.kept_log.write_bytes(gzip.compress(log.encode()))
    pages.write_cells_table()
    assert (tmp_path / "results.md").read_text().splitlines()[3:-1] == ["| 100 | CE | 2.00 | 1.00 | 30.00 |"]


def test_a_row_is_compared_with_cross_entropy_that_was_trained_in_the_same_way():
    smoothed = plan.smoothed(100, "CDB-CE", "dynamic", protocol="common", reduction="weighted_mean")
    assert plan.baseline(smoothed) == plan.fast(100, "CE", protocol="common")
    assert plan.baseline(plan.batch128(10, "CDB-CE", "dynamic")) == plan.batch128(10, "CE")
    ladder = plan.TABLES["cifar100-ladder"]
    assert {plan.baseline(entry) for entry in ladder} == {ladder[0]}


def test_a_page_shows_what_its_table_says():
    first = {"imbalance": "10", "loss": "CE", "paper": "-", "difference": "", "validation": "5", "best epoch": "1 of 2"}
    assert pages.on_a_page("tau", [first]) == [{"loss": "CE"}]
    assert pages.on_a_page("cifar100-strong", [first]) == [{"loss": "CE", "validation": "5"}]
    shown = pages.on_a_page("tau", [first, {**first, "imbalance": "20", "difference": "+1.00"}])
    assert shown == [
        {"imbalance": "10", "loss": "CE", "difference": ""},
        {"imbalance": "20", "loss": "CE", "difference": "+1.00"},
    ]


def test_losses_beside_cross_entropy_of_their_recipe_over_common_seeds(results, tmp_path):
    """The paper has 38.21 and 42.57 at imbalance 100. A recipe's first finished loss is compared with nothing."""
    ce, cdb = plan.fast(100, "CE", published=38.21), plan.fast(100, "CDB-CE", "dynamic", published=42.57)
    other = plan.strong(100, "Balanced_Softmax")
    refit = plan.fast(100, "CE", refit="A_seed0")
    for entry, right in ((ce, (5, 6)), (cdb, (7, 9, 8)), (other, (4,)), (refit, (5, 5))):
        for seed, correct in enumerate(right):
            results(entry, seed, correct / 10)
            classes = [{"name": "a", "training_images": 200, "correct": correct, "images": 10}]
            figures = {"accuracy": correct / 10, "classes": classes}
            (Job(entry, seed, tmp_path).result / "test.json").write_text(json.dumps(figures))
    (contrast,) = pages.contrasts([other, ce, cdb, refit])
    assert contrast.group == "imbalance 100, fast recipe"
    assert contrast.reference["all"] == "cross-entropy: 55.00 ± 7.07"
    assert contrast.reference["few"] == "cross-entropy: no such class"
    assert contrast.runs.accuracy[:, 0].tolist() == [70, 90] and contrast.baseline.accuracy[:, 0].tolist() == [50, 60]
    assert contrast.published == pytest.approx(4.36)


def test_logit_adjustment_after_training(results, tmp_path):
    """Seeds 1 to 3 of 40, 50, 60 % get 44, 56, 64 %: differences 4, 6, 4, so 4.67 with 4.303 * 1.155 / sqrt 3.

    Seed 0 has no such test.
    """
    (tmp_path / "results.md").write_text("\n".join(marks("adjustment")))
    entry = next(entry for entry in plan.TABLES["cifar100-fast"] if entry.is_adjustable)
    for seed, correct in enumerate((10, 40, 50, 60)):
        results(entry, seed, correct / 100)
        for name, right in (
            ("test", correct),
            (jobs.ADJUSTED.removesuffix(".json"), {40: 44, 50: 56, 60: 64}.get(correct)),
        ):
            if right is not None:
                classes = [{"name": "a", "training_images": 200, "correct": right, "images": 100}]
                figures = {
                    "logit_adjustment": right / 40,
                    "shots": {"few": None},
                    "classes": classes,
                }
                (Job(entry, seed, tmp_path).result / f"{name}.json").write_text(json.dumps(figures))
    pages.write_adjustment_table()
    expected = "| 200 | fast | 1, 2, 3 | 50.00 ± 10.00 | 54.67 ± 10.07 | 1.1, 1.4, 1.6 | +4.67 | +1.80 to +7.54 |"
    assert expected in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    ("entry", "adjustable"),
    [
        (plan.fast(100, "CE"), True),
        (plan.fast(100, "CDB-CE", "dynamic"), False),
        (plan.fast(100, "CE", protocol="common"), False),
        (plan.digits(50, "CE"), False),
    ],
)
def test_what_is_adjusted_after_training(entry, adjustable):
    assert entry.is_adjustable == adjustable


def test_the_papers_numbers():
    """Tables 1 to 4 of the paper: CIFAR100-LT, top-1 %."""
    entries = all_entries()
    published = {(entry.imbalance, entry.loss_type, entry.tau): entry.published for entry in entries if entry.published}
    assert published == {
        (200, "CDB-CE", "1.5"): 37.40,
        (100, "CE", ""): 38.21,
        (100, "CDB-CE", "dynamic"): 42.57,
        (100, "CDB-CE", "1"): 41.67,
        (100, "FL", ""): 38.41,
        (10, "CDB-CE", "dynamic"): 58.74,
    }


def test_an_entry_is_its_command():
    entry = Entry(
        "cifar100",
        100,
        "CDB-CE",
        "2",
        "fast",
        precision="fp32",
        protocol="common",
        reduction="weighted_mean",
        beta="0.9",
    )
    assert " ".join(entry.flags) == (
        "--dataset cifar100 --imbalance 100 --loss_type CDB-CE --tau 2 --recipe fast --precision fp32 "
        "--protocol common --reduction weighted_mean --beta 0.9"
    )
    assert entry.name == "cifar100_imbalance100_CDB-CE_2_fast_fp32_common_weighted_mean_0.9"
    assert Entry("digits", 20, "CE", recipe="digits").flags == [
        "--dataset",
        "digits",
        "--imbalance",
        "20",
        "--loss_type",
        "CE",
    ]
    assert Entry("cifar100", 200, "CE").name == "cifar100_imbalance200_CE"


def test_every_table_is_in_one_page():
    texts = "".join(page.read_text() for page in pages.PAGES)
    tables = {*plan.TABLES, "open", "short", "demo", "safety", "pairs", "cells", "adjustment"} - {"digits"}
    assert {table: [texts.count(mark) for mark in marks(table)] for table in tables} == {
        table: [1, 1] for table in tables
    }


def test_selection(tmp_path):
    assert [job.name for job in select("imbalance=100,loss_type=CE,recipe=paper,batch_size=", 2, tmp_path)] == [
        "cifar100_imbalance100_CE_seed0",
        "cifar100_imbalance100_CE_seed1",
    ]
    only = "tau=dynamic,imbalance=100,recipe=fast,protocol=,precision=,reduction=,difficulty="
    assert [job.name for job in select(only, 1, tmp_path)] == ["cifar100_imbalance100_CDB-CE_dynamic_fast_seed0"]
    name = "cifar100_imbalance100_CDB-CE_dynamic_fast"
    assert [job.name for job in select(name, None, tmp_path)] == [f"{name}_seed{seed}" for seed in range(3)]
    assert [job.name for job in select(f"{name}_seed1", None, tmp_path)] == [f"{name}_seed1"]
    for only in ("imbalance=7", "epochs=3", "imbalance"):
        with pytest.raises(ValueError, match=only):
            select(only, None, tmp_path)


def test_wrong_selection_is_one_line(failing, results, tmp_path):
    assert "is not finished (open)" in failing(
        main, "--publish", "--only", "imbalance=100,loss_type=CE,recipe=paper", "--runs", tmp_path
    )
    assert "matches no run" in failing(main, "--only", "imbalance=3", "--list")
    assert "--seeds" in failing(main, "--seeds", 0)
    assert "drop --only" in failing(main, "--table", "--only", "imbalance=100")
    assert "not allowed with argument" in failing(main, "--again", "--publish")


def test_runs_train_test_and_keep_what_the_table_needs(results, tmp_path, monkeypatch, capsys, failing):
    """One real run of the chain, on noise in CIFAR's format."""
    from builders import write_cifar

    write_cifar(tmp_path / "data", "cifar10", per_class=35)
    entry = Entry("cifar10", 10, "CE")
    monkeypatch.setattr(plan, "TABLES", {"cifar100": (entry,), "cifar100-strong": (), "cifar100-fast": (), "tau": ()})
    monkeypatch.setattr(plan, "DEMO", ())
    monkeypatch.setattr(Entry, "flags", [*entry.flags, "--max_epochs", "1"])
    command = ["--runs", str(tmp_path / "runs"), "--data_root", str(tmp_path / "data")]
    assert main(command) == 0
    result = tmp_path / "results" / "cifar10_imbalance10_CE_seed0"
    assert sorted(path.name for path in result.iterdir()) == [
        "cifar10_imbalance10.csv.gz",
        "cifar10_imbalance10.json",
        "logit_adjustment.json",
        "test.json",
    ]
    assert 0 <= json.loads((result / "logit_adjustment.json").read_text())["logit_adjustment"] <= 3
    assert re.search(r"\| 1 of 1 \|", (jobs.RESULTS / "cifar100.md").read_text())
    assert "Every run of these tables has been made.\n" in (tmp_path / "results.md").read_text()
    assert not (tmp_path / "results" / "losses.png").exists()  # there is nothing to compare it with
    assert main([*command, "--publish"]) == 0
    path = tmp_path / "weights" / "cifar10_imbalance10_CE_seed0.pth"
    published = path.read_bytes()
    assert published == (tmp_path / "runs" / result.name / "best_cifar10_imbalance10.pth").read_bytes()
    assert hashlib.sha256(published).hexdigest() in (tmp_path / "weights" / "README.md").read_text()
    assert str(tmp_path).encode() not in published
    assert str(tmp_path) not in (result / "cifar10_imbalance10.json").read_text()
    capsys.readouterr()
    assert main([*command, "--again"]) == 0
    accuracy = json.loads((result / "test.json").read_text())["accuracy"]
    assert f"{result.name}: test accuracy {accuracy:.4f}, in results/ {accuracy:.4f}" in capsys.readouterr().out
    refused_to_publish(tmp_path / "runs" / result.name, tmp_path / "elsewhere", failing)
    assert path.read_bytes() == published


def test_a_run_goes_on_in_the_precision_in_which_it_began(tmp_path, monkeypatch):
    seen, job = [], Job(Entry("cifar100", 100, "CE"), 0, tmp_path)
    monkeypatch.setattr(jobs.cifar_train, "main", lambda flags: seen.append(flags) or 2)
    assert job.execute(tmp_path, download=False) == 2
    job.folder.mkdir()
    (job.folder / "cifar100_imbalance100.json").write_text('{"precision": "bf16"}')
    assert job.execute(tmp_path, download=True) == 2
    assert "--precision" not in seen[0] and seen[1] == [*seen[0], "--download", "--precision", "bf16"]


def refused_to_publish(run, elsewhere, failing):
    """Another folder, weights of another epoch, another log: none is the run of results/."""
    assert "where it was trained" in failing(main, "--publish", "--runs", elsewhere)
    copy = elsewhere / run.name
    shutil.copytree(run, copy)
    best, log = copy / "best_cifar10_imbalance10.pth", copy / "cifar10_imbalance10.csv"
    torch.save({**load_checkpoint(best), "epoch": 7}, best)
    assert "epoch 7" in failing(main, "--publish", "--runs", elsewhere)
    log.write_bytes(log.read_bytes().replace(b"\n1,", b"\n1,9"))
    assert "their logs differ" in failing(main, "--publish", "--runs", elsewhere)


def test_sigterm_stops_the_training_too(tmp_path):
    command = [
        sys.executable,
        ROOT / "CIFAR-LT/reproduce.py",
        "--only",
        "recipe=digits,imbalance=50",
        "--seeds",
        50,
        "--runs",
        tmp_path,
    ]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert any("epoch 1/30" in line for line in process.stdout)
        process.terminate()
        _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    first, last = error.splitlines()[-2:]
    assert first.startswith("reproduce.py: stopped by SIGTERM")
    assert last.startswith("reproduce.py: digits_imbalance50_C") and last.endswith("; the same command continues")
