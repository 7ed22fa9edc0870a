"""Results of several runs as a Markdown table, from the test*.json files that main.py leaves in each run's folder.

    python imagenet_table.py logs/TinyImageNet_LT/models/*/test*.json [--out FILE] [--page README.md]
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))   # longtail/ stands beside this folder

from longtail import tables
from longtail.cli import exit_code
from longtail.metrics import SHOT_SIZES, SHOTS

STAGES = {"crt": "cRT", "lws": "LWS"}
METHODS = {"tau_norm": "tau-normalised", "ncm": "nearest class mean"}
MARKS = ("<!-- imagenet stand-in: written by ImageNet-LT/imagenet_table.py -->", "<!-- end of imagenet stand-in -->")


def name_of(figures: dict[str, Any]) -> str:
    """Return what was trained and how it was tested."""
    arguments = figures["arguments"]
    loss, sampling, stage = (arguments.get(key, "") for key in ("loss_type", "sampling", "stage"))
    name, usual = loss, "uniform"
    if stage in STAGES:
        name, usual = f"{STAGES[stage]} on {figures['first_stage']}", "balanced"
        name += "" if loss == "CE" else f", {loss}"
    if loss.startswith("CDB"):
        name += f", tau {arguments['tau']}" + (", weighted mean" if arguments.get("reduction") == "weighted_mean" else "")
    name += "" if arguments.get("gamma", 1) == 1 else f", gamma {arguments['gamma']:g}"     # the YAML has it only for a loss that reads it
    if sampling == "difficulty":
        name += f", difficulty-driven sampling, tau {arguments['tau']}"
    elif sampling not in ("", usual):
        name += f", {sampling.replace('_', '-')} sampling"
    if figures["method"] in METHODS:
        name += f", {METHODS[figures['method']]}"
    return name + ("" if figures["exponent"] is None else f" (exponent {figures['exponent']:g})")


def row(figures: dict[str, Any]) -> dict[str, str]:
    """Return a row: top-1 in % over the images of each group of classes, F1 averaged over classes."""
    arguments = figures["arguments"]
    return {"method": name_of(figures), **{name: tables.percent(figures["shots"][name]) for name in SHOTS}, "F1": f"{figures['f1']:.4f}",
            "epochs": str(arguments.get("num_epochs", "")), "kept": str(figures["epoch"]), "seed": str(arguments.get("seed", "")),
            "run": figures["run"]}


def note(figures: dict[str, Any]) -> str:
    """Return what a result was measured on."""
    return f"{figures['test_list'].split()[0]}, {figures['images']} images"


def table(results: list[dict[str, Any]]) -> str:
    """Return a row for each result, and a line that says what was measured."""
    tests = sorted({note(figures) for figures in results})
    return (tables.markdown([row(figures) for figures in results], left=("method", "run"))
            + f"\nTop-1 in % on {'; '.join(tests)}; {SHOT_SIZES}.\n")


def write(argv: list[str] | None) -> None:
    args = tables.parse_arguments(__doc__, argv)
    results = [tables.read_result(path, "main.py", lambda figures: (row(figures), note(figures))) for path in args.results]
    tables.write(table(results), args, MARKS)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: write(argv))


if __name__ == "__main__":
    sys.exit(main())
