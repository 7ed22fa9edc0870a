"""The settings of a run: the YAML file that a user edits, checked and turned into one frozen object.

Relative paths in the file start at this folder, ImageNet-LT/; `~` is the home directory; `{data_root}` in the path of a
list stands for the data root. A key that the file leaves out has the default below.
"""

import dataclasses
import difflib
import math
import os
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from backbones import BACKBONES
from cdb_loss import DIFFICULTIES, DYNAMIC_TAU, read_tau
from longtail.cli import PRECISIONS, number_in
from longtail.files import check_file, expanded
from longtail.loss_flags import CDB_LOSSES, LOSS_TYPES, MEANS
from longtail.losses import COSINE_LOSSES

HERE = Path(__file__).resolve().parent
SAMPLINGS = ("uniform", "balanced", "square_root", "progressive", "difficulty")
WITH_GAMMA = ("FL", "CB_Focal", "CDB-FL")
STAGES = ("features", "crt", "lws")
MOST_CLASSES, LARGEST_SIDE = 100_000, 1024  # the model and its batches must fit into memory
LARGEST_CONFIG = 1 << 16  # bytes
PATHS = ("data_root", "train_list", "val_list", "test_list", "class_list", "model_dir", "first_stage", "pretrained")


def setting(allowed: str, convert: Callable[[Any], Any], default: Any = MISSING) -> Any:
    """Return a field of Config.

    `convert` turns the file's value into the setting or raises ValueError; `allowed` says what it takes.
    """
    return dataclasses.field(default=default, metadata={"allowed": allowed, "convert": convert})


def require(fits: bool, value: Any) -> Any:
    """Return `value`. Raise ValueError unless it fits."""
    if not fits:
        raise ValueError(value)
    return value


def text(allowed: str, default: Any = MISSING) -> Any:
    """Return a setting that is a text of at least one character."""
    return setting(
        allowed, lambda value: require(isinstance(value, str) and value and "\0" not in value, value), default
    )


def whole(low: int, high: int = 2**32 - 1, default: Any = MISSING) -> Any:
    """Return a setting that is a whole number from `low` to `high`."""
    allowed = f"a whole number of at least {low}" if high == 2**32 - 1 else f"a whole number from {low} to {high}"
    return setting(allowed, lambda value: require(type(value) is int and low <= value <= high, value), default)


def choice(choices: tuple[str, ...], default: str) -> Any:
    """Return a setting that is one of several words."""
    return setting(
        ", ".join(choices[:-1]) + f" or {choices[-1]}", lambda value: require(value in choices, value), default
    )


def number(
    allowed: str,
    low: float,
    high: float = math.inf,
    include_low: bool = True,
    include_high: bool = False,
    default: Any = MISSING,
) -> Any:
    """Return a setting that is a number between `low` and `high`, also one that YAML 1.1 reads as text: 2e-4 without a
    point.
    """
    return setting(allowed, lambda value: number_in(low, high, include_low, include_high)(str(value)), default)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One field for each key; a field without a default must be in the file."""

    data_root: str = text("the folder that holds the images")
    train_list: str = text("a list file")
    val_list: str = text("a list file")
    test_list: str = text("a list file")
    class_list: str | None = text("a file that names a class in each line", None)
    num_classes: int = whole(2, MOST_CLASSES)
    image_size: int = whole(1, LARGEST_SIDE, 224)
    test_resize: int = whole(1, LARGEST_SIDE, 256)
    model_dir: str = text("the folder for the run")
    backbone: str = choice(BACKBONES, "resnet10")
    pretrained: str | None = text("a file with weights of the backbone", None)
    stage: str = choice(STAGES, "features")
    first_stage: str | None = text("the model_dir of a finished first stage", None)
    loss_type: str = choice(tuple(name for name in LOSS_TYPES if name not in COSINE_LOSSES), "CE")
    tau: float | str = setting(
        f"a number above 0, {' or '.join(DYNAMIC_TAU)}", lambda value: read_tau(str(value)), "dynamic"
    )
    difficulty: str = choice(DIFFICULTIES, "paper")
    reduction: str = choice(MEANS, "mean")
    gamma: float = number("a number of at least 0", 0, default=1.0)
    beta: float = number("a number above 0 and below 1", 0, 1, include_low=False, default=0.9999)
    eql_gamma: float = number("a number from 0 to 1", 0, 1, include_high=True, default=0.9)
    eql_lambda: float = number("a number from 0 to 1", 0, 1, include_high=True, default=0.005)
    sampling: str = choice(SAMPLINGS, "uniform")
    num_epochs: int = whole(1)
    batch_size: int = whole(1)
    lr: float = number("a number above 0", 0, include_low=False)
    momentum: float = number("a number from 0 to below 1", 0, 1, default=0.9)
    weight_decay: float = number("a number of at least 0", 0, default=2e-4)
    seed: int = setting(
        "a whole number from 0 to 4294967295",
        lambda value: require(type(value) is int and 0 <= value < 2**32, value),
        0,
    )
    n_gpus: int = whole(1, default=1)
    device: str | None = text("cpu, cuda, cuda:1, mps or xpu", None)
    workers: int | None = whole(0, default=None)
    precision: str = choice(PRECISIONS, "auto")

    def path(self, key: str) -> Path:
        """Return a path setting as a path."""
        value = getattr(self, key)
        if key.endswith("_list"):
            value = value.replace("{data_root}", str(self.path("data_root")))
        return HERE / expanded(value)

    def settings(self) -> dict[str, Any]:
        """Return all that decides the result, without places."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in PATHS}

    def dump(self) -> str:
        """Return the text of a file that gives this configuration on any machine: without the device and the number of
        GPUs.
        """
        settings = {key: value for key, value in dataclasses.asdict(self).items() if key not in ("device", "n_gpus")}
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=1000)


