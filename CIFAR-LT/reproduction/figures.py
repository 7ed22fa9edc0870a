"""Draw the published tables as pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longtail.compare import FEWEST, ComparedSetting, difference
from longtail.metrics import SHOTS
from longtail.pictures import import_matplotlib, new_figure, save_figure

COLORS = {"all": "#17202a", "many": "#2471a3", "medium": "#b7950b", "few": "#c0392b"}
# panels of the differences: title, and the lowest and the highest difference that has room
PANELS = {"all": ("all classes", -4.0, 10.0), "few": ("few-shot classes (< 20 training images)", -5.0, 30.0)}
BESIDE = 0.18  # of a column: where the paper's mark does not hide the seeds
OURS, RIVALS, PAPER = "#c0392b", "#777777", "#2471a3"


@dataclass(frozen=True)
class Line:
    """What a table's row says: a name, and the paper's accuracy if it gives one.

    accuracy: of each seed on the test set, in %, by shot group.
    """

    group: str
    name: str
    published: float | None
    accuracy: dict[str, np.ndarray]


@dataclass(frozen=True)
class Contrast:
    """A loss beside the baseline of its group: the runs of both with the same seeds, in the same order.

    group: what it has in common. reference: by shot group, the baseline's name and accuracy. published: the paper's
    difference in points, if it gives one.
    """

    group: str
    reference: dict[str, str]
    runs: ComparedSetting
    baseline: ComparedSetting
    published: float | None


def save(figure: Any, path: Path) -> None:
    """Write a picture without matplotlib's version in it, so that the same logs give the same file."""
    save_figure(figure, path, metadata={"Software": None})


def draw_differences(contrasts: list[Contrast], path: Path) -> None:
    """Draw each loss's difference to the baseline of its group, over all classes and over the few-shot ones.

    A large dot is the mean of the pairs of seeds, small ones are the pairs, a line is the interval from FEWEST pairs
    on. The paper's difference lies below its row.
    """
    groups = len({contrast.group for contrast in contrasts})
    figure = new_figure(11, 1.6 + 0.26 * (len(contrasts) + 1.4 * groups))
    panels = dict(zip(PANELS, figure.subplots(1, len(PANELS), sharey=True), strict=True))
    y, group = 0.0, ""
    labels: dict[float, str] = {}
    headings: list[int] = []
    for contrast in contrasts:
        if contrast.group != group:
            group = contrast.group
            y += 1.4
            headings.append(len(labels))
            labels[y] = group
            for shot, axes in panels.items():
                coordinates = in_rows(axes)
                text = axes.text(0.02, y, contrast.reference[shot], fontsize=8, va="center", transform=coordinates)
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
        y += 1
        labels[y] = contrast.runs.label
        for shot, axes in panels.items():
            draw_contrast(axes, y, contrast, shot)
    for shot, axes in panels.items():
        title, low, high = PANELS[shot]
        axes.axvline(0, color=RIVALS, linewidth=0.8)
        axes.set(title=title, xlabel="difference in test accuracy, points", xlim=(low, high))
        axes.grid(axis="x", alpha=0.3)
    first = panels["all"]
    first.set_yticks(list(labels), list(labels.values()), fontsize=9)
    first.set_ylim(y + 0.8, 0.5)
    for number in headings:
        first.get_yticklabels()[number].set_fontweight("bold")
    figure.legend(handles=legend_of_differences(first), loc="outside lower center", ncols=4, fontsize=8)
    save(figure, path)


def in_rows(axes: Any) -> Any:
    """Return the transform whose x is a share of the panel and whose y is a row."""
    return axes.get_yaxis_transform()


def draw_contrast(axes: Any, y: float, contrast: Contrast, shot: str) -> None:
    """Draw a row of a panel. What lies outside of the panel is an arrow at its edge, with its number."""
    group, (_, lowest, highest) = SHOTS.index(shot), PANELS[shot]
    apart = difference(contrast.runs, contrast.baseline)
    mean, pairs = apart.mean[group], (contrast.runs.accuracy - contrast.baseline.accuracy)[:, group]
    color = OURS if contrast.runs.label.startswith("CDB") else RIVALS
    text = f"{mean:+.1f}"
    if mean < lowest:
        axes.plot(lowest, y, "<", color=color, clip_on=False)
        axes.annotate(text, (lowest, y), (8, 0), textcoords="offset points", va="center", fontsize=8)
        return
    many = len(pairs) >= FEWEST
    end = max(mean, *pairs)
    if many and apart.low is not None and apart.high is not None:
        axes.hlines(y, apart.low[group], apart.high[group], color=color, linewidth=2)
        end = max(end, apart.high[group])
    axes.plot(pairs, np.full(len(pairs), y), "o", color=color, markersize=3)
    axes.plot(mean, y, "o", color=color, markersize=7, markerfacecolor=color if many else "none")
    axes.annotate(text, (min(end, highest), y), (7, 0), textcoords="offset points", va="center", fontsize=8)
    if shot == "all" and contrast.published is not None:
        axes.plot(contrast.published, y + 0.35, "D", color=PAPER, markersize=4)


