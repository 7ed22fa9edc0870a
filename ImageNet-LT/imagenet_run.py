"""What training, testing and predicting share of a run: the names of its files, its lists, its best network."""

from pathlib import Path

import torch

from imagenet_config import Config
from imagenet_lists import ImageList, read_list
from imagenet_loader import ImageLoader
from imagenet_model import ImageNetModel, load_model
from longtail.checkpoints import Checkpoint, load_checkpoint
from longtail.devices import Runtime

BEST = "final_model_checkpoint.pth"
CONFIG = "config.yaml"
# What a test writes into the run's folder, by its method: figures, a table of the classes, a picture.
RESULTS = {
    "classifier": "test.json",
    "tau_norm": "test_tau_norm.json",
    "ncm": "test_ncm.json",
    "logit_adjustment": "test_logit_adjustment.json",
}
CLASS_TABLES = {method: name.replace("test", "classes").replace("json", "csv") for method, name in RESULTS.items()}
PICTURES = {method: name.replace("test", "confusion").replace("json", "png") for method, name in RESULTS.items()}


def read_configured_list(config: Config, split: str) -> ImageList:
    """Return the configuration's train, val or test list."""
    file = config.path(f"{split}_list")
    return read_list(file, config.path("data_root"), config.num_classes, repeats=split == "train")


def image_loader(config: Config, images: ImageList, runtime: Runtime, **settings: bool) -> ImageLoader:
    """Return a loader of a list's images as the configuration has them; `settings` are the loader's others."""
    return ImageLoader(
        images,
        config.image_size,
        config.test_resize,
        config.workers,
        runtime,
        white_level=config.white_level,
        **settings,
    )


def check_use(checkpoint: Checkpoint, path: Path, config: Config) -> None:
    """Raise ValueError if a checkpoint was trained with other classes or views than `config` tests it with."""
    counts = checkpoint.get("class_counts")
    if counts and len(counts) != config.num_classes:
        raise ValueError(f"{path} does not describe a model of {config.num_classes} classes: see its class_counts")
    for key in ("image_size", "test_resize", "white_level"):
        used = checkpoint.get("arguments", {}).get(key, getattr(config, key))
        if used != getattr(config, key):
            raise ValueError(
                f"{path} was trained with {key} {used}, not {getattr(config, key)}: test it with the {key} of its run"
            )


def load_best(config: Config, model_dir: Path, runtime: Runtime) -> tuple[Checkpoint, ImageNetModel]:
    """Return the best checkpoint in `model_dir` and its model on the device.

    Raise ValueError if it does not fit the configuration.
    """
    path = model_dir / BEST
    checkpoint = runtime.broadcast(load_checkpoint(path) if runtime.is_main else None)
    model = load_model(checkpoint, path, config.num_classes, config.backbone)
    check_use(checkpoint, path, config)
    return checkpoint, model.to(runtime.device, memory_format=torch.channels_last)
