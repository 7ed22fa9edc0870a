"""Which runs the published tables need, and which of them a command selects."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from reproduction.jobs import MORE_OPTIONS, OPTIONS, SEEDS_OF_A_ROW, Entry, Job

FILTERS = ("dataset", "imbalance", *OPTIONS, *MORE_OPTIONS, "threads")


def fast(imbalance: int, loss_type: str, tau: str = "", recipe: str = "fast", **more: Any) -> Entry:
    """Return a row of CIFAR-100 with the fast recipe, or with another."""
    return Entry("cifar100", imbalance, loss_type, tau, recipe, **more)


smoothed = partial(fast, difficulty="smoothed")
strong = partial(fast, recipe="strong")
batch128 = partial(Entry, "cifar100", batch_size="128")  # the paper's recipe as its script trains with four GPUs
pilot = partial(strong, 100, first_seed=SEEDS_OF_A_ROW)


def digits(
    imbalance: int, loss_type: str, tau: str = "", difficulty: str = "", precision: str = "fp32", threads: str = "1"
) -> Entry:
    """Return a row of the demo's data set, with ten seeds: each run takes seconds, and one says little."""
    return Entry(
        "digits",
        imbalance,
        loss_type,
        tau,
        "digits",
        difficulty=difficulty,
        precision=precision,
        threads=threads,
        seeds=10,
    )