def legend_of_differences(axes: Any) -> list[Any]:
    """Return what the marks mean."""
    marks = []
    for label, form, color, face in (
        (f"mean of {FEWEST} or more pairs of seeds, 95 % interval", "o-", RIVALS, RIVALS),
        ("mean of fewer pairs: too few for an interval", "o", RIVALS, "none"),
        ("this repository's losses", "o", OURS, OURS),
        ("the paper's difference", "D", PAPER, PAPER),
    ):
        marks += axes.plot([], [], form, color=color, markerfacecolor=face, markersize=6, label=label)
    return marks


def draw_overview(lines: list[Line], path: Path) -> None:
    """Draw two losses side by side for each group of classes.

    A bar stands at the mean, a dot at each seed, a diamond at the paper's number.
    """
    figure = new_figure(8, 4.2)
    axes = figure.subplots()
    for line, color, side in zip(lines, (RIVALS, OURS), (-0.2, 0.2), strict=True):
        x = np.arange(len(SHOTS)) + side
        means = [np.mean(line.accuracy[shot]) for shot in SHOTS]
        axes.bar(x, means, 0.36, color=color, alpha=0.4, label=line.name)
        for position, shot, mean in zip(x, SHOTS, means, strict=True):
            seeds = line.accuracy[shot]
            axes.plot(position + np.linspace(-0.05, 0.05, len(seeds)), seeds, "o", color=color, markersize=3)
            axes.annotate(f"{mean:.1f}", (position, mean), (0, 6), textcoords="offset points", ha="center")
        if line.published:
            label = f"{line.name}, the paper's number"
            axes.plot(side + 0.12, line.published, "D", color=PAPER, markersize=5, label=label)
    axes.set_xticks(
        range(len(SHOTS)),
        ["all classes", "many shot\n(> 100 training images)", "medium shot\n(20 to 100)", "few shot\n(< 20)"],
    )
    axes.set(ylabel="test accuracy, %", title=f"CIFAR-100-LT, {lines[0].group}")
    axes.margins(y=0.1)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    save(figure, path)


def draw_steadiness(logs: list[tuple[str, np.ndarray, np.ndarray]], path: Path) -> None:
    """Draw the weights of all classes over the epochs, one panel for each run.

    logs: of each run its title, weights (E, C) and class counts (C,).
    """
    import_matplotlib()
    from matplotlib import colormaps

    figure = new_figure(11, 4)
    panels = figure.subplots(1, len(logs), sharey=True)
    for axes, (title, weights, counts) in zip(panels, logs, strict=True):
        colors = colormaps["viridis"](np.linspace(0, 0.9, len(counts)))
        for c in range(len(counts)):
            axes.plot(
                range(1, len(weights) + 1), weights[:, c], color=colors[c], linewidth=1.5, label=f"{counts[c]:.0f}"
            )
        axes.axhline(1, color="#777777", linewidth=0.8, linestyle=":")
        axes.set(title=title, xlabel="epoch")
    panels[0].set_ylabel("weight of a class")
    figure.legend(
        *panels[0].get_legend_handles_labels(), title="training\nimages", loc="outside right upper", fontsize=8
    )
    save(figure, path)


def draw_tau(lines: list[Line], path: Path) -> None:
    """Draw accuracy against tau; the first column is cross-entropy, which is tau 0."""
    figure = new_figure(7.5, 4.5)
    axes = figure.subplots()
    numbers = [x for x, line in enumerate(lines) if line.name.replace(".", "").isdigit()]
    for shot in SHOTS:
        means = [np.mean(lines[x].accuracy[shot]) for x in numbers]
        axes.plot(numbers, means, "-", color=COLORS[shot], alpha=0.5)
        for x, line in enumerate(lines):
            seeds = line.accuracy[shot]
            label = shot if x == 0 else None
            axes.plot([x] * len(seeds), seeds, "o", color=COLORS[shot], markersize=5, label=label)
    hollow = {"color": COLORS["all"], "markerfacecolor": "none", "markersize": 6}
    for x, line in enumerate(lines):
        if line.published:
            axes.plot(x + BESIDE, line.published, "D", **hollow)
    axes.plot([], [], "D", label="paper, all", **hollow)
    names = ["0 (CE)" if line.name == "0" else line.name for line in lines]
    axes.set_xticks(range(len(lines)), [name.replace("-", "\n").replace("_", "\n") for name in names])
    axes.set_xlabel("tau")
    axes.set_ylabel("test accuracy, %")
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    save(figure, path)
