"""Compare two settings over several seeds: mean, spread, and the difference with its 95 % interval.

    python ../longtail/compare.py runs/A_seed* --against runs/B_seed* [--out DIR]

RUN is the CSV file of a finished run, or the folder that holds it, as for plot.py. Accuracy is that of the test set
where each run's folder holds the test.json that the test script of CIFAR-LT or EGTEA (--json RUN/test.json) or of
ImageNet-LT writes; else that of validation in the kept epoch.
Runs with the same seeds are compared in pairs. Prints a table and draws OUT/compare.png, where each seed is a dot.
"""

import json
import re
import sys
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `longtail` is found

from longtail.cli import ArgumentParser, exit_code, file_path
from longtail.metrics import SHOTS, class_figures, shot_accuracy
from longtail.pictures import COLORS, new_figure, save_figure
from longtail.plot import Log, beside, find_log, load_log
from longtail.tables import markdown

CONFIDENCE = 0.95
TITLE_WIDTH = 72  # characters that fit above the picture
EPOCH_FLAGS = ("max_epochs", "num_epochs")  # what the experiments call the length of a run


@dataclass(frozen=True)
class Setting:
    """Several runs that differ by their seed.

    accuracy: in % of each run and group of SHOTS, (runs, groups); nan for an empty group.
    """

    label: str
    seeds: tuple[int, ...]
    accuracy: np.ndarray


@dataclass(frozen=True)
class Difference:
    """Mean differences of two settings and their intervals' half widths, both in points and of shape (groups,).

    paired: whether runs of equal seeds were compared.
    """

    mean: np.ndarray
    half_width: np.ndarray
    paired: bool


