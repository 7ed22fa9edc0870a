"""Trained and untrained networks for torch.hub.

    model = torch.hub.load("OWNER/NAME", "resnet32_cifar100_lt", imbalance=200)
    probabilities = model(model.transform(picture)[None]).softmax(1)         # a PIL picture of 32x32 pixels
    print(model.class_names[probabilities.argmax()])

    model = torch.hub.load("OWNER/NAME", "trained", weights="runs/x")         # a run of yours, of any experiment

Each entry is a network in evaluation mode. `resnet32_cifar100_lt` and `trained` come with `.transform` and
`.class_names`.
"""

import sys
from functools import partial as _partial
from pathlib import Path as _Path

from torch import nn

HERE = _Path(__file__).resolve().parent
sys.path[:0] = [
    str(HERE / folder) for folder in ("", "CIFAR-LT", "ImageNet-LT", "EGTEA") if str(HERE / folder) not in sys.path
]

dependencies = ["torch", "numpy", "filelock"]
# By imbalance and recipe. Without a recipe, the last entry for that imbalance is used.
CIFAR_WEIGHTS = {
    (100, "strong"): "cifar100_imbalance100_CDB-BS_smoothed_0.5_strong_seed2.pth",
    (100, "fast"): "cifar100_imbalance100_CDB-CE_dynamic_fast_seed0.pth",
    (200, "paper"): "cifar100_imbalance200_CDB-CE_1.5_seed0.pth",
}


def resnet32_cifar100_lt(imbalance: int = 200, recipe: str | None = None) -> nn.Module:
    """Return a ResNet-32 that was trained on CIFAR100-LT, from pretrained_weights/: with CDB-CE, or in the strong
    recipe with CDB-BS.

    recipe: "paper", "fast" or "strong"; without it, the one with CDB-CE for that imbalance. ValueError where there is
    none.
    """
    from cifar_dataset import to_input
    from longtail.checkpoints import load_checkpoint, load_weights
    from resnet32 import ResNet32

    fits = [name for (trained, by), name in CIFAR_WEIGHTS.items() if trained == imbalance and recipe in (None, by)]
    if not fits:
        known = ", ".join(f"imbalance={trained}, recipe={by!r}" for trained, by in CIFAR_WEIGHTS)
        raise ValueError(f"no trained network for imbalance={imbalance!r}, recipe={recipe!r}; there are: {known}")
    path = HERE / "pretrained_weights" / fits[-1]
    checkpoint = load_checkpoint(path)
    model = ResNet32(len(checkpoint["class_names"]), checkpoint["head"])
    load_weights(model, checkpoint["state_dict"], path)
    model.transform = _partial(to_input, constants=checkpoint["normalization"])
    model.class_names = checkpoint["class_names"]
    return model.eval()


def resnet10(num_classes: int = 1000, weights: str | None = None) -> nn.Module:
    """Return the ResNet-10 of ImageNet-LT: untrained, or from a checkpoint file, ours or a released one."""
    from imagenet_model import ImageNetModel, load_model
    from longtail.checkpoints import load_checkpoint

    model = load_model(load_checkpoint(_Path(weights)), weights, num_classes) if weights else ImageNetModel(num_classes)
    return model.eval()


def resnext3d101(num_classes: int = 19, weights: str | None = None) -> nn.Module:
    """Return the 3D-ResNeXt-101 of EGTEA: untrained, or from a checkpoint file: a run's, or Kinetics', which gives
    all but the head.

    A run's checkpoint of another number of verbs gives all but the head too.
    """
    from longtail.checkpoints import load_checkpoint, load_weights
    from resnext3d import ResNeXt3D, load_pretrained

    checkpoint = load_checkpoint(_Path(weights)) if weights else {}
    model = ResNeXt3D(num_classes, checkpoint.get("head", "linear"))
    if len(checkpoint.get("class_names") or ()) == num_classes:
        load_weights(model, checkpoint["state_dict"], weights)
    elif weights:
        load_pretrained(model, _Path(weights))
    return model.eval()


def trained(weights: str) -> nn.Module:
    """Return the network of a run of any experiment: its folder, or its checkpoint.

    It is in evaluation mode, with `.transform`, `.class_names` and `.input_shape`.
    """
    from longtail.trained import load_run

    return load_run(weights)