def read_config(file: Path, **overrides: Any) -> Config:
    """Return the configuration in `file`; `overrides` that are not None replace its values.

    Errors name the file, key and value.
    """
    try:
        check_file(file, LARGEST_CONFIG)
        content = file.read_text(encoding="utf-8")
        keys = yaml.compose(content, Loader=yaml.SafeLoader)
        values = yaml.safe_load(content)
    except OSError as error:
        raise OSError(
            f"{file} cannot be read: {error.strerror or 'it is not a file'}; --cfg takes a YAML file such as those in "
            f"{HERE / 'config'}"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError, LookupError) as error:  # LookupError: `!!bool maybe`
        raise ValueError(f"{file} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds no settings: each line must have the form `key: value`")
    overrides = {key: value for key, value in overrides.items() if value is not None}
    check_keys(file, [(str(key.value), key.start_mark.line + 1) for key, _ in keys.value], given=overrides)
    values |= overrides
    config = Config(
        **{field.name: convert(file, field, values[field.name]) for field in fields(Config) if field.name in values}
    )
    check_combination(file, config)
    return config


def check_keys(file: Path, keys: list[tuple[str, int]], given: Collection[str]) -> None:
    """Raise ValueError for a key that is unknown (the nearest known one is named), doubled, or missing and not `given`
    elsewhere.
    """
    known = [field.name for field in fields(Config)]
    seen: dict[str, int] = {}
    for key, line in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(
                f"{file}, line {line}: unknown key {key}; "
                + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
            )
        if key in seen:
            raise ValueError(f"{file}, line {line}: {key} stands in line {seen[key]} already; remove one of the two")
        seen[key] = line
    missing = [field for field in fields(Config) if field.default is MISSING and field.name not in {*seen, *given}]
    if missing:
        raise ValueError(
            f"{file}: no {missing[0].name}; add the line `{missing[0].name}: ` and {missing[0].metadata['allowed']}"
        )


def convert(file: Path, field: dataclasses.Field, value: Any) -> Any:
    """Return the setting that a value means. Raise ValueError if the key does not take it."""
    if value is None and field.default is None:
        return None
    try:
        return field.metadata["convert"](value)
    except (ValueError, TypeError, ArgumentTypeError):
        raise ValueError(f"{file}: {field.name} must be {field.metadata['allowed']}, not {value!r}") from None


def check_combination(file: Path, config: Config) -> None:
    """Raise ValueError for settings that contradict each other."""
    if config.test_resize < config.image_size:
        raise ValueError(
            f"{file}: test_resize {config.test_resize} must be at least image_size {config.image_size}, which is cut "
            "from it"
        )
    if config.stage != "features" and not config.first_stage:
        raise ValueError(f"{file}: stage {config.stage} needs first_stage, the model_dir of a finished first stage")
    if config.stage == "features" and config.first_stage:
        raise ValueError(f"{file}: first_stage {config.first_stage} is for stage crt or lws, not {config.stage}")
    if config.stage != "features" and config.pretrained:
        raise ValueError(
            f"{file}: pretrained {config.pretrained} does nothing in stage {config.stage}, which starts from "
            "first_stage; "
            "remove the line"
        )
    if config.first_stage and os.path.realpath(config.path("first_stage")) == os.path.realpath(
        config.path("model_dir")
    ):
        raise ValueError(
            f"{file}: first_stage and model_dir are both {config.first_stage}: the second stage would replace the "
            "first; "
            "choose another model_dir"
        )
    if config.sampling == "difficulty" and config.loss_type != "CE":
        raise ValueError(
            f"{file}: sampling difficulty replaces the weights in the loss: loss_type must be CE, not "
            f"{config.loss_type}"
        )
    difficult = config.loss_type in CDB_LOSSES or config.sampling == "difficulty"
    for key, works in (
        ("tau", difficult),
        ("difficulty", difficult),
        ("reduction", config.loss_type in CDB_LOSSES),
        ("gamma", config.loss_type in WITH_GAMMA),
        ("beta", config.loss_type in ("CB_Softmax", "CB_Focal")),
        ("eql_gamma", config.loss_type == "EQL"),
        ("eql_lambda", config.loss_type == "EQL"),
    ):
        if getattr(config, key) != getattr(Config, key) and not works:  # the class holds the defaults
            raise ValueError(
                f"{file}: {key} {getattr(config, key)} does nothing with loss_type {config.loss_type}; remove the line"
            )
