"""Seconds until validation accuracy first reaches a goal on CIFAR100-LT, the paper's recipe against the fast one.

    python tests/benchmarks/time_to_accuracy.py PAPER_RUN FAST_RUN [--data_root DIR] [--goal 0.374] [--rounds 3]

A RUN is a CSV that cifar_train.py left, gzipped perhaps, or its folder, such as
CIFAR-LT/results/cifar100_imbalance200_CDB-CE_1.5_seed0; the JSON beside it tells how it was trained. The log says how
many epochs the goal took. What an epoch takes, training and validation, is measured here, alternately, because the
runs' own clocks may have run on machines that were not quiet. All epochs of a recipe have images of one size, so one
epoch stands for each.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "CIFAR-LT"))

import cifar_train
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.logs import find_log, load_log
from longtail.training import train_epoch, validate

SETTINGS = ("dataset", "imbalance", "loss_type", "tau", "difficulty", "recipe", "batch_size", "max_epochs")


def first_epoch(log: Path, goal: float) -> int:
    """The first epoch with that validation accuracy; a ValueError says what the best was."""
    accuracies = load_log(log).measures["accuracy"].tolist()
    if max(accuracies) < goal:
        raise ValueError(f"{log}: the best validation accuracy is {max(accuracies)}, below {goal}")
    return next(epoch for epoch, accuracy in enumerate(accuracies, 1) if accuracy >= goal)


def goal_timer(log: Path, epochs: int, data_root: Path, runtime: Runtime) -> Callable[[], float]:
    """Return a function that gives the seconds of `epochs` epochs of that run's recipe.

    One epoch is measured, with its validation, from random weights; all epochs are equally long.
    """
    arguments = load_log(log).arguments
    flags = [word for key in SETTINGS if arguments.get(key) is not None for word in (f"--{key}", str(arguments[key]))]
    args = cifar_train.parse_arguments([*flags, "--data_root", str(data_root)])
    training = cifar_train.prepare(args, runtime)[0]

    def seconds() -> float:
        start = time.perf_counter()
        train_epoch(training, 1, runtime)
        validate(training, runtime)
        return epochs * (time.perf_counter() - start)

    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN")
    parser.add_argument("--data_root", type=Path, default=cifar_train.HERE / "data")
    parser.add_argument("--goal", type=float, default=0.374)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logs = [find_log(run) for run in args.runs]
    epochs = [first_epoch(log, args.goal) for log in logs]
    with start_runtime() as runtime:
        timers = [goal_timer(log, epoch, args.data_root, runtime) for log, epoch in zip(logs, epochs, strict=True)]
        rounds = [[timer() for timer in timers] for _ in range(args.rounds + 1)][1:]
    ratios = [paper / fast for paper, fast in rounds]
    for log, epoch, seconds in zip(logs, epochs, zip(*rounds, strict=True), strict=True):
        print(
            f"{log.parent.name}: validation accuracy {args.goal} in epoch {epoch}; "
            f"{statistics.median(seconds) / epoch:.1f} s an epoch, {statistics.median(seconds):.0f} s in all"
        )
    print(
        f"{runtime}; ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}), "
        f"{args.rounds} alternating rounds"
    )


if __name__ == "__main__":
    main()
