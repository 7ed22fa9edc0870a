"""The flags that choose a loss and its settings, and the loss that they describe. All follow from the table of losses.

This package knows the names of the CDB losses, not their class: each experiment holds its own copy of cdb_loss.py, and
hands its CDBLoss to build_loss.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from longtail.cli import first_few
from longtail.losses import LOSSES, Setting, find_loss, loss_settings, losses_with


def build_loss(args: Any, class_counts: list[int], cdb_loss: Callable[..., nn.Module]) -> nn.Module:
    """Return the loss that args.loss_type names, with its settings; `cdb_loss` is the experiment's CDBLoss.

    args: the flags of add_loss_arguments, or a configuration with the same names.
    """
    loss = find_loss(args.loss_type)
    settings = {setting.argument or setting.name: getattr(args, setting.name) for setting in loss.settings}
    if loss.measures_difficulty:
        return loss.build(cdb_loss, class_counts, **settings)
    return loss.build(class_counts, **settings)


def absent_classes_line(args: Any, absent: list[str], file: Path, remedy: str) -> str:
    """Return the line that names the classes without held-out samples in `file`; empty where there are none.

    For runs that measure difficulty. CDB with difficulty "smoothed" gives these classes the overall one. "paper"
    cannot: ValueError, which says the `remedy`.
    """
    if not absent:
        return ""
    which = f"{file} has no sample of class {first_few(absent)}"
    if args.difficulty == "smoothed":
        return f"{which}: CDB gives them the overall difficulty"
    raise ValueError(f"{which}: their difficulty cannot be measured; {remedy} gives them the overall one")


def reader(setting: Setting) -> Callable[[str], float | str]:
    """Return a converter of a flag's text."""

    def read(text: str) -> float | str:
        try:
            return setting.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --loss_type and the settings of each loss to a training script, which then calls complete_loss_arguments."""
    group = parser.add_argument_group("loss")
    names = [loss.name for loss in LOSSES]
    group.add_argument("--loss_type", choices=names, default="CDB-CE", help="default: %(default)s")
    for setting in loss_settings():
        group.add_argument(
            f"--{setting.name}",
            type=reader(setting),
            metavar="{" + ",".join(setting.words) + "}" if setting.low is None else None,
            help=f"{', '.join(losses_with(setting))}: {setting.meaning}; default: {setting.default}",
        )


def complete_loss_arguments(args: argparse.Namespace) -> None:
    """Fill in the settings that were not typed. Raise ValueError for one that was typed and has no effect."""
    used = find_loss(args.loss_type).settings
    for setting in loss_settings():
        value = getattr(args, setting.name)
        if value is None:
            setattr(args, setting.name, setting.default)
        elif setting not in used:
            raise ValueError(
                f"--{setting.name} {value} does nothing with --loss_type {args.loss_type}: it is for "
                f"{', '.join(losses_with(setting))}"
            )
