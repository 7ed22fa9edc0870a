"""The acceptance of a machine with one or more GPUs.

Are the numbers right, does every way of running work, how fast is it?

    make gpu                                             all parts; without a GPU: one line
    make gpu PART=numbers                                one of: numbers, ways, speed, run
    make gpu PART=ways PYTHON=/usr/bin/python3           with a Python of your own instead of .venv
    python tests/gpu/run.py --part run --data_root ~/data

numbers: the three networks, and thirty steps of each experiment's recipe, in fp32 (not TF32), against this
    machine's CPU.
ways: bf16, --compile, all GPUs through DataParallel, all through torchrun, --resume after SIGKILL.
speed: training steps against the conventional pipeline on the same GPU; the input's share; peak memory.
run: the README's first command, as many epochs as fit; the next call continues. It needs CIFAR-100.

A call starts no check after --minutes; call it until nothing is left. Results are in --out:
acceptance.json and the table acceptance.md; the next call does what is missing. Exit code 1 if a check failed.
"""

import json
import os
import platform
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # gpu/ and benchmarks/ stand there; gpu.check adds the experiments

import torch

from gpu.check import ROOT, Checks, Outcome, Setup
from longtail.cli import ArgumentParser, exit_code, number_in
from longtail.devices import find_gpus
from longtail.files import write_atomically
from longtail.run import versions
from longtail.signals import Stopped
from longtail.tables import markdown


def parts() -> dict[str, Checks]:
    """Return each part's checks by name."""
    from gpu import agreement, speed, ways, whole

    return {"numbers": agreement.CHECKS, "speed": speed.CHECKS, "ways": ways.CHECKS, "run": whole.CHECKS}


def machine(setup: Setup) -> dict[str, Any]:
    """Return what the figures were measured on."""
    about = versions(torch.device(setup.device)) | {
        "gpus": setup.gpus,
        "cores": os.cpu_count(),
        "processor": platform.machine(),
    }
    if setup.device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
        about |= {
            "memory of a GPU": f"{memory / 2**30:.0f} GiB",
            "CUDA or ROCm": torch.version.cuda or torch.version.hip,
        }
    return about


def read(file: Path) -> dict[str, Any]:
    """Return what earlier calls found."""
    return json.loads(file.read_text()) if file.exists() else {"machine": {}, "checks": []}


def write(out: Path, report: dict[str, Any]) -> None:
    """Write the JSON and the table."""
    write_atomically(out / "acceptance.json", (json.dumps(report, indent=1) + "\n").encode())
    rows = [
        {
            "part": check["part"],
            "check": check["check"],
            "found": check["found"],
            "wanted": check["wanted"],
            "": "" if not check["wanted"] else "ok" if check["passed"] else "FAILED",
        }
        for check in report["checks"]
    ]
    about = ", ".join(f"{key}: {value}" for key, value in report["machine"].items())
    write_atomically(
        out / "acceptance.md", f"{about}\n\n{markdown(rows, left=('part', 'check', 'found', 'wanted', ''))}".encode()
    )


def attempt(check: Callable[[Setup], Outcome], setup: Setup) -> Outcome:
    """Return the check's outcome; a check that raises has failed, and the others go on."""
    try:
        return check(setup)
    except Stopped:
        raise
    except torch.OutOfMemoryError:
        return Outcome("not tried: too little memory")
    except Exception as error:
        return Outcome(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "no error", passed=False)


def accept(setup: Setup, chosen: dict[str, Checks], again: bool, seconds: float) -> int:
    """Run what is missing, print and record each outcome. Return 1 if a check has failed, now or before."""
    setup.out.mkdir(parents=True, exist_ok=True)
    report, started, left = read(setup.out / "acceptance.json"), time.monotonic(), 0
    here = machine(setup)
    if report["machine"] not in ({}, here):
        raise ValueError(f"{setup.out} holds the results of another machine or of other versions; choose another --out")
    report["machine"] = here
    for part, checks in chosen.items():
        for name, check in checks.items():
            earlier = next((row for row in report["checks"] if (row["part"], row["check"]) == (part, name)), None)
            if earlier and earlier["finished"] and earlier["passed"] and not again:
                continue
            if time.monotonic() - started > seconds:
                left += 1
                continue
            outcome = attempt(check, setup)
            report["checks"] = [row for row in report["checks"] if row is not earlier] + [
                {"part": part, "check": name, **asdict(outcome)}
            ]
            write(setup.out, report)
            print(
                f"{part}, {name}: {outcome.found}" + ("" if outcome.passed else f"; wanted: {outcome.wanted}; FAILED"),
                flush=True,
            )
    failed = sum(not row["passed"] for row in report["checks"])
    rest = f", {left} left for the next call" if left else ""
    print(f"{len(report['checks'])} checks, {failed} failed{rest}: {setup.out / 'acceptance.md'}", flush=True)
    return 1 if failed else 0


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--part", choices=("numbers", "ways", "speed", "run"), help="default: all, one after the other")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/gpu", help="folder of the results; default: runs/gpu")
    parser.add_argument(
        "--data_root", type=Path, default=ROOT / "CIFAR-LT/data", help="holds cifar-100-python/; default: CIFAR-LT/data"
    )
    parser.add_argument(
        "--minutes", type=number_in(0, 1000), default=7.0, help="start no check later than this; default: 7"
    )
    parser.add_argument("--again", action="store_true", help="do what is finished again")
    return parser.parse_args(argv)


def start(args: Namespace) -> int:
    """Run the parts that the flags choose, if there is a GPU."""
    kind, found = find_gpus()
    if not found:
        print("no GPU found: nothing to accept here")
        return 0
    setup = Setup(kind, found, args.out.resolve(), args.data_root.resolve(), args.minutes)
    every = parts()
    chosen = {args.part: every[args.part]} if args.part else every
    return accept(setup, chosen, args.again, 60 * args.minutes)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: start(parse_arguments(argv)), hint="; the same command continues")


if __name__ == "__main__":
    sys.exit(main())
