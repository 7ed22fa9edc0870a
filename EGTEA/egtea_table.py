"""Results of several tests as a Markdown table, from the files that EGTEA_test.py --json wrote.

python egtea_table.py results/stand-in/*/test.json [--out FILE] [--page README.md]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # longtail/ is beside this folder

from longtail.cli import exit_code
from longtail.metrics import class_figures
from longtail.records import TestJson
from longtail.tables import INTERVAL, interval, loss_label, percent, write_table

GROUPS = ("all", "majority", "minority")
MEASURES = ("recall", "precision")
MARKS = ("<!-- egtea stand-in: written by EGTEA/egtea_table.py -->", "<!-- end of egtea stand-in -->")


def row(figures: TestJson) -> dict[str, str]:
    """Return a row in %: top-1 over clips, recall and precision averaged over the classes of a group."""
    arguments = figures["arguments"]
    means = {
        f"{measure}, {group}": percent(figures.get(group, {}).get(measure)) for group in GROUPS for measure in MEASURES
    }
    return {
        "loss": loss_label(arguments),
        "top-1": percent(figures["all"]["top1"]),
        "95 % interval": interval(figures["all"]["top1"], sum(entry["images"] for entry in class_figures(figures))),
        **means,
        "validation": percent(figures["val_accuracy"]),
        "kept": f"{figures['epoch']} of {arguments['max_epochs']}",
        "seed": str(arguments["seed"]),
    }


def note(figures: TestJson) -> str:
    """Return what a result was measured on."""
    clips = [entry["images"] for entry in class_figures(figures)]
    majority = figures.get("majority", {}).get("classes", 0)
    text = f"{sum(clips)} test clips, {max(clips)} of them of the largest class"
    if figures["majority_above"]:
        above = f"more than {figures['majority_above']} training clips"
        text += f"; majority: {above} ({majority} of {len(clips)} classes)"
    return f"{text}. {INTERVAL}"


def main(argv: list[str] | None = None) -> int:
    origin = "EGTEA_test.py --json on a model of EGTEA_train.py"
    return exit_code(lambda: write_table(__doc__, argv, origin, row, note, ("loss",), MARKS))


if __name__ == "__main__":
    sys.exit(main())
