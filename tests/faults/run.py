"""Break runs on purpose, and see that nothing is lost: kills, full disks, dead partners, long runs.

    make faults                                              all of it, in about half an hour on one core
    python tests/faults/run.py --kind "CIFAR-LT killed" --count 20 --seed 7

Prints a table (kind, tried, survived, lost), and as its last line `N tried, 0 lost`; what was lost is told, and ends
in exit code 1. A fault is survived if every checkpoint can be read after it, the run resumes, and ends bit for bit as
the run that nothing disturbed, with the same files. Everything happens in a temporary folder.
"""

import contextlib
import functools
import io
import os
import random
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker"
)  # what is killed leaves semaphores
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [
    str(ROOT / folder) for folder in (".", "CIFAR-LT", "ImageNet-LT", "EGTEA", "EGTEA/data", "tests", "tests/faults")
]

import torch  # noqa: E402
import torch._dynamo  # noqa: E402  (else each child's optimizer imports it, for a second)
from tqdm import tqdm  # noqa: E402

import longtail.files  # noqa: E402
import longtail.run  # noqa: E402
from forked import fork, free_port, run_script  # noqa: E402
from longtail.checkpoints import load_checkpoint  # noqa: E402
from longtail.cli import ArgumentParser, positive_int, seed_number  # noqa: E402
from longtail.logs import cells, read_log  # noqa: E402

CIFAR = ROOT / "CIFAR-LT/cifar_train.py"
DIGITS = ("--dataset", "digits", "--imbalance", "100")
TIMES = ("seconds", "images_per_second")  # columns of a log that differ from run to run
KILLS_A_RUN = 8  # then it may finish: kills in the first epoch would go on for ever
MOST_STARTS = 10  # for one run that a signal stops
LONGEST_SECONDS = 600  # of a process; then it hangs, and is killed
HUNG = -999  # no process's exit code
JOB_EPOCHS = 4  # of torchrun's job
JOB_EPOCH_SECONDS = 0.2  # less than one of them takes on any machine
PARTNER_SECONDS = 60  # for a job to notice that one of its processes died
MEMORY_GROWTH = 0.02


@dataclass(frozen=True)
class Experiment:
    """A short run: `main` of its script, and the arguments that put it into a folder."""

    name: str
    main: Callable[[list[str]], int]
    flags: Callable[[Path], list[str]]


@dataclass
class Row:
    """A line of the table; `losses` says what went wrong."""

    kind: str
    tried: int
    losses: list[str]

    @property
    def lost(self) -> int:
        return min(len(self.losses), self.tried)


def cifar(work: Path) -> Experiment:
    """Digits: 278 training images."""
    import sklearn.datasets

    import cifar_train

    sklearn.datasets.load_digits()  # imported here, once, and not by every child
    return Experiment(
        "CIFAR-LT", cifar_train.main, lambda folder: [*DIGITS, "--max_epochs", "3", "--save_model", str(folder)]
    )


@functools.cache
def imagenet(work: Path, epochs: int = 3) -> Experiment:
    """Small images of three classes."""
    import main
    from builders import make_folder, write_config

    images = make_folder(
        work / f"images{len(list(work.iterdir()))}", {"train": [10, 4, 2], "val": [3, 3, 3], "test": [1, 1, 1]}
    )

    def flags(folder: Path) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        return [
            "--cfg",
            str(write_config(work, images, "run", loss_type="CDB-CE", num_epochs=epochs)),
            "--model_dir",
            str(folder),
        ]

    return Experiment("ImageNet-LT", main.main, flags)


def egtea(work: Path) -> Experiment:
    """Tiny videos of three verbs."""
    import EGTEA_train
    from builders import egtea_flags, make_clips

    with contextlib.redirect_stdout(io.StringIO()):
        clips = make_clips(work / f"egtea{len(list(work.iterdir()))}")
    return Experiment("EGTEA", EGTEA_train.main, lambda folder: egtea_flags(clips, folder, "--workers", 0))


# --- one run ------------------------------------------------------------


