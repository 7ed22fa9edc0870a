"""The trained weights of finished runs, as pretrained_weights/ has them; `reproduce.py --publish` calls it."""

import gzip
import hashlib

from longtail.checkpoints import load_checkpoint
from longtail.files import write_atomically
from longtail.run import best_row, read_log
from reproduction.jobs import HERE, Entry, Job, test_figures

WEIGHTS = HERE.parent / "pretrained_weights"


def check_publishable(job: Job) -> None:
    """ValueError unless the job's folder in --runs holds the very run that results/ tells of."""
    if job.state != "finished":
        raise ValueError(f"{job.name} is not finished ({job.state}): run it first")
    folder = job.runs / job.name
    if not (folder / f"{job.log}.csv").exists():
        raise ValueError(f"{folder} holds no run: --runs must be where it was trained")
    if (folder / f"{job.log}.csv").read_bytes() != gzip.decompress(job.kept_log.read_bytes()):
        raise ValueError(f"{folder} holds another run than {job.result}: their logs differ")
    best, kept = best_row(read_log(folder / f"{job.log}.csv")[1]), load_checkpoint(folder / f"best_{job.log}.pth")
    if kept.get("epoch") != int(best["epoch"]):
        raise ValueError(f"{folder / f'best_{job.log}.pth'} is of epoch {kept.get('epoch')}, the log's best is {best['epoch']}")


def publish(jobs: list[Job], entries: list[Entry]) -> None:
    """Copy the best checkpoints of finished jobs to pretrained_weights/, and write its README for all that are there."""
    for job in jobs:
        check_publishable(job)
    for job in jobs:
        write_atomically(WEIGHTS / f"{job.name}.pth", (job.runs / job.name / f"best_{job.log}.pth").read_bytes())
        print(WEIGHTS / f"{job.name}.pth")
    every = [Job(entry, seed, WEIGHTS) for entry in entries for seed in range(100)]
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
