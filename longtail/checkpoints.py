"""Save checkpoints so that a crash cannot spoil them, and load them so that they cannot run code.

The keys of the two checkpoints that a run X writes: the best epoch's (best_X.pth; ImageNet-LT has a name of its own)
and the last epoch's, last_X.pth.

key             type            for what                                                              file
state_dict      tensors         CIFAR-LT, EGTEA: the weights that were validated; their average       both
                                (EMA), if the run keeps one
feat_model      tensors         ImageNet-LT, in place of state_dict: the backbone                     both
classifier      tensors         ImageNet-LT, in place of state_dict: the classifier                   both
trained         tensors         the weights that the optimizer changes; only of a run with an EMA     last
optimizer       dict            the optimizer's state_dict; only its `state` (momenta) is restored    last
criterion       dict            the loss's state_dict: weights, tau and counts of a CDB loss          both
class_weights   list of float   the classes' weights that follow from this epoch, for readers         both
best_accuracy   float           the score of the kept epoch so far, -1.0 without validation           both
epoch           int             the epoch, counted from 1; --resume goes on with the next             both
accuracy        float           that epoch's accuracy over all validation images, nan without         both
keep_by_class   True            only where the mean of the class accuracies chooses the kept epoch    both
precision       str             "fp32" or "bf16"                                                      both
arguments       dict            the flags, or the YAML's keys; of a path at most the file's name      both
class_names     list of str     None where the data has no names                                      both
class_counts    list of int     the training images of each class                                     both

An experiment adds what its test script needs, in both files: CIFAR-LT dataset, head, normalization (str) and recipe
(dict); ImageNet-LT first_stage (str or None) and normalization (dict of mean and std); EGTEA frames_per_clip,
sample_size (int), head and normalization (str).

Training.state makes the keys down to best_accuracy, a Description (records.py) the others; run.FOR_RESUME names those
that the best file lacks.
"""

import io
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from longtail.cli import first_few
from longtail.files import write_atomically

Checkpoint = dict[str, Any]  # the table above lists its keys; other programs' files hold other ones
DESCRIBED = {"arguments": dict, "epoch": int, "accuracy": int | float, "class_counts": list, "class_names": list}
WEIGHTS = ("state_dict", "model_state_dict", "net", "model")  # keys under which programs save them
WRAPPERS = ("module.", "_orig_mod.", "model.")  # DataParallel and AveragedModel, torch.compile, Lightning
WHERE_HTML_STARTS = 1024  # bytes; only blanks may precede it


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Serialise `state` in memory, then write it atomically. Raise OSError if it cannot be written."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
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
        found = "other keys than text" if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{path} holds {found}, not a checkpoint")
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
    """Raise ValueError, with their names, for parts of a checkpoint's metadata that are of another type."""
    wrong = [key for key, kind in DESCRIBED.items() if not isinstance(state.get(key), kind | None)]
    names, counts = state.get("class_names"), state.get("class_counts")
    if not wrong and names is not None and counts is not None and len(names) != len(counts):
        wrong = ["class_names", "class_counts"]
    if wrong:
        raise ValueError(f"{path} is not a checkpoint that can be used: its {' and '.join(wrong)} cannot be right")


def is_count(value: object) -> bool:
    """Return whether `value` is a whole number from 1 to 2**31 - 1."""
    return type(value) is int and 0 < value < 2**31


def find_weights(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the weights by name in a checkpoint: those under one of WEIGHTS, else all of it."""
    for key in WEIGHTS:
        if isinstance(checkpoint.get(key), dict):
            return plain_names(checkpoint[key])
    return plain_names(checkpoint)


def plain_names(weights: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of a network without the prefixes of what it was wrapped in.

    What lies beside the wrapped network goes: the loss of a LightningModule, the counter of an AveragedModel.
    """
    prefix = wrapper_prefix(weights)
    while prefix:
        weights = {key.removeprefix(prefix): value for key, value in weights.items() if str(key).startswith(prefix)}
        prefix = wrapper_prefix(weights)
    return weights


def wrapper_prefix(weights: dict[str, Any]) -> str:
    """Return the first of WRAPPERS that a name starts with, an empty text if none does."""
    for prefix in WRAPPERS:
        if any(str(key).startswith(prefix) for key in weights):
            return prefix
    return ""


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
    if value is None:
        return "absent"
    if not isinstance(value, torch.Tensor) or value.is_nested:
        return type(value).__name__
    shape = "x".join(map(str, value.shape)) if value.dim() else "scalar"
    if value.is_complex():
        return f"{shape} complex"
    return shape
