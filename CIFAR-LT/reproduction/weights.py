"""Publish the trained weights of finished runs in pretrained_weights/; `reproduce.py --publish` calls it."""

import gzip
import hashlib

from longtail.checkpoints import load_checkpoint
from longtail.files import write_atomically
from longtail.logs import load_log
from reproduction import plan
from reproduction.jobs import WEIGHTS, Job

INTRODUCTION = """# Trained weights

Each file holds the epoch with the best validation accuracy; `cifar_test.py` reads everything else from it. Run the
commands in `CIFAR-LT/`. The figures may differ in the last digit between bf16 and fp32, and between processors.
`resnext-101-kinetics.pth`, from which EGTEA starts, goes here too; it is not part of this repository. This page is
written by `CIFAR-LT/reproduce.py --publish`.
"""


def check_publishable(job: Job) -> None:
    """Raise ValueError unless the job's folder in --runs holds the very run that results/ tells of."""
    if job.state != "finished":
        raise ValueError(f"{job.name} is not finished ({job.state}): run it first")
    if not job.log.exists():
        raise ValueError(f"{job.folder} holds no run: --runs must be where it was trained")
    if job.log.read_bytes() != gzip.decompress(job.kept_log.read_bytes()):
        raise ValueError(f"{job.folder} holds another run than {job.result}: their logs differ")
    best, kept = load_log(job.log).best_epoch, load_checkpoint(job.best).get("epoch")
    if kept != best:
        raise ValueError(f"{job.best} is of epoch {kept}, the log's best is {best}")


def section(job: Job) -> str:
    """Return what the README says of a published file."""
    path = WEIGHTS / f"{job.name}.pth"
    command = f"python cifar_train.py {' '.join(job.entry.flags)} --seed {job.seed}"
    if job.entry.teachers:
        command += f" --teacher {' '.join(job.entry.teachers)}"
    if job.entry.refit:
        command += f" --refit {job.entry.refit}"
    return (
        f"## {path.name}\n\n- command: `{command}`\n"
        f"- test accuracy: {job.figures['accuracy']:.4f}, by\n"
        f"  `python cifar_test.py --saved_model_path ../pretrained_weights/{path.name}`\n"
        f"- log: [CIFAR-LT/results/{job.name}](../CIFAR-LT/results/{job.name})\n"
        f"- sha256: `{hashlib.sha256(path.read_bytes()).hexdigest()}`\n"
    )


def publish(jobs: list[Job]) -> None:
    """Copy the best checkpoints of finished jobs to pretrained_weights/. Write its README for all that are there."""
    for job in jobs:
        check_publishable(job)
    for job in jobs:
        write_atomically(WEIGHTS / f"{job.name}.pth", job.best.read_bytes())
        print(WEIGHTS / f"{job.name}.pth")
    possible = [Job(entry, seed, WEIGHTS) for entry in plan.all_entries() for seed in entry.seed_range]
    published = [job for job in possible if (WEIGHTS / f"{job.name}.pth").exists()]
    write_atomically(WEIGHTS / "README.md", "\n".join([INTRODUCTION, *map(section, published)]).encode())
