"""Draw the logs of runs.

    python ../longtail/plot.py RUN [RUN ...] [--out DIR]

RUN is a run's CSV file or the folder that holds it; the JSON beside it says how many training images each class has.
Draws for each run  X_curves.png   loss, validation accuracy, tau and class weights by epoch
                    X_weights.png  the weight of every class over the epochs, ordered by training images
and for all of them classes.png    accuracy of the classes against their training images, to compare runs
"""

import math
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `longtail` is found

from longtail.cli import ArgumentParser, exit_code, file_path
from longtail.logs import Log, find_log, load_log
from longtail.pictures import COLORS, import_matplotlib, new_figure, save_figure

GROUPS = 10  # of classes with a similar number of training images, for the line through the points


def draw_curves(log: Log, path: Path) -> None:
    """Draw loss and accuracy above, tau and the spread of the class weights below."""
    epochs, best = log.measures["epoch"], log.best
    figure = new_figure(10, 6.4)
    (loss, accuracy), (tau, weights) = figure.subplots(2, 2, sharex=True)
    figure.suptitle(f"{log.name}: {log.label}")
    loss.plot(epochs, log.measures["loss"], color=COLORS[1])
    loss.set(title="training loss", ylim=(0, None))
    valid = ~np.isnan(log.measures["accuracy"])
    accuracy.plot(epochs[valid], log.measures["accuracy"][valid], color=COLORS[2], label="all classes")
    order = np.argsort(-log.class_counts, kind="stable")
    third = math.ceil(len(order) / 3)
    for name, part, style in (("most frequent third", order[:third], ":"), ("rarest third", order[-third:], "--")):
        accuracy.plot(
            epochs[valid],
            np.ma.masked_invalid(log.accuracy[valid][:, part]).mean(1),
            style,
            color=COLORS[2],
            alpha=0.6,
            linewidth=1,
            label=name,
        )
    accuracy.plot(
        epochs[best],
        log.measures["accuracy"][best],
        "o",
        color=COLORS[1],
        label=f"kept: {log.measures['accuracy'][best]:.3f}, epoch {epochs[best]:.0f}",
    )
    accuracy.set(title="validation accuracy", ylim=(0, 1))
    accuracy.legend(fontsize="small")
    tau.plot(epochs, log.measures["tau"], color=COLORS[5])
    tau.set(
        title="tau" if not np.isnan(log.measures["tau"]).all() else "tau (this loss has none)",
        xlabel="epoch",
        ylim=(0, None),
    )
    weights.fill_between(
        epochs, log.weight.min(1), log.weight.max(1), alpha=0.2, color=COLORS[3], label="smallest to largest"
    )
    weights.plot(epochs, np.median(log.weight, axis=1), color=COLORS[3], label="median")
    weights.set(title="class weights", xlabel="epoch", ylim=(0, None))
    weights.legend(fontsize="small")
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, path)


def draw_weights(log: Log, path: Path) -> None:
    """Draw a heat map with a line for each class, the most frequent on top.

    White is weight 1, red is above, blue below.
    """
    import_matplotlib()
    from matplotlib.colors import TwoSlopeNorm

    order = np.argsort(-log.class_counts, kind="stable")
    highest = max(1.01, float(np.nanmax(log.weight)))
    figure = new_figure(9, 5.5)
    axes = figure.subplots()
    edges = np.append(log.measures["epoch"], log.measures["epoch"][-1] + 1) - 0.5
    picture = axes.pcolormesh(
        edges,
        np.arange(len(order) + 1),
        log.weight[:, order].T,
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
    figure = new_figure(8.5, 5.2)
    axes = figure.subplots()
    for number, (log, name) in enumerate(zip(logs, tell_apart(logs), strict=True)):
        accuracy, color = log.accuracy[log.best], COLORS[number % len(COLORS)]
        order = np.argsort(-log.class_counts, kind="stable")
        groups = np.array_split(order, min(GROUPS, len(order)))
        means = [
            np.ma.filled(np.ma.masked_invalid(accuracy[group]).mean(), np.nan) for group in groups
        ]  # of classes with samples
        axes.plot(log.class_counts, accuracy, "o", color=color, markersize=3.5, alpha=0.35)
        axes.plot(
            [log.class_counts[group].mean() for group in groups],
            means,
            color=color,
            linewidth=2,
            label=f"{name}: {log.measures['accuracy'][log.best]:.3f}",
        )
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
    axes.legend(title="loss: accuracy of all classes")
    save_figure(figure, path)


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=file_path, help="a run's CSV file (may be gzipped) or its folder"
    )
    parser.add_argument(
        "--out", type=file_path, metavar="DIR", help="where the pictures go; default: the first run's folder"
    )
    return parser.parse_args(argv)


def plot(args: Namespace) -> None:
    """Read every log, then draw, so that a damaged log leaves no picture."""
    logs = [load_log(run) for run in args.runs]
    out = args.out or find_log(args.runs[0]).parent
    out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for number, log in enumerate(logs, 1):
        stem = log.name if len(logs) == 1 else f"{number}_{log.name}"
        drawn += [out / f"{stem}_curves.png", out / f"{stem}_weights.png"]
        draw_curves(log, drawn[-2])
        draw_weights(log, drawn[-1])
    drawn.append(out / "classes.png")
    draw_classes(logs, drawn[-1])
    for path in drawn:
        print(path)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: plot(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
