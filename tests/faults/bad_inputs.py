"""Give the scripts bad files and flags, one at a time, each in a process of its own, and judge what a user then sees.

A bad input is survived if the script ends in exit code 2 within SECONDS and in less than MEMORY, with one line on
stderr that names what is wrong, no traceback, earlier results byte for byte as they were, and nothing that a hostile
file wanted to run has run.
"""

import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn

SECONDS, MEMORY = 10, 2 << 30
ROOM = 4 << 30  # bytes of address space beyond what the process has: a script that wants more fails, not the machine


@dataclass(frozen=True)
class Case:
    """A script with bad input.

    `kept` holds earlier results, `names` is in the line on stderr, `canary` must not appear.
    """

    kind: str
    name: str
    script: ModuleType
    argv: list[str]
    kept: Path
    names: str = ""
    canary: Path | None = None
    codes: tuple[int, ...] = (2,)


@dataclass(frozen=True)
class Outcome:
    """How a process ended: `code` is None if it had to be killed; `memory` is the most bytes that were resident."""

    code: int | None
    seconds: float
    memory: int
    error: str


def become(script: ModuleType, argv: list[str], folder: Path) -> NoReturn:
    """Run a script's main in a fresh child, as if its file had been started; `folder` gets stdout and stderr."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, errors="backslashreplace") for stream in (1, 2))
        sys.argv[0] = Path(script.__file__).name
        sys.modules["__main__"] = script  # what a worker that it spawns imports
        code = script.main(argv)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 1)


def attempt(script: ModuleType, argv: list[str], folder: Path) -> Outcome:
    """Fork (importing PyTorch takes seconds), run, wait. Kill the child and its children when the time is up."""
    begin = time.monotonic()
    child = os.fork()
    if not child:
        become(script, argv, folder)
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        time.sleep(0.005)
        if time.monotonic() - begin > SECONDS:
            os.killpg(child, signal.SIGKILL)
            ended = os.wait4(child, 0)
            break
    code = os.waitstatus_to_exitcode(ended[1])
    return Outcome(
        None if code == -signal.SIGKILL else code,
        time.monotonic() - begin,
        ended[2].ru_maxrss << 10,
        (folder / "stderr").read_text(errors="replace"),
    )


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size < MEMORY and not path.is_symlink()
    }


def faults(case: Case, outcome: Outcome, before: dict[str, bytes]) -> list[str]:
    """What a user may complain of."""
    found = []
    if outcome.code is None:
        found.append(f"did not end within {SECONDS} s")
    elif outcome.code not in case.codes:
        found.append(f"exit code {outcome.code}")
    if (
        "Traceback" in outcome.error
        or outcome.code == 2
        and (outcome.error.count("\n") != 1 or case.names not in outcome.error)
    ):
        found.append(f"not one line that names {case.names or 'it'}")
    if outcome.memory >= MEMORY:
        found.append(f"{outcome.memory / 1e9:.1f} GB of memory")
    if outcome.code and {name: content for name, content in contents(case.kept).items() if name in before} != before:
        found.append("earlier results changed")
    if case.canary and case.canary.exists():
        found.append("the file ran code")
    return found


def judge(case: Case, folder: Path) -> tuple[str, bool, str]:
    """Kind, whether all is well, and what happened."""
    before = contents(case.kept)
    outcome = attempt(case.script, case.argv, folder)
    found = faults(case, outcome, before)
    told = outcome.error if len(outcome.error) < 1500 else f"{outcome.error[:500]} ... {outcome.error[-900:]}"
    return (
        case.kind,
        not found,
        (
            f"{Path(case.script.__file__).name}, {case.name}: {', '.join(found) or 'fine'} "
            f"({outcome.seconds:.1f} s, {outcome.memory / 1e6:.0f} MB): {told!r}"
        ),
    )


def run_cases(
    cases: Callable[[Path, int, random.Random], Case], count: int, seed: int, work: Path
) -> Iterator[tuple[str, bool, str]]:
    """`cases(folder, number, rng)` makes the number-th case in an empty folder, which is gone after the verdict."""
    rng = random.Random(seed)
    for number in range(count):
        folder = work / f"case{number}"
        folder.mkdir()
        yield judge(cases(folder, number, rng), folder)
        shutil.rmtree(folder)


def run_corpus(count: int, seed: int, work: Path) -> Iterator[tuple[str, bool, str]]:
    """`count` bad inputs, spread evenly over the kinds: (kind, fine, description) of each."""
    from corpus import Corpus

    yield from run_cases(Corpus(work / "valid").case, count, seed, work)
