"""The README's first command on this machine: as many of its 240 epochs as fit into a call; the next one continues."""

import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from gpu.check import ROOT, Checks, Outcome, Setup
from longtail.logs import load_log

TRAIN, TEST = (ROOT / "CIFAR-LT" / name for name in ("cifar_train.py", "cifar_test.py"))
COMMAND = ("--class_num", "100", "--imbalance", "200", "--loss_type", "CDB-CE", "--tau", "1.5", "--n_gpus", "1")
EPOCHS, PUBLISHED, TOLERANCE = 240, 0.3740, 0.015  # of the accuracy on the test set: one seed moves by less
STEM = "cifar100_imbalance200"


def train(setup: Setup, folder: Path, more: tuple[str, ...]) -> int:
    """Train or resume for setup.minutes, then stop with SIGTERM.

    Return the exit code; it is below 0 if the run had not begun.
    """
    words = [
        sys.executable,
        str(TRAIN),
        *COMMAND,
        *more,
        "--device",
        setup.device,
        "--data_root",
        str(setup.data_root),
        "--save_model",
        str(folder),
        "--resume",
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60 * setup.minutes
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    process.terminate()
    error = process.communicate()[1]
    if process.returncode not in (0, 143, -signal.SIGTERM):
        raise RuntimeError(f"exit code {process.returncode}: {(error.strip().splitlines() or ['no message'])[-1]}")
    return process.returncode


def first_command(setup: Setup, epochs: int = EPOCHS, more: tuple[str, ...] = ()) -> Outcome:
    """Train as far as time allows; test when all epochs are done."""
    if not (setup.data_root / "cifar-100-python").is_dir():
        return Outcome(f"not tried: no CIFAR-100 in {setup.data_root}", finished=False)
    folder = setup.out / "whole"
    code = train(setup, folder, more)
    if not (folder / f"{STEM}.csv").exists():
        return Outcome("no epoch was finished in the time", finished=False)
    log = load_log(folder / f"{STEM}.csv")
    seconds = statistics.median(log.measures["seconds"])
    found = (
        f"{log.epochs} of {epochs} epochs, {seconds:.1f} s an epoch, {seconds * epochs / 60:.0f} min for all; "
        f"best validation accuracy {log.best_accuracy:.4f}"
    )
    if code or log.epochs < epochs:
        return Outcome(found, finished=False)
    test = [
        sys.executable,
        str(TEST),
        f"--saved_model_path={folder / f'best_{STEM}.pth'}",
        "--data_root",
        str(setup.data_root),
        "--device",
        setup.device,
    ]
    accuracy = float(subprocess.run(test, capture_output=True, text=True, check=True).stdout.split()[-1])
    return Outcome(
        f"{found}; test {accuracy:.4f}",
        f"test within {TOLERANCE} of {PUBLISHED}",
        abs(accuracy - PUBLISHED) <= TOLERANCE,
    )


CHECKS: Checks = {"CIFAR-LT's first command": first_command}