TABLES = {
    "cifar100": (
        Entry("cifar100", 200, "CE"),
        Entry("cifar100", 200, "CDB-CE", "1.5", published=37.40),
        batch128(200, "CDB-CE", "1.5", published=37.40),
        Entry("cifar100", 100, "CE", published=38.21),
        batch128(100, "CE", published=38.21),
        Entry("cifar100", 100, "CDB-CE", "dynamic", published=42.57),
        batch128(100, "CDB-CE", "dynamic", published=42.57),
        Entry("cifar100", 10, "CE"),
        batch128(10, "CE"),
        Entry("cifar100", 10, "CDB-CE", "dynamic", published=58.74),
        batch128(10, "CDB-CE", "dynamic", published=58.74),
    ),
    "cifar100-ladder": (
        pilot("Balanced_Softmax"),
        pilot("Balanced_Softmax", max_epochs="200"),
        pilot("Balanced_Softmax", teachers=(f"{pilot('Balanced_Softmax').name}_seed10",)),
        pilot("Balanced_Softmax", head="cosine"),
        pilot("DBM-BS"),
        pilot("CDB-DBM", "0.5", difficulty="smoothed"),
    ),
    "cifar100-strong": (
        strong(100, "CE"),
        strong(100, "Balanced_Softmax", seeds=3),
        strong(100, "CDB-BS", "0.5", difficulty="smoothed", seeds=3),
        strong(100, "Balanced_Softmax", refit=f"{strong(100, 'Balanced_Softmax').name}_seed0"),
        strong(
            100,
            "CDB-BS",
            "0.5",
            difficulty="smoothed",
            refit=f"{strong(100, 'CDB-BS', '0.5', difficulty='smoothed').name}_seed0",
        ),
    ),
    "cifar100-fast": (
        fast(200, "CE", seeds=3),
        fast(200, "CDB-CE", "1.5", seeds=3, published=37.40),
        fast(200, "CDB-CE", "dynamic", seeds=3),
        fast(100, "CE", seeds=3, published=38.21),
        fast(100, "CDB-CE", "dynamic", seeds=3, published=42.57),
        smoothed(100, "CDB-CE", "dynamic", seeds=3),
        fast(100, "Balanced_Softmax", seeds=3),
        smoothed(100, "CDB-BS", "0.5", seeds=3),
        fast(100, "Logit_Adjustment"),
        fast(100, "LDAM-DRW"),
        fast(100, "CB_Softmax"),
        fast(100, "CB_Softmax", beta="0.9"),
        fast(100, "FL", published=38.41),
        fast(100, "EQL"),
        *(fast(imbalance, loss, tau) for imbalance in (50, 20) for loss, tau in (("CE", ""), ("CDB-CE", "dynamic"))),
        fast(10, "CE", seeds=3),
        fast(10, "CDB-CE", "dynamic", seeds=2, published=58.74),
        fast(10, "CDB-CE", "dynamic-released", seeds=3),
        smoothed(10, "CDB-CE", "dynamic", seeds=3),
        fast(10, "Balanced_Softmax", seeds=3),
        smoothed(10, "CDB-BS", "0.5", seeds=3),
    ),
    "tau": (
        fast(100, "CE", seeds=3, published=38.21),
        fast(100, "CDB-CE", "0.5"),
        fast(100, "CDB-CE", "1", seeds=3, published=41.67),
        fast(100, "CDB-CE", "1.5"),
        fast(100, "CDB-CE", "2"),
        fast(100, "CDB-CE", "dynamic", seeds=3, published=42.57),
        fast(100, "CDB-CE", "dynamic-released"),
        fast(100, "CDB-CE", "dynamic", reduction="weighted_mean"),
    ),
    "protocol": (
        fast(100, "CE", seeds=3),
        fast(100, "CE", protocol="common"),
        fast(100, "CDB-CE", "dynamic", seeds=3),
        fast(100, "CDB-CE", "dynamic", protocol="common"),
        fast(100, "CDB-CE", "dynamic", protocol="paper-on-test"),
        fast(100, "CE", protocol="all"),
        fast(100, "Balanced_Softmax", seeds=3),
        fast(100, "Balanced_Softmax", protocol="all"),
        fast(100, "CE", precision="fp32"),
        fast(100, "CDB-CE", "dynamic", precision="fp32"),
        fast(10, "CE", protocol="common"),
        fast(10, "CDB-CE", "dynamic", protocol="common"),
        fast(10, "CDB-CE", "dynamic-released", protocol="common"),
    ),
    "digits": (
        digits(50, "CE"),
        digits(50, "CDB-CE", "dynamic"),
        digits(50, "CDB-CE", "dynamic", "smoothed"),
        digits(20, "CE"),
        digits(20, "CDB-CE", "dynamic", "smoothed"),
    ),
}
DECIDED_BY_VALIDATION = ("cifar100-ladder", "cifar100-strong")
# Is the loss safe: data, cross-entropy, the published formula, smoothed difficulty.
SAFETY = (
    (
        "digits, imbalance 50",
        digits(50, "CE"),
        digits(50, "CDB-CE", "dynamic"),
        digits(50, "CDB-CE", "dynamic", "smoothed"),
    ),
    ("digits, imbalance 20", digits(20, "CE"), None, digits(20, "CDB-CE", "dynamic", "smoothed")),
    *(
        (
            f"CIFAR100-LT, imbalance {imbalance}",
            fast(imbalance, "CE"),
            fast(imbalance, "CDB-CE", "dynamic"),
            smoothed(imbalance, "CDB-CE", "dynamic"),
        )
        for imbalance in (100, 10)
    ),
)

# What is compared directly, seed by seed: a row, and what it is compared with.
PAIRS = (
    (fast(100, "CDB-CE", "dynamic"), fast(100, "CE")),
    (fast(100, "Balanced_Softmax"), fast(100, "CDB-CE", "dynamic")),
    (smoothed(100, "CDB-CE", "dynamic"), fast(100, "CDB-CE", "dynamic")),
    (smoothed(100, "CDB-CE", "dynamic"), fast(100, "CDB-CE", "1")),
    (smoothed(100, "CDB-BS", "0.5"), fast(100, "Balanced_Softmax")),
    (strong(100, "CDB-BS", "0.5", difficulty="smoothed"), strong(100, "Balanced_Softmax")),
    (smoothed(10, "CDB-BS", "0.5"), fast(10, "Balanced_Softmax")),
)
MNIST5K_PAIR = {"CDB-BS_smoothed": "CDB-BS, smoothed, tau dynamic", "Balanced_Softmax": "Balanced_Softmax"}
STEADINESS = (
    digits(50, "CDB-CE", "dynamic"),
    digits(50, "CDB-CE", "dynamic", "smoothed"),
)  # whose weights are drawn, seed 0
# The claim of `make demo`: these two, in each precision and with one thread and two.
DEMO = tuple(
    (
        digits(50, "CE", precision=precision, threads=threads),
        digits(50, "CDB-CE", "dynamic", "smoothed", precision=precision, threads=threads),
    )
    for precision in ("fp32", "bf16")
    for threads in ("1", "2")
)