def start(experiment: Experiment, folder: Path, sabotage: Callable[[], object] = lambda: None) -> int:
    """A process that trains, resuming what is in `folder`; it has called `sabotage` before.

    Fork: importing PyTorch takes seconds.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    flags = [*experiment.flags(folder), "--resume"]
    child = os.fork()
    if child:
        return child
    try:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder.parent / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))  # not pytest's
        sys.argv[0] = experiment.name
        sabotage()
        os._exit(experiment.main(flags))
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(99)


def ended(child: int) -> int:
    """Return its exit code, -9 for a killed one, as subprocess has it; HUNG for one that did not end by itself."""
    handle = os.pidfd_open(child)
    in_time = select.select([handle], [], [], LONGEST_SECONDS)[0]
    os.close(handle)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if in_time else HUNG


def alive(child: int) -> bool:
    return not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def error_of(folder: Path) -> str:
    """What the last process wrote to stderr, if it came so far."""
    err = folder.parent / "err"
    return err.read_text(errors="replace") if err.exists() else ""


def fresh(work: Path) -> Path:
    """A folder for a run. Its name is always the same, since some files carry it."""
    return Path(tempfile.mkdtemp(dir=work)) / "run"


def run_through(experiment: Experiment, work: Path) -> tuple[Path, float]:
    """The run that nothing disturbs, and its seconds."""
    folder, begin = fresh(work), time.monotonic()
    if code := ended(start(experiment, folder)):
        raise SystemExit(f"{experiment.name} does not even run undisturbed: exit code {code}: {error_of(folder)}")
    return folder, time.monotonic() - begin


uninterrupted = functools.cache(run_through)


def equal(one: Any, two: Any) -> bool:
    """Bit for bit, whatever is nested in what."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return (
            isinstance(two, dict)
            and one.keys() == two.keys()
            and all(equal(one[key], two[key]) for key in one if key != "arguments")
        )
    if isinstance(one, (list, tuple)):
        return isinstance(two, (list, tuple)) and len(one) == len(two) and all(map(equal, one, two))
    return one == two


def rows_of(log: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in cells(row).items() if key not in TIMES} for row in read_log(log)]


def differences(folder: Path, reference: Path) -> list[str]:
    """What a finished run has else than the undisturbed one; nothing, if all is well."""
    names, expected = ({path.name for path in place.iterdir()} for place in (folder, reference))
    found = [f"has {name}, unlike an undisturbed run" for name in sorted(names - expected)]
    found += [f"lacks {name}" for name in sorted(expected - names)]
    found += [
        f"{name} differs"
        for name in sorted(names & expected)
        if name.endswith(".pth") and not equal(load_checkpoint(folder / name), load_checkpoint(reference / name))
    ]
    found += [
        f"{name} differs"
        for name in sorted(names & expected)
        if name.endswith(".csv") and rows_of(folder / name) != rows_of(reference / name)
    ]
    return found


def unreadable(folder: Path) -> list[str]:
    """The checkpoints that a fault has spoilt."""
    found = []
    for path in folder.glob("*.pth"):
        try:
            load_checkpoint(path)
        except (ValueError, OSError) as error:
            found.append(str(error))
    return found


def resumed(experiment: Experiment, folder: Path, reference: Path) -> list[str]:
    """Let the run finish; what is then wrong with it."""
    if code := ended(start(experiment, folder)):
        return [f"does not resume, exit code {code}: {error_of(folder)}"]
    return differences(folder, reference)


# --- kills ------------------------------------------------------------


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Torn:
    """A file whose write ends in the middle, and the process with it."""

    def __init__(self, file: Any):
        self.file = file

    def __enter__(self) -> "Torn":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: Any) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        die()


