"""Compare settings over several seeds: mean, spread, and each difference with its 95 % interval.

    python ../longtail/compare.py runs/A_seed* runs/B_seed* --against runs/CE_seed* [--out DIR]

RUN is the CSV file of a finished run, or the folder that holds it, as for plot.py. Runs whose arguments are equal,
apart from seeds and paths, are one setting. Each setting is compared with the first one after --against: in pairs
where both have the same seeds (Student's interval), else by Welch's interval. A single run has no interval; the
networks of two single runs are compared image by image, by McNemar's test.
Accuracy is that of the test set where each run's folder holds the test.json that the experiment's test script writes,
else that of validation in the kept epoch.
Writes the table to OUT/compare.md and draws OUT/compare.png, where each seed is a dot.
"""

import json
import re
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `longtail` is found

from longtail.cli import ArgumentParser, exit_code, file_path
from longtail.files import write_atomically
from longtail.hits import mcnemar, unpack_hits
from longtail.logs import Log, find_log, load_log
from longtail.losses import LOSSES, loss_settings
from longtail.metrics import SHOTS, class_figures, shot_accuracy
from longtail.pictures import COLORS, new_figure, save_figure
from longtail.records import Arguments, TestJson
from longtail.run import MAY_CHANGE_ON_RESUME
from longtail.tables import markdown

CONFIDENCE = 0.95
# Runs of a setting from which a difference has an interval: that of two is twelve times as wide as their spread.
FEWEST = 3
GROUPS = (*SHOTS, "balanced")  # of classes; balanced: the mean of the class accuracies
TOO_FEW = "too few seeds for an interval"
TITLE_WIDTH = 72  # characters that fit above the picture
EPOCH_FLAGS = ("max_epochs", "num_epochs")  # what the experiments call the length of a run
NO_SETTING = {"seed", "data", "teacher_sha256", *MAY_CHANGE_ON_RESUME} - {"precision", "teacher"}
PATH_BEGINS = ("/", ".", "~")
SEED = re.compile(r"_?seed_?\d+")


@dataclass(frozen=True)
class ComparedSetting:
    """Several runs that differ by their seed.

    accuracy: in % of each run and group of GROUPS, (runs, groups); nan for an empty group.
    single: the figures of its test, if it is one run.
    """

    label: str
    seeds: tuple[int, ...]
    accuracy: np.ndarray
    single: TestJson | None = None


@dataclass(frozen=True)
class Difference:
    """Mean differences of two settings and the ends of their intervals, each in points and of shape (groups,).

    paired: whether runs of equal seeds were compared. With fewer than FEWEST runs of a setting low and high are None.
    """

    mean: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    paired: bool

    def cells(self, group: int) -> dict[str, str]:
        """Return the table's cells for a group of classes."""
        interval = "-"
        if self.low is not None and self.high is not None:
            interval = f"{self.low[group]:+.2f} to {self.high[group]:+.2f}"
        return {"difference": f"{self.mean[group]:+.2f}", "95 % interval": interval}


@dataclass(frozen=True)
class Group:
    """Runs of one setting under a label, and the file in each run's folder that holds the figures of its test."""

    label: str
    runs: Sequence[Path]
    result: str = "test.json"


def read_object(path: Path) -> dict[str, Any]:
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


def by_group(figures: TestJson) -> list[float]:
    """Return the accuracies in % by group of GROUPS of what a test script wrote.

    Raise KeyError, TypeError or ValueError if it lacks the classes' counts.
    """
    classes = class_figures(figures)
    correct = torch.tensor([entry["correct"] for entry in classes], dtype=torch.double)
    total = torch.tensor([entry["images"] for entry in classes], dtype=torch.double)
    shots = shot_accuracy(correct, total, [entry["training_images"] for entry in classes])
    return [100 * share for share in (*shots.values(), (correct / total).nanmean().item())]


