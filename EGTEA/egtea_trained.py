"""A trained network of this experiment, for longtail.load_run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clip_model import ClipDescription, load_model
from egtea_dataset import View, frame_indices, normalize
from longtail.checkpoints import Checkpoint
from longtail.devices import Runtime
from longtail.trained import pixels_of


def trained_network(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """Return the network of a checkpoint, with `.transform`, for a clip, and `.class_names`. Its outputs are logits."""
    if "class_names" not in checkpoint:
        raise ValueError(f"{path} does not name its classes: EGTEA_test.py tests a released checkpoint")
    description = ClipDescription.read(checkpoint)
    model = load_model(checkpoint, description, path, Runtime(torch.device("cpu")))
    frames, size = description.frames_per_clip, description.sample_size
    model.transform = partial(to_input, frames=frames, size=size)
    model.class_names, model.input_shape = description.class_names, (3, frames, size, size)
    return model


def to_input(clip: Tensor | np.ndarray | Sequence[object], frames: int, size: int) -> Tensor:
    """Return the network's input (3, frames, size, size): the centres of equal parts of a clip, and its centre square.

    clip: an array (T, H, W, 3) or a tensor (T, 3, H, W) of bytes, or a sequence of pictures.
    """
    import cv2

    seen = []
    for index in frame_indices(len(clip), frames):
        picture = np.ascontiguousarray(pixels_of(clip[int(index)]).permute(1, 2, 0).numpy())
        matrix = View().matrix(*picture.shape[:2], size)
        seen.append(cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
    return normalize(torch.from_numpy(np.stack(seen))[None])[0].contiguous()
