"""A run's settings: the YAML file that a user edits, checked and turned into one frozen object.

Relative paths in the file start at this folder, ImageNet-LT/; `~` is the home directory; `{data_root}` in the path of a list is
the data root. Whatever the file does not say has the default below.
"""

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Collection
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from cdb_loss import DIFFICULTIES, DYNAMIC_TAU
from longtail.cli import PRECISIONS
from longtail.files import check_file
from longtail.losses import CDB_LOSSES, LOSS_TYPES, MEANS

HERE = Path(__file__).resolve().parent
SAMPLINGS = ("uniform", "balanced", "square_root", "progressive", "difficulty")
WITH_GAMMA = ("FL", "CB_Focal", "CDB-FL")
STAGES = ("features", "crt", "lws")
MOST_CLASSES, LARGEST_SIDE = 100_000, 1024      # the network and its batches must find room in memory
LARGEST_CONFIG = 1 << 16     # bytes
PATHS = ("data_root", "train_list", "val_list", "test_list", "model_dir", "first_stage")


class Unfit(Exception):
    """A value that a key does not take."""


def setting(allowed: str, check: Callable[[Any], Any], default: Any = MISSING) -> Any:
    """A field of Config: `check` turns the file's value into the setting or raises Unfit; `allowed` says what it takes."""
    return dataclasses.field(default=default, metadata={"allowed": allowed, "check": check})


def text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise Unfit
    return value


def number(value: Any) -> float:
    """YAML 1.1 reads 2e-4, without a point, as text."""
    try:
        if isinstance(value, bool) or not math.isfinite(float(value)):
            raise Unfit
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise Unfit from None


def within(low: float, high: float = math.inf, include_low: bool = True) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if not (low <= number(value) < high and (include_low or number(value) > low)):
            raise Unfit
        return number(value)
    return check


def whole(low: int, high: int = 2 ** 32 - 1) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Unfit
        return value
    return check


def one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise Unfit
        return value
    return check


def choice(choices: tuple[str, ...], default: str) -> Any:
    return setting(", ".join(choices[:-1]) + f" or {choices[-1]}", one_of(*choices), default)


def count(default: Any = MISSING) -> Any:
    return setting("a whole number of at least 1", whole(1), default)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One field a key; a field without default must be in the file."""

    data_root: str = setting("the folder that holds the images", text)
    train_list: str = setting("a list file", text)
    val_list: str = setting("a list file", text)
    test_list: str = setting("a list file", text)
    num_classes: int = setting(f"a whole number from 2 to {MOST_CLASSES}", whole(2, MOST_CLASSES))
    image_size: int = setting(f"a whole number from 1 to {LARGEST_SIDE}", whole(1, LARGEST_SIDE), 224)
    test_resize: int = setting(f"a whole number from 1 to {LARGEST_SIDE}", whole(1, LARGEST_SIDE), 256)
    model_dir: str = setting("the folder for the run", text)
    stage: str = choice(STAGES, "features")
    first_stage: str | None = setting("the model_dir of a finished first stage", text, None)
    loss_type: str = choice(tuple(name for name in LOSS_TYPES if name != "LDAM-DRW"), "CE")
    tau: float | str = setting(f"a number above 0, {' or '.join(DYNAMIC_TAU)}",
                               lambda value: value if value in DYNAMIC_TAU else within(0, include_low=False)(value), "dynamic")
    difficulty: str = choice(DIFFICULTIES, "paper")
    reduction: str = choice(MEANS, "mean")
    gamma: float = setting("a number of at least 0", within(0), 1.0)
    beta: float = setting("a number above 0 and below 1", within(0, 1, include_low=False), 0.9999)
    eql_gamma: float = setting("a number from 0 to 1", within(0, 1.000001), 0.9)
    eql_lambda: float = setting("a number from 0 to 1", within(0, 1.000001), 0.005)
    sampling: str = choice(SAMPLINGS, "uniform")
    num_epochs: int = count()
    batch_size: int = count()
    lr: float = setting("a number above 0", within(0, include_low=False))
    momentum: float = setting("a number from 0 to below 1", within(0, 1), 0.9)
    weight_decay: float = setting("a number of at least 0", within(0), 2e-4)
    seed: int = setting("a whole number from 0 to 4294967295", whole(0), 0)
    n_gpus: int = count(1)
    workers: int | None = setting("a whole number of at least 0", whole(0), None)
    precision: str = choice(PRECISIONS, "auto")

    def path(self, key: str) -> Path:
        """A path setting as a path."""
        value = getattr(self, key)
        if key.endswith("_list"):
            value = value.replace("{data_root}", str(self.path("data_root")))
        return HERE / expanded(value)

    def settings(self) -> dict[str, Any]:
        """All that decides the result, without places."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in PATHS}

    def dump(self) -> str:
        """The file that gives this configuration."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True, width=1000)


def expanded(path: str | Path) -> Path:
    """The path with `~` as the home directory; ValueError for somebody's who has none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no such home directory") from None