def tested(path: Path, name: str) -> TestJson:
    """Return a test script's figures. Raise ValueError if they are not of run `name`."""
    figures = read_object(path)
    if figures.get("checkpoint", f"best_{name}.pth") != f"best_{name}.pth":
        raise ValueError(
            f"{path} is a test of {figures['checkpoint']}, not of best_{name}.pth: test that one, with --json {path}"
        )
    return figures


def validated(log: Log) -> list[float]:
    """Return the accuracies by group of the kept epoch.

    A log holds no numbers of validation images: in a group, classes count alike.
    """
    if np.isnan(log.best_accuracy):
        raise ValueError(f"{log.folder}/{log.name} holds no validated epoch: test the run, with --json RUN/test.json")
    share = torch.from_numpy(log.class_accuracy[log.best])
    groups = shot_accuracy(share.nan_to_num(), share.isfinite(), log.class_counts.tolist())
    shares = [log.measures["accuracy"][log.best], *(groups[name] for name in SHOTS[1:]), share.nanmean().item()]
    return [100 * value for value in shares]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its folder, its log, its seed, and the arguments that it shares with the runs of its setting."""

    folder: Path
    log: Log
    seed: Any
    arguments: Arguments


def read_run(run: Path) -> FinishedRun:
    """Read a run. Raise ValueError if it is not finished."""
    path, log = find_log(run), load_log(run)
    arguments = log.arguments
    epochs = next((arguments[key] for key in EPOCH_FLAGS if key in arguments), None)
    if epochs != log.measures["epoch"][-1]:
        raise ValueError(
            f"{path} has {log.measures['epoch'][-1]:.0f} of {epochs} epochs: only finished runs are compared"
        )
    return FinishedRun(path.parent, log, arguments.get("seed"), setting_arguments(arguments))


def setting_arguments(arguments: Arguments) -> Arguments:
    """Return the arguments that make a setting, without seeds and paths, and without what the loss's label says.

    What is None, False or empty is left out: it says as little as a key that a run of an older version lacks.
    """
    loss = arguments.get("loss_type")
    read = {setting.name for entry in LOSSES if entry.name == loss for setting in entry.settings}
    defaults = {setting.name: setting.default for setting in loss_settings()}
    kept: Arguments = {}
    for key, value in arguments.items():
        if key in NO_SETTING or key in read or key == "loss_type":
            continue
        if value is None or value is False or value in ("", defaults.get(key)):
            continue
        if isinstance(value, str):
            if value.startswith(PATH_BEGINS):
                continue
            value = SEED.sub("", value)
        kept[key] = value
    return kept


def by_setting(runs: Iterable[FinishedRun]) -> list[list[FinishedRun]]:
    """Return the runs of each setting, in the order of their first runs."""
    settings: dict[str, list[FinishedRun]] = {}
    for run in runs:
        key = json.dumps([run.log.label, run.arguments], sort_keys=True)
        settings.setdefault(key, []).append(run)
    return list(settings.values())


def differing_keys(arguments: Sequence[Arguments]) -> list[str]:
    """Return the arguments in which settings differ. Of different recipes, what follows from the recipe is left out."""

    def values(key: str) -> list[Any]:
        return [setting.get(key) for setting in arguments]

    keys = dict.fromkeys(key for setting in arguments for key in setting)
    differing = [key for key in keys if any(value != values(key)[0] for value in values(key))]
    if "recipe" not in differing:
        return differing
    recipes = values("recipe")
    free = []
    for key in differing:
        pairs = set(zip(recipes, map(repr, values(key)), strict=True))
        if key == "recipe" or len(pairs) > len(set(recipes)):
            free.append(key)
    return free


def labels_of(settings: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """Return a label of each setting: its loss and the arguments that differ, words of its folder if none does."""
    arguments = [runs[0].arguments for runs in settings]
    labels = [runs[0].log.label for runs in settings]
    for key in differing_keys(arguments):
        for number, setting in enumerate(arguments):
            if key in setting:
                labels[number] += f", {key} {setting[key]}"
    return labels_with_folders(labels, [runs[0].folder for runs in settings])


def labels_with_folders(labels: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the labels. To equal ones add the words of their folders that not all of these share, seeds aside."""
    names = []
    for label, folder in zip(labels, folders, strict=True):
        rivals = [path_words(other) for other, theirs in zip(folders, labels, strict=True) if theirs == label]
        shared = set.intersection(*map(set, rivals))
        own = " ".join(word for word in path_words(folder) if word not in shared)
        names.append(f"{label} ({own})" if own else label)
    if len(set(names)) < len(names):
        return [f"{label} ({folder})" for label, folder in zip(labels, folders, strict=True)]
    return names


