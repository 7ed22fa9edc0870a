"""The published tables and pictures, from the logs of finished runs alone; reproduce.py has the list of the runs."""

import contextlib
import csv
import fcntl
import io
import math
import os
import statistics
from collections.abc import Callable, Iterable, Iterator

import reproduce_jobs
from records import read_log, write_atomically, write_between
from reproduce_figures import SHOTS, Line, draw_losses, draw_tau
from reproduce_jobs import HERE, Entry, Job, finished, test_figures

PAGES = (HERE.parent / "README.md", HERE / "RESULTS.md")


def marks(table: str) -> tuple[str, str]:
    """What stands in a page before and after a table."""
    return f"<!-- {table}: written by CIFAR-LT/reproduce.py -->", f"<!-- end of {table} -->"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one process writes pages and pictures at a time."""
    folder = os.open(reproduce_jobs.RESULTS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def table_rows(entries: tuple[Entry, ...]) -> list[dict[str, str]]:
    """A row for each entry with finished seeds: mean and standard deviation in %, over the seeds."""
    rows = []
    for entry in entries:
        jobs = finished(entry)
        if not jobs:
            continue
        tests = [test_figures(job) for job in jobs]
        logs = [read_log(job.kept_log)[1] for job in jobs]
        best = [best_row(log) for log in logs]
        shots = {name: show([test["shots"][name] for test in tests]) for name in SHOTS[1:]}
        rows.append({"imbalance": str(entry.imbalance), "loss": entry.label, "paper": f"{entry.published:.2f}" if entry.published else "-",
                     "this repository": show([test["accuracy"] for test in tests]), "seeds": str(len(jobs)),
                     "best epoch": ", ".join(f"{row['epoch']} of {len(log)}" for row, log in zip(best, logs, strict=True)),
                     "validation": show([float(row["accuracy"]) for row in best]), **shots})
    return rows


def best_row(log: list[dict[str, str]]) -> dict[str, str]:
    """The epoch whose weights were kept: the first with the best validation accuracy, of those that were validated."""
    return max((row for row in log if row["accuracy"]), key=lambda row: float(row["accuracy"]))


def show(shares: list[float | None]) -> str:
    """'38.92', or '38.92 ± 0.31' for several seeds, in %; '-' where there is nothing to measure."""
    if None in shares:
        return "-"
    spread = f" ± {100 * statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.2f}{spread}"


def markdown(rows: list[dict[str, str]]) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows]) + "\n"


def all_entries(tables: dict[str, tuple[Entry, ...]]) -> list[Entry]:
    """Every line once; some stand in several tables."""
    return list(dict.fromkeys(entry for entries in tables.values() for entry in entries))


def open_runs(tables: dict[str, tuple[Entry, ...]]) -> str:
    """What the tables still lack, each run once."""
    names = [job.name for entry in all_entries(tables) for seed in range(entry.seeds)
             if (job := Job(entry, seed, reproduce_jobs.RESULTS)).state != "finished"]
    return "".join(f"- `{name}`\n" for name in names) or "Every run of these tables has been made.\n"


def write_tables(tables: dict[str, tuple[Entry, ...]]) -> None:
    """For each table with a finished run: results/TABLE.md and .csv, and what stands between its marks in a page; and what is open."""
    for table, entries in tables.items():
        rows = table_rows(entries)
        if not rows:
            continue
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(reproduce_jobs.RESULTS / f"{table}.md", markdown(rows).encode())
        write_atomically(reproduce_jobs.RESULTS / f"{table}.csv", text.getvalue().encode())
        for page in PAGES:
            write_between(page, *marks(table), markdown(rows))
        print(f"{table}\n{markdown(rows)}")
    for page in PAGES:
        write_between(page, *marks("open"), open_runs(tables))


def lines(entries: Iterable[Entry], name: Callable[[Entry], str]) -> list[Line]:
    """What has finished, for a picture; nan where a group has no class."""
    return [Line(f"imbalance {entry.imbalance}, {entry.recipe} recipe", name(entry), entry.published,
                 {shot: [math.nan if share is None else 100 * share for job in jobs for share in (test_figures(job)["shots"][shot],)]
                  for shot in SHOTS})
            for entry in entries if (jobs := finished(entry))]


def write_pages(tables: dict[str, tuple[Entry, ...]]) -> None:
    """Tables and pictures, for all that has finished."""
    with alone():
        write_tables(tables)
        draw(tables)


def draw(tables: dict[str, tuple[Entry, ...]]) -> None:
    """The pictures of RESULTS.md, as far as their runs have finished."""
    losses = lines([entry for table in ("cifar100", "cifar100-fast") for entry in tables[table]], lambda entry: entry.label)
    if losses:
        draw_losses(losses, reproduce_jobs.RESULTS / "losses.png")
    taus = lines(tables["tau"], lambda entry: "\n".join(filter(None, (entry.tau, entry.reduction))) or "0")
    if len(taus) > 1:
        draw_tau(taus, reproduce_jobs.RESULTS / "tau.png")
