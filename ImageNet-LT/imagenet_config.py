"""The settings of a run: the YAML file that a user edits, checked and turned into one frozen object.

Relative paths in the file start at this folder, ImageNet-LT/; `~` is the home directory; `{data_root}` in the path of a
list stands for the data root. A key that the file leaves out has the default below. Numbers are read as they are
written, in plain decimals: 064 is 64, and 1:30 is refused.
"""

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    create_model,
)

from backbones import BACKBONES, TIMM
from longtail.cli import PRECISIONS
from longtail.files import expand_home
from longtail.losses import DIFFICULTY, LOSSES, TAU, Setting, find_loss, loss_settings

HERE = Path(__file__).resolve().parent
SAMPLINGS = ("uniform", "balanced", "square_root", "progressive", "difficulty")
STAGES = ("features", "crt", "lws")
OPTIMIZERS = ("sgd", "adamw")
PUBLISHED = "imagenet"  # of `pretrained`: the weights that torchvision or timm has for the backbone
NOTHING = ("", "null", "~", "none")  # of a key that may be absent
PATHS = ("data_root", "train_list", "val_list", "test_list", "class_list", "model_dir", "first_stage", "pretrained")
LOSS_TYPES = tuple(loss.name for loss in LOSSES if loss.head == "linear")  # the networks have no cosine head
LOSS_KEYS = tuple(setting.name for setting in loss_settings())


def one_of(*choices: str) -> AfterValidator:
    """Return a check that a setting is one of several words."""

    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        return value

    return AfterValidator(check)


def check_backbone(name: str) -> str:
    """Return the name of a backbone. Raise ValueError if there is none of that name; timm checks its own later."""
    if name not in BACKBONES and not name.startswith(TIMM):
        raise ValueError(f"must be {', '.join(BACKBONES)} or {TIMM}NAME")
    return name


def none_if_nothing(value: Any) -> Any:
    """Return None for a value that stands for nothing."""
    return None if value in NOTHING else value


Text = Annotated[str, StringConstraints(min_length=1)]
OptionalText = Annotated[Text | None, BeforeValidator(none_if_nothing)]
Count = Annotated[int, Field(ge=1, lt=2**32)]
Side = Annotated[int, Field(ge=1, le=1024)]  # pixels; the batches must fit into memory
Rate = Annotated[float, Field(gt=0)]


def loss_field(setting: Setting) -> tuple[Any, Any]:
    """Return type and default of the field for a loss's setting."""
    return Annotated[Any, BeforeValidator(setting.read)], setting.default


fields: dict[str, Any] = {setting.name: loss_field(setting) for setting in loss_settings()}
LossSettings = create_model("LossSettings", **fields)