def path_words(path: Path) -> list[str]:
    """Return the words of a path, without its seed."""
    return [word for word in re.split(r"[/\\_]", str(path)) if not re.fullmatch(r"seed\d+", word)]


def read_setting(label: str, runs: Sequence[FinishedRun], result: str | None) -> ComparedSetting:
    """Return what the runs of a setting reached on the test set, as `result` in each folder says, or on validation.

    Raise ValueError if a seed comes twice, or if a file holds no test of its run.
    """
    seeds: list[Any] = []
    accuracy = []
    figures = None
    for run in runs:
        if run.seed in seeds:
            raise ValueError(f"{run.folder} has seed {run.seed}, as a run before it: each seed counts once")
        seeds.append(run.seed)
        if result is None:
            accuracy.append(validated(run.log))
            continue
        path = run.folder / result
        figures = tested(path, run.log.name)
        try:
            accuracy.append(by_group(figures))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold the counts of every class: {error!r}") from error
    return ComparedSetting(label, tuple(seeds), np.array(accuracy), figures if len(runs) == 1 else None)


def difference(a: ComparedSetting, b: ComparedSetting) -> Difference:
    """Return a - b with its 95 % interval: Student's over pairs where both have the same seeds, else Welch's."""
    from scipy.stats import ttest_ind, ttest_rel

    partners, paired = b.accuracy, set(a.seeds) == set(b.seeds)
    if paired:
        partners = b.accuracy[[b.seeds.index(seed) for seed in a.seeds]]
        mean = (a.accuracy - partners).mean(axis=0)
    else:
        mean = a.accuracy.mean(axis=0) - partners.mean(axis=0)
    if min(len(a.seeds), len(b.seeds)) < FEWEST:
        return Difference(mean, None, None, paired)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss occurred")  # where all seeds reached the same accuracy
        test = ttest_rel(a.accuracy, partners) if paired else ttest_ind(a.accuracy, partners, equal_var=False)
        low, high = test.confidence_interval(CONFIDENCE)
    return Difference(mean, low, high, paired)


def spread(accuracy: np.ndarray) -> str:
    """Return the mean of several runs and their standard deviation, which one run does not have."""
    deviation = f" ± {accuracy.std(ddof=1):.2f}" if len(accuracy) > 1 else ""
    return f"{accuracy.mean():.2f}{deviation}"


def filled_groups(settings: Sequence[ComparedSetting]) -> list[int]:
    """Return the indices of the groups of classes that a comparison shows: those with classes.

    On a balanced set the mean of the classes is the accuracy of all images, and is left out.
    """
    groups = [g for g in range(len(GROUPS)) if np.isfinite(settings[0].accuracy[:, g]).all()]
    if all(np.allclose(setting.accuracy[:, 0], setting.accuracy[:, -1]) for setting in settings):
        return groups[:-1]
    return groups


def rows(settings: Sequence[ComparedSetting]) -> list[dict[str, str]]:
    """Return the table's rows: for each group of `filled_groups` every setting, and its difference to the first."""
    baseline, *others = settings
    differences = [difference(setting, baseline) for setting in others]
    table = []
    for g in filled_groups(settings):
        empty = {"difference": "", "95 % interval": ""}
        for setting, cells in zip(settings, [empty, *(apart.cells(g) for apart in differences)], strict=True):
            accuracy = spread(setting.accuracy[:, g])
            table.append(
                {
                    "classes": GROUPS[g],
                    "setting": setting.label,
                    "runs": str(len(setting.seeds)),
                    "accuracy": accuracy,
                    **cells,
                }
            )
    return table


