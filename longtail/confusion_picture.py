"""Draw which wrong classes the hardest classes are predicted as."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longtail.pictures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORST, ANSWERS = 30, 30  # classes that are drawn, and wrong classes that they are predicted as
LONGEST_NAME = 28  # letters
RIGHT, OTHERS = "(right)", "(others)"


def hardest(confusion: Tensor, most: int) -> list[int]:
    """Return the classes with the lowest accuracy, the hardest first, from a confusion matrix (C, C).

    Of classes with equal accuracy the one with more images comes first: one image says little. Classes without images
    are left out.
    """
    correct, total = confusion.diagonal().tolist(), confusion.sum(1).tolist()
    classes = [c for c, images in enumerate(total) if images]
    return sorted(classes, key=lambda c: (correct[c] / total[c], -total[c]))[:most]


def answers(confusion: Tensor, classes: list[int], most: int) -> tuple[list[int], Tensor]:
    """Return the wrong classes that `classes` are most often predicted as, at most `most`, and a table of counts.

    The table has a row for each of `classes`: how many images are right, how many were predicted as each of those, and
    how many as any other class.
    """
    rows = torch.arange(len(classes))
    wrong = confusion[classes]
    right = wrong[rows, classes]
    wrong[rows, classes] = 0
    order = wrong.sum(0).argsort(descending=True, stable=True)[:most]
    columns = [c for c in order.tolist() if wrong[:, c].any()]
    counts = wrong[:, columns]
    others = wrong.sum(1) - counts.sum(1)
    return columns, torch.cat([right[:, None], counts, others[:, None]], 1)


def draw_confusion(confusion: Tensor, names: list[str], path: Path) -> None:
    """Draw the hardest classes, a row for each: colours are shares of its images, numbers are images."""
    classes = hardest(confusion, WORST)
    columns, counts = answers(confusion, classes, ANSWERS)
    titles = [RIGHT, *(shortened(names[c]) for c in columns), OTHERS]
    if not counts[:, -1].any():  # every wrong answer has a column of its own
        titles = titles[:-1]
        counts = counts[:, :-1]
    shares = counts / counts.sum(1, keepdim=True)
    figure = new_figure(4.5 + 0.3 * counts.shape[1], 3 + 0.3 * len(counts))
    figure.set_layout_engine("compressed")  # no wide margin beside cells that stay square
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    write_counts(axes, counts, shares)
    axes.set_xticks(range(counts.shape[1]), titles, rotation="vertical")
    axes.set_yticks(range(len(counts)), [shortened(names[c]) for c in classes])
    axes.set(xlabel="predicted as", ylabel="class")
    figure.suptitle(f"the {len(classes)} hardest of {len(names)} classes, the hardest on top")
    figure.colorbar(image, fraction=0.03, pad=0.01, label="share of the class")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of names in scripts that the font lacks; it draws boxes
        save_figure(figure, path, dpi=120, bbox_inches="tight")


def write_counts(axes: "Axes", counts: Tensor, shares: Tensor) -> None:
    """Write each count that is not 0 into its cell, in white on a dark cell."""
    for row, column in counts.nonzero().tolist():
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", fontsize=7, color=color)


def shortened(name: str) -> str:
    """Return a name that fits beside the picture. A dollar sign would start a formula."""
    if len(name) > LONGEST_NAME:
        name = name[: LONGEST_NAME - 1] + "…"
    return name.replace("$", r"\$")