def read_object(path: Path) -> dict:
    """Return the JSON object in a file. ValueError if it holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def is_tested(path: Path) -> bool:
    """Return whether a test script has written the counts of every class there."""
    return path.is_file() and not read_object(path).keys().isdisjoint(("classes", "verbs"))


def by_class(figures: dict) -> list[float]:
    """Return the accuracies by group of what a test script wrote.

    Raise KeyError, TypeError or ValueError if it lacks the classes' counts.
    """
    train, correct, images = (
        torch.tensor([one[key] for one in class_figures(figures)], dtype=torch.double)
        for key in ("training_images", "correct", "images")
    )
    return [100 * share for share in shot_accuracy(correct, images, train.tolist()).values()]


def tested(path: Path, name: str) -> list[float]:
    """Return the accuracies by group in a test script's JSON.

    Raise ValueError if it lacks the classes' counts, or is not of run `name`.
    """
    figures = read_object(path)
    if figures.get("checkpoint", f"best_{name}.pth") != f"best_{name}.pth":
        raise ValueError(
            f"{path} is a test of {figures['checkpoint']}, not of best_{name}.pth: test that one, with --json {path}"
        )
    try:
        return by_class(figures)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold training_images, correct and images of every class: {error!r}"
        ) from error


def validated(log: Log) -> list[float]:
    """Return the accuracies by group of the kept epoch.

    A log holds no numbers of validation images: in a group, classes count alike.
    """
    share = torch.from_numpy(log.accuracy[log.best])
    groups = shot_accuracy(share.nan_to_num(), share.isfinite(), log.class_counts.tolist())
    return [100 * log.measures["accuracy"][log.best], *(100 * groups[name] for name in SHOTS[1:])]


def read_setting(runs: list[Path], on_test: bool) -> Setting:
    """Read the runs of one setting.

    Raise ValueError for a run that is not finished, of another loss, or whose seed came before.
    """
    seeds, labels, accuracy = [], [], []
    for run in runs:
        path, log = find_log(run), load_log(run)
        arguments = read_object(beside(path)).get("arguments", {})
        epochs = next((arguments[key] for key in EPOCH_FLAGS if key in arguments), None)
        if epochs != log.measures["epoch"][-1]:
            raise ValueError(
                f"{path} has {log.measures['epoch'][-1]:.0f} of {epochs} epochs: only finished runs are compared"
            )
        if arguments.get("seed") in seeds:
            raise ValueError(f"{path} has seed {arguments['seed']}, as a run before it: each seed counts once")
        seeds.append(arguments.get("seed"))
        labels.append(log.label)
        if log.label != labels[0]:
            raise ValueError(f"{path} is of {log.label}, the first run of {labels[0]}: give the runs of one setting")
        accuracy.append(tested(path.parent / "test.json", log.name) if on_test else validated(log))
    if len(runs) < 2:
        raise ValueError(f"{runs[0]} is one run: a spread needs at least two seeds")
    return Setting(labels[0], tuple(seeds), np.array(accuracy))


def apart_by_name(run: Path, other: Path) -> tuple[str, str]:
    """Return for each of two runs of one loss the words of its path that the other lacks, seeds aside.

    Both paths if none differs.
    """
    a, b = (
        [word for word in re.split(r"[/\\_]", str(path)) if not re.fullmatch(r"seed\d+", word)] for path in (run, other)
    )
    names = " ".join(word for word in a if word not in b), " ".join(word for word in b if word not in a)
    return names if any(names) else (str(run), str(other))


def difference(a: Setting, b: Setting) -> Difference:
    """Return a - b with its 95 % interval: Student's over pairs where both have the same seeds, else Welch's."""
    from scipy.stats import t

    if set(a.seeds) == set(b.seeds):
        pairs = a.accuracy - b.accuracy[[b.seeds.index(seed) for seed in a.seeds]]
        error, freedom = pairs.std(axis=0, ddof=1) / len(pairs) ** 0.5, len(pairs) - 1
        return Difference(pairs.mean(axis=0), t.ppf((1 + CONFIDENCE) / 2, freedom) * error, True)
    parts = np.stack([setting.accuracy.var(axis=0, ddof=1) / len(setting.seeds) for setting in (a, b)])
    total = parts.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = total**2 / sum(
            part**2 / (len(setting.seeds) - 1) for part, setting in zip(parts, (a, b), strict=True)
        )
        half = np.where(total > 0, t.ppf((1 + CONFIDENCE) / 2, freedom) * total**0.5, total)
    return Difference(a.accuracy.mean(axis=0) - b.accuracy.mean(axis=0), half, False)


def rows(a: Setting, b: Setting, apart: Difference) -> list[dict[str, str]]:
    """Return the table's rows: group, both settings, the difference and its interval.

    A group without classes has no row.
    """

    def spread(values: np.ndarray) -> str:
        return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"

    return [
        {
            "classes": name,
            a.label: spread(a.accuracy[:, g]),
            b.label: spread(b.accuracy[:, g]),
            "difference": f"{apart.mean[g]:+.2f}",
            "95 % interval": f"{apart.mean[g] - apart.half_width[g]:+.2f} to {apart.mean[g] + apart.half_width[g]:+.2f}",
        }
        for g, name in enumerate(SHOTS)
        if np.isfinite(apart.mean[g])
    ]


def draw(a: Setting, b: Setting, title: str, path: Path) -> None:
    """Draw both settings for each group: a dot for each seed, a bar at the mean."""
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    shown = [g for g in range(len(SHOTS)) if np.isfinite(a.accuracy[:, g]).all()]
    for setting, color, side in ((b, COLORS[0], -0.17), (a, COLORS[2], 0.17)):
        means = setting.accuracy[:, shown].mean(axis=0)
        places = np.arange(len(shown)) + side
        axes.bar(places, means, 0.3, color=color, alpha=0.35, label=f"{setting.label}, {len(setting.seeds)} seeds")
        jitter = np.linspace(-0.08, 0.08, len(setting.seeds))[:, None]
        axes.plot(places + jitter, setting.accuracy[:, shown], "o", color=color, markersize=4)
        for place, mean in zip(places, means, strict=True):
            axes.annotate(f"{mean:.1f}", (place, 0), (0, 3), textcoords="offset points", ha="center", fontsize="small")
    axes.set_xticks(range(len(shown)), [SHOTS[g] if g == 0 else f"{SHOTS[g]} shot" for g in shown])
    axes.set(ylabel="accuracy (%)", title=fill(title, TITLE_WIDTH), ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    save_figure(figure, path)


def compare(args: Namespace) -> None:
    """Print the table and draw the picture."""
    runs, against = args.runs, args.against
    on_test = all(is_tested(find_log(run).parent / "test.json") for run in (*runs, *against))
    a, b = read_setting(runs, on_test), read_setting(against, on_test)
    if a.label == b.label:
        names = apart_by_name(runs[0], against[0])
        a, b = (
            replace(setting, label=f"{setting.label} ({name})" if name else setting.label)
            for setting, name in zip((a, b), names, strict=True)
        )
    apart = difference(a, b)
    where = "test" if on_test else "validation, in the kept epoch, since not every run has a test.json with its classes"
    kind = f"pairs of seeds {', '.join(map(str, sorted(a.seeds)))}" if apart.paired else "other seeds, not paired"
    print(
        f"accuracy in % on {where}: {a.label} ({len(a.seeds)} seeds) against {b.label} ({len(b.seeds)} seeds); {kind}\n"
    )
    print(markdown(rows(a, b, apart), left=("classes",)))
    args.out.mkdir(parents=True, exist_ok=True)
    title = f"{a.label} - {b.label}: {apart.mean[0]:+.2f} ± {apart.half_width[0]:.2f} points (95 %)"
    draw(a, b, title, args.out / "compare.png")
    print(args.out / "compare.png")


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "runs", nargs="+", type=file_path, metavar="RUN", help="finished runs of the one setting, one for each seed"
    )
    parser.add_argument(
        "--against", nargs="+", type=file_path, metavar="RUN", required=True, help="finished runs of the other setting"
    )
    parser.add_argument(
        "--out", type=file_path, default=Path(), help="folder of the picture; default: the working directory"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: compare(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
