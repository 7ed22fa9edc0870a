"""Build a training from its configuration: lists, model, loss, optimizer, batches."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import (
    check_batches,
    check_image_size,
    fetch_published,
    load_pretrained,
    load_published,
)
from cdb_loss import CDBLoss
from imagenet_config import PUBLISHED, Config
from imagenet_decoding import grey_line
from imagenet_lists import ImageList, check_classes, check_folders, check_leaks, locate, read_class_names
from imagenet_model import ImageNetModel, join_state, load_model, split_state, start_second_stage
from imagenet_run import BEST, image_loader, read_configured_list
from imagenet_sampling import class_probabilities
from imagenet_transforms import MEAN, STD
from longtail.checkpoints import Checkpoint, load_checkpoint
from longtail.devices import Runtime
from longtail.loss_flags import absent_classes_line, build_loss
from longtail.records import Description
from longtail.seeds import epoch_seed
from longtail.signals import call_interruptibly
from longtail.training import Training

WARMUP_START = 0.01  # epochs; so that the first batch teaches something


class TwoPartTraining(Training):
    """Training whose checkpoints hold feat_model and classifier instead of one state_dict."""

    def pack_weights(self, weights: dict[str, Tensor]) -> dict[str, Any]:
        return split_state(weights)

    def unpack_weights(self, checkpoint: Checkpoint, path: Path) -> dict[str, Tensor]:
        return join_state(checkpoint, path)


@dataclass(kw_only=True)
class ImageDescription(Description):
    """What a checkpoint of this experiment says of itself."""

    first_stage: str | None
    normalization: dict[str, list[float]]


def cosine_schedule(epochs: int, warmup_epochs: float = 0) -> Callable[[float], float]:
    """Return a schedule that falls from 1 towards 0 after each epoch, so that the last epoch still learns.

    During the warm-up it rises from 0 to 1, batch by batch.
    """

    def factor(progress: float) -> float:
        done = progress * epochs
        if done < warmup_epochs:
            return (done + WARMUP_START) / (warmup_epochs + WARMUP_START)
        epoch = math.floor(done - warmup_epochs + 1e-6)
        return (1 + math.cos(math.pi * epoch / (epochs - warmup_epochs))) / 2

    return factor


def read_lists(config: Config, runtime: Runtime) -> tuple[ImageList, ...]:
    """Return the train, val and test lists, with every line checked, every image found, and none in two lists."""
    lists = [read_configured_list(config, split) for split in ("train", "val", "test")]
    check_classes(lists[0], config.num_classes)
    if config.measures_difficulty:
        absent = [str(c) for c, count in enumerate(lists[1].class_counts(config.num_classes)) if not count]
        line = absent_classes_line(config, absent, lists[1].file, "`difficulty: smoothed` in the YAML")
        if line:
            runtime.say(line)
    check_folders(*lists, named=config.class_list is not None)
    located = call_interruptibly(lambda: locate(*lists))
    check_leaks(*located)
    line = call_interruptibly(lambda: grey_line(located[0].files(), config.white_level))
    if line:
        runtime.say(line)
    return located


def first_stage_model(config: Config) -> ImageNetModel:
    """Return the first stage at its best epoch.

    Raise FileNotFoundError if there is none, ValueError unless its training has ended.
    """
    folder = config.path("first_stage")
    path, last = folder / BEST, folder / f"last_{folder.name}.pth"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found: stage {config.stage} starts from the run that first_stage names; train that first"
        )
    checkpoint = load_checkpoint(path)
    model = load_model(checkpoint, path, config.num_classes, config.backbone)
    if not last.is_file() and "arguments" in checkpoint:  # a released checkpoint has no arguments, and no other file
        raise ValueError(
            f"{last} is missing, so {path} may belong to a run that is not finished; do not rename a run's folder"
        )
    state = load_checkpoint(last) if last.is_file() else {}
    done, epochs = state.get("epoch"), state.get("arguments", {}).get("num_epochs")
    if done != epochs:
        raise ValueError(f"first_stage {folder} has trained {done} of {epochs} epochs; finish it first, with --resume")
    return model


def build_model(config: Config, resuming: bool, runtime: Runtime) -> ImageNetModel:
    """Return the model at epoch 1, with pretrained weights if asked for.

    A second stage starts from the first one's best checkpoint.
    """
    torch.manual_seed(config.seed)
    model = ImageNetModel(config.num_classes, config.stage, config.backbone)
    check_image_size(model.feat_model, config.backbone, config.image_size)
    if config.pretrained == PUBLISHED and not resuming:
        runtime.broadcast(str(fetch_published(config.backbone)) if runtime.is_main else None)
        # The other processes come here once the file is there; on another machine they download their own.
        load_published(model.feat_model, config.backbone, fetch_published(config.backbone))
    elif config.pretrained and not resuming:
        load_pretrained(model.feat_model, config.path("pretrained"))
    if config.stage != "features" and not resuming:
        start_second_stage(model, first_stage_model(config))
    return model.to(runtime.device, memory_format=torch.channels_last)


def build_optimizer(model: ImageNetModel, config: Config) -> torch.optim.Optimizer:
    """Return the optimizer of what this stage trains. With head_lr the classifier has a rate of its own."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": parameters, "initial_lr": config.lr}]
    if config.head_lr is not None:
        body = [parameter for parameter in model.feat_model.parameters() if parameter.requires_grad]
        head = [parameter for parameter in model.classifier.parameters() if parameter.requires_grad]
        groups = [{"params": body, "initial_lr": config.lr}, {"params": head, "initial_lr": config.head_lr}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True)


