"""Results of several runs as a Markdown table, from the test*.json files that main.py leaves in each run's folder.

python imagenet_table.py logs/TinyImageNet_LT/models/*/test*.json [--out FILE] [--page README.md]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # longtail/ is beside this folder

from longtail.cli import exit_code
from longtail.losses import DIFFICULTY, TAU
from longtail.metrics import SHOT_SIZES, SHOTS
from longtail.records import TestJson
from longtail.tables import INTERVAL, interval, loss_label, percent, settings_labels, write_table

STAGES = {"crt": "cRT", "lws": "LWS"}
METHODS = {"tau_norm": "tau-normalised", "ncm": "nearest class mean", "logit_adjustment": "logit adjustment"}
MARKS = ("<!-- imagenet stand-in: written by ImageNet-LT/imagenet_table.py -->", "<!-- end of imagenet stand-in -->")


def name_of(figures: TestJson) -> str:
    """Return what was trained and how it was tested."""
    arguments = figures["arguments"]
    sampling, stage = arguments.get("sampling", ""), arguments.get("stage", "")
    name = loss_label(arguments) if "loss_type" in arguments else ""
    usual = "uniform"
    if stage in STAGES:
        loss = "" if name == "CE" else f", {name}"
        name = f"{STAGES[stage]} on {figures['first_stage']}{loss}"
        usual = "balanced"
    if sampling == "difficulty":
        name += ", ".join(["", "difficulty-driven sampling", *settings_labels(arguments, (TAU, DIFFICULTY))])
    elif sampling not in ("", usual):
        name += f", {sampling.replace('_', '-')} sampling"
    if arguments.get("backbone", "resnet10") != "resnet10":
        name += f", {arguments['backbone']}"
    if arguments.get("pretrained"):
        name += f" from {arguments['pretrained']}"
    if figures["method"] in METHODS:
        name += f", {METHODS[figures['method']]}"
    return name + "".join(
        f" ({key} {figures[key]:g})" for key in ("exponent", "strength") if figures.get(key) is not None
    )


def row(figures: TestJson) -> dict[str, str]:
    """Return a row: top-1 in % over the images of each group of classes, F1 averaged over classes."""
    arguments = figures["arguments"]
    return {
        "method": name_of(figures),
        "all": percent(figures["shots"]["all"]),
        "95 % interval": interval(figures["shots"]["all"], figures["images"]),
        **{name: percent(figures["shots"][name]) for name in SHOTS[1:]},
        "F1": f"{figures['f1']:.4f}",
        "epochs": str(arguments.get("num_epochs", "")),
        "kept": str(figures["epoch"]),
        "seed": str(arguments.get("seed", "")),
        "run": figures["run"],
    }


def note(figures: TestJson) -> str:
    """Return what a result was measured on."""
    return f"Top-1 in % on {figures['test_list'].split()[0]}, {figures['images']} images; {SHOT_SIZES}. {INTERVAL}"


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: write_table(__doc__, argv, "main.py", row, note, ("method", "run"), MARKS))


if __name__ == "__main__":
    sys.exit(main())
