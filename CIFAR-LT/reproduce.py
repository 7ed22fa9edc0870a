"""Reproduce the published tables: every run, then the tables, from the logs alone.

    python reproduce.py --list                                      which runs there are, and which are finished
    python reproduce.py --only recipe=paper,imbalance=200           run some; again after an interruption: it resumes
    python reproduce.py --table                                     write the tables again without running anything
    python reproduce.py --again --only recipe=fast,imbalance=20     run what is finished too, in --runs, and compare
    python reproduce.py --publish --only recipe=paper,tau=1.5       put the trained weights into ../pretrained_weights

Runs live in --runs DIR. Each finished one leaves its log, its settings and its test figures in results/NAME/, from
which the tables are made, in any clone: results/TABLE.md and TABLE.csv; the tables between the marks of README.md,
DISCUSSION.md, results/README.md and ../README.md, with a list of the runs still open; the pictures losses, tau,
steadiness and overview (.png) in results/; and the cards of the trained networks in ../pretrained_weights/README.md.
"""

import json
import sys
import time
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # longtail/ stands beside this folder

from longtail.cli import ArgumentParser, exit_code, file_path, positive_int, say_error
from reproduction import jobs
from reproduction.jobs import HERE, Job
from reproduction.pages import write_pages
from reproduction.plan import FILTERS, select
from reproduction.weights import publish, write_cards


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--runs",
        type=file_path,
        default=HERE.parent / "runs/reproduce",
        help="runs' folder; default: ../runs/reproduce",
    )
    parser.add_argument(
        "--data_root",
        type=file_path,
        default=HERE / "data",
        help="folder that holds cifar-100-python/; default: ./data",
    )
    parser.add_argument("--download", action="store_true", help="fetch the data set into --data_root if it is missing")
    parser.add_argument(
        "--only",
        default="",
        metavar="NAME|KEY=VALUE[,...]",
        help="a run's name as --list shows it, without its seed for all seeds; or values of the settings "
        f"{', '.join(FILTERS)}; KEY= for runs without that setting",
    )
    parser.add_argument("--seeds", type=positive_int, help="seeds of each run: 0 to N - 1; default: as the table says")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--list", action="store_true", help="show the runs and their state, run nothing")
    modes.add_argument("--table", action="store_true", help="write the tables from what is finished, run nothing")
    modes.add_argument(
        "--again",
        action="store_true",
        help="run what is finished too, and say how it compares; results/ stays as it is; "
        "if --runs already holds the run, it is only tested again: name an empty folder",
    )
    modes.add_argument(
        "--publish", action="store_true", help="put the weights of finished runs into ../pretrained_weights"
    )
    args = parser.parse_args(argv)
    if args.table and (args.only or args.seeds):
        raise ValueError("--table writes every table from all that is finished: drop --only and --seeds")
    return args


def write_all() -> None:
    """Write tables, pictures and the cards of the trained networks, from what is finished."""
    write_pages()
    write_cards()


def run(open_jobs: list[Job], again: bool, data_root: Path, download: bool) -> int:
    """Run the jobs in order.

    Write the tables after each, or, `again`, say how it compares. Return 0, or the code of a failure.
    """
    started = time.perf_counter()
    for number, job in enumerate(open_jobs, 1):
        each = (time.perf_counter() - started) / max(number - 1, 1) / 60
        left = f", about {each * (len(open_jobs) - number + 1):.0f} min left" if number > 1 else ""
        print(f"run {number} of {len(open_jobs)}: {job.name}{left}", flush=True)
        code = job.execute(data_root, download)
        if code:
            hint = "; the same command continues" if code > 128 else ""
            say_error(f"{job.name} ended with exit code {code} in {job.folder}{hint}")
            return code
        if again:
            accuracy = json.loads((job.folder / "test.json").read_text())["accuracy"]
            before = f", in results/ {job.figures['accuracy']:.4f}" if job.state == "finished" else ""
            print(f"{job.name}: test accuracy {accuracy:.4f}{before}", flush=True)
        else:
            job.keep()
            write_all()
    return 0


def reproduce(args: Namespace) -> int:
    """Do what the flags say: list, publish, or run what is not finished and write the tables. Return the exit code."""
    selected = select(args.only, args.seeds, args.runs.resolve())
    if args.list:
        for job in selected:
            print(f"{job.state:<12}{job.name}")
        return 0
    if args.publish:
        publish(selected)
        return 0
    done = [job for job in selected if job.state == "finished"]
    open_jobs = []
    if not args.table:
        open_jobs = [job for job in selected if args.again or job not in done]
    if done and not (args.table or args.again):
        print(f"{len(done)} of {len(selected)} are finished, in {jobs.RESULTS}; --again runs them all the same")
    if not open_jobs:
        write_all()
    return run(open_jobs, args.again, args.data_root, args.download)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: reproduce(parse_arguments(argv)), hint="; the same command continues")


if __name__ == "__main__":
    sys.exit(main())
