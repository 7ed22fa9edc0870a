"""Reproduce the published tables: every run, then the tables, from the logs alone.

    python reproduce.py --list                                      which runs there are, and which are finished
    python reproduce.py --only recipe=paper,imbalance=200           run some; again after an interruption: it resumes
    python reproduce.py --table                                     write the tables again without running anything
    python reproduce.py --again --only recipe=fast,imbalance=20     run what is finished too, in --runs, and compare
    python reproduce.py --publish --only recipe=paper,tau=1.5       put the trained weights into ../pretrained_weights

Runs live in --runs DIR; each finished one leaves its log, its description and its test figures in results/NAME/, from where
the tables are made, in any clone: results/TABLE.md and TABLE.csv, and the same between the marks in ../README.md and RESULTS.md;
and the pictures results/losses.png and results/tau.png.
"""

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records import load_checkpoint, read_log, write_atomically, write_between
from reproduce_figures import SHOTS, Line, draw_losses, draw_tau
from runtime import ArgumentParser, exit_code, positive_int

HERE = Path(__file__).resolve().parent
RESULTS, WEIGHTS, PAGES = HERE / "results", HERE.parent / "pretrained_weights", (HERE.parent / "README.md", HERE / "RESULTS.md")
OPTIONS = ("loss_type", "tau", "recipe", "precision", "protocol", "reduction")      # flags that an entry may set
FILTERS = ("dataset", "imbalance", *OPTIONS)


@dataclass(frozen=True)
class Entry:
    """One line of a table: its settings, and the accuracy in % that the paper gives (None: it gives none)."""

    dataset: str
    imbalance: int
    loss_type: str
    tau: str = ""
    recipe: str = "paper"
    precision: str = ""
    protocol: str = ""
    reduction: str = ""
    published: float | None = field(default=None, compare=False)
    seeds: int = field(default=1, compare=False)

    @property
    def settings(self) -> dict[str, str]:
        """The flags that say something: the paper's recipe, or that of the digits, is what happens without."""
        return {key: value for key in OPTIONS if (value := getattr(self, key)) and value not in ("paper", "digits")}

    @property
    def name(self) -> str:
        return "_".join([self.dataset, f"imbalance{self.imbalance}", *self.settings.values()])

    @property
    def label(self) -> str:
        """The loss, and what else sets this line apart within its table."""
        extra = [f"{key} {value.replace('_', ' ')}" for key, value in self.settings.items() if key not in ("loss_type", "recipe")]
        return ", ".join([self.loss_type, *extra])

    @property
    def flags(self) -> list[str]:
        pairs = {"dataset": self.dataset, "imbalance": str(self.imbalance), **self.settings}
        return [word for key, value in pairs.items() for word in (f"--{key}", value)]


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
        fast(100, "FL", published=38.41),
        fast(100, "EQL"),
        *(fast(imbalance, loss, tau, published=58.74 if (imbalance, loss) == (10, "CDB-CE") else None)
          for imbalance in (50, 20, 10) for loss, tau in (("CE", ""), ("CDB-CE", "dynamic"))),
    ),
    "tau": (
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
        fast(100, "CDB-CE", "dynamic", precision="fp32"),
    ),
    "digits": (
        Entry("digits", 20, "CE", recipe="digits", seeds=3),
        Entry("digits", 20, "CDB-CE", recipe="digits", seeds=3),
        Entry("digits", 20, "CDB-CE", recipe="digits", precision="fp32", seeds=3),
    ),
}


@dataclass(frozen=True)
class Job:
    """One training of an entry, with one seed, and where it lives."""

    entry: Entry
    seed: int
    runs: Path

    @property
    def name(self) -> str:
        return f"{self.entry.name}_seed{self.seed}"

    @property
    def log(self) -> str:
        return f"{self.entry.dataset}_imbalance{self.entry.imbalance}"

    @property
    def result(self) -> Path:
        return RESULTS / self.name

    @property
    def state(self) -> str:
        if (self.result / "test.json").exists():
            return "finished"
        log = self.runs / self.name / f"{self.log}.csv"
        return f"epoch {len(read_log(log)[1])}" if log.exists() else "open"


def marks(table: str) -> tuple[str, str]:
    """What stands in a page before and after a table."""
    return f"<!-- {table}: written by CIFAR-LT/reproduce.py -->", f"<!-- end of {table} -->"


def all_entries() -> list[Entry]:
    """Every line once; some stand in several tables."""
    return list(dict.fromkeys(entry for entries in TABLES.values() for entry in entries))