class Config(LossSettings):  # type: ignore[misc, valid-type]
    """One field for each key, and for each setting of a loss. A field without a default must be in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=False)

    data_root: Annotated[Text, Field(description="the folder that holds the images")]
    train_list: Annotated[Text, Field(description="a list file")]
    val_list: Annotated[Text, Field(description="a list file")]
    test_list: Annotated[Text, Field(description="a list file")]
    class_list: OptionalText = None
    num_classes: Annotated[int, Field(ge=2, le=100_000, description="labels run from 0 to num_classes - 1")]
    image_size: Side = 224
    test_resize: Side = 256
    white_level: Annotated[int, Field(ge=255, le=65535)] = 65535
    model_dir: Annotated[Text, Field(description="the folder for the run")]
    backbone: Annotated[str, AfterValidator(check_backbone)] = "resnet10"
    pretrained: OptionalText = None
    stage: Annotated[str, one_of(*STAGES)] = "features"
    first_stage: OptionalText = None
    loss_type: Annotated[str, one_of(*LOSS_TYPES)] = "CE"
    sampling: Annotated[str, one_of(*SAMPLINGS)] = "uniform"
    num_epochs: Annotated[Count, Field(description="a whole number of at least 1")]
    batch_size: Annotated[Count, Field(description="a whole number of at least 1")]
    optimizer: Annotated[str, one_of(*OPTIMIZERS)] = "sgd"
    lr: Annotated[Rate, Field(description="a number above 0")]
    head_lr: Annotated[Rate | None, BeforeValidator(none_if_nothing)] = None
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 2e-4
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    n_gpus: Count = 1
    device: OptionalText = None
    workers: Annotated[Annotated[int, Field(ge=0, lt=2**32)] | None, BeforeValidator(none_if_nothing)] = None
    precision: Annotated[str, one_of(*PRECISIONS)] = "auto"

    def path(self, key: str) -> Path:
        """Return a path setting as a path."""
        value = getattr(self, key)
        if key.endswith("_list"):
            value = value.replace("{data_root}", str(self.path("data_root")))
        return HERE / expand_home(value)

    def settings(self) -> dict[str, Any]:
        """Return all that decides the result, without paths."""
        return self.model_dump(exclude=set(PATHS))

    def dump(self) -> str:
        """Return the text of a file that gives this configuration on any machine: without device and number of GPUs."""
        settings = self.model_dump(exclude={"device", "n_gpus"})
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=1000)

    @property
    def measures_difficulty(self) -> bool:
        """Whether the weights that validation gives are used, in the loss or to draw images."""
        return find_loss(self.loss_type).measures_difficulty or self.sampling == "difficulty"

    def is_default(self, key: str) -> bool:
        """Return whether a setting has its default."""
        return getattr(self, key) == type(self).model_fields[key].default

    def reads(self, key: str) -> bool:
        """Return whether a setting of a loss has an effect here."""
        used = find_loss(self.loss_type).settings
        if self.sampling == "difficulty":
            used += (TAU, DIFFICULTY)
        return key in [setting.name for setting in used]


def read_config(file: Path, say: Callable[[str], object] = print, **overrides: Any) -> Config:
    """Return the configuration in `file`; `overrides`, from the command line, replace its values unless they are None.

    A key of the file that the loss does not read is left out, and `say` is told; an override without effect is an
    error. Errors name the file, the line, the key and the value.
    """
    values, lines = read_yaml(file)
    typed = {key: value for key, value in overrides.items() if value is not None}
    check_names(file, lines)
    config = validated(file, lines, values, typed)
    without_effect = [key for key in LOSS_KEYS if not config.is_default(key) and not config.reads(key)]
    for key in without_effect:
        reason = f"{key} {getattr(config, key)} does nothing with loss_type {config.loss_type}"
        if key in typed:
            raise ValueError(f"--{key}: {reason}; leave it out")
        say(f"{file}, line {lines[key]}: {reason}, and is left out")
    config = config.model_copy(update={key: Config.model_fields[key].default for key in without_effect})
    check_combination(file, config)
    return config


def read_yaml(file: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values of a YAML file as they are written, and the line of each key.

    BaseLoader converts nothing: YAML 1.1 would read 064 as 52, 1:30 as 90 and `no` as False.
    """
    try:
        content = file.read_text(encoding="utf-8-sig")
        keys = yaml.compose(content, Loader=yaml.BaseLoader)
        values = yaml.load(content, Loader=yaml.BaseLoader)  # noqa: S506  (it makes text, lists and dictionaries alone)
    except OSError as error:
        raise OSError(
            f"{file} cannot be read: {error.strerror}; --cfg takes a YAML file such as those in {HERE / 'config'}"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds no settings: each line must have the form `key: value`")
    lines: dict[str, int] = {}
    for key, _ in keys.value:
        name, line = key.value, key.start_mark.line + 1
        if name in lines:
            raise ValueError(f"{file}, line {line}: {name} stands in line {lines[name]} already; remove one of the two")
        lines[name] = line
    return values, lines


def check_names(file: Path, lines: dict[str, int]) -> None:
    """Raise ValueError for a key that is unknown. It names the nearest known one."""
    known = list(Config.model_fields)
    for key, line in lines.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{file}, line {line}: unknown key {key}; {hint}")


def validated(file: Path, lines: dict[str, int], values: dict[str, Any], typed: dict[str, Any]) -> Config:
    """Return the configuration. Raise ValueError for the first value that cannot be, or for a key that is missing."""
    try:
        return Config(**{**values, **typed})
    except ValidationError as error:
        key, reason = first_problem(error)
    if key not in typed and key not in lines:
        description = Config.model_fields[key].description
        raise ValueError(f"{file}: no {key}; add the line `{key}: ` with {description}")
    where = f"--{key}" if key in typed else f"{file}, line {lines[key]}: {key}"
    raise ValueError(f"{where} {reason}")


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Return the key of the first value that cannot be, and why not."""
    problem = error.errors(include_url=False)[0]
    reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    if ", not " not in reason:
        reason += f", not {problem['input']!r}"
    return str(problem["loc"][0]), reason


def check_combination(file: Path, config: Config) -> None:
    """Raise ValueError for settings that contradict each other."""
    if config.test_resize < config.image_size:
        problem = f"test_resize {config.test_resize} must be at least image_size {config.image_size}, cut from it"
    elif config.warmup_epochs >= config.num_epochs:
        problem = f"warmup_epochs {config.warmup_epochs:g} must be below num_epochs {config.num_epochs}"
    elif config.sampling == "difficulty" and config.loss_type != "CE":
        problem = f"sampling difficulty replaces the weights in the loss: loss_type must be CE, not {config.loss_type}"
    else:
        problem = stage_problem(config)
    if problem:
        raise ValueError(f"{file}: {problem}")


def stage_problem(config: Config) -> str:
    """Return what is wrong with the settings of a second stage, or of a first one that looks like one; or nothing."""
    if config.stage == "features":
        if config.first_stage:
            return f"first_stage {config.first_stage} is for stage crt or lws, not {config.stage}"
        return ""
    if not config.first_stage:
        return f"stage {config.stage} needs first_stage, the model_dir of a finished first stage"
    if config.pretrained:
        return (
            f"pretrained {config.pretrained} does nothing in stage {config.stage}, which starts from first_stage; "
            "remove the line"
        )
    if os.path.realpath(config.path("first_stage")) == os.path.realpath(config.path("model_dir")):
        return (
            f"first_stage and model_dir are both {config.first_stage}: the second stage would replace the first; "
            "choose another model_dir"
        )
    return ""