def build_criterion(config: Config, class_counts: list[int]) -> nn.Module:
    """Return the loss that loss_type names, with its settings.

    For difficulty-driven sampling it is the CDBLoss that has the sampler's weights.
    """
    if config.sampling == "difficulty":
        return CDBLoss(config.num_classes, config.tau, difficulty=config.difficulty)
    return build_loss(config, class_counts, CDBLoss)


def sampling_of_epochs(config: Config, counts: list[int], criterion: nn.Module) -> Callable[[int], Tensor | None]:
    """Return a function of an epoch, counted from 1, that gives class_probabilities.

    Progressive sampling is even in the last epoch.
    """

    def probabilities(epoch: int) -> Tensor | None:
        progress = (epoch - 1) / max(1, config.num_epochs - 1)
        return class_probabilities(config.sampling, torch.tensor(counts), progress, criterion.weight.cpu())

    return probabilities


def run_description(config: Config, lists: tuple[ImageList, ...]) -> ImageDescription:
    """Return what a checkpoint says of the settings and the data."""
    train_set = lists[0]
    arguments = config.settings()
    for split, images in zip(("train", "val", "test"), lists, strict=True):
        arguments[f"{split}_list"] = f"{images.file.name} {images.blob}"
    for key in ("first_stage", "pretrained"):
        path = getattr(config, key)
        if path:
            arguments[key] = Path(path).name
    names = train_set.class_names(config.num_classes)
    if config.class_list:
        names = read_class_names(config.path("class_list"), config.num_classes)
    return ImageDescription(
        arguments=arguments,
        class_names=names,
        class_counts=train_set.class_counts(config.num_classes),
        first_stage=arguments.get("first_stage"),
        normalization={"mean": list(MEAN), "std": list(STD)},
    )


def build_training(
    config: Config, train_set: ImageList, val_set: ImageList, model: ImageNetModel, runtime: Runtime
) -> Training:
    """Return data, model, loss and optimizer at epoch 1."""
    counts = train_set.class_counts(config.num_classes)
    criterion = build_criterion(config, counts).to(runtime.device)
    train_loader = image_loader(config, train_set, runtime)
    val_loader = image_loader(config, val_set, runtime, keep_views=True)
    probabilities = sampling_of_epochs(config, counts, criterion)
    return TwoPartTraining(
        model=model,
        parallel_model=runtime.parallelize(model),
        criterion=criterion,
        optimizer=build_optimizer(model, config),
        schedule=cosine_schedule(config.num_epochs, config.warmup_epochs),
        train_batches=lambda epoch: train_loader.training_batches(
            probabilities(epoch), config.batch_size, epoch_seed(config.seed, epoch)
        ),
        val_batches=val_loader.evaluation_batches,
        batches_per_epoch=math.ceil(len(train_set) / config.batch_size),
        images_per_epoch=len(train_set),
        num_classes=config.num_classes,
        epochs=config.num_epochs,
        seed=config.seed,
        loss_function=F.cross_entropy if config.sampling == "difficulty" else None,
        keep_by_class=len(set(val_set.class_counts(config.num_classes))) > 1,
    )


def prepare(config: Config, resuming: bool, runtime: Runtime) -> tuple[Training, ImageDescription]:
    """Return the training at epoch 1, and what a checkpoint says of it."""
    runtime.check_batch_size(config.batch_size)
    lists = runtime.broadcast(read_lists(config, runtime) if runtime.is_main else None)
    train_set, val_set, _ = lists
    if train_set.note:
        runtime.say(train_set.note)
    if config.stage == "features":
        check_batches(len(train_set), config.batch_size, config.image_size, runtime)
    model = build_model(config, resuming, runtime)
    training = build_training(config, train_set, val_set, model, runtime)
    counts = train_set.class_counts(config.num_classes)
    runtime.say(
        f"{train_set.file.name}: {len(train_set)} training images of {config.num_classes} classes ({max(counts)} to "
        f"{min(counts)} a class), {len(val_set)} for validation; {config.stage}, {config.loss_type}, "
        f"sampling {config.sampling}; {runtime}"
    )
    return training, run_description(config, lists)