def remarks(settings: Sequence[ComparedSetting]) -> list[str]:
    """Return lines on what the intervals of the differences rest on."""
    baseline, *others = settings
    lines, few = [], []
    for setting in others:
        if min(len(setting.seeds), len(baseline.seeds)) < FEWEST:
            few.append(setting.label)
        elif set(setting.seeds) == set(baseline.seeds):
            lines.append(f"{setting.label}: pairs of seeds {', '.join(map(str, sorted(setting.seeds)))}")
        else:
            lines.append(f"{setting.label}: other seeds than {baseline.label}, not paired")
    if few:
        lines.append(f"No interval for {'; '.join(few)}: it needs at least {FEWEST} runs of both settings.")
    lines += [mcnemar_line(setting, baseline) for setting in others]
    return [line for line in lines if line]


def mcnemar_line(a: ComparedSetting, b: ComparedSetting) -> str:
    """Return how two networks differ on the test images; empty unless both are single runs tested on the same ones."""
    if not (a.single and b.single) or "hits" not in a.single or "hits" not in b.single:
        return ""
    if test_images(a.single) != test_images(b.single):
        return ""
    images = a.single["images"]
    result = mcnemar(unpack_hits(a.single["hits"], images), unpack_hits(b.single["hits"], images))
    return (
        f"{a.label} against {b.label} on the same {images} images: {result.only_first} are right with the first alone, "
        f"{result.only_second} with the second alone; p = {result.p:.2g} (McNemar's exact test of these two networks; "
        "other seeds may differ)"
    )


def test_images(figures: TestJson) -> tuple[Any, ...]:
    """Return what tells one test set from another: its name where there is one, and the images of each class."""
    names = [figures.get(key) for key in ("dataset", "test_list", "test_file")]
    return *names, *(entry["images"] for entry in class_figures(figures))


def draw(settings: Sequence[ComparedSetting], path: Path) -> None:
    """Draw every setting for each group of classes: above the accuracy, below the difference to the first setting.

    Above, a bar shows the mean and a dot each run. Below, a line is the interval, from FEWEST runs on.
    """
    baseline = settings[0]
    groups = filled_groups(settings)
    width = 0.8 / len(settings)
    figure = new_figure(max(8, 0.45 * len(groups) * len(settings)), 6.5)
    above, below = figure.subplots(2, 1, sharex=True)
    for number, setting in enumerate(settings):
        x = np.arange(len(groups)) + (number - (len(settings) - 1) / 2) * width
        color = COLORS[number % len(COLORS)]
        draw_accuracy(above, x, setting.accuracy[:, groups], width, color, setting_title(setting))
        if number:
            draw_difference(below, x, difference(setting, baseline), groups, color)
    names = [GROUPS[g] if GROUPS[g] in ("all", "balanced") else f"{GROUPS[g]} shot" for g in groups]
    below.set_xticks(range(len(groups)), names)
    below.axhline(0, color=COLORS[0], linewidth=0.8)
    below.margins(y=0.2)
    below.set_ylabel(f"difference to {baseline.label}\n(points)")
    above.set_ylabel("accuracy (%)")
    above.set_title(fill(title(settings), TITLE_WIDTH))
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    save_figure(figure, path)


def setting_title(setting: ComparedSetting) -> str:
    """Return a setting's line in the legend."""
    return f"{setting.label}, 1 run" if len(setting.seeds) == 1 else f"{setting.label}, {len(setting.seeds)} seeds"


