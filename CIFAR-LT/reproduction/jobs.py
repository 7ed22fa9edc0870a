"""The runs behind the published tables: their names and folders, whether they are finished, how they are run.

plan.py lists them.
"""

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

import cifar_test
import cifar_train
from longtail.files import write_atomically
from longtail.logs import read_log
from longtail.records import TestJson

HERE = Path(__file__).resolve().parents[1]  # CIFAR-LT/
RESULTS = HERE / "results"
ADJUSTED = "logit_adjustment.json"  # test figures after post-hoc logit adjustment, of runs with cross-entropy
WEIGHTS = HERE.parent / "pretrained_weights"
# Flags that an entry may set, in the order of a run's name. Their values stand there as they are; a number has a word.
OPTIONS = ("loss_type", "difficulty", "tau", "recipe", "precision", "protocol", "reduction", "beta")
MORE_OPTIONS = ("max_epochs", "batch_size", "head")
WORDS = {"max_epochs": "epochs", "batch_size": "batch"}
SEEDS_OF_A_ROW = 10  # a pilot's seeds start there, so that they are no part of the row that they decided


@dataclass(frozen=True)
class Entry:
    """One row of a table: its settings, and the accuracy in % that the paper gives (None: it gives none).

    threads: of PyTorch, where the number is part of the setting; another number rounds differently.
    teachers: the names of the runs that it learns from. refit: the name of the run that it trains again.
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
    max_epochs: str = ""
    batch_size: str = ""
    head: str = ""
    teachers: tuple[str, ...] = ()
    refit: str = ""
    threads: str = ""
    first_seed: int = 0
    published: float | None = field(default=None, compare=False)
    seeds: int = field(default=1, compare=False)

    @property
    def is_adjustable(self) -> bool:
        """Whether logit adjustment after training is tested too.

        It is on cross-entropy, with validation images to choose its strength.
        """
        has_validation = self.protocol in ("", "paper") and not self.refit
        return self.loss_type == "CE" and self.dataset != "digits" and has_validation

    @property
    def settings(self) -> dict[str, str]:
        """The flags that differ from what a run does without them: the paper's recipe, or that of the digits."""
        values = {key: getattr(self, key) for key in (*OPTIONS, *MORE_OPTIONS)}
        return {key: value for key, value in values.items() if value and value not in ("paper", "digits")}

    @property
    def name(self) -> str:
        parts = [self.dataset, f"imbalance{self.imbalance}"]
        parts += [WORDS.get(key, "") + value for key, value in self.settings.items()]
        if self.teachers:
            parts.append(f"teachers{len(self.teachers)}")
        if self.refit:
            parts.append("refit")
        if self.threads:
            parts.append(f"{self.threads}threads")
        return "_".join(parts)

    @property
    def label(self) -> str:
        """The loss, and what else distinguishes this row within its table."""
        parts = [self.loss_type]
        for key, value in self.settings.items():
            if key == "difficulty":
                parts.append(value)
            elif key not in ("loss_type", "recipe"):
                parts.append(f"{WORDS.get(key, key)} {value.replace('_', ' ')}")
        if self.teachers:
            parts.append(f"teachers {len(self.teachers)}")
        if self.refit:
            parts.append("refit")
        return ", ".join(parts)

    @property
    def flags(self) -> list[str]:
        pairs = {"dataset": self.dataset, "imbalance": str(self.imbalance), **self.settings}
        return [word for key, value in pairs.items() for word in (f"--{key}", value)]

    @property
    def seed_range(self) -> range:
        """The seeds that count as this row's."""
        return range(self.first_seed, self.first_seed + SEEDS_OF_A_ROW)


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
    def teachers(self) -> list[Path]:
        """The teachers' folders below `runs`, or their published weights where there is no such folder."""
        folders = [self.runs / name for name in self.entry.teachers]
        return [folder if folder.exists() else WEIGHTS / f"{folder.name}.pth" for folder in folders]

    @property
    def refitted(self) -> Path:
        """The run that is trained again: its folder below `runs`, or its log in results/ if there is none."""
        folder = self.runs / self.entry.refit
        return folder if folder.exists() else RESULTS / self.entry.refit

    @property
    def result(self) -> Path:
        return RESULTS / self.name

    @property
    def kept_log(self) -> Path:
        """The log in results/, compressed: uncompressed, the logs of all tables together take almost 4 MB."""
        return self.result / f"{self.log.name}.gz"

    @property
    def figures(self) -> TestJson:
        """What cifar_test.py --json wrote of the finished job."""
        return json.loads((self.result / "test.json").read_text())

    @property
    def adjusted_figures(self) -> TestJson | None:
        """The same with --logit_adjustment; None for a run that was not tested so."""
        path = self.result / ADJUSTED
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def state(self) -> str:
        if (self.result / "test.json").exists():
            return "finished"
        if not self.log.exists():
            return "open"
        try:
            return f"epoch {len(read_log(self.log, whole_lines=True))}"
        except ValueError:  # damaged, or without a row yet: the training says which
            return "epoch ?"

    def execute(self, data_root: Path, download: bool) -> int:
        """Train (or resume) and test in the job's folder.

        Return 0, or the exit code of the one that failed or was stopped.
        """
        data = ["--data_root", str(data_root)]
        if download:
            data.append("--download")
        train = [*self.entry.flags, "--seed", str(self.seed), "--save_model", str(self.folder), "--resume", *data]
        if self.entry.teachers:
            train += ["--teacher", *map(str, self.teachers)]
        if self.entry.refit:
            train += ["--refit", str(self.refitted)]
        settings = self.folder / f"{self.log.stem}.json"
        precision = json.loads(settings.read_text()).get("precision") if settings.exists() else None
        if precision:
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
        names = [f"{self.log.stem}.json", "test.json"]
        if self.entry.is_adjustable:
            names.insert(0, ADJUSTED)
        for name in names:
            write_atomically(self.result / name, (self.folder / name).read_bytes())


def finished(entry: Entry) -> list[Job]:
    """Return an entry's finished seeds."""
    rows = [Job(entry, seed, RESULTS) for seed in entry.seed_range]
    return [job for job in rows if job.state == "finished"]