def die_in_call(function: str, number: int, after: bool) -> Callable[[], None]:
    """Dies right before or after the number-th os.fsync or os.replace."""

    def sabotage() -> None:
        real, calls = getattr(os, function), 0

        def call(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == number and not after:
                die()
            real(*arguments)
            if calls == number:
                die()

        setattr(os, function, call)

    return sabotage


def die_in_write(number: int) -> Callable[[], None]:
    """Dies in the middle of the number-th file that is written: a log's row, a temporary file."""

    def sabotage() -> None:
        writes = 0

        def torn_open(file: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
            nonlocal writes
            writes += mode[0] in "wa"
            opened = open(file, mode, *arguments, **more)  # noqa: SIM115  (the caller closes it)
            return Torn(opened) if mode[0] in "wa" and writes == number else opened

        longtail.files.open = longtail.run.open = torn_open  # checkpoints and settings; the log

    return sabotage


def kill_once(experiment: Experiment, folder: Path, seconds: float, rng: random.Random) -> int:
    """Start the run and kill it: half the time at any instant, half the time at a checkpoint's write. The exit code."""
    if rng.random() < 0.5:
        number = rng.randint(1, 8)
        calls = [die_in_call(name, number, after) for name in ("fsync", "replace") for after in (False, True)]
        return ended(start(experiment, folder, rng.choice([die_in_write(number), *calls])))
    child = start(experiment, folder)
    time.sleep(rng.uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    return ended(child)


def killed(experiment: Experiment, count: int, work: Path, rng: random.Random) -> Row:
    """`count` SIGKILLs, several a run; the run that they hit must end as the undisturbed one."""
    reference, seconds = uninterrupted(experiment, work)
    row = Row(f"{experiment.name} killed", 0, [])
    with tqdm(total=count, desc=row.kind, leave=False, disable=None) as bar:
        while row.tried < count:
            folder, kills, losses = fresh(work), 0, []
            while kills < min(KILLS_A_RUN, count - row.tried):
                code = kill_once(experiment, folder, seconds, rng)
                if code == 0:
                    break
                kills += 1
                bar.update()
                losses += [f"ended with {code}: {error_of(folder)}"] * (code != -signal.SIGKILL) + unreadable(folder)
            row.tried += kills
            row.losses += losses + resumed(experiment, folder, reference)
            shutil.rmtree(folder.parent)
    return row


def stopped(experiment: Experiment, count: int, work: Path, rng: random.Random) -> Row:
    """Stop runs by SIGTERM or SIGINT at any instant: exit code 143 or 130, one line, and the same end when resumed.

    A run that had ended before the signal reached it was not stopped, and does not count.
    """
    reference, seconds = uninterrupted(experiment, work)
    row = Row(f"{experiment.name} stopped by a signal", 0, [])
    starts = 0
    while row.tried < count:
        starts += 1
        if starts > MOST_STARTS * count:
            row.losses.append(f"only {row.tried} of {starts - 1} runs were stopped, the others had ended")
            break
        folder, number = fresh(work), rng.choice((signal.SIGTERM, signal.SIGINT))
        child = start(experiment, folder)
        while alive(child) and not list(folder.glob("*.json")):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.8 * seconds))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        code = ended(child)
        if code != 0:
            row.tried += 1
            error = error_of(folder)
            if code != 128 + number or error.count("\n") != 1 or "--resume" not in error:
                row.losses.append(f"{signal.Signals(number).name}: exit code {code}, {error!r}")
            row.losses += unreadable(folder) + resumed(experiment, folder, reference)
        shutil.rmtree(folder.parent)
    return row


# --- disks ------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """A small file system in memory at `folder`; OSError where mounting is not allowed."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OSError(done.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def begun(experiment: Experiment, folder: Path) -> dict[str, bytes]:
    """A run that was killed as soon as its first epoch was saved; its checkpoints' bytes."""

    def sabotage() -> None:
        real = os.fsync

        def call(file: int) -> None:
            real(file)
            if list(folder.glob("last_*.pth")):
                die()

        os.fsync = call

    ended(start(experiment, folder, sabotage))
    return {path.name: path.read_bytes() for path in folder.glob("*.pth")}


def refused(
    experiment: Experiment, folder: Path, before: dict[str, bytes], sabotage: Callable[[], object]
) -> list[str]:
    """A process that cannot write: exit code 2, one line, the checkpoints as they were, nothing half-written left."""
    code, losses = ended(start(experiment, folder, sabotage)), []
    if code != 2 or error_of(folder).count("\n") != 1 or "Traceback" in error_of(folder):
        losses.append(f"exit code {code}, {error_of(folder)!r}")
    if {path.name: path.read_bytes() for path in folder.glob("*.pth")} != before:
        losses.append("a checkpoint changed")
    return losses + [f"{path.name} remains" for path in folder.glob("*.partial")]


def full_disk(experiment: Experiment, count: int, work: Path, rng: random.Random) -> Row:
    """No file may be larger than a part of a checkpoint (RLIMIT_FSIZE); then the limit is gone."""
    reference, _ = uninterrupted(experiment, work)
    row = Row(f"{experiment.name}, file size limit", 0, [])
    for _ in range(count):
        folder = fresh(work)
        before = begun(experiment, folder)
        limit = int(rng.uniform(0.05, 0.9) * min(map(len, before.values())))
        row.losses += refused(
            experiment, folder, before, lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        )
        row.losses += resumed(experiment, folder, reference)
        row.tried += 1
        shutil.rmtree(folder.parent)
    return row


def full_mount(experiment: Experiment, count: int, work: Path, rng: random.Random) -> Row:
    """Fill a small file system to within a few bytes, so that a log's row may end half way; then give it room."""
    reference, _ = uninterrupted(experiment, work)
    row = Row(f"{experiment.name}, full disk", 0, [])
    for _ in range(count):
        folder = fresh(work)
        try:
            with mounted(folder, 64 << 20):
                before = begun(experiment, folder)
                left = os.statvfs(folder).f_bfree - rng.choice((0, 1, 5))  # pages
                (folder / "filler").write_bytes(bytes(left * os.statvfs(folder).f_bsize))
                row.losses += refused(experiment, folder, before, lambda: None)
                (folder / "filler").unlink()
                row.losses += resumed(experiment, folder, reference)
        except OSError as error:
            print(f"{row.kind}: not tried, no file system can be mounted here: {error}")
            break
        row.tried += 1
    return row


def read_only(experiment: Experiment, count: int, work: Path, rng: random.Random) -> Row:
    """The folder becomes read-only between two sittings; then it can be written again."""
    reference, _ = uninterrupted(experiment, work)
    row = Row(f"{experiment.name}, read-only folder", 0, [])
    for _ in range(count):
        folder = fresh(work)
        try:
            with mounted(folder, 64 << 20):
                before = begun(experiment, folder)
                for name in before:
                    (folder / f"{name}.partial").unlink(missing_ok=True)
                subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
                row.losses += refused(experiment, folder, before, lambda: None)
                subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
                row.losses += resumed(experiment, folder, reference)
        except OSError as error:
            print(f"{row.kind}: not tried, no file system can be mounted here: {error}")
            break
        row.tried += 1
    return row


# --- several processes ------------------------------------------------------------


def job_flags(folder: Path) -> list[str]:
    return [*DIGITS, "--max_epochs", str(JOB_EPOCHS), "--save_model", str(folder), "--resume"]


def torchrun(folder: Path, *options: str) -> subprocess.Popen:
    """Two processes on digits, in a session of their own."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "1",
        "--nproc-per-node",
        "2",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        str(free_port()),
        *options,
        str(CIFAR),
        *job_flags(folder),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(job: subprocess.Popen) -> str:
    """What it wrote to stderr, when it has ended; or has been ended, since it hung."""
    try:
        return job.communicate(timeout=LONGEST_SECONDS)[1]
    except subprocess.TimeoutExpired:
        job.terminate()  # torchrun ends its processes
        return f"it hung; {job.communicate()[1]}"


def worker(agent: int, rank: int) -> int | None:
    """The process number of one of torchrun's workers; None before it has begun."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == agent and f"RANK={rank}" in stat.with_name("environ").read_text().split("\0"):
                return int(stat.parent.name)
    return None


def kill_a_worker(job: subprocess.Popen, folder: Path, rng: random.Random) -> float:
    """Kill one of the two at a random instant of any epoch but the first; the instant."""
    log, epochs = folder / "digits_imbalance100.csv", rng.randint(1, JOB_EPOCHS - 1)
    while not log.exists() or len(log.read_text().splitlines()) <= epochs:
        if job.poll() is not None:
            raise SystemExit(f"torchrun ended before it began: {finish(job)}")
        time.sleep(0.005)
    time.sleep(rng.uniform(0, JOB_EPOCH_SECONDS))
    os.kill(worker(job.pid, rng.randint(0, 1)), signal.SIGKILL)
    return time.monotonic()


@functools.cache
def undisturbed_job(work: Path) -> Path:
    """The folder of the job that nothing disturbs: two processes, but without torchrun."""
    return run_through(
        Experiment("a job of two", lambda flags: fork(2, lambda: run_script(str(CIFAR), *flags)) or 0, job_flags), work
    )[0]


def partner_killed(count: int, work: Path, rng: random.Random) -> Row:
    """Kill one of two: the job ends within a minute, with a message and no traceback of ours, and can be resumed."""
    reference = undisturbed_job(work)
    row = Row("torchrun, one process of two killed", 0, [])
    for _ in tqdm(range(count), row.kind, leave=False, disable=None):
        folder = fresh(work)
        job = torchrun(folder)
        instant = kill_a_worker(job, folder, rng)
        error = finish(job)
        seconds = time.monotonic() - instant
        row.tried += 1
        if not job.returncode or seconds > PARTNER_SECONDS or "SIGKILL" not in error:
            row.losses.append(f"exit code {job.returncode} after {seconds:.0f} s: {error}")
        if f'File "{CIFAR}"' in error:
            row.losses.append(f"a traceback: {error}")
        again = torchrun(folder)
        error = finish(again)
        row.losses += [f"does not resume: {error}"] if again.returncode else differences(folder, reference)
    return row


def restarted(count: int, work: Path, rng: random.Random) -> Row:
    """`--max-restarts 1`: the job recovers by itself."""
    reference = undisturbed_job(work)
    row = Row("torchrun --max-restarts, one of two killed", 0, [])
    for _ in tqdm(range(count), row.kind, leave=False, disable=None):
        folder = fresh(work)
        job = torchrun(folder, "--max-restarts", "1")
        kill_a_worker(job, folder, rng)
        error = finish(job)
        row.tried += 1
        row.losses += [f"did not recover: {error}"] if job.returncode else differences(folder, reference)
    return row


# --- long runs ------------------------------------------------------------


def resident(process: int) -> int:
    """Bytes of memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def long_run(epochs: int, work: Path, growth: float = MEMORY_GROWTH) -> Row:
    """Many short epochs: memory and open files stay as they are, and the log is readable at every look."""
    folder, seen, losses = fresh(work), {}, []
    child = start(imagenet(work, epochs), folder)
    log = folder / "run.csv"
    with tqdm(total=epochs, desc=f"{epochs} epochs", leave=False, disable=None) as bar:
        while alive(child):
            time.sleep(0.05)
            if not log.exists():
                continue
            try:
                done = len(read_log(log))
                look = resident(child), len(list(Path(f"/proc/{child}/fd").iterdir()))
                if not all(look):  # it has just ended, and holds nothing any more
                    break
                seen[done] = look
            except ValueError as error:
                losses.append(str(error))
            except (OSError, IndexError):  # it is gone
                break
            bar.update(done - bar.n)
    if code := ended(child):
        losses.append(f"exit code {code}: {error_of(folder)}")
    quarters = [[seen[done] for done in seen if low < 4 * done / epochs <= low + 1] for low in (1, 3)]
    second, last = (sum(memory for memory, _ in quarter) / max(len(quarter), 1) for quarter in quarters)
    files = [
        statistics.median_low([count for _, count in quarter] or [0]) for quarter in quarters
    ]  # a look may fall into a write
    print(
        f"{epochs} epochs: memory {second / 1e6:.1f} MB in the second quarter, {last / 1e6:.1f} MB in the last; "
        f"open files {files[0]} and {files[1]}; {len(seen)} looks at the log"
    )
    if not 0 < last <= (1 + growth) * second:
        losses.append(f"memory went from {second / 1e6:.1f} to {last / 1e6:.1f} MB")
    if files[1] > files[0]:
        losses.append(f"open files went from {files[0]} to {files[1]}")
    return Row(f"{epochs} epochs in one run", 1, losses)


# --- all of it ------------------------------------------------------------


def plan(args: Namespace, work: Path) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Every kind by its name, and what tries it."""
    rng = random.Random(args.seed)

    def times(default: int) -> int:
        return args.count or default

    for make, kills, signals, limits in ((cifar, 100, 20, 10), (imagenet, 20, 5, 3), (egtea, 20, 5, 3)):
        name = {cifar: "CIFAR-LT", imagenet: "ImageNet-LT", egtea: "EGTEA"}[make]
        for kind, attempt, count in (
            ("killed", killed, kills),
            ("stopped", stopped, signals),
            ("file size limit", full_disk, limits),
        ):
            yield (
                f"{name} {kind}",
                lambda make=make, attempt=attempt, count=count: [attempt(make(work), times(count), work, rng)],
            )
    yield "full disk", lambda: [full_mount(cifar(work), times(6), work, rng)]
    yield "read-only", lambda: [read_only(cifar(work), times(3), work, rng)]
    yield "torchrun", lambda: [partner_killed(times(4), work, rng), restarted(times(3), work, rng)]
    yield "long run", lambda: [long_run(args.epochs, work)]


def table(rows: list[Row]) -> str:
    width = max(len(row.kind) for row in rows)
    lines = [f"{'kind':<{width}}  tried  survived  lost"]
    lines += [f"{row.kind:<{width}}  {row.tried:5}  {row.tried - row.lost:8}  {row.lost:4}" for row in rows]
    return "\n".join([*lines, f"{sum(row.tried for row in rows)} tried, {sum(row.lost for row in rows)} lost"])


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--kind", default="", help="only kinds with this in their name: killed, stopped, disk, torchrun, ..."
    )
    parser.add_argument(
        "--count", type=positive_int, help="faults of each kind; default: 3 to 100, as the kind is cheap"
    )
    parser.add_argument("--epochs", type=positive_int, default=2000, help="of the long run; default: 2000")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the instants; default: 0")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        for name, attempt in plan(args, Path(work)):
            if args.kind in name:
                new = attempt()
                for row in new:
                    print(f"{row.kind}: {row.tried} tried, {row.lost} lost", flush=True)
                rows += new
    if not rows:
        print(f"no kind of fault has {args.kind!r} in its name", file=sys.stderr)
        return 2
    for row in rows:
        for loss in row.losses:
            print(f"LOST, {row.kind}: {loss}")
    print(table(rows), flush=True)
    return int(any(row.losses for row in rows))


if __name__ == "__main__":
    sys.exit(main())
