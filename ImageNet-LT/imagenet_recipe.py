"""The configuration that make_lists.py writes: sizes, network, loss and schedule that fit the images."""

import json
import math
import random
import statistics
from pathlib import Path

import torch

from backbones import build_backbone, is_transformer
from imagenet_decoding import read_image

SAMPLE = 200  # images whose size decides that of the views
IMAGE_SIZE, TEST_RESIZE = 224, 256  # pixels; of the paper's recipe
STEP = 32  # pixels; a ResNet halves its input five times
BATCH = 64
# From here on the paper's recipe fits; below, the smaller one of config/TinyImageNet_LT.
MANY_IMAGES = 50_000
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 3000, 20, 90
# Pretrained weights need fewer steps, and a lower rate than the new classifier.
TUNING_STEPS, FEWEST_TUNING_EPOCHS, MOST_TUNING_EPOCHS = 1500, 5, 30
COMMENTS = {
    "data_root": "the folder that holds the images",
    "train_list": "lines `path label`",
    "val_list": "what difficulty and the kept epoch are measured on",
    "test_list": "used at the end and by --test",
    "class_list": "a line names a class, in the order of the labels",
    "num_classes": "labels run from 0 to num_classes - 1",
    "image_size": "pixels of a random crop, and of the middle that is tested",
    "test_resize": "pixels of the shorter side before the middle is cut out",
    "model_dir": "checkpoints, log and results of this run",
    "backbone": "or resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, timm/NAME",
    "pretrained": "imagenet: published weights; a file; without this line random weights, which need more epochs",
    "loss_type": "CE is the usual cross-entropy, Balanced_Softmax knows the class sizes, CDB-BS the difficulty too",
    "difficulty": "steady on few validation images, and fit for classes without any",
    "tau": "how strongly difficulty weighs; small, because Balanced Softmax favours rare classes already",
    "num_epochs": "the learning rate falls to 0 over them along a cosine",
    "batch_size": "choose a smaller one if memory runs out",
    "optimizer": "sgd, or adamw, which transformers need",
    "lr": "peak learning rate",
    "head_lr": "that of the new classifier",
    "warmup_epochs": "in which the rates rise from 0",
    "weight_decay": "of the optimizer",
}
COLUMN = 32  # where comments start


def view_sizes(root: Path, paths: list[str]) -> tuple[int, int]:
    """Return image_size and test_resize: the paper's, or what the images have if most of them are smaller."""
    sides = []
    for path in random.Random(0).sample(paths, min(SAMPLE, len(paths))):
        try:
            image = read_image(root / path)
        except Exception:  # a decoder may raise anything over a damaged file; training will name it
            continue
        sides.append(min(image.height, image.width))
    side = int(statistics.median(sides)) if sides else TEST_RESIZE
    small = max(STEP, side // STEP * STEP)
    if side >= TEST_RESIZE or small >= IMAGE_SIZE:
        return IMAGE_SIZE, TEST_RESIZE
    return small, small


def limited(epochs: float, fewest: int, most: int) -> int:
    """Return a number of epochs between two others."""
    return min(most, max(fewest, math.ceil(epochs)))


def training_schedule(images: int, image_size: int) -> dict[str, object]:
    """Return the schedule of a training from random weights."""
    if images >= MANY_IMAGES:
        return {"num_epochs": MOST_EPOCHS, "batch_size": 512, "lr": 0.2}
    batch_size = BATCH
    while image_size <= STEP and images % batch_size == 1:
        batch_size -= 1  # else the last batch is a single image, and layer4 sees it as a single pixel
    epochs = limited(STEPS * BATCH / images, FEWEST_EPOCHS, MOST_EPOCHS)
    return {"num_epochs": epochs, "batch_size": batch_size, "lr": 0.1}


def tuning_schedule(images: int, backbone: str) -> dict[str, object]:
    """Return the schedule of a training from pretrained weights."""
    epochs = limited(TUNING_STEPS * BATCH / images, FEWEST_TUNING_EPOCHS, MOST_TUNING_EPOCHS)
    schedule: dict[str, object] = {"num_epochs": epochs, "batch_size": BATCH}
    with torch.device("meta"):
        attends = is_transformer(build_backbone(backbone)[0])
    if attends:
        rates = {"optimizer": "adamw", "lr": 0.0001, "head_lr": 0.001, "weight_decay": 0.05}
    else:
        rates = {"optimizer": "sgd", "lr": 0.01, "head_lr": 0.1, "weight_decay": 0.0001}
    return schedule | rates | {"warmup_epochs": 1}


def recipe(
    root: Path, train: dict[str, list[str]], backbone: str = "resnet10", pretrained: str | Path | None = None
) -> dict[str, object]:
    """Return the settings of a training on these images that depend on how many there are, and how large."""
    paths = [path for images in train.values() for path in images]
    image_size, test_resize = view_sizes(root, paths)
    if pretrained:
        image_size, test_resize = IMAGE_SIZE, TEST_RESIZE  # what the weights were trained with
        schedule = {"pretrained": pretrained, **tuning_schedule(len(paths), backbone)}
    else:
        schedule = training_schedule(len(paths), image_size)
    return {
        "num_classes": len(train),
        "image_size": image_size,
        "test_resize": test_resize,
        "backbone": backbone,
        "loss_type": "CDB-BS",
        "difficulty": "smoothed",
        "tau": 0.5,
        **schedule,
    }


def config_text(settings: dict[str, object]) -> str:
    """Return a YAML file of the settings, in the order of COMMENTS, each with its comment."""
    lines = ["# Written by make_lists.py. Relative paths start at ImageNet-LT/.\n"]
    for key, comment in COMMENTS.items():
        if key not in settings:
            continue
        value = settings[key]
        if isinstance(value, Path):
            value = json.dumps(str(value), ensure_ascii=False)  # JSON's text is YAML's
        text = f"{key}: {value}"
        lines.append(f"{text:<{COLUMN}}# {comment}\n" if len(text) < COLUMN else f"{text}  # {comment}\n")
    return "".join(lines)