def select(only: str, seeds: int | None, runs: Path) -> list[Job]:
    """The jobs of the tables that match `only` (key=value, of an entry's settings); ValueError if none does."""
    jobs = [Job(entry, seed, runs) for entry in all_entries() for seed in range(seeds or entry.seeds)]
    for condition in filter(None, only.split(",")):
        key, _, value = condition.partition("=")
        if key not in FILTERS or not value:
            raise ValueError(f"--only {only!r}: give KEY=VALUE, with commas between several; KEY is one of {', '.join(FILTERS)}")
        jobs = [job for job in jobs if str(getattr(job.entry, key)) == value]
    if not jobs:
        raise ValueError(f"--only {only!r} matches no run; --list shows them")
    return jobs


def call(command: list[str]) -> int:
    """Run a command in a session of its own; its exit code. A stop signal is passed on, once, and ends us after it: KeyboardInterrupt."""
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        if len(received) == 1:
            child.send_signal(number)

    child = subprocess.Popen(command, start_new_session=True)
    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
              if signal.getsignal(number) != signal.SIG_IGN}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt(received[0])
    return code


def execute(job: Job, data_root: Path) -> None:
    """Train (or resume) and test in the job's folder. ValueError if a command fails."""
    folder = job.runs / job.name
    test = [f"--saved_model_path={folder / f'best_{job.log}.pth'}", f"--json={folder / 'test.json'}"]
    for command in ([HERE / "cifar_train.py", *job.entry.flags, "--seed", job.seed, "--save_model", folder, "--resume"],
                    [HERE / "cifar_test.py", *test]):
        code = call([sys.executable, *map(str, command), "--data_root", str(data_root)])
        if code:
            raise ValueError(f"{Path(command[0]).name} ended with exit code {code} in {folder}; the same command continues there")


def keep(job: Job) -> None:
    """Copy what the tables need of a run to its place in results/, the test's figures last: with them it counts as finished."""
    folder = job.runs / job.name
    job.result.mkdir(parents=True, exist_ok=True)
    for name in (f"{job.log}.csv", f"{job.log}.json", "test.json"):
        shutil.copyfile(folder / name, job.result / f"{name}.partial")
        (job.result / f"{name}.partial").replace(job.result / name)


def finished(entry: Entry) -> list[Job]:
    """An entry's finished seeds."""
    return [job for seed in range(100) if (job := Job(entry, seed, RESULTS)).state == "finished"]


def test_figures(job: Job) -> dict[str, Any]:
    """What cifar_test.py --json wrote of a finished job."""
    return json.loads((job.result / "test.json").read_text())


def table_rows(entries: tuple[Entry, ...]) -> list[dict[str, str]]:
    """A row for each entry with finished seeds: mean and standard deviation in %, over the seeds."""
    rows = []
    for entry in entries:
        jobs = finished(entry)
        if not jobs:
            continue
        tests = [test_figures(job) for job in jobs]
        logs = [read_log(job.result / f"{job.log}.csv")[1] for job in jobs]
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


