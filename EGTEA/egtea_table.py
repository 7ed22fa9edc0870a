"""Results of several tests as a Markdown table, from the files that EGTEA_test.py --json wrote.

    python egtea_table.py results/stand-in/*/test.json [--out FILE] [--page ../README.md]
"""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))   # longtail/ stands beside this folder

from longtail.cli import ArgumentParser, exit_code
from longtail.files import write_atomically, write_between

GROUPS = ("all", "majority", "minority")
MEASURES = ("recall", "precision")
SETTINGS = {"gamma": ("FL", "CB_Focal", "CDB-FL"), "beta": ("CB_Softmax", "CB_Focal", "LDAM-DRW"), "eql_gamma": ("EQL",),
            "eql_lambda": ("EQL",)}      # and the losses that read it
MARKS = ("<!-- egtea stand-in: written by EGTEA/egtea_table.py -->", "<!-- end of egtea stand-in -->")


def read_result(path: Path) -> dict[str, Any]:
    """One result; ValueError if the file is none, or of a checkpoint that does not say how it was trained."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        {(group, measure): figures[group][measure] for group in GROUPS for measure in ("top1", *MEASURES)}
        {name: figures["arguments"][name] for name in ("loss_type", "tau", "max_epochs", "seed")}
        name_of(figures["arguments"])
        {name: figures[name] for name in ("epoch", "val_accuracy", "clips", "verbs", "majority_above")}
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no result of EGTEA_test.py --json on a model of EGTEA_train.py: {error!r}") from None
    return figures


def name_of(arguments: dict[str, Any]) -> str:
    """The loss and its settings; the reduction where it is not the usual one."""
    name = loss = arguments["loss_type"]
    if loss.startswith("CDB"):
        name += f", tau {arguments['tau']}" + (", weighted mean" if arguments.get("reduction") == "weighted_mean" else "")
    return name + "".join(f", {key} {arguments[key]:g}" for key, losses in SETTINGS.items() if loss in losses)


def table(results: list[dict[str, Any]]) -> str:
    """A row a result, in %: top-1 over clips, recall and precision averaged over the classes of a group."""
    columns = ["loss", "top-1", *(f"{measure}, {group}" for group in GROUPS for measure in MEASURES), "validation", "kept", "seed"]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "--:|" * (len(columns) - 1)]
    notes = set()
    for figures in results:
        arguments, every = figures["arguments"], figures["all"]
        shares = [every["top1"], *(figures[group][measure] for group in GROUPS for measure in MEASURES), figures["val_accuracy"]]
        lines.append("| " + " | ".join([name_of(arguments), *(f"{100 * share:.2f}" for share in shares),
                                        f"{figures['epoch']} of {arguments['max_epochs']}", str(arguments["seed"])]) + " |")
        largest = max(verb["clips"] for verb in figures["verbs"])
        notes.add(f"{figures['clips']} test clips, {largest} of them of the largest class; majority: more than "
                  f"{figures['majority_above']} training clips ({figures['majority']['classes']} of {every['classes']} classes).")
    return "\n".join([*lines, "", *sorted(notes), ""])


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
