"""Results of several runs as a Markdown table, from the test*.json files that main.py leaves in each run's folder.

    python imagenet_table.py logs/TinyImageNet_LT/models/*/test*.json [--out FILE] [--page ../README.md]
"""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))   # longtail/ stands beside this folder

from longtail.cli import ArgumentParser, exit_code
from longtail.files import write_atomically, write_between
from longtail.metrics import SHOT_SIZES, SHOTS

STAGES = {"crt": "cRT", "lws": "LWS"}
METHODS = {"tau_norm": "tau-normalised", "ncm": "nearest class mean"}
MARKS = ("<!-- imagenet stand-in: written by ImageNet-LT/imagenet_table.py -->", "<!-- end of imagenet stand-in -->")


def read_result(path: Path) -> dict[str, Any]:
    """One result; ValueError if the file is none."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        {name: figures[name] for name in ("run", "method", "exponent", "arguments", "first_stage", "epoch", "f1", "test_list", "images")}
        {name: figures["shots"][name] for name in SHOTS}
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result of main.py: {error!r}") from None
    return figures


def name_of(figures: dict[str, Any]) -> str:
    """What was trained and how it was tested."""
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


def table(results: list[dict[str, Any]]) -> str:
    """A row a result: top-1 in % over the images of each group of classes, F1 averaged over classes."""
    lines = ["| method | " + " | ".join(SHOTS) + " | F1 | epochs | kept | seed | run |", "|---|" + "--:|" * 8 + "---|"]
    for figures in results:
        shots = ["-" if figures["shots"][name] is None else f"{100 * figures['shots'][name]:.2f}" for name in SHOTS]
        arguments = figures["arguments"]
        lines.append("| " + " | ".join([name_of(figures), *shots, f"{figures['f1']:.4f}", str(arguments.get("num_epochs", "")),
                                        str(figures["epoch"]), str(arguments.get("seed", "")), figures["run"]]) + " |")
    tests = sorted({f"{figures['test_list'].split()[0]}, {figures['images']} images" for figures in results})
    return "\n".join([*lines, "", f"Top-1 in % on {'; '.join(tests)}; {SHOT_SIZES}.", ""])


def write(args: Namespace) -> None:
    text = table([read_result(path) for path in args.results])
    if args.out:
        write_atomically(args.out, text.encode())
    if args.page and not write_between(args.page, *MARKS, text):
        raise ValueError(f"{args.page} has no lines {MARKS[0]} and {MARKS[1]}, between which the table would go")
    print(text, end="")


def main(argv: list[str] | None = None) -> int:
    def act() -> None:
        parser = ArgumentParser(__doc__)
        parser.add_argument("results", type=Path, nargs="+", metavar="JSON")
        parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there too")
        parser.add_argument("--page", type=Path, metavar="FILE", help="put the table between its marks in that page, such as ../README.md")
        write(parser.parse_args(argv))

    return exit_code(act)


if __name__ == "__main__":
    sys.exit(main())
