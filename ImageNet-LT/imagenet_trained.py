"""A trained network of this experiment, for longtail.load_run."""

from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from imagenet_decoding import WHITE, read_image, to_rgb
from imagenet_model import join_state, load_model
from imagenet_transforms import middle, normalize
from longtail.checkpoints import Checkpoint
from longtail.trained import pixels_of


def trained_network(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """Return the network of a checkpoint, ours or a released one, with `.transform` and `.class_names`."""
    num_classes = len(join_state(checkpoint, path)["classifier.fc.weight"])
    arguments = checkpoint.get("arguments", {})
    model = load_model(checkpoint, path, num_classes, arguments.get("backbone", "resnet10"))
    side, test_resize = arguments.get("image_size", 224), arguments.get("test_resize", 256)
    white_level = arguments.get("white_level", WHITE)
    model.transform = partial(to_input, image_size=side, test_resize=test_resize, white_level=white_level)
    model.input_shape = (3, side, side)
    model.class_names = checkpoint.get("class_names") or [str(c) for c in range(num_classes)]
    return model


def to_input(picture: object, image_size: int, test_resize: int, white_level: int) -> Tensor:
    """Return the network's input (3, image_size, image_size): the middle of a picture, as in a test.

    A file is read as in a test too: a large JPEG is reduced while it is decoded.
    """
    if isinstance(picture, str | Path):
        file = read_image(Path(picture).expanduser(), white_level)
        pixels, height, width = file.decode_whole(test_resize), file.height, file.width
    else:
        if isinstance(picture, Image.Image):
            picture = to_rgb(picture, white_level)
        pixels = pixels_of(picture)
        height, width = pixels.shape[1:]
    view = torch.from_numpy(middle(pixels, height, width, image_size, test_resize))
    return normalize(view[None].permute(0, 3, 1, 2))[0].contiguous()
