"""Write the published tables and pictures from the logs of finished runs alone."""

import json
import math
import statistics
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import numpy as np

from longtail import compare
from longtail.files import hold_lock, write_atomically, write_between
from longtail.logs import csv_text, load_log
from longtail.metrics import SHOTS, none_if_nan
from longtail.records import TestJson
from longtail.tables import markdown
from reproduction import jobs, plan
from reproduction.figures import Contrast, Line, draw_differences, draw_overview, draw_steadiness, draw_tau
from reproduction.jobs import HERE, Entry, Job, finished

LOSS_TABLES = ("cifar100", "cifar100-fast", "cifar100-strong")  # of the picture of all losses
BASELINE_NAMES = {"CE": "cross-entropy"}
LISTED = 3  # best epochs that a cell names one by one
LAST_EPOCHS = 10  # over which the deviation of a class's weight is taken
PAGES = (HERE.parent / "README.md", HERE / "README.md", HERE / "DISCUSSION.md", HERE / "results/README.md")


def marks(table: str) -> tuple[str, str]:
    """Return what stands in a page before and after a table."""
    return f"<!-- {table}: written by CIFAR-LT/reproduce.py -->", f"<!-- end of {table} -->"


def put(table: str, text: str) -> None:
    """Write a table between its marks, in the page that has them."""
    for page in PAGES:
        write_between(page, *marks(table), text)