def parts_of(node: yaml.Node | None) -> list[yaml.Node]:
    """What a list holds, or a mapping, keys and values."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def check_flat(node: yaml.Node | None) -> None:
    """ValueError for lists of lists: no setting is one, and references to references would grow without end."""
    for value in parts_of(node):
        if not all(isinstance(part, yaml.ScalarNode) for part in parts_of(value)):
            raise ValueError(f"line {value.start_mark.line + 1} holds a list in a list, or the like; a setting is one value")


def read_config(file: Path, **overrides: Any) -> Config:
    """The configuration in `file`, where `overrides` that are not None replace its values. ValueError or OSError names the file."""
    try:
        check_file(file, LARGEST_CONFIG)
        content = file.read_text(encoding="utf-8")
        node = yaml.compose(content, Loader=yaml.SafeLoader)
        check_flat(node)
        values = yaml.safe_load(content)
    except OSError as error:
        raise OSError(f"{file} cannot be read: {error.strerror or 'it is no file'}; --cfg takes a YAML file such as those in "
                      f"{HERE / 'config'}") from None
    except (yaml.YAMLError, ValueError, RecursionError, LookupError) as error:      # LookupError: `!!bool maybe`
        raise ValueError(f"{file} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds no settings: each line must have the form `key: value`")
    overrides = {key: value for key, value in overrides.items() if value is not None}
    check_keys(file, [(str(key.value), key.start_mark.line + 1) for key, _ in node.value], given=overrides)
    values |= overrides
    config = Config(**{field.name: check_value(file, field, values[field.name]) for field in fields(Config) if field.name in values})
    check_combination(file, config)
    return config


def check_keys(file: Path, keys: list[tuple[str, int]], given: Collection[str]) -> None:
    """ValueError for a key that is unknown (the nearest known one is named), doubled, or missing though not `given` elsewhere."""
    known = [field.name for field in fields(Config)]
    seen: dict[str, int] = {}
    for key, line in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"{file}, line {line}: unknown key {key}; "
                             + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"))
        if key in seen:
            raise ValueError(f"{file}, line {line}: {key} stands in line {seen[key]} already; remove one of the two")
        seen[key] = line
    missing = [field for field in fields(Config) if field.default is MISSING and field.name not in {*seen, *given}]
    if missing:
        raise ValueError(f"{file}: no {missing[0].name}; add the line `{missing[0].name}: ` and {missing[0].metadata['allowed']}")


def check_value(file: Path, field: dataclasses.Field, value: Any) -> Any:
    """The setting that a value means; ValueError if the key does not take it."""
    if value is None and field.default is None:
        return None
    try:
        return field.metadata["check"](value)
    except (Unfit, TypeError):
        raise ValueError(f"{file}: {field.name} must be {field.metadata['allowed']}, not {value!r}") from None


def check_combination(file: Path, config: Config) -> None:
    """ValueError for settings that contradict each other."""
    if config.test_resize < config.image_size:
        raise ValueError(f"{file}: test_resize {config.test_resize} must be at least image_size {config.image_size}, which is cut from it")
    if config.stage != "features" and not config.first_stage:
        raise ValueError(f"{file}: stage {config.stage} needs first_stage, the model_dir of a finished first stage")
    if config.stage == "features" and config.first_stage:
        raise ValueError(f"{file}: first_stage {config.first_stage} is for stage crt or lws, not {config.stage}")
    if config.first_stage and os.path.realpath(config.path("first_stage")) == os.path.realpath(config.path("model_dir")):
        raise ValueError(f"{file}: first_stage and model_dir are both {config.first_stage}: the second stage would replace the first; "
                         "choose another model_dir")
    if config.sampling == "difficulty" and config.loss_type != "CE":
        raise ValueError(f"{file}: sampling difficulty replaces the weights in the loss: loss_type must be CE, not {config.loss_type}")
    difficult = config.loss_type in CDB_LOSSES or config.sampling == "difficulty"
    for key, works in (("tau", difficult), ("difficulty", difficult), ("reduction", config.loss_type in CDB_LOSSES),
                       ("gamma", config.loss_type in WITH_GAMMA), ("beta", config.loss_type in ("CB_Softmax", "CB_Focal")),
                       ("eql_gamma", config.loss_type == "EQL"), ("eql_lambda", config.loss_type == "EQL")):
        default = next(field.default for field in fields(Config) if field.name == key)
        if getattr(config, key) != default and not works:
            raise ValueError(f"{file}: {key} {getattr(config, key)} does nothing with loss_type {config.loss_type}; remove the line")
