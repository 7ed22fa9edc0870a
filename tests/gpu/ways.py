"""Does every way of running work on this machine?

Each is CIFAR-LT's training script on a small data set, in a process of its own.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from gpu import small_data
from gpu.check import ROOT, Checks, Outcome, Setup, can_compile
from longtail.logs import load_log, read_log

SCRIPT = ROOT / "CIFAR-LT/cifar_train.py"
EPOCHS = 8
TOLERANCE, LEARNT = (
    0.10,
    0.30,
)  # of an accuracy in 0..1: the runs round differently; validation has 2,500 images of 100 classes
LONGEST_SECONDS = 420  # of a process
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
STEM = "cifar100_imbalance10"
FLAGS = (
    "--imbalance",
    "10",
    "--loss_type",
    "CE",
    "--lr",
    "0.05",
)  # noise of a hundred colours is learnt in a few epochs
SAMPLES = 32  # of a batch, at least; a multiple of the GPUs


def command(
    setup: Setup, name: str, flags: tuple[str, ...], launcher: tuple[str, ...] = (), epochs: int = EPOCHS
) -> tuple[list[str], Path]:
    """Return the command of a run, and its folder."""
    folder, data = setup.out / "ways" / name, setup.out / "small/ways"
    if not (data / "cifar-100-python/meta").exists():
        small_data.cifar(data)
    batch = str(max(setup.gpus, 1) * -(-SAMPLES // max(setup.gpus, 1)))
    words = [
        *launcher,
        str(SCRIPT),
        *FLAGS,
        "--batch_size",
        batch,
        *flags,
        "--device",
        setup.device,
        "--max_epochs",
        str(epochs),
        "--data_root",
        str(data),
        "--save_model",
        str(folder),
    ]
    return [sys.executable, *words], folder


def log_of(folder: Path) -> Path:
    return folder / f"{STEM}.csv"


def train(words: list[str]) -> None:
    """Run to the end.

    Raise RuntimeError with the last line of its errors if it fails; kill all its processes if it hangs.
    """
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        error = process.communicate(timeout=LONGEST_SECONDS)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        errors = [line for line in error.splitlines() if "rror" in line] or error.splitlines() or ["no message"]
        raise RuntimeError(f"exit code {process.returncode}: {errors[-1]}")


def judge(setup: Setup, folder: Path, epochs: int) -> Outcome:
    """Compare a finished run's best accuracy with that of the first, in fp32 on one device."""
    log = load_log(log_of(folder))
    accuracy = log.best_accuracy
    reference = load_log(log_of(setup.out / "ways/fp32")).best_accuracy
    complete = log.measures["epoch"].tolist() == list(range(1, epochs + 1))
    return Outcome(
        f"{log.epochs} epochs, validation accuracy {accuracy:.3f}, {log.measures['seconds'][-1]:.2f} s an epoch",
        f"{epochs} epochs, accuracy within {TOLERANCE} of {reference:.3f} and at least {LEARNT}",
        complete and abs(accuracy - reference) <= TOLERANCE and accuracy >= LEARNT,
    )


def with_note(outcome: Outcome, setup: Setup) -> Outcome:
    """Return the outcome, and that one GPU needs no exchange."""
    return (
        outcome
        if setup.gpus > 1
        else dataclasses.replace(outcome, found=f"{outcome.found}; one GPU: nothing was exchanged")
    )


def way(name: str, flags: tuple[str, ...], setup: Setup, epochs: int = EPOCHS) -> Outcome:
    """One process."""
    words, folder = command(setup, name, ("--overwrite", *flags), epochs=epochs)
    train(words)
    return judge(setup, folder, epochs)


def data_parallel(setup: Setup, epochs: int = EPOCHS) -> Outcome:
    """All GPUs in one process."""
    return with_note(
        way("DataParallel", ("--precision", "fp32", "--n_gpus", str(max(setup.gpus, 1))), setup, epochs), setup
    )


def torchrun(setup: Setup, epochs: int = EPOCHS, processes: int | None = None) -> Outcome:
    """One process for each GPU; on CUDA they talk through NCCL."""
    launcher = (*TORCHRUN, str(processes or max(setup.gpus, 1)))
    words, folder = command(setup, "torchrun", ("--precision", "fp32", "--overwrite"), launcher, epochs)
    train(words)
    return with_note(judge(setup, folder, epochs), setup)


def killed(setup: Setup, epochs: int = EPOCHS) -> Outcome:
    """SIGKILL after the first epoch, then --resume."""
    words, folder = command(setup, "killed", ("--precision", "fp32", "--resume"), epochs=epochs)
    shutil.rmtree(folder, ignore_errors=True)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + LONGEST_SECONDS
    while process.poll() is None and time.monotonic() < end:
        if (
            log_of(folder).exists()
            and log_of(folder).read_text().count("\n") > 1
            and (folder / f"last_{STEM}.pth").exists()
        ):
            break
        time.sleep(0.05)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError("the run ended before it was killed")
    if not 0 < len(read_log(log_of(folder), whole_lines=True)) < epochs:
        raise RuntimeError("the run was not killed in its middle")
    train(words)
    return judge(setup, folder, epochs)


def compiled(setup: Setup) -> Outcome:
    """torch.compile needs compilers, which not every machine has."""
    if not can_compile(setup.device):
        return Outcome("not tried: no C compiler, or no Triton")
    return way("compile", ("--precision", "fp32", "--compile"), setup)


CHECKS: Checks = {
    "fp32": partial(way, "fp32", ("--precision", "fp32")),
    "bf16": partial(way, "bf16", ("--precision", "bf16")),
    "--compile": compiled,
    "DataParallel on all GPUs": data_parallel,
    "torchrun, one process for each GPU": torchrun,
    "--resume after SIGKILL": killed,
}