@dataclass(frozen=True)
class ShortRow:
    """A line of the README's table: the losses that one recipe trained at one imbalance, side by side."""

    ce: Entry
    cdb: Entry  # at the tau of the paper's number
    smoothed: Entry | None = None
    balanced: Entry | None = None
    combined: Entry | None = None  # CDB-BS


SHORT = (
    ShortRow(Entry("cifar100", 200, "CE"), Entry("cifar100", 200, "CDB-CE", "1.5", published=37.40)),
    ShortRow(fast(200, "CE"), fast(200, "CDB-CE", "1.5", published=37.40)),
    ShortRow(
        Entry("cifar100", 100, "CE", published=38.21), Entry("cifar100", 100, "CDB-CE", "dynamic", published=42.57)
    ),
    ShortRow(batch128(100, "CE", published=38.21), batch128(100, "CDB-CE", "dynamic", published=42.57)),
    ShortRow(
        fast(100, "CE", published=38.21),
        fast(100, "CDB-CE", "dynamic", published=42.57),
        smoothed(100, "CDB-CE", "dynamic"),
        fast(100, "Balanced_Softmax"),
        smoothed(100, "CDB-BS", "0.5"),
    ),
    ShortRow(
        strong(100, "CE"),
        strong(100, "CDB-CE", "dynamic"),
        balanced=strong(100, "Balanced_Softmax"),
        combined=strong(100, "CDB-BS", "0.5", difficulty="smoothed"),
    ),
    ShortRow(Entry("cifar100", 10, "CE"), Entry("cifar100", 10, "CDB-CE", "dynamic", published=58.74)),
    ShortRow(batch128(10, "CE"), batch128(10, "CDB-CE", "dynamic", published=58.74)),
    ShortRow(
        fast(10, "CE"),
        fast(10, "CDB-CE", "dynamic", published=58.74),
        smoothed(10, "CDB-CE", "dynamic"),
        fast(10, "Balanced_Softmax"),
        smoothed(10, "CDB-BS", "0.5"),
    ),
)
OVERVIEW = (fast(200, "CE"), fast(200, "CDB-CE", "1.5", published=37.40))  # the README's picture


def baseline(entry: Entry) -> Entry:
    """Return what an entry is compared with: cross-entropy trained in the same way.

    A pilot is compared with the first step of the ladder.
    """
    if entry.first_seed:
        return pilot("Balanced_Softmax")
    return replace(entry, loss_type="CE", tau="", difficulty="", reduction="", beta="", head="", teachers=())


def all_entries() -> list[Entry]:
    """Return every row once; some stand in several tables."""
    return list(dict.fromkeys(entry for entries in (*TABLES.values(), *DEMO) for entry in entries))


def jobs_of(entry: Entry, runs: Path, seeds: int | None = None) -> list[Job]:
    """Return the trainings of an entry, with its own number of seeds or with `seeds`."""
    return [Job(entry, entry.first_seed + number, runs) for number in range(seeds or entry.seeds)]


def select(only: str, seeds: int | None, runs: Path) -> list[Job]:
    """Return the jobs of the tables that match `only`.

    It is the name of a run, with or without its seed, or KEY=VALUE of an entry's settings.

    Raise ValueError if none does.
    """
    jobs = [job for entry in all_entries() for job in jobs_of(entry, runs, seeds)]
    for condition in filter(None, only.split(",")):
        key, found, value = condition.partition("=")
        if found and key not in FILTERS:
            raise ValueError(
                f"--only {only!r}: give a run's name, or KEY=VALUE with commas between several; KEY is one of "
                f"{', '.join(FILTERS)}"
            )
        if found:
            jobs = [job for job in jobs if str(getattr(job.entry, key)) == value]
        else:
            jobs = [job for job in jobs if condition in (job.name, job.entry.name)]
    if not jobs:
        raise ValueError(f"--only {only!r} matches no run; --list shows them")
    return jobs