def on_a_page(table: str, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows with the columns that a page shows: without the kept epochs, and without those that say nothing.

    Validation stands in the tables where it decides. An imbalance that all rows share stands in the text.
    """
    hidden = ["best epoch"]
    if table not in plan.DECIDED_BY_VALIDATION:
        hidden.append("validation")
    if len({row["imbalance"] for row in rows}) == 1:
        hidden.append("imbalance")
    shown = [{name: cell for name, cell in row.items() if name not in hidden} for row in rows]
    return without_empty_columns(shown)


def without_empty_columns(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows without the columns that say nothing in any row."""
    columns = [name for name in rows[0] if any(row[name] not in ("", "-") for row in rows)]
    return [{name: row[name] for name in columns} for row in rows]


def table_row(entry: Entry, done: list[Job]) -> dict[str, str]:
    """Return the row of an entry with finished seeds: mean and standard deviation in %, over the seeds.

    The difference is that to its baseline, over the seeds that both have.
    """
    baseline = plan.baseline(entry)
    apart = {"difference": "", "95 % interval": ""} if entry == baseline else against(entry, baseline)
    tests = [job.figures for job in done]
    logs = [load_log(job.kept_log) for job in done]
    return {
        "imbalance": str(entry.imbalance),
        "loss": entry.label,
        "paper": f"{entry.published:.2f}" if entry.published else "-",
        "this repository": show([test["accuracy"] for test in tests]),
        "seeds": str(len(done)),
        **apart,
        **{name: show([test["shots"][name] for test in tests]) for name in SHOTS[1:]},
        "validation": show([log.best_accuracy for log in logs]),
        "best epoch": best_epochs([log.best_epoch for log in logs], [log.epochs for log in logs]),
    }


def best_epochs(epochs: list[int], of: list[int]) -> str:
    """Return '29 of 30, 30 of 30', or from more than LISTED runs of equal length '21 to 30 of 30'."""
    if len(epochs) > LISTED and len(set(of)) == 1:
        return f"{min(epochs)} to {max(epochs)} of {of[0]}"
    return ", ".join(f"{epoch} of {length}" for epoch, length in zip(epochs, of, strict=True))


def show(shares: list[float | None]) -> str:
    """Return '38.92', or '38.92 ± 0.31' for several seeds, in %; '-' where one was not measured."""
    if any(share is None or math.isnan(share) for share in shares):
        return "-"
    percent = [100 * round(share, 6) for share in shares]  # without the traces of single precision
    spread = f" ± {statistics.stdev(percent):.2f}" if len(percent) > 1 else ""
    return f"{statistics.mean(percent):.2f}{spread}"


def open_runs() -> str:
    """Return a list of the runs that the tables still lack, a line for each entry."""
    lines = []
    for entry in plan.all_entries():
        seeds = [str(job.seed) for job in plan.jobs_of(entry, jobs.RESULTS) if job.state != "finished"]
        if seeds:
            word = "seed" if len(seeds) == 1 else "seeds"
            lines.append(f"- `{entry.name}`, {word} {', '.join(seeds)}\n")
    return "".join(lines) or "Every run of these tables has been made.\n"


def write_tables() -> None:
    """Write each table with a finished run to results/TABLE.md and .csv and between its marks in a page.

    Write also which runs are open.
    """
    for table, entries in plan.TABLES.items():
        rows = []
        for entry in entries:
            done = finished(entry)
            if done:
                rows.append(table_row(entry, done))
        if not rows:
            continue
        text = markdown(rows, left=("loss",))
        write_atomically(jobs.RESULTS / f"{table}.md", text.encode())
        write_atomically(jobs.RESULTS / f"{table}.csv", csv_text(list(rows[0]), rows, header=True).encode())
        put(table, markdown(on_a_page(table, rows), left=("loss",)))
        print(f"{table}\n{text}")
    put("open", open_runs())


def recipe_of(entry: Entry) -> str:
    """Return an entry's recipe, with the size of its batch if that is not the recipe's."""
    return f"{entry.recipe}, batch {entry.batch_size}" if entry.batch_size else entry.recipe


def write_short_table() -> None:
    """Write the README's table: for each imbalance and recipe the losses side by side, and the paper's two numbers."""
    rows = []
    for row in plan.SHORT:
        ours = {
            "CE": accuracy_of(row.ce),
            "CDB-CE": accuracy_of(row.cdb),
            "CDB-CE, smoothed": accuracy_of(row.smoothed),
            "Balanced Softmax": accuracy_of(row.balanced),
            "CDB-BS": accuracy_of(row.combined),
        }
        if set(ours.values()) == {"-"}:
            continue
        published = [f"{entry.published:.2f}" if entry.published else "-" for entry in (row.ce, row.cdb)]
        setting = {"imbalance": str(row.ce.imbalance), "recipe": recipe_of(row.ce)}
        rows.append({**setting, "paper: CE": published[0], "paper: CDB-CE": published[1], **ours})
    if rows:
        put("short", markdown(rows, left=("recipe",)))


def write_demo_table() -> None:
    """Write what `make demo` claims: the paired difference of its two losses.

    It has a row for each precision, with one thread and two.
    """
    rows = []
    for ce, cdb in plan.DEMO:
        seeds = common_seeds(ce, cdb)
        if len(seeds) > 1:
            row = {
                "precision": ce.precision,
                "threads": ce.threads,
                "seeds": str(len(seeds)),
                "CE": accuracy(setting(ce, seeds)),
                "CDB-CE, smoothed": accuracy(setting(cdb, seeds)),
                **against(cdb, ce),
            }
            rows.append(row)
    if rows:
        put("demo", markdown(rows, left=("precision",)))


def accuracies(entry: Entry) -> list[float]:
    """Return the test accuracy of each finished seed."""
    return [job.figures["accuracy"] for job in finished(entry)]


def setting(entry: Entry, seeds: Collection[int] = range(100)) -> compare.ComparedSetting:
    """Return an entry's finished runs, of these seeds, as compare.py takes them."""
    done = [job for job in finished(entry) if job.seed in seeds]
    return compare.ComparedSetting(
        entry.label, tuple(job.seed for job in done), np.array([compare.by_group(job.figures) for job in done])
    )


def accuracy(runs: compare.ComparedSetting) -> str:
    """Return the accuracy over all classes, with its spread over the seeds."""
    return show(list(runs.accuracy[:, 0] / 100))


def common_seeds(a: Entry, b: Entry) -> set[int]:
    """Return the seeds with which both have finished."""
    return {job.seed for job in finished(a)} & {job.seed for job in finished(b)}


def against(entry: Entry, baseline: Entry) -> dict[str, str]:
    """Return the cells for the difference of two entries in accuracy over all classes, from the seeds that both have.

    Too few pairs give no interval.
    """
    seeds = common_seeds(entry, baseline)
    return paired(setting(entry, seeds), setting(baseline, seeds))


def paired(a: compare.ComparedSetting, b: compare.ComparedSetting) -> dict[str, str]:
    """Return the cells for a - b, two settings with the same seeds."""
    if not a.seeds:
        return {"difference": "-", "95 % interval": "-"}
    return compare.difference(a, b).cells(0)


def accuracy_of(entry: Entry | None) -> str:
    """Return an entry's accuracy over all classes, with its seeds; '-' if there is none."""
    found = accuracies(entry) if entry else []
    return f"{show(found)} ({len(found)})" if found else "-"


def weight_swing(log: Path) -> float:
    """Return the standard deviation of a class's weight over a log's last epochs, the median of the classes."""
    return float(np.median(load_log(log).class_weight[-LAST_EPOCHS:].std(axis=0)))


def swing_of(runs: list[Path]) -> str:
    """Return how much a class's weight moves.

    It is the standard deviation over the last epochs, median of classes, mean of seeds.
    """
    return f"{np.mean([weight_swing(run) for run in runs]):.3f}" if runs else "-"


def kept_runs(entry: Entry | None) -> list[Path]:
    """Return the folders in results/ of an entry's finished runs."""
    return [job.result for job in finished(entry)] if entry else []


def mnist5k_runs(name: str) -> list[Path]:
    """Return the folders of a loss's runs that tests/benchmarks/mnist5k.py has kept."""
    return sorted((jobs.RESULTS / "mnist5k").glob(f"{name}_seed*"))


def kept_setting(label: str, runs: list[Path]) -> compare.ComparedSetting:
    """Return tested runs, whose folders end with their seed, as compare.py takes them."""
    tests = [json.loads((run / "test.json").read_text()) for run in runs]
    seeds = tuple(int(run.name.rpartition("seed")[2]) for run in runs)
    return compare.ComparedSetting(label, seeds, np.array([compare.by_group(test) for test in tests]))


def with_seeds(runs: compare.ComparedSetting, seeds: Collection[int]) -> compare.ComparedSetting:
    """Return the runs of these seeds alone."""
    kept = [number for number, seed in enumerate(runs.seeds) if seed in seeds]
    return compare.ComparedSetting(runs.label, tuple(runs.seeds[number] for number in kept), runs.accuracy[kept])


def write_safety_table() -> None:
    """Write cross-entropy against CDB-CE with the published and with the smoothed difficulty."""
    runs = [(data, *map(kept_runs, entries)) for data, *entries in plan.SAFETY]
    runs.append(("MNIST-5k, imbalance 50", *map(mnist5k_runs, ("CE", "CDB-CE_paper", "CDB-CE_smoothed"))))
    rows = [safety_row(data, ce, paper, smoothed) for data, ce, paper, smoothed in runs if ce and smoothed]
    if rows:
        put("safety", markdown(rows, left=("data",)))


def safety_row(data: str, ce: list[Path], paper: list[Path], smoothed: list[Path]) -> dict[str, str]:
    """Return the row of a data set: cross-entropy, the published formula, smoothed difficulty, each with its seeds."""
    names = ("CE", "CDB-CE, paper", "CDB-CE, smoothed")
    found = {name: kept_setting(name, runs) for name, runs in zip(names, (ce, paper, smoothed), strict=True)}
    seeds = set(found["CE"].seeds) & set(found["CDB-CE, smoothed"].seeds)
    return {
        "data": data,
        **{name: f"{accuracy(runs)} ({len(runs.seeds)})" if runs.seeds else "-" for name, runs in found.items()},
        "swing, paper": swing_of(paper),
        "swing, smoothed": swing_of(smoothed),
        **paired(with_seeds(found["CDB-CE, smoothed"], seeds), with_seeds(found["CE"], seeds)),
    }


def write_pairs_table() -> None:
    """Write what is compared directly: of each group of classes the difference and its interval.

    A pair of rows needs the picture's number of seeds.
    """
    rows = []
    for ours, rival in plan.PAIRS:
        seeds = common_seeds(ours, rival)
        if len(seeds) >= compare.FEWEST:
            data = f"{ours.imbalance}, {ours.recipe}"
            rows.append(pair_row(data, setting(ours, seeds), setting(rival, seeds)))
    mnist5k = [kept_setting(label, mnist5k_runs(name)) for name, label in plan.MNIST5K_PAIR.items()]
    if all(runs.seeds for runs in mnist5k):
        rows.append(pair_row("50, MNIST-5k", *mnist5k))
    if rows:
        put("pairs", markdown(rows, left=("imbalance, recipe", "loss", "against")))


def pair_row(data: str, ours: compare.ComparedSetting, rival: compare.ComparedSetting) -> dict[str, str]:
    """Return the row of two settings with the same seeds."""
    apart = compare.difference(ours, rival)
    differences = {}
    for column, shot in enumerate(SHOTS):
        cells = apart.cells(column)
        found = math.isfinite(apart.mean[column])
        differences[shot] = f"{cells['difference']} ({cells['95 % interval']})" if found else "-"
    return {
        "imbalance, recipe": data,
        "loss": ours.label,
        "against": rival.label,
        "pairs": str(len(ours.seeds)),
        **differences,
    }


def write_cells_table() -> None:
    """Write how far the paper's recipe has come at the end of the high learning rate, and at its own end."""
    rows = []
    for entry in plan.TABLES["cifar100"]:
        if entry.imbalance < 200:  # there the paper's number is reached
            rows += [cells_row(entry, job) for job in finished(entry)[:1]]
    if rows:
        put("cells", markdown(rows, left=("loss",)))


def cells_row(entry: Entry, job: Job) -> dict[str, str]:
    """Return a run's training loss in the last epoch at its first rate and in the last of all.

    Of validation the first of the two.
    """
    measures = load_log(job.kept_log).measures
    rates, losses, shares = measures["lr"], measures["loss"], measures["accuracy"]
    high = int(np.flatnonzero(rates == rates[0])[-1])
    return {
        "imbalance": str(entry.imbalance),
        "loss": entry.label,
        "loss, rate 0.1": f"{losses[high]:.2f}",
        "loss, end": f"{losses[-1]:.2f}",
        "validation, rate 0.1": f"{100 * shares[high]:.2f}",
    }


def write_adjustment_table() -> None:
    """Write cross-entropy before and after post-hoc logit adjustment, from the runs that were tested both ways."""
    rows = []
    for entry in plan.all_entries():
        tests = {job.seed: job.adjusted_figures for job in finished(entry)}
        tests = {seed: figures for seed, figures in tests.items() if figures}
        if tests:
            rows.append(adjustment_row(entry, tests))
    if rows:
        put("adjustment", markdown(without_empty_columns(rows), left=("recipe",)))


def adjustment_row(entry: Entry, tests: dict[int, TestJson]) -> dict[str, str]:
    """Return the row of an entry whose seeds have these figures after adjustment."""
    seeds, adjusted = tuple(tests), list(tests.values())
    before = setting(entry, seeds)
    after = compare.ComparedSetting("adjusted", seeds, np.array([compare.by_group(figures) for figures in adjusted]))
    return {
        "imbalance": str(entry.imbalance),
        "recipe": recipe_of(entry),
        "seeds": ", ".join(map(str, seeds)),
        "CE": accuracy(before),
        "adjusted": accuracy(after),
        "strength": ", ".join(f"{figures['logit_adjustment']:g}" for figures in adjusted),
        **paired(after, before),
        "few": show([figures["shots"]["few"] for figures in adjusted]),
    }


def lines(entries: Iterable[Entry], name: Callable[[Entry], str]) -> list[Line]:
    """Return what has finished, for a picture; nan for a group without classes."""
    found = []
    for entry in entries:
        tests = [job.figures for job in finished(entry)]
        if tests:
            group = f"imbalance {entry.imbalance}, {entry.recipe} recipe"
            shots = {shot: 100 * np.array([test["shots"][shot] for test in tests], dtype=float) for shot in SHOTS}
            found.append(Line(group, name(entry), entry.published, shots))
    return found


def contrasts(entries: Iterable[Entry]) -> list[Contrast]:
    """Return every finished loss beside the baseline of its imbalance and recipe, over the seeds that both have.

    What was trained again on more images is left out.

    The baseline is the first that has finished: cross-entropy, which the tables have first.
    """
    baselines: dict[str, Entry] = {}
    found: dict[str, list[Contrast]] = {}
    for entry in entries:
        if entry.refit or not finished(entry):
            continue
        batch = f", batch {entry.batch_size}" if entry.batch_size else ""
        group = f"imbalance {entry.imbalance}, {entry.recipe} recipe{batch}"
        baseline = baselines.setdefault(group, entry)
        seeds = common_seeds(entry, baseline)
        if entry is baseline or not seeds:
            continue
        name, runs = BASELINE_NAMES.get(baseline.loss_type, baseline.loss_type), setting(baseline)
        reference = {}
        for column, shot in enumerate(SHOTS):
            share = none_if_nan(runs.accuracy[:, column].mean())
            reach = "no such class" if share is None else show(list(runs.accuracy[:, column] / 100))
            reference[shot] = f"{name}: {reach}"
        published = None
        if entry.published and baseline.published:
            published = entry.published - baseline.published
        contrast = Contrast(group, reference, setting(entry, seeds), setting(baseline, seeds), published)
        found.setdefault(group, []).append(contrast)
    return [contrast for group in found.values() for contrast in group]


def draw() -> None:
    """Draw the pictures of the pages, as far as their runs have finished."""
    losses = contrasts([entry for table in LOSS_TABLES for entry in plan.TABLES[table]])
    if losses:
        draw_differences(losses, jobs.RESULTS / "losses.png")
    taus = lines(plan.TABLES["tau"], lambda entry: "\n".join(filter(None, (entry.tau, entry.reduction))) or "0")
    if len(taus) > 1:
        draw_tau(taus, jobs.RESULTS / "tau.png")
    steady = [load_log(job.kept_log) for entry in plan.STEADINESS for job in finished(entry)[:1]]
    if len(steady) == len(plan.STEADINESS):
        draw_steadiness(
            [(log.label, log.class_weight, log.class_counts) for log in steady], jobs.RESULTS / "steadiness.png"
        )
    overview = lines(plan.OVERVIEW, lambda entry: {"CE": "cross-entropy"}.get(entry.loss_type, entry.label))
    if len(overview) == len(plan.OVERVIEW):
        draw_overview(overview, jobs.RESULTS / "overview.png")


def write_pages() -> None:
    """Write tables and pictures for all that has finished, one process at a time."""
    results_lock = hold_lock(jobs.RESULTS / "tables.lock", wait=True)
    try:
        write_tables()
        write_short_table()
        write_demo_table()
        write_safety_table()
        write_adjustment_table()
        write_pairs_table()
        write_cells_table()
        draw()
    finally:
        results_lock.release()
