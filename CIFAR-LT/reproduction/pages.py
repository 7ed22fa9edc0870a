"""The published tables and pictures, from the logs of finished runs alone; reproduce.py has the list of the runs."""

import contextlib
import math
import statistics
from collections.abc import Callable, Iterable, Iterator

from longtail.files import hold_lock, write_atomically, write_between
from longtail.metrics import SHOTS
from longtail.run import best_row, csv_text, read_log
from longtail.tables import markdown
from reproduction import jobs
from reproduction.figures import Line, draw_losses, draw_tau
from reproduction.jobs import HERE, Entry, Job, finished, test_figures

PAGES = (HERE.parent / "README.md", HERE / "README.md")


def marks(table: str) -> tuple[str, str]:
    """What stands in a page before and after a table."""
    return f"<!-- {table}: written by CIFAR-LT/reproduce.py -->", f"<!-- end of {table} -->"


@contextlib.contextmanager
def results_lock() -> Iterator[None]:
    """Let only one process at a time write pages and pictures."""
    lock = hold_lock(jobs.RESULTS / "tables.lock", wait=True)
    try:
        yield
    finally:
        lock.release()


def table_rows(entries: tuple[Entry, ...]) -> list[dict[str, str]]:
    """A row for each entry with finished seeds: mean and standard deviation in %, over the seeds."""
    rows = []
    for entry in entries:
        done = finished(entry)
        if not done:
            continue
        tests = [test_figures(job) for job in done]
        logs = [read_log(job.kept_log)[1] for job in done]
        best = [best_row(log) for log in logs]
        shots = {name: show([test["shots"][name] for test in tests]) for name in SHOTS[1:]}
        rows.append({"imbalance": str(entry.imbalance), "loss": entry.label, "paper": f"{entry.published:.2f}" if entry.published else "-",
                     "this repository": show([test["accuracy"] for test in tests]), "seeds": str(len(done)),
                     "best epoch": ", ".join(f"{row['epoch']} of {len(log)}" for row, log in zip(best, logs, strict=True)),
                     "validation": show([float(row["accuracy"]) for row in best]), **shots})
    return rows


def show(shares: list[float | None]) -> str:
    """'38.92', or '38.92 ± 0.31' for several seeds, in %; '-' where there is nothing to measure."""
    if None in shares:
        return "-"
    spread = f" ± {100 * statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.2f}{spread}"


def all_entries(tables: dict[str, tuple[Entry, ...]]) -> list[Entry]:
    """Every line once; some stand in several tables."""
    return list(dict.fromkeys(entry for entries in tables.values() for entry in entries))


def open_runs(tables: dict[str, tuple[Entry, ...]]) -> str:
    """What the tables still lack, each run once."""
    names = [job.name for entry in all_entries(tables) for seed in range(entry.seeds)
             if (job := Job(entry, seed, jobs.RESULTS)).state != "finished"]
    return "".join(f"- `{name}`\n" for name in names) or "Every run of these tables has been made.\n"


def write_tables(tables: dict[str, tuple[Entry, ...]]) -> None:
    """For each table with a finished run: results/TABLE.md and .csv, and what stands between its marks in a page; and what is open."""
    for table, entries in tables.items():
        rows = table_rows(entries)
        if not rows:
            continue
        text = markdown(rows, left=("loss",))
        write_atomically(jobs.RESULTS / f"{table}.md", text.encode())
        write_atomically(jobs.RESULTS / f"{table}.csv", csv_text(list(rows[0]), rows, header=True).encode())
        for page in PAGES:
            write_between(page, *marks(table), text)
        print(f"{table}\n{text}")
    for page in PAGES:
        write_between(page, *marks("open"), open_runs(tables))


def lines(entries: Iterable[Entry], name: Callable[[Entry], str]) -> list[Line]:
    """What has finished, for a picture; nan where a group has no class."""
    return [Line(f"imbalance {entry.imbalance}, {entry.recipe} recipe", name(entry), entry.published,
                 {shot: [math.nan if share is None else 100 * share for job in done for share in (test_figures(job)["shots"][shot],)]
                  for shot in SHOTS})
            for entry in entries if (done := finished(entry))]


def write_pages(tables: dict[str, tuple[Entry, ...]]) -> None:
    """Tables and pictures, for all that has finished."""
    with results_lock():
        write_tables(tables)
        draw(tables)


def draw(tables: dict[str, tuple[Entry, ...]]) -> None:
    """The pictures of CIFAR-LT/README.md, as far as their runs have finished."""
    losses = lines([entry for table in ("cifar100", "cifar100-fast") for entry in tables[table]], lambda entry: entry.label)
    if losses:
        draw_losses(losses, jobs.RESULTS / "losses.png")
    taus = lines(tables["tau"], lambda entry: "\n".join(filter(None, (entry.tau, entry.reduction))) or "0")
    if len(taus) > 1:
        draw_tau(taus, jobs.RESULTS / "tau.png")
