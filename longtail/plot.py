"""Draw the logs of runs.

    python ../longtail/plot.py RUN [RUN ...] [--out DIR]

RUN is a run's CSV file or the folder that holds it, or a folder of such folders. The JSON beside the CSV says how many
training images each class has.
Draws for each run  X_curves.png   loss, validation accuracy, tau and class weights by epoch
                    X_weights.png  the weight of every class over the epochs, ordered by training images
and for all of them classes.png    accuracy of the classes against their training images
                    curves.png     loss and validation accuracy by epoch, if there are several runs
A run whose loss has no tau, or no class weights, has no picture of them.
"""

import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `longtail` is found

from longtail.cli import ArgumentParser, exit_code, file_path
from longtail.logs import Log, find_logs, load_log
from longtail.pictures import COLORS, import_matplotlib, new_figure, save_figure

LINE_STYLES = ("-", "--", ":", "-.")  # of runs of one colour
GROUPS = 10  # of classes with a similar number of training images, for the line through the points


def draw_curves(log: Log, path: Path) -> None:
    """Draw loss and accuracy, and tau and the spread of the class weights where the loss has them."""
    panels = [draw_loss_panel, draw_accuracy_panel]
    if not np.isnan(log.measures["tau"]).all():
        panels.append(draw_tau_panel)
    if has_weights(log):
        panels.append(draw_weights_panel)
    rows = 2 if len(panels) == 4 else 1
    columns = len(panels) // rows
    figure = new_figure(5 * columns, 3.2 * rows + 0.4)
    figure.suptitle(f"{log.name}: {log.label}")
    for axes, draw_panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=True):
        draw_panel(axes, log)
        finish_panel(axes)
    save_figure(figure, path)


def finish_panel(axes: Any) -> None:
    """Give a panel over the epochs what all of them have."""
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)


def has_weights(log: Log) -> bool:
    """Return whether a class ever weighed more or less than another."""
    return bool((np.nan_to_num(log.class_weight, nan=1.0) != 1).any())


def draw_line(axes: Any, log: Log, values: np.ndarray, *form: str, **style: Any) -> None:
    """Draw a measure (E,) over the epochs that have it; a single one as a dot, since a line would not be seen."""
    measured = ~np.isnan(values)
    marker = "o" if measured.sum() == 1 else None
    axes.plot(log.measures["epoch"][measured], values[measured], *form, marker=marker, **style)


def mark_kept(axes: Any, log: Log, **style: Any) -> None:
    """Draw a dot at the kept epoch's accuracy."""
    axes.plot(log.measures["epoch"][log.best], log.measures["accuracy"][log.best], "o", **style)


def draw_loss_panel(axes: Any, log: Log) -> None:
    """Draw the training loss."""
    draw_line(axes, log, log.measures["loss"], color=COLORS[1])
    axes.set(title="training loss", ylim=(0, None))


def draw_accuracy_panel(axes: Any, log: Log) -> None:
    """Draw the validation accuracy of all classes, the most frequent and the rarest, and mark the kept epoch."""
    order = np.argsort(-log.class_counts, kind="stable")
    third = math.ceil(len(order) / 3)
    draw_line(axes, log, log.measures["accuracy"], color=COLORS[2], label="all classes")
    for name, part, style in (("most frequent third", order[:third], ":"), ("rarest third", order[-third:], "--")):
        means = np.ma.masked_invalid(log.class_accuracy[:, part]).mean(axis=1).filled(np.nan)
        draw_line(axes, log, means, style, color=COLORS[2], alpha=0.6, linewidth=1, label=name)
    accuracy, epoch = log.measures["accuracy"][log.best], log.measures["epoch"][log.best]
    mark_kept(axes, log, color=COLORS[1], label=f"kept: {accuracy:.3f}, epoch {epoch:.0f}")
    axes.set(title="validation accuracy", ylim=(0, 1))
    axes.legend(fontsize="small")


def draw_tau_panel(axes: Any, log: Log) -> None:
    """Draw tau."""
    draw_line(axes, log, log.measures["tau"], color=COLORS[5])
    axes.set(title="tau", ylim=(0, None))


def draw_weights_panel(axes: Any, log: Log) -> None:
    """Draw the smallest, the median and the largest class weight."""
    smallest, largest = log.class_weight.min(axis=1), log.class_weight.max(axis=1)
    axes.fill_between(log.measures["epoch"], smallest, largest, alpha=0.2, color=COLORS[3], label="smallest to largest")
    for edge in (smallest, largest):
        draw_line(axes, log, edge, color=COLORS[3], linewidth=0.5)
    draw_line(axes, log, np.median(log.class_weight, axis=1), color=COLORS[3], label="median")
    axes.set(title="class weights", ylim=(0, None))
    axes.legend(fontsize="small")


