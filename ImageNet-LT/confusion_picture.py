"""Draw what the hardest classes are taken for."""

from pathlib import Path

import torch
from torch import Tensor

WORST = 30               # classes
LONGEST_NAME = 28        # letters
OTHERS = "all others"


def hardest(confusion: Tensor, most: int) -> list[int]:
    """Return the classes with the lowest accuracy, the hardest first, from a confusion matrix (C, C); only classes with images."""
    total = confusion.sum(1)
    accuracy = confusion.diagonal().double() / total
    order = accuracy.argsort(stable=True).tolist()
    return [c for c in order if total[c] > 0][:most]


def collapsed(confusion: Tensor, classes: list[int]) -> Tensor:
    """Return the confusion of some classes in their order, with one more row and column for all others if there are any."""
    group = torch.full((len(confusion),), len(classes))
    group[classes] = torch.arange(len(classes))
    size = len(classes) + (len(classes) < len(confusion))
    member = torch.nn.functional.one_hot(group, size)                      # (C, size)
    return member.T @ confusion @ member


def draw_confusion(confusion: Tensor, names: list[str], path: Path) -> None:
    """Draw the WORST classes: colours are shares of the images of a row's class, numbers are images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from sklearn.metrics import ConfusionMatrixDisplay

    classes = hardest(confusion, WORST)
    counts = collapsed(confusion, classes)
    labels = [shortened(names[c]) for c in classes] + [OTHERS] * (len(counts) > len(classes))
    shares = (counts / counts.sum(1, keepdim=True).clamp_min(1)).numpy()
    size = 3 + 0.3 * len(labels)
    figure, axes = pyplot.subplots(figsize=(size + 1, size), layout="constrained")
    display = ConfusionMatrixDisplay(shares, display_labels=labels).plot(
        ax=axes, cmap="Blues", xticks_rotation="vertical", include_values=False, im_kw={"vmin": 0, "vmax": 1})
    for true, predicted in counts.nonzero().tolist():
        axes.text(predicted, true, int(counts[true, predicted]), ha="center", va="center", fontsize=6,
                  color="white" if shares[true, predicted] > 0.5 else "black")
    axes.set(xlabel="taken for", ylabel="class", title=f"the {len(classes)} hardest of {len(confusion)} classes, the hardest on top")
    display.im_.colorbar.set_label("share of the images of the row's class")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def shortened(name: str) -> str:
    """Return a name that fits beside the picture. A dollar sign would start a formula."""
    name = name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME - 1] + "…"
    return name.replace("$", r"\$")