def title(settings: Sequence[ComparedSetting]) -> str:
    """Return the picture's title: the difference of two settings, and a remark if seeds are too few for an interval."""
    baseline, *others = settings
    differences = [difference(setting, baseline) for setting in others]
    few = any(apart.low is None for apart in differences)
    if len(others) > 1:
        return f"accuracy ({TOO_FEW})" if few else "accuracy"
    text = f"{others[0].label} - {baseline.label}: {differences[0].mean[0]:+.2f} points"
    if few:
        return f"{text} ({TOO_FEW})"
    return f"{text}, {differences[0].cells(0)['95 % interval']} (95 %)"


def draw_accuracy(axes: Any, x: np.ndarray, accuracy: np.ndarray, width: float, color: str, label: str) -> None:
    """Draw a bar at the mean of the runs (runs, groups) and a dot at each run; the bar's foot has the mean's number."""
    axes.bar(x, accuracy.mean(axis=0), 0.9 * width, color=color, alpha=0.35, label=label)
    jitter = np.linspace(-0.2, 0.2, len(accuracy))[:, None] * width
    axes.plot(x + jitter, accuracy, "o", color=color, markersize=4)
    for position, mean in zip(x, accuracy.mean(axis=0), strict=True):
        axes.annotate(f"{mean:.1f}", (position, 0), (0, 3), textcoords="offset points", ha="center", fontsize="small")


def draw_difference(axes: Any, x: np.ndarray, apart: Difference, groups: list[int], color: str) -> None:
    """Draw a mark at each group's difference, hollow without an interval, its number, and a line over the interval."""
    mean, top = apart.mean[groups], apart.mean[groups]
    fill_color = "none" if apart.low is None else color
    axes.plot(x, mean, "D", color=color, markersize=5, markerfacecolor=fill_color)
    if apart.low is not None and apart.high is not None:
        axes.vlines(x, apart.low[groups], apart.high[groups], color=color, linewidth=2)
        top = apart.high[groups]
    for position, height, value in zip(x, top, mean, strict=True):
        axes.annotate(
            f"{value:+.1f}", (position, height), (0, 5), textcoords="offset points", ha="center", fontsize="small"
        )


def write_comparison(settings: Sequence[ComparedSetting], where: str, out: Path) -> str:
    """Write OUT/compare.md and OUT/compare.png, and return the table's text. The first setting is the baseline."""
    table = markdown(rows(settings), left=("classes", "setting"))
    heading = f"accuracy in % on {where}; differences to {settings[0].label}"
    text = "\n".join([heading, "", table, *remarks(settings), ""])
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "compare.md", text.encode())
    draw(settings, out / "compare.png")
    return text


def compare_runs(groups: Sequence[Group], out: Path) -> str:
    """Compare tested runs with those of the first group. Return and write what `write_comparison` does.

    Raise ValueError for a run that is not finished, a seed that comes twice in a group, a file that is no test's.
    """
    settings = []
    for group in groups:
        settings.append(read_setting(group.label, [read_run(run) for run in group.runs], group.result))
    return write_comparison(settings, "test", out)


def compare(args: Namespace) -> None:
    """Print the table and draw the picture. The setting compared with is that of the first run after --against."""
    groups = [*by_setting(map(read_run, args.against)), *by_setting(map(read_run, args.runs))]
    labels = labels_of(groups)
    on_test = all(is_tested(run.folder / "test.json") for runs in groups for run in runs)
    where = "test" if on_test else "validation, in the kept epoch, since not every run has a test.json with its classes"
    settings = []
    for label, runs in zip(labels, groups, strict=True):
        settings.append(read_setting(label, runs, "test.json" if on_test else None))
    print(write_comparison(settings, where, args.out))
    print(args.out / "compare.png")


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("runs", nargs="+", type=file_path, metavar="RUN", help="finished runs of one or more settings")
    parser.add_argument(
        "--against",
        nargs="+",
        type=file_path,
        metavar="RUN",
        required=True,
        help="finished runs of the setting that the others are compared with",
    )
    parser.add_argument(
        "--out", type=file_path, default=Path(), help="folder of table and picture; default: the working directory"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: compare(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
