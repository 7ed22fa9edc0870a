"""The runs behind the published tables: what each is called, where it lives, whether it is finished, and how it is run.

reproduce.py has the list of them.
"""

import gzip
import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longtail.files import write_atomically
from longtail.run import read_log

HERE = Path(__file__).resolve().parents[1]     # CIFAR-LT/
RESULTS = HERE / "results"
OPTIONS = ("loss_type", "difficulty", "tau", "recipe", "precision", "protocol", "reduction", "beta")      # flags that an entry may set


@dataclass(frozen=True)
class Entry:
    """One line of a table: its settings, and the accuracy in % that the paper gives (None: it gives none)."""

    dataset: str
    imbalance: int
    loss_type: str
    tau: str = ""
    recipe: str = "paper"
    precision: str = ""
    protocol: str = ""
    reduction: str = ""
    beta: str = ""
    difficulty: str = ""
    published: float | None = field(default=None, compare=False)
    seeds: int = field(default=1, compare=False)

    @property
    def settings(self) -> dict[str, str]:
        """The flags that say something: the paper's recipe, or that of the digits, is what happens without."""
        return {key: value for key in OPTIONS if (value := getattr(self, key)) and value not in ("paper", "digits")}

    @property
    def name(self) -> str:
        return "_".join([self.dataset, f"imbalance{self.imbalance}", *self.settings.values()])

    @property
    def label(self) -> str:
        """The loss, and what else sets this line apart within its table."""
        extra = [f"{key} {value.replace('_', ' ')}" for key, value in self.settings.items() if key not in ("loss_type", "recipe")]
        return ", ".join([self.loss_type, *extra])

    @property
    def flags(self) -> list[str]:
        pairs = {"dataset": self.dataset, "imbalance": str(self.imbalance), **self.settings}
        return [word for key, value in pairs.items() for word in (f"--{key}", value)]


@dataclass(frozen=True)
class Job:
    """One training of an entry, with one seed, and where it lives."""

    entry: Entry
    seed: int
    runs: Path

    @property
    def name(self) -> str:
        return f"{self.entry.name}_seed{self.seed}"

    @property
    def log(self) -> str:
        return f"{self.entry.dataset}_imbalance{self.entry.imbalance}"

    @property
    def result(self) -> Path:
        return RESULTS / self.name

    @property
    def kept_log(self) -> Path:
        """Compressed: the tables' logs together would have 3 MB."""
        return self.result / f"{self.log}.csv.gz"

    @property
    def state(self) -> str:
        if (self.result / "test.json").exists():
            return "finished"
        log = self.runs / self.name / f"{self.log}.csv"
        try:
            return f"epoch {len(read_log(log, whole_lines=True)[1])}" if log.exists() else "open"
        except ValueError:      # damaged, or without a row yet: the training says which
            return "epoch ?"


def finished(entry: Entry) -> list[Job]:
    """An entry's finished seeds."""
    return [job for seed in range(100) if (job := Job(entry, seed, RESULTS)).state == "finished"]


def test_figures(job: Job) -> dict[str, Any]:
    """What cifar_test.py --json wrote of a finished job."""
    return json.loads((job.result / "test.json").read_text())


def call(command: list[str]) -> int:
    """Run a command in a session of its own; its exit code. A stop signal is passed on, once, and ends us after it: KeyboardInterrupt."""
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        if len(received) == 1:
            child.send_signal(number)

    child = subprocess.Popen(command, start_new_session=True)
    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
              if signal.getsignal(number) != signal.SIG_IGN}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt(received[0])
    return code


def execute(job: Job, data_root: Path) -> None:
    """Train (or resume) and test in the job's folder. ValueError if a command fails."""
    folder = job.runs / job.name
    test = [f"--saved_model_path={folder / f'best_{job.log}.pth'}", f"--json={folder / 'test.json'}"]
    for command in ([HERE / "cifar_train.py", *job.entry.flags, "--seed", job.seed, "--save_model", folder, "--resume"],
                    [HERE / "cifar_test.py", *test]):
        code = call([sys.executable, *map(str, command), "--data_root", str(data_root)])
        if code:
            raise ValueError(f"{Path(command[0]).name} ended with exit code {code} in {folder}; the same command continues there")


def keep(job: Job) -> None:
    """Copy what the tables need of a run to its place in results/, the test's figures last: with them it counts as finished."""
    folder = job.runs / job.name
    job.result.mkdir(parents=True, exist_ok=True)
    write_atomically(job.kept_log, gzip.compress((folder / f"{job.log}.csv").read_bytes(), mtime=0))
    for name in (f"{job.log}.json", "test.json"):
        write_atomically(job.result / name, (folder / name).read_bytes())


def compare(job: Job) -> None:
    """Say how a finished job that ran again came out."""
    new = json.loads((job.runs / job.name / "test.json").read_text())
    print(f"{job.name}: test accuracy {new['accuracy']:.4f}, in results/ {test_figures(job)['accuracy']:.4f}", flush=True)
