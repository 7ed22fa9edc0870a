"""A trained network of this experiment, for longtail.load_run."""

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from imagenet_transforms import normalize, resize, resized_sides
from longtail.trained import pixels_of
from resnet10 import join_state, load_model


def trained_network(checkpoint: dict[str, Any], path: Path) -> nn.Module:
    """Return the network of a checkpoint, ours or a released one, with `.transform` and `.class_names`."""
    num_classes = len(join_state(checkpoint, path)["classifier.fc.weight"])
    arguments = checkpoint.get("arguments", {})
    model = load_model(checkpoint, path, num_classes, arguments.get("backbone", "resnet10"))
    side, test_resize = arguments.get("image_size", 224), arguments.get("test_resize", 256)
    model.transform = partial(to_input, image_size=side, test_resize=test_resize)
    model.input_shape = (3, side, side)
    model.class_names = checkpoint.get("class_names") or [str(c) for c in range(num_classes)]
    return model


def to_input(picture: object, image_size: int, test_resize: int) -> Tensor:
    """Return the network's input (3, image_size, image_size): the middle of a picture, as in a test."""
    pixels = pixels_of(picture)
    pixels = resize(pixels, *resized_sides(pixels.shape[1], pixels.shape[2], test_resize))
    top, left = (round((side - image_size) / 2) for side in pixels.shape[1:])
    return normalize(pixels[None, :, top : top + image_size, left : left + image_size])[0].contiguous()
