"""A trained network of this experiment, for longtail.load_run."""

from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from cifar_dataset import DIGITS_SIDE, to_input
from longtail.checkpoints import Checkpoint, load_weights
from longtail.heads import scale_outputs
from longtail.losses import logit_scale
from longtail.trained import pixels_of
from resnet32 import ResNet32

SIDE = 32  # pixels of CIFAR's images


def trained_network(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """Return the network of a checkpoint, with `.transform` and `.class_names`. Its outputs are logits, not cosines."""
    arguments = checkpoint.get("arguments", {})
    model = ResNet32(len(checkpoint["class_names"]), checkpoint["head"])
    load_weights(model, checkpoint.get("state_dict", {}), path)
    scale_outputs(model.linear, logit_scale(checkpoint["head"], arguments.get("loss_type")))
    side = DIGITS_SIDE if checkpoint.get("dataset") == "digits" else SIDE
    model.transform = partial(resized_input, side=side, constants=checkpoint["normalization"])
    model.class_names, model.input_shape = checkpoint["class_names"], (3, side, side)
    return model


def resized_input(picture: object, side: int, constants: str) -> Tensor:
    """Return the network's input (3, side, side) for a picture of any size."""
    pixels = pixels_of(picture)
    if pixels.shape[1:] != (side, side):
        resized = F.interpolate(pixels[None].float(), (side, side), mode="bilinear", antialias=True)
        pixels = resized[0].round().clamp(0, 255).to(pixels.dtype)
    return to_input(pixels, constants)