def compare(job: Job) -> None:
    """Say how a finished job that ran again came out."""
    kept, new = (json.loads(path.read_text())["accuracy"] for path in (job.result / "test.json", job.runs / job.name / "test.json"))
    print(f"{job.name}: test accuracy {new:.4f}, in results/ {kept:.4f}", flush=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one process writes pages and pictures at a time."""
    folder = os.open(RESULTS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def write_tables() -> None:
    """For each table with a finished run: results/TABLE.md and .csv, and what stands between its marks in a page."""
    for table, entries in TABLES.items():
        rows = table_rows(entries)
        if not rows:
            continue
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(RESULTS / f"{table}.md", markdown(rows).encode())
        write_atomically(RESULTS / f"{table}.csv", text.getvalue().encode())
        for page in PAGES:
            write_between(page, *marks(table), markdown(rows))
        print(f"{table}\n{markdown(rows)}")


def lines(entries: Iterable[Entry], name: Callable[[Entry], str]) -> list[Line]:
    """What has finished, for a picture; nan where a group has no class."""
    return [Line(f"imbalance {entry.imbalance}, {entry.recipe} recipe", name(entry), entry.published,
                 {shot: [math.nan if share is None else 100 * share for job in jobs for share in (test_figures(job)["shots"][shot],)]
                  for shot in SHOTS})
            for entry in entries if (jobs := finished(entry))]


def draw() -> None:
    """The pictures of RESULTS.md, as far as their runs have finished."""
    losses = lines([entry for table in ("cifar100", "cifar100-fast") for entry in TABLES[table]], lambda entry: entry.label)
    if losses:
        draw_losses(losses, RESULTS / "losses.png")
    taus = lines((fast(100, "CE"), *TABLES["tau"]), lambda entry: "\n".join(filter(None, (entry.tau, entry.reduction))) or "0")
    if len(taus) > 1:
        draw_tau(taus, RESULTS / "tau.png")


def check_publishable(job: Job) -> None:
    """ValueError unless the job's folder in --runs holds the very run that results/ tells of."""
    if job.state != "finished":
        raise ValueError(f"{job.name} is not finished ({job.state}): run it first")
    folder = job.runs / job.name
    if not (folder / f"{job.log}.csv").exists():
        raise ValueError(f"{folder} holds no run: --runs must be where it was trained")
    if (folder / f"{job.log}.csv").read_bytes() != (job.result / f"{job.log}.csv").read_bytes():
        raise ValueError(f"{folder} holds another run than {job.result}: their logs differ")
    best, kept = best_row(read_log(folder / f"{job.log}.csv")[1]), load_checkpoint(folder / f"best_{job.log}.pth")
    if kept.get("epoch") != int(best["epoch"]):
        raise ValueError(f"{folder / f'best_{job.log}.pth'} is of epoch {kept.get('epoch')}, the log's best is {best['epoch']}")


def publish(jobs: list[Job]) -> None:
    """Copy the best checkpoints of finished jobs to pretrained_weights/, and write its README for all that are there."""
    for job in jobs:
        check_publishable(job)
    for job in jobs:
        write_atomically(WEIGHTS / f"{job.name}.pth", (job.runs / job.name / f"best_{job.log}.pth").read_bytes())
        print(WEIGHTS / f"{job.name}.pth")
    every = [Job(entry, seed, WEIGHTS) for entry in all_entries() for seed in range(100)]
    sections = []
    for job in every:
        path = WEIGHTS / f"{job.name}.pth"
        if path.exists():
            test = test_figures(job)
            sections.append(f"## {path.name}\n\n- command: `python cifar_train.py {' '.join(job.entry.flags)} --seed {job.seed}`\n"
                            f"- test accuracy: {test['accuracy']:.4f}, by\n"
                            f"  `python cifar_test.py --saved_model_path ../pretrained_weights/{path.name}`\n"
                            f"- log: [CIFAR-LT/results/{job.name}](../CIFAR-LT/results/{job.name})\n"
                            f"- sha256: `{hashlib.sha256(path.read_bytes()).hexdigest()}`\n")
    intro = ("# Trained weights\n\nThe epoch with the best validation accuracy; `cifar_test.py` reads all else from the file. The figures\n"
             "may differ in the last digit between bf16 and fp32, and between processors. `resnext-101-kinetics.pth`, which EGTEA starts\n"
             "from, goes here too; it is not part of this repository. Written by `CIFAR-LT/reproduce.py --publish`.\n")
    write_atomically(WEIGHTS / "README.md", "\n".join([intro, *sections]).encode())


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "reproduce", help="where runs live; default: ../runs/reproduce")
    parser.add_argument("--data_root", type=Path, default=HERE / "data", help="folder that holds cifar-100-python/; default: ./data")
    parser.add_argument("--only", default="", metavar="KEY=VALUE[,...]", help="of the settings: " + ", ".join(FILTERS))
    parser.add_argument("--seeds", type=positive_int, help="seeds of each run: 0 to N - 1; default: as the table says")
    parser.add_argument("--list", action="store_true", help="show the runs and their state, run nothing")
    parser.add_argument("--table", action="store_true", help="write the table from what is finished, run nothing")
    parser.add_argument("--again", action="store_true", help="run what is finished too, and say how it compares; results/ stays")
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
        publish(jobs)
        return
    done = [job for job in jobs if job.state == "finished"]
    open_jobs = [] if args.table else [job for job in jobs if args.again or job not in done]
    if done and not (args.table or args.again):
        print(f"{len(done)} of {len(jobs)} are finished, in {RESULTS}; --again runs them all the same")
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
        with alone():
            write_tables()
            draw()
    if not open_jobs:
        with alone():
            write_tables()
            draw()


def main(argv: list[str] | None = None) -> int:
    try:
        return exit_code(lambda: reproduce(parse_arguments(argv)))
    except KeyboardInterrupt as stop:
        print("reproduce.py: stopped; the same command continues", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
