"""Tables of results in Markdown and CSV, and the command line of the scripts that write them."""

import json
import math
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from longtail.cli import ArgumentParser, file_path
from longtail.files import write_atomically, write_between
from longtail.losses import LOSSES, TAU, Setting
from longtail.records import Arguments, TestJson

INTERVAL = "The interval is over the test set alone; another seed may move a row further."
Z_95 = 1.96  # standard deviations of a normal distribution on either side that hold 95 %


def markdown(rows: list[dict[str, str]], left: Collection[str]) -> str:
    """Return a Markdown table of rows with equal keys.

    Columns in `left` are aligned left, the others right, as numbers are.
    """
    columns = list(rows[0])
    rules = ["---" if column in left else "--:" for column in columns]
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(rules)}|"]
    for row in rows:
        lines.append(f"| {' | '.join(row.values())} |")
    return "\n".join([*lines, ""])


def loss_label(arguments: Arguments) -> str:
    """Return the loss of a run and those of its settings that are not the defaults; tau is always said.

    A loss that is not in the table of losses has its name alone.
    """
    name = str(arguments["loss_type"])
    settings = [setting for loss in LOSSES if loss.name == name for setting in loss.settings]
    return ", ".join([name, *settings_labels(arguments, settings)])


def settings_labels(arguments: Arguments, settings: Iterable[Setting]) -> list[str]:
    """Return a label of each setting that differs from its default, and of tau."""
    labels = []
    for setting in settings:
        if setting.name not in arguments:
            continue
        value = arguments[setting.name]
        if value == setting.default and setting != TAU:
            continue
        if setting.low is None:
            labels.append(str(value).replace("_", " "))
        elif value in setting.words:
            labels.append(f"{setting.name} {value}")
        else:
            labels.append(f"{setting.name} {value:g}")
    return labels


def percent(share: float | None) -> str:
    """Return a share of 1 in percent with two decimals, '-' for None."""
    return "-" if share is None else f"{100 * share:.2f}"


def interval(share: float, images: int) -> str:
    """Return the 95 % interval of a share of so many images, in percent: Wilson's, so that 0 and 1 have one too."""
    spread = Z_95**2 / images
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / images + spread / (4 * images)) / (1 + spread)
    return f"{100 * (centre - half):.1f} to {100 * (centre + half):.1f}"


def read_result(path: Path, origin: str, use: Callable[[TestJson], Any]) -> Any:
    """Return use(figures) of a JSON file. Raise ValueError if the file lacks what that needs; `origin` wrote it."""
    try:
        return use(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a result of {origin}: {error!r}") from None


def write_table(
    manual: str | None,
    argv: list[str] | None,
    origin: str,
    row: Callable[[TestJson], dict[str, str]],
    note: Callable[[TestJson], str],
    left: Collection[str],
    marks: tuple[str, str],
) -> None:
    """Print the table of the result files that the command line names, and write it where --out and --page say.

    `row` gives a result's row, `note` a line below the table, which is printed once if results share it.
    Raise ValueError for a file that `origin` did not write, or a page without `marks`.
    """
    parser = ArgumentParser(manual)
    parser.add_argument("results", type=file_path, nargs="+", metavar="JSON")
    parser.add_argument("--out", type=file_path, metavar="FILE", help="write the table there too")
    parser.add_argument(
        "--page", type=file_path, metavar="FILE", help="put the table between its marks in that page, such as README.md"
    )
    args = parser.parse_args(argv)
    rows: list[dict[str, str]] = []
    notes = set()
    for path in args.results:
        cells, line = read_result(path, origin, lambda figures: (row(figures), note(figures)))
        rows.append(cells)
        notes.add(line)
    text = markdown(rows, left) + "\n" + "".join(f"{line}\n" for line in sorted(notes))
    if args.out:
        write_atomically(args.out, text.encode())
    if args.page and not write_between(args.page, *marks, text):
        raise ValueError(f"{args.page} has no lines {marks[0]} and {marks[1]}, between which the table would go")
    print(text, end="")
