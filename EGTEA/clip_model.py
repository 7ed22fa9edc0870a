"""A trained model of clips: what its checkpoint says of itself, and the network with its weights."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from egtea_clips import MOST_CLASSES, check_labels, count_labels, names_file, read_class_names, read_clips
from egtea_dataset import memory_format
from longtail.checkpoints import Checkpoint, find_weights, is_count, load_weights
from longtail.devices import Runtime
from longtail.heads import HEADS, scale_outputs
from longtail.losses import logit_scale
from longtail.records import Description
from resnext3d import ResNeXt3D

FRAMES_PER_CLIP, SAMPLE_SIZE = 10, 224  # of a released checkpoint
HEAD_KEYS = ("fc.bias", "fc.weight", "module.fc.bias", "module.fc.weight")
NORMALIZATION = "kinetics-mean"


@dataclass(kw_only=True)
class ClipDescription(Description):
    """What a checkpoint of this experiment says of itself. `class_counts` are training clips."""

    class_names: list[str]
    class_counts: list[int]
    frames_per_clip: int
    sample_size: int
    head: str
    normalization: str = NORMALIZATION


def weights_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights in a checkpoint, which may be a bare dictionary of them."""
    return find_weights(checkpoint)


def read_description(checkpoint: Checkpoint, path: Path, train_file: Path) -> ClipDescription:
    """Return what a checkpoint says of its model. One of the released code says nothing: `train_file` gives the counts.

    Raise ValueError if it does not describe a model of this experiment.
    """
    num_classes = count_classes(weights_of(checkpoint), path)
    if "class_counts" not in checkpoint:
        return describe_released(checkpoint, train_file, num_classes)
    wrong = [key for key in ("frames_per_clip", "sample_size") if not is_count(checkpoint.get(key))]
    wrong += [key for key in ("class_names", "class_counts") if len(checkpoint.get(key) or ()) != num_classes]
    if checkpoint.get("head") not in HEADS:
        wrong.append("head")
    if wrong:
        raise ValueError(f"{path} does not describe a model of clips; missing or wrong: {', '.join(wrong)}")
    return ClipDescription.read(checkpoint)


def count_classes(weights: object, path: Path) -> int:
    """Return the number of classes of the head among `weights`. Raise ValueError if there is none."""
    head = None
    if isinstance(weights, dict):
        head = next((weights[key] for key in HEAD_KEYS if key in weights), None)
    if not isinstance(head, Tensor) or head.is_nested or head.ndim not in (1, 2) or len(head) > MOST_CLASSES:
        raise ValueError(
            f"{path} has no head (fc) of at most {MOST_CLASSES} classes: it is not a trained model of this experiment"
        )
    return len(head)


def describe_released(checkpoint: Checkpoint, train_file: Path, num_classes: int) -> ClipDescription:
    """Return the paper's recipe, and the counts of `train_file`, for a checkpoint that does not describe itself."""
    clips = read_clips(train_file)
    check_labels(train_file, clips, num_classes)
    return ClipDescription(
        class_names=read_class_names(names_file(train_file, clips), num_classes),
        class_counts=count_labels(clips, num_classes),
        frames_per_clip=FRAMES_PER_CLIP,
        sample_size=SAMPLE_SIZE,
        head="linear",
        epoch=checkpoint.get("epoch"),
    )


def load_model(checkpoint: Checkpoint, description: ClipDescription, path: Path, runtime: Runtime) -> ResNeXt3D:
    """Return the trained network on its device, whose outputs are logits, not cosines.

    Raise ValueError that names every weight that does not fit.
    """
    model = ResNeXt3D(len(description.class_names), description.head)
    load_weights(model, weights_of(checkpoint), path)
    scale_outputs(model.fc, logit_scale(description.head, description.arguments.get("loss_type")))
    return model.to(runtime.device).to(memory_format=memory_format(runtime.device))
