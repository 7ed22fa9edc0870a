"""Backbones from torchvision, which turn images into features in place of ResNet-10, and pretrained weights for all of
them.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longtail.checkpoints import load_checkpoint, load_weights
from longtail.devices import Runtime, means_cpu

TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d")
BACKBONES = ("resnet10", *TORCHVISION)
LAYERS = (
    "state_dict_best",
    "state_dict",
    "model",
    "feat_model",
)  # under one of these, or two, a file may hold its weights
HEADS = ("fc.", "classifier.")
STRIDE_BEFORE_LAYER4 = 16  # of each backbone here
COUNTER = "num_batches_tracked"  # of BatchNorm; files from before PyTorch 0.4.1 lack it


def torchvision_backbone(name: str) -> tuple[nn.Module, int]:
    """Return one of TORCHVISION with random weights, from images (N, 3, H, W) to features (N, F), and F."""
    from torchvision import models

    network = models.get_model(name, weights=None)
    features = network.fc.in_features
    network.fc = nn.Identity()
    return network, features


def training_precision(precision: str, image_size: int, device: str | None) -> str:
    """Return the precision to train in: fp32 instead of 'auto' for images of at most 16 pixels on a CPU.

    They reach layer4 as a single pixel. There PyTorch 2.14 computes the weight gradient of a 3x3 convolution of stride
    2 wrongly in bf16: infinite, or, worse, finite. Raise ValueError if bf16 was asked for.
    """
    if image_size > STRIDE_BEFORE_LAYER4 or not means_cpu(device):
        return precision
    if precision == "bf16":
        raise ValueError(
            f"precision bf16 with image_size {image_size}: on a CPU, PyTorch's gradients are wrong for images of at "
            "most "
            f"{STRIDE_BEFORE_LAYER4} pixels; use precision fp32, or larger images"
        )
    return "fp32"


def check_batches(images: int, batch_size: int, image_size: int, runtime: Runtime) -> None:
    """Raise ValueError if one model would train on one image that layer4 sees as one pixel: BatchNorm needs two values
    of a channel.

    DataParallel cuts a process's part of a batch as Tensor.chunk does.
    """
    processes, gpus = runtime.world_size, max(runtime.gpus, 1)
    shares = [
        len(part) for size in (batch_size, images % batch_size) for part in torch.arange(size // processes).chunk(gpus)
    ]
    if image_size <= 2 * STRIDE_BEFORE_LAYER4 and 1 in shares:
        raise ValueError(
            f"batch_size {batch_size} of {images} images, on {processes * gpus} GPUs or processes, leaves one a "
            "single image, "
            f"and BatchNorm cannot learn from one image of {image_size} pixels: choose another batch_size"
        )


def backbone_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return a backbone's weights by name, without a head, from a file of torchvision, of this project or of the
    released code.

    The weights may be nested under a key, and their names may start with DataParallel's `module.`.
    """
    for layer in LAYERS:
        if isinstance(checkpoint.get(layer), dict):
            checkpoint = checkpoint[layer]
    state = {
        key.removeprefix("module.").removeprefix("feat_model."): value
        for key, value in checkpoint.items()
        if isinstance(key, str)
    }
    return {key: value for key, value in state.items() if isinstance(value, Tensor) and not key.startswith(HEADS)}


def load_pretrained(backbone: nn.Module, file: Path) -> None:
    """Load a backbone's weights from a file, whose head is ignored. ValueError names every key that differs."""
    state = backbone_weights(load_checkpoint(file))
    if not state:
        raise ValueError(f"{file} holds no weights by name; pretrained must name a state dict")
    counters = {key: value for key, value in backbone.state_dict().items() if key.endswith(COUNTER)}
    load_weights(backbone, counters | state, file)
