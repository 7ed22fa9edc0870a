"""The flags that choose among all losses, CDB's and the rivals, and what each loss takes from them.

This package knows the names of the CDB losses, not their class: each experiment holds its own copy of cdb_loss.py, and
hands its CDBLoss to build_loss.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from longtail.cli import number_in, some
from longtail.losses import RIVALS, CDBMarginLoss, build_rival

CDB_LOSSES = ("CDB-CE", "CDB-FL", "CDB-BS", "CDB-DBM")
LOSS_TYPES = RIVALS + CDB_LOSSES
MEANS = ("mean", "weighted_mean")  # the reductions that training can use


def build_loss(args: Any, class_counts: list[int], cdb_loss: Callable[..., nn.Module]) -> nn.Module:
    """Return the loss that args.loss_type names, with its settings; `cdb_loss` is the experiment's CDBLoss.

    args: the flags of add_loss_arguments, or a configuration with the same names.
    """
    if args.loss_type in CDB_LOSSES:
        loss = cdb_loss(
            len(class_counts),
            args.tau,
            args.reduction,
            args.gamma if args.loss_type == "CDB-FL" else 0.0,
            difficulty=args.difficulty,
            class_counts=class_counts if args.loss_type in ("CDB-BS", "CDB-DBM") else None,
        )
        return CDBMarginLoss(class_counts, loss) if args.loss_type == "CDB-DBM" else loss
    return build_rival(
        args.loss_type,
        class_counts,
        gamma=args.gamma,
        beta=args.beta,
        eql_gamma=args.eql_gamma,
        eql_lambda=args.eql_lambda,
    )


def absent_classes_line(args: Any, absent: list[str], file: Path, remedy: str) -> str:
    """Return the line that names the classes without held-out samples in `file`; empty where there are none.

    For runs that measure difficulty. CDB with difficulty "smoothed" gives these classes the overall one. "paper"
    cannot: ValueError, which says the `remedy`.
    """
    if not absent:
        return ""
    which = f"{file} has no sample of class {some(absent)}"
    if args.difficulty == "smoothed":
        return f"{which}: CDB gives them the overall difficulty"
    raise ValueError(f"{which}: their difficulty cannot be measured; {remedy} gives them the overall one")


def add_loss_arguments(
    parser: argparse.ArgumentParser, read_tau: Callable[[str], float | str], difficulties: Sequence[str]
) -> None:
    """Add --loss_type and the settings of each loss to a training script.

    read_tau returns the tau that a text names, or raises ValueError with the reason; difficulties are CDBLoss's, the
    default first.
    """

    def tau(text: str) -> float | str:
        try:
            return read_tau(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    group = parser.add_argument_group("loss")
    group.add_argument("--loss_type", choices=LOSS_TYPES, default="CDB-CE", help="default: %(default)s")
    group.add_argument(
        "--tau",
        type=tau,
        default="dynamic",
        help="CDB: how strongly difficulty weighs; 'dynamic' (paper, the default), 'dynamic-released' or a number",
    )
    group.add_argument(
        "--difficulty",
        choices=difficulties,
        default=difficulties[0],
        help="CDB: paper (default): from the last validation pass alone; smoothed: steady, for easy or small data",
    )
    group.add_argument(
        "--reduction",
        choices=MEANS,
        default="mean",
        help="CDB: mean over the batch (paper, the default), or weighted_mean, divided by the batch's summed weights",
    )
    group.add_argument(
        "--gamma", type=number_in(0, 100), default=1.0, help="FL, CB_Focal, CDB-FL: focusing exponent; default: 1"
    )
    group.add_argument(
        "--beta",
        type=number_in(0, 1, include_low=False),
        default=0.9999,
        help="CB_*, LDAM-DRW: effective-number parameter; default: 0.9999",
    )
    group.add_argument(
        "--eql_gamma",
        type=number_in(0, 1, include_high=True),
        default=0.9,
        help="EQL: probability that a rare class is left out; default: 0.9",
    )
    group.add_argument(
        "--eql_lambda",
        type=number_in(0, 1, include_high=True),
        default=0.005,
        help="EQL: a class with a smaller share of the training set is rare; default: 0.005",
    )
