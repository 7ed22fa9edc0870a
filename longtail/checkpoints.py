"""Save checkpoints so that a crash cannot spoil them, and load them so that they cannot run code."""

import io
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from longtail.cli import first_few
from longtail.files import write_atomically

DESCRIBED = {"arguments": dict, "epoch": int, "accuracy": int | float, "class_counts": list, "class_names": list}
WEIGHTS = ("state_dict", "model_state_dict", "net", "model")  # keys under which programs save them
WRAPPERS = ("module.", "_orig_mod.", "model.")  # DataParallel and AveragedModel, torch.compile, Lightning
WHERE_HTML_STARTS = 1024  # bytes; only blanks may stand before it


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Serialise `state` in memory, then write it atomically. Raise OSError if it cannot be written."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the tensors and plain values of a checkpoint, on the CPU.

    Raise ValueError if it is damaged or holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch comments on odd pickles; the error below says enough
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise anything, struct.error and AssertionError too
        if is_web_page(path):
            raise ValueError(
                f"{path} is a web page, not a checkpoint: the download brought an error or a login; fetch it again"
            ) from None
        raise ValueError(f"{path} is not a checkpoint that can be loaded safely: {reason_of(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(
            f"{path} holds {'other keys than text' if isinstance(state, dict) else type(state).__name__}, "
            "not a checkpoint"
        )
    check_description(state, path)
    return state


def reason_of(error: Exception) -> str:
    """Return why torch.load refused a file."""
    if not isinstance(error, pickle.UnpicklingError):
        return "it is damaged"
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if not named:
        return "it is damaged or holds more than plain values"
    return (
        f"it holds more than plain values ({named[1]}); where it was made, save the weights alone again: "
        "torch.save(model.state_dict(), FILE)"
    )


def is_web_page(path: Path) -> bool:
    """Return whether a file starts as HTML or XML does, and no checkpoint can."""
    with open(path, "rb") as file:
        return file.read(WHERE_HTML_STARTS).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def check_description(state: dict[str, Any], path: Path) -> None:
    """Raise ValueError, with their names, for parts of what a checkpoint says of itself that are of another type."""
    wrong = [key for key, kind in DESCRIBED.items() if not isinstance(state.get(key), kind | None)]
    names, counts = state.get("class_names"), state.get("class_counts")
    if not wrong and names is not None and counts is not None and len(names) != len(counts):
        wrong = ["class_names", "class_counts"]
    if wrong:
        raise ValueError(f"{path} is not a checkpoint that can be used: its {' and '.join(wrong)} cannot be right")


def is_count(value: object) -> bool:
    """Return whether `value` is a whole number from 1 to 2**31 - 1."""
    return type(value) is int and 0 < value < 2**31


def find_weights(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the weights by name in a checkpoint: those under one of WEIGHTS, else all of it."""
    for key in WEIGHTS:
        if isinstance(checkpoint.get(key), dict):
            return plain_names(checkpoint[key])
    return plain_names(checkpoint)


def plain_names(weights: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of a network without the prefixes of what it was wrapped in.

    What lies beside the wrapped network goes: the loss of a LightningModule, the counter of an AveragedModel.
    """
    for _ in WRAPPERS:
        for prefix in WRAPPERS:
            inside = {key.removeprefix(prefix): value for key, value in weights.items() if str(key).startswith(prefix)}
            weights = inside or weights
    return weights


def load_weights(model: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load `state`, whose keys may start with prefixes that `plain_names` knows, into `model`.

    Raise ValueError that names every key whose shape differs; `path` names the file in the message.
    """
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path} holds no weights by name")
    state = plain_names(state)
    own = model.state_dict()
    wrong = [
        f"{key} {shape_of(state.get(key))} instead of {shape_of(own.get(key))}"
        for key in sorted(own.keys() | state.keys())
        if shape_of(own.get(key)) != shape_of(state.get(key))
    ]
    if wrong:
        raise ValueError(f"{path} does not fit this model: {first_few(wrong, '; ')}")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # of the right shape, but sparse, quantised or without data
        raise ValueError(f"{path} does not fit this model: {error}") from error


def shape_of(value: object) -> str:
    """Return '64x3x7x7' for a tensor, 'scalar' for one without axes, 'absent' for None."""
    if not isinstance(value, torch.Tensor) or value.is_nested:
        return "absent" if value is None else type(value).__name__
    return ("x".join(map(str, value.shape)) or "scalar") + " complex" * value.is_complex()
