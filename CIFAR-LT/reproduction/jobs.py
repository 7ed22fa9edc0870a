"""The runs behind the published tables: their names and folders, whether they are finished, how they are run.

plan.py lists them.
"""

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import cifar_test
import cifar_train
from longtail.files import write_atomically
from longtail.run import read_log

HERE = Path(__file__).resolve().parents[1]  # CIFAR-LT/
RESULTS = HERE / "results"
ADJUSTED = "logit_adjustment.json"  # test figures after post-hoc logit adjustment, of runs with cross-entropy
OPTIONS = (
    "loss_type",
    "difficulty",
    "tau",
    "recipe",
    "precision",
    "protocol",
    "reduction",
    "beta",
)  # flags that an entry may set


@dataclass(frozen=True)
class Entry:
    """One row of a table: its settings, and the accuracy in % that the paper gives (None: it gives none).

    threads: of PyTorch, where the number is part of the setting; another number rounds differently.
    """

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
    threads: str = ""
    published: float | None = field(default=None, compare=False)
    seeds: int = field(default=1, compare=False)

    @property
    def is_adjustable(self) -> bool:
        """Whether logit adjustment after training is tested too.

        It is on cross-entropy, with validation images to choose its strength.
        """
        return self.loss_type == "CE" and self.dataset != "digits" and self.protocol in ("", "paper")

    @property
    def settings(self) -> dict[str, str]:
        """The flags that differ from what a run does without them: the paper's recipe, or that of the digits."""
        return {key: value for key in OPTIONS if (value := getattr(self, key)) and value not in ("paper", "digits")}

    @property
    def name(self) -> str:
        threads = [f"{self.threads}threads"] if self.threads else []
        return "_".join([self.dataset, f"imbalance{self.imbalance}", *self.settings.values(), *threads])

    @property
    def label(self) -> str:
        """The loss, and what else distinguishes this row within its table."""
        extra = [
            f"{key} {value.replace('_', ' ')}"
            for key, value in self.settings.items()
            if key not in ("loss_type", "recipe")
        ]
        return ", ".join([self.loss_type, *extra])

    @property
    def flags(self) -> list[str]:
        pairs = {"dataset": self.dataset, "imbalance": str(self.imbalance), **self.settings}
        return [word for key, value in pairs.items() for word in (f"--{key}", value)]


@dataclass(frozen=True)
class Job:
    """One training of an entry, with one seed; its folder is below `runs`."""

    entry: Entry
    seed: int
    runs: Path

    @property
    def name(self) -> str:
        return f"{self.entry.name}_seed{self.seed}"

    @property
    def folder(self) -> Path:
        return self.runs / self.name

    @property
    def log(self) -> Path:
        return self.folder / f"{self.entry.dataset}_imbalance{self.entry.imbalance}.csv"

    @property
    def best(self) -> Path:
        return self.folder / f"best_{self.log.stem}.pth"

    @property
    def result(self) -> Path:
        return RESULTS / self.name

    @property
    def kept_log(self) -> Path:
        """The log in results/, compressed: uncompressed, the logs of all tables together take almost 4 MB."""
        return self.result / f"{self.log.name}.gz"

    @property
    def figures(self) -> dict[str, Any]:
        """What cifar_test.py --json wrote of the finished job."""
        return json.loads((self.result / "test.json").read_text())

    @property
    def adjusted_figures(self) -> dict[str, Any] | None:
        """The same with --logit_adjustment; None for a run that was not tested so."""
        path = self.result / ADJUSTED
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def state(self) -> str:
        if (self.result / "test.json").exists():
            return "finished"
        try:
            return f"epoch {len(read_log(self.log, whole_lines=True)[1])}" if self.log.exists() else "open"
        except ValueError:  # damaged, or without a row yet: the training says which
            return "epoch ?"

    def execute(self, data_root: Path, download: bool) -> int:
        """Train (or resume) and test in the job's folder.

        Return 0, or the exit code of the one that failed or was stopped.
        """
        data = ["--data_root", str(data_root), *(["--download"] if download else [])]
        train = [*self.entry.flags, "--seed", str(self.seed), "--save_model", str(self.folder), "--resume", *data]
        settings = self.folder / f"{self.log.stem}.json"
        if settings.exists() and (precision := json.loads(settings.read_text()).get("precision")):
            train += ["--precision", precision]  # what `auto` meant where the run began
        test = [f"--saved_model_path={self.best}", *data]
        before = torch.get_num_threads()
        torch.set_num_threads(int(self.entry.threads or before))
        try:
            code = cifar_train.main(train) or cifar_test.main([*test, f"--json={self.folder / 'test.json'}"])
            if code or not self.entry.is_adjustable:
                return code
            return cifar_test.main([*test, "--logit_adjustment", f"--json={self.folder / ADJUSTED}"])
        finally:
            torch.set_num_threads(before)

    def keep(self) -> None:
        """Copy what the tables need to results/, the test's figures last: with them the job counts as finished."""
        self.result.mkdir(parents=True, exist_ok=True)
        write_atomically(self.kept_log, gzip.compress(self.log.read_bytes(), mtime=0))
        for name in (f"{self.log.stem}.json", *([ADJUSTED] if self.entry.is_adjustable else []), "test.json"):
            write_atomically(self.result / name, (self.folder / name).read_bytes())


def finished(entry: Entry) -> list[Job]:
    """Return an entry's finished seeds."""
    return [job for seed in range(100) if (job := Job(entry, seed, RESULTS)).state == "finished"]
