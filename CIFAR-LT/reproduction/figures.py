"""Draw the published tables as pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longtail.metrics import SHOTS
from longtail.pictures import import_matplotlib, new_figure, save_figure

COLORS = {"all": "#17202a", "many": "#2471a3", "medium": "#b7950b", "few": "#c0392b"}
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


def save(figure: Any, path: Path) -> None:
    """Write a picture without matplotlib's version in it, so that the same logs give the same file."""
    save_figure(figure, path, metadata={"Software": None})


def draw_losses(lines: list[Line], path: Path) -> None:
    """Draw losses as rows, shot groups as columns; dots are seeds, bars their means, diamonds the paper's numbers."""
    places: list[float] = []
    groups: dict[str, float] = {}
    place = 0.0
    for line, before in zip(lines, [None, *lines], strict=False):
        place += 1.0 if before is None or before.group == line.group else 2.2
        places.append(place)
        groups.setdefault(line.group, place)
    figure = new_figure(12, 1.2 + 0.28 * place)
    panels = figure.subplots(1, len(SHOTS), sharey=True)
    for axes, shot in zip(panels, SHOTS, strict=True):
        for line, place in zip(lines, places, strict=True):
            values = line.accuracy[shot]
            color = OURS if line.name.startswith("CDB") else RIVALS
            axes.barh(place, np.mean(values), height=0.7, color=color, alpha=0.35)
            axes.plot(values, [place] * len(values), "o", color=color, markersize=4)
            if shot == "all" and line.published:
                axes.plot(line.published, place, "D", color=PAPER, markersize=5)
        axes.set_title(
            {"all": "all classes", "many": "many shot (> 100)", "medium": "medium (20 to 100)", "few": "few (< 20)"}[
                shot
            ]
        )
        axes.set_xlabel("test accuracy, %")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    for group, place in groups.items():
        panels[0].text(
            0.01,
            place - 0.75,
            group,
            fontweight="bold",
            fontsize=9,
            va="center",
            transform=panels[0].get_yaxis_transform(),
        )
    panels[0].set_yticks(places, [line.name for line in lines])
    panels[0].set_ylim(places[-1] + 0.7, places[0] - 1.2)
    paper = panels[0].plot([], [], "D", color=PAPER, markersize=5, label="paper")
    figure.legend(handles=paper, loc="outside lower left", fontsize=8)
    save(figure, path)


def draw_overview(lines: list[Line], path: Path) -> None:
    """Draw two losses side by side for each group of classes.

    A bar stands at the mean, a dot at each seed, a diamond at the paper's number.
    """
    figure = new_figure(8, 4)
    axes = figure.subplots()
    for line, color, side in zip(lines, (RIVALS, OURS), (-0.2, 0.2), strict=True):
        for place, shot in enumerate(SHOTS):
            mean = np.mean(line.accuracy[shot])
            axes.bar(place + side, mean, 0.36, color=color, alpha=0.4, label=line.name if place == 0 else None)
            axes.plot([place + side] * len(line.accuracy[shot]), line.accuracy[shot], "o", color=color, markersize=3)
            axes.annotate(f"{mean:.1f}", (place + side, mean), (0, 6), textcoords="offset points", ha="center")
        if line.published:
            axes.plot(side, line.published, "D", color=PAPER, label=f"{line.name}, the paper's number")
    axes.set_xticks(
        range(len(SHOTS)),
        ["all classes", "many shot\n(> 100 training images)", "medium shot\n(20 to 100)", "few shot\n(< 20)"],
    )
    axes.set(ylabel="test accuracy, %", title=f"CIFAR-100-LT, {lines[0].group}", ylim=(0, 85))
    axes.legend(fontsize="small")
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
    for shot in SHOTS:
        means = [np.mean(line.accuracy[shot]) for line in lines]
        numbers = [place for place, line in enumerate(lines) if line.name.replace(".", "").isdigit()]
        axes.plot(numbers, [means[place] for place in numbers], "-", color=COLORS[shot], alpha=0.5)
        for place, line in enumerate(lines):
            values = line.accuracy[shot]
            axes.plot(
                [place] * len(values), values, "o", color=COLORS[shot], markersize=5, label=shot if place == 0 else None
            )
    for place, line in enumerate(lines):
        if line.published:
            axes.plot(place, line.published, "D", color=COLORS["all"], markerfacecolor="none", markersize=8)
    axes.plot([], [], "D", color=COLORS["all"], markerfacecolor="none", markersize=8, label="paper, all")
    axes.set_xticks(
        range(len(lines)),
        [{"0": "0 (CE)"}.get(line.name, line.name).replace("-", "\n").replace("_", "\n") for line in lines],
    )
    axes.set_xlabel("tau")
    axes.set_ylabel("test accuracy, %")
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    save(figure, path)