def draw_overlay(logs: list[Log], path: Path) -> None:
    """Draw loss and validation accuracy of several runs over one another; a dot is the kept epoch."""
    figure = new_figure(10, 4.2 + 0.2 * len(logs))
    loss, accuracy = figure.subplots(1, 2)
    for number, (log, name) in enumerate(zip(logs, tell_apart(logs), strict=True)):
        color = COLORS[number % len(COLORS)]
        style = LINE_STYLES[number // len(COLORS) % len(LINE_STYLES)]
        draw_line(loss, log, log.measures["loss"], style, color=color)
        label = f"{name}: {log.measures['accuracy'][log.best]:.3f}"
        draw_line(accuracy, log, log.measures["accuracy"], style, color=color, label=label)
        mark_kept(accuracy, log, color=color)
    loss.set(title="training loss", ylim=(0, None))
    accuracy.set(title="validation accuracy; a dot is the kept epoch", ylim=(0, None))
    for axes in (loss, accuracy):
        finish_panel(axes)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    save_figure(figure, path)


def draw_weights(log: Log, path: Path) -> None:
    """Draw a heat map with a line for each class, the most frequent on top.

    White is weight 1, red is above, blue below.
    """
    import_matplotlib()
    from matplotlib.colors import TwoSlopeNorm

    order = np.argsort(-log.class_counts, kind="stable")
    highest = max(1.01, float(np.nanmax(log.class_weight)))
    figure = new_figure(9, 5.5)
    axes = figure.subplots()
    edges = np.append(log.measures["epoch"], log.measures["epoch"][-1] + 1) - 0.5
    picture = axes.pcolormesh(
        edges,
        np.arange(len(order) + 1),
        log.class_weight[:, order].T,
        cmap="RdBu_r",
        norm=TwoSlopeNorm(1, vmin=0, vmax=highest),
    )
    ticks = np.unique(np.linspace(0, len(order) - 1, min(len(order), 11)).round().astype(int))
    axes.set(
        title=f"{log.name}: {log.label}\nclass weights",
        xlabel="epoch",
        ylabel="training images of the class",
        yticks=ticks + 0.5,
        yticklabels=[f"{log.class_counts[order[tick]]:.0f}" for tick in ticks],
    )
    axes.invert_yaxis()
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(picture, label="weight")
    save_figure(figure, path)


def tell_apart(logs: list[Log]) -> list[str]:
    """Return a name for each log: its loss, with its folder if two have the same loss.

    With its file too if the folder is the same.
    """
    for names in ([log.label for log in logs], [f"{log.folder}, {log.label}" for log in logs]):
        if len(set(names)) == len(names):
            return names
    return [f"{log.folder}/{log.name}, {log.label}" for log in logs]


def draw_classes(logs: list[Log], path: Path) -> None:
    """Draw the validation accuracy of each class at the kept epoch against its training images.

    The line goes through means of neighbouring classes.
    """
    figure = new_figure(8.5, 5 + 0.2 * len(logs))
    axes = figure.subplots()
    for number, (log, name) in enumerate(zip(logs, tell_apart(logs), strict=True)):
        accuracy, color = log.class_accuracy[log.best], COLORS[number % len(COLORS)]
        order = np.argsort(-log.class_counts, kind="stable")
        groups = np.array_split(order, min(GROUPS, len(order)))
        sizes = [log.class_counts[group].mean() for group in groups]
        # of the classes with validation samples
        means = [np.ma.filled(np.ma.masked_invalid(accuracy[group]).mean(), np.nan) for group in groups]
        label = f"{name}: {log.measures['accuracy'][log.best]:.3f}"
        axes.plot(log.class_counts, accuracy, "o", color=color, markersize=3.5, alpha=0.35)
        axes.plot(sizes, means, color=color, linewidth=2, label=label)
    axes.set(
        title=f"{' / '.join(dict.fromkeys(log.name for log in logs))}: accuracy of each class, at the kept epoch",
        xscale="log",
        xlabel="training images of the class",
        ylabel="validation accuracy",
        ylim=(-0.03, 1.03),
    )
    axes.invert_xaxis()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    figure.legend(title="loss: accuracy of all classes", loc="outside lower center", ncols=2, fontsize="small")
    save_figure(figure, path)


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=file_path, help="a run's CSV file (may be gzipped), or a folder"
    )
    parser.add_argument("--out", type=file_path, metavar="DIR", help="where the pictures go; default: the first RUN")
    return parser.parse_args(argv)


def plot(args: Namespace) -> None:
    """Read every log, then draw, so that a damaged log leaves no picture."""
    logs = [load_log(path) for run in args.runs for path in find_logs(run)]
    first = args.runs[0]
    out = args.out or (first if first.is_dir() else first.parent)
    out.mkdir(parents=True, exist_ok=True)
    for number, log in enumerate(logs, 1):
        stem = log.name if len(logs) == 1 else f"{number}_{log.name}"
        draw_curves(log, out / f"{stem}_curves.png")
        print(out / f"{stem}_curves.png")
        if has_weights(log):
            draw_weights(log, out / f"{stem}_weights.png")
            print(out / f"{stem}_weights.png")
    draw_classes(logs, out / "classes.png")
    print(out / "classes.png")
    if len(logs) > 1:
        draw_overlay(logs, out / "curves.png")
        print(out / "curves.png")


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: plot(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
