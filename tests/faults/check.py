"""A small count of each fault, and the harness itself: it must notice a loss.

test_faults.py starts them in processes of their own.

    python tests/faults/check.py killed

Forking is not for pytest's processes: a lock that one of their threads holds stays locked in the child for ever.
"""

import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import run as faults
import torch

import longtail.run
from longtail import checkpoints, files


def survives(row: faults.Row, tried: int) -> None:
    assert (row.tried, row.losses) == (tried, []), row


def killed(work: Path, rng: random.Random) -> None:
    survives(faults.killed(faults.imagenet(work), 2, work, rng), 2)


def stopped(work: Path, rng: random.Random) -> None:
    survives(faults.stopped(faults.imagenet(work), 1, work, rng), 1)


def full_disk(work: Path, rng: random.Random) -> None:
    survives(faults.full_disk(faults.imagenet(work), 1, work, rng), 1)


def partner_killed(work: Path, rng: random.Random) -> None:
    survives(faults.partner_killed(1, work, rng), 1)


def restarted(work: Path, rng: random.Random) -> None:
    survives(faults.restarted(1, work, rng), 1)


def long_run(work: Path, rng: random.Random) -> None:
    """Of so few epochs, some are needed until memory is what it will be."""
    survives(faults.long_run(30, work, growth=0.15), 1)


def notices_a_write_in_place(work: Path, rng: random.Random) -> None:
    """A kill in the middle of it spoils the checkpoint."""

    def write_in_place(path: Path, content: bytes) -> None:
        with files.open(path, "wb") as file:
            file.write(content)

    files.open, checkpoints.write_atomically, longtail.run.write_atomically = open, write_in_place, write_in_place
    experiment, folder = faults.imagenet(work), faults.fresh(work)
    assert (
        faults.ended(faults.start(experiment, folder, faults.die_in_write(5))) == -9
    )  # description, log, best, last, log, best
    assert "is damaged" in faults.unreadable(folder)[0]


def notices_other_weights(work: Path, rng: random.Random) -> None:
    """A run that resumes to something else, and leaves a file behind."""
    experiment = faults.imagenet(work)
    reference, _ = faults.run_through(experiment, work)
    other, _ = faults.run_through(experiment, work)
    assert faults.differences(other, reference) == []
    state = checkpoints.load_checkpoint(other / "last_run.pth")
    state["classifier"]["fc.bias"][0] += 1e-7
    torch.save(state, other / "last_run.pth")
    (other / "last_run.pth.partial").write_bytes(b"")
    assert faults.differences(other, reference) == [
        "has last_run.pth.partial, unlike an undisturbed run",
        "last_run.pth differs",
    ]


def notices_a_leak(work: Path, rng: random.Random) -> None:
    """A file stays open from every epoch."""
    finish, leaked = longtail.run.Run.finish_epoch, []

    def finish_and_leak(run: longtail.run.Run, *rest) -> None:
        finish(run, *rest)
        leaked.append(run.log.open())

    longtail.run.Run.finish_epoch = finish_and_leak
    assert [loss.split(" from ")[0] for loss in faults.long_run(16, work, growth=1.0).losses] == ["open files went"]


def notices_a_hanging_run(work: Path, rng: random.Random) -> None:
    faults.LONGEST_SECONDS = 0.2
    hanging = faults.Experiment("hanging", lambda flags: faults.time.sleep(100), lambda folder: [])
    assert faults.ended(faults.start(hanging, faults.fresh(work))) == faults.HUNG


def notices_runs_that_nothing_stopped(work: Path, rng: random.Random) -> None:
    """A run that ends at once cannot be stopped: it does not count as survived."""
    ending = faults.Experiment("ending", lambda flags: 0, lambda folder: [])
    row = faults.stopped(ending, 1, work, rng)
    assert (row.tried, row.losses) == (0, ["only 0 of 10 runs were stopped, the others had ended"])


CHECKS: tuple[Callable[[Path, random.Random], None], ...] = (
    killed,
    stopped,
    full_disk,
    partner_killed,
    restarted,
    long_run,
    notices_a_write_in_place,
    notices_other_weights,
    notices_a_hanging_run,
    notices_a_leak,
    notices_runs_that_nothing_stopped,
)
NAMES = [check.__name__ for check in CHECKS]


def main() -> None:
    """The checks that the command line names."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        for name in sys.argv[1:]:
            CHECKS[NAMES.index(name)](Path(work), random.Random(1))


if __name__ == "__main__":
    main()
