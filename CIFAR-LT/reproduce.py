"""Reproduce the published tables: every run, then the tables, from the logs alone.

    python reproduce.py --list                                      which runs there are, and which are finished
    python reproduce.py --only recipe=paper,imbalance=200           run some; again after an interruption: it resumes
    python reproduce.py --table                                     write the tables again without running anything
    python reproduce.py --again --only recipe=fast,imbalance=20     run what is finished too, in --runs, and compare
    python reproduce.py --publish --only recipe=paper,tau=1.5       put the trained weights into ../pretrained_weights

Runs live in --runs DIR; each finished one leaves its log, its description and its test figures in results/NAME/, from where
the tables are made, in any clone: results/TABLE.md and TABLE.csv, and the same between the marks in ../README.md and README.md,
with a list of the runs still open; and the pictures results/losses.png and results/tau.png.
"""

import signal
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))   # longtail/ stands beside this folder

from longtail.cli import ArgumentParser, exit_code, positive_int
from reproduction import jobs as places
from reproduction.jobs import HERE, OPTIONS, Entry, Job, compare, execute, keep
from reproduction.pages import all_entries, write_pages
from reproduction.weights import publish

FILTERS = ("dataset", "imbalance", *OPTIONS)


def fast(imbalance: int, loss_type: str, tau: str = "", **more: Any) -> Entry:
    """A line of the fast recipe."""
    return Entry("cifar100", imbalance, loss_type, tau, "fast", **more)


TABLES = {
    "cifar100": (
        Entry("cifar100", 200, "CE"),
        Entry("cifar100", 200, "CDB-CE", "1.5", published=37.40),
        Entry("cifar100", 100, "CE", published=38.21),
        Entry("cifar100", 100, "CDB-CE", "dynamic", published=42.57),
    ),
    "cifar100-fast": (
        fast(200, "CE", seeds=3),
        fast(200, "CDB-CE", "1.5", seeds=3, published=37.40),
        fast(200, "CDB-CE", "dynamic", seeds=3),
        fast(100, "CE", seeds=3, published=38.21),
        fast(100, "CDB-CE", "dynamic", seeds=3, published=42.57),
        fast(100, "Balanced_Softmax", seeds=3),
        fast(100, "Logit_Adjustment"),
        fast(100, "LDAM-DRW"),
        fast(100, "CB_Softmax"),
        fast(100, "CB_Softmax", beta="0.9"),
        fast(100, "FL", published=38.41),
        fast(100, "EQL"),
        *(fast(imbalance, loss, tau) for imbalance in (50, 20) for loss, tau in (("CE", ""), ("CDB-CE", "dynamic"))),
        fast(10, "CE", seeds=2),
        fast(10, "CDB-CE", "dynamic", seeds=2, published=58.74),
        fast(10, "CDB-CE", "dynamic-released"),
    ),
    "tau": (
        fast(100, "CE", seeds=3, published=38.21),
        fast(100, "CDB-CE", "0.5"),
        fast(100, "CDB-CE", "1", published=41.67),
        fast(100, "CDB-CE", "1.5"),
        fast(100, "CDB-CE", "2"),
        fast(100, "CDB-CE", "dynamic", seeds=3, published=42.57),
        fast(100, "CDB-CE", "dynamic-released"),
        fast(100, "CDB-CE", "dynamic", reduction="weighted_mean"),
    ),
    "protocol": (
        fast(100, "CE", seeds=3),
        fast(100, "CE", protocol="common"),
        fast(100, "CDB-CE", "dynamic", seeds=3),
        fast(100, "CDB-CE", "dynamic", protocol="common"),
        fast(100, "CDB-CE", "dynamic", protocol="paper-on-test"),
        fast(100, "CDB-CE", "dynamic", precision="fp32"),
        fast(10, "CE", protocol="common"),
        fast(10, "CDB-CE", "dynamic", protocol="common"),
        fast(10, "CDB-CE", "dynamic-released", protocol="common"),
    ),
    "digits": (
        Entry("digits", 20, "CE", recipe="digits", seeds=3),
        Entry("digits", 20, "CDB-CE", recipe="digits", seeds=3),
        Entry("digits", 20, "CDB-CE", recipe="digits", precision="fp32", seeds=3),
    ),
}


def select(only: str, seeds: int | None, runs: Path) -> list[Job]:
    """The jobs of the tables that match `only` (key=value, of an entry's settings); ValueError if none does."""
    jobs = [Job(entry, seed, runs) for entry in all_entries(TABLES) for seed in range(seeds or entry.seeds)]
    for condition in filter(None, only.split(",")):
        key, found, value = condition.partition("=")
        if key not in FILTERS or not found:
            raise ValueError(f"--only {only!r}: give KEY=VALUE, with commas between several; KEY is one of {', '.join(FILTERS)}")
        jobs = [job for job in jobs if str(getattr(job.entry, key)) == value]
    if not jobs:
        raise ValueError(f"--only {only!r} matches no run; --list shows them")
    return jobs


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "reproduce", help="where runs live; default: ../runs/reproduce")
    parser.add_argument("--data_root", type=Path, default=HERE / "data", help="folder that holds cifar-100-python/; default: ./data")
    parser.add_argument("--only", default="", metavar="KEY=VALUE[,...]",
                        help=f"of the settings: {', '.join(FILTERS)}; KEY= for runs without that setting")
    parser.add_argument("--seeds", type=positive_int, help="seeds of each run: 0 to N - 1; default: as the table says")
    parser.add_argument("--list", action="store_true", help="show the runs and their state, run nothing")
    parser.add_argument("--table", action="store_true", help="write the table from what is finished, run nothing")
    parser.add_argument("--again", action="store_true", help="run what is finished too, and say how it compares; results/ stays; "
                        "a --runs that holds the run already is only tested again: give it an empty one")
    parser.add_argument("--publish", action="store_true", help="put the weights of finished runs into ../pretrained_weights")
    args = parser.parse_args(argv)
    if args.table and (args.only or args.seeds):
        raise ValueError("--table writes every table from all that is finished: leave --only and --seeds away")
    return args


def reproduce(args: Namespace) -> None:
    """Run what is not finished, in the table's order; then write the table."""
    jobs = select(args.only, args.seeds, args.runs.resolve())
    if args.list:
        for job in jobs:
            print(f"{job.state:<12}{job.name}")
        return
    if args.publish:
        publish(jobs, all_entries(TABLES))
        return
    done = [job for job in jobs if job.state == "finished"]
    open_jobs = [] if args.table else [job for job in jobs if args.again or job not in done]
    if done and not (args.table or args.again):
        print(f"{len(done)} of {len(jobs)} are finished, in {places.RESULTS}; --again runs them all the same")
    started = time.perf_counter()
    for number, job in enumerate(open_jobs, 1):
        each = (time.perf_counter() - started) / max(number - 1, 1) / 60
        left = f", about {each * (len(open_jobs) - number + 1):.0f} min left" if number > 1 else ""
        print(f"run {number} of {len(open_jobs)}: {job.name}{left}", flush=True)
        execute(job, args.data_root)
        if job in done:
            compare(job)
            continue
        keep(job)
        write_pages(TABLES)
    if not open_jobs:
        write_pages(TABLES)


def main(argv: list[str] | None = None) -> int:
    try:
        return exit_code(lambda: reproduce(parse_arguments(argv)))
    except KeyboardInterrupt as stop:
        print("reproduce.py: stopped; the same command continues", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
