"""Draw which classes the hardest classes are mistaken for."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from longtail.files import save_figure

WORST, ANSWERS = 30, 30  # classes that are drawn, and classes that they are taken for
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
    """Return the wrong classes that images of `classes` are most often taken for, at most `most`, and a table of
    counts.

    The table has a row for each of `classes`: how many images are right, how many are taken for each of those, and for
    any other.
    """
    rows, places = confusion[classes], torch.arange(len(classes))
    right = rows[places, classes]
    wrong = rows.clone()
    wrong[places, classes] = 0
    order = wrong.sum(0).argsort(descending=True, stable=True)[:most]
    columns = [c for c in order.tolist() if wrong[:, c].any()]
    counts = wrong[:, columns]
    return columns, torch.cat([right[:, None], counts, (wrong.sum(1) - counts.sum(1))[:, None]], 1)


def draw_confusion(confusion: Tensor, names: list[str], path: Path) -> None:
    """Draw the hardest classes, a row for each: colours are shares of its images, numbers are images."""
    from matplotlib.figure import Figure

    classes = hardest(confusion, WORST)
    columns, counts = answers(confusion, classes, ANSWERS)
    titles = [RIGHT, *(shortened(names[c]) for c in columns), OTHERS]
    if not counts[:, -1].any():  # every wrong answer has a column of its own
        titles, counts = titles[:-1], counts[:, :-1]
    shares = (counts / counts.sum(1, keepdim=True)).numpy()
    figure = Figure(figsize=(4.5 + 0.3 * counts.shape[1], 3 + 0.3 * len(counts)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in counts.nonzero().tolist():
        axes.text(
            column,
            row,
            int(counts[row, column]),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if shares[row, column] > 0.5 else "black",
        )
    axes.set_xticks(range(counts.shape[1]), titles, rotation="vertical")
    axes.set_yticks(range(len(counts)), [shortened(names[c]) for c in classes])
    axes.set(xlabel="taken for", ylabel="class")
    figure.suptitle(f"the {len(classes)} hardest of {len(names)} classes, the hardest on top")
    figure.colorbar(image, fraction=0.03, label="share of its images")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of names in scripts that the font lacks; it draws boxes
        save_figure(figure, path, dpi=120)


def shortened(name: str) -> str:
    """Return a name that fits beside the picture. A dollar sign would start a formula."""
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return name.replace("$", r"\$")
