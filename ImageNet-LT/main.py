"""Train, test and use ResNet-10, or a larger backbone, on ImageNet-LT or any three lists of images, as a YAML file
says.

one GPU, or the CPU of a machine without:
    python main.py --cfg ./config/ImageNet_LT/feat_uniform_with_CDBloss.yaml
    python main.py --test --model_dir ./logs/ImageNet_LT/models/resnet10_uniform_cdbce
all of a machine's GPUs, one process each:
    torchrun --standalone --nproc-per-node 4 main.py --cfg ./config/ImageNet_LT/feat_uniform_with_CDBloss.yaml
your own images, from a folder of class folders; --predict takes an image, a folder or a list:
    python data/make_lists.py ~/photos --out ~/photos-lt
    python main.py --cfg ~/photos-lt/config.yaml
    python main.py --test --model_dir ~/photos-lt/cdb
    python main.py --predict ~/new-photos --model_dir ~/photos-lt/cdb --out ~/predictions.csv
second stages (Kang et al., ICLR 2020) on a finished first one; --tau_norm, --ncm and --logit_adjustment need no
training:
    python main.py --cfg ./config/ImageNet_LT/cls_crt.yaml
    python main.py --cfg ./config/ImageNet_LT/cls_lws.yaml
    python main.py --test --model_dir ./logs/ImageNet_LT/models/resnet10_uniform --tau_norm

A run's folder, model_dir, holds final_model_checkpoint.pth, the epoch with the best validation accuracy (the mean over
classes, where validation is not balanced); last_NAME.pth (for --resume); NAME.csv, the log, and NAME.json; config.yaml;
test*.json; confusion*.png.
"""

import math
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # longtail/ stands beside this folder

from backbones import (
    check_batches,
    check_image_size,
    fetch_published,
    load_pretrained,
    load_published,
    normalization_of,
    training_precision,
)
from cdb_loss import CDBLoss
from imagenet_config import PUBLISHED, Config, read_config
from imagenet_lists import ImageList, check_classes, check_leaks, locate, read_class_names
from imagenet_loader import ImageLoader
from imagenet_predict import TOP, write_predictions
from imagenet_sampling import class_probabilities
from imagenet_test import BEST, PICTURES, RESULTS, evaluate, read_configured_list
from longtail.checkpoints import load_checkpoint
from longtail.cli import (
    DEVICE_HELP,
    RESUME_HINT,
    ArgumentParser,
    add_run_arguments,
    exit_code,
    file_path,
    positive_int,
    seed_number,
)
from longtail.devices import Runtime, check_gpus
from longtail.distributed import start_runtime
from longtail.files import write_atomically
from longtail.loss_flags import absent_classes_line, build_loss
from longtail.run import Run
from longtail.training import Training, begin, epoch_seed, fit
from resnet10 import ImageNetModel, join_state, load_model, split_state, start_second_stage

CONFIG = "config.yaml"
WARMUP_START = 0.01  # epochs; so that the first batch teaches something


def parse_arguments(argv: list[str] | None) -> Namespace:
    """Return the flags. A flag overrides the YAML's value."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--cfg", type=file_path, metavar="FILE", help="the run's settings; config/ has examples")
    parser.add_argument(
        "--test", action="store_true", help="test the model in --model_dir; its own config.yaml is there, else --cfg"
    )
    parser.add_argument(
        "--predict",
        type=file_path,
        metavar="PATH",
        help="predict the classes of an image, a folder or a list of images",
    )
    parser.add_argument(
        "--out", type=file_path, metavar="FILE", help="with --predict: write the table there (CSV); default: print it"
    )
    parser.add_argument(
        "--top", type=positive_int, metavar="K", help="with --predict: the K most probable classes; default: 5"
    )
    parser.add_argument(
        "--model_dir", "--save_model", type=file_path, metavar="DIR", help="the run's folder; default: the YAML's"
    )
    parser.add_argument(
        "--data_root", type=file_path, metavar="DIR", help="the folder that holds the images; default: the YAML's"
    )
    parser.add_argument(
        "--batch_size", type=positive_int, help="the whole batch, however many GPUs share it; default: the YAML's"
    )
    parser.add_argument("--seed", type=seed_number, help="default: the YAML's, else 0")
    parser.add_argument("--n_gpus", type=int, help="GPUs for DataParallel; default: the YAML's, else 1")
    parser.add_argument("--device", help=f"{DEVICE_HELP}; default: the YAML's, else the GPU if there is one")
    parser.add_argument(
        "--workers",
        type=seed_number,
        help="processes that read images (0: none); default: the YAML's, else one per core",
    )
    add_run_arguments(parser, "its folder")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--tau_norm", action="store_true", help="with --test: normalised class weights, exponent chosen on validation"
    )
    kind.add_argument("--ncm", action="store_true", help="with --test: nearest class mean of the training features")
    kind.add_argument(
        "--logit_adjustment", action="store_true", help="with --test: scores minus a multiple of the log prior"
    )
    args = parser.parse_args(argv)
    uses = args.test or args.predict
    for wrong, message in (
        (
            not (args.cfg or uses and args.model_dir),
            "--cfg FILE is needed, or --test or --predict with --model_dir DIR",
        ),
        (args.test and args.predict, "--test and --predict are two commands"),
        ((args.out or args.top) and not args.predict, "--out and --top belong to --predict"),
        (
            (args.tau_norm or args.ncm or args.logit_adjustment) and not args.test,
            "--tau_norm, --ncm and --logit_adjustment belong to --test",
        ),
        (
            uses and (args.resume or args.overwrite or args.tensorboard),
            "--resume, --overwrite and --tensorboard belong to training, not to --test or --predict",
        ),
    ):
        if wrong:
            parser.error(message)
    return args


def resolve(args: Namespace) -> Config:
    """Return the configuration with the flags in it.

    A relative path on the command line starts at the working directory.
    """
    file = args.cfg or args.model_dir / CONFIG
    if not args.cfg and not file.is_file():
        raise FileNotFoundError(
            f"{file} not found: --model_dir must be the folder of a run; for a checkpoint without, name its --cfg too"
        )
    places = {key: str(path.resolve()) for key in ("model_dir", "data_root") if (path := getattr(args, key))}
    if args.n_gpus is not None:
        check_gpus(args.n_gpus, found=0)
    return read_config(
        file,
        **places,
        batch_size=args.batch_size,
        seed=args.seed,
        n_gpus=args.n_gpus,
        device=args.device,
        workers=args.workers,
    )


class TwoPartTraining(Training):
    """Training whose checkpoints hold feat_model and classifier instead of one state_dict."""

    def state(self) -> dict[str, Any]:
        state = super().state()
        return {**split_state(state.pop("state_dict")), **state}

    def restore(self, state: dict[str, Any], run: Run) -> None:
        super().restore({**state, "state_dict": join_state(state, run.last)}, run)


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
        if line := absent_classes_line(config, absent, lists[1].file, "`difficulty: smoothed` in the YAML"):
            runtime.say(line)
    lists = locate(*lists)
    check_leaks(*lists)
    return lists


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
        file = runtime.broadcast(fetch_published(config.backbone) if runtime.is_main else None)
        load_published(model.feat_model, config.backbone, file)
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
    """Return the loss that loss_type names, with its settings; for difficulty-driven sampling, the CDBLoss with the
    sampler's weights.
    """
    if config.sampling == "difficulty":
        return CDBLoss(config.num_classes, config.tau, difficulty=config.difficulty)
    return build_loss(config, class_counts, CDBLoss)


def sampling_of_epochs(config: Config, counts: list[int], criterion: nn.Module) -> Callable[[int], Tensor | None]:
    """Return a function of an epoch, counted from 1, that gives class_probabilities; progressive sampling is even in
    the last epoch.
    """

    def probabilities(epoch: int) -> Tensor | None:
        progress = (epoch - 1) / max(1, config.num_epochs - 1)
        return class_probabilities(config.sampling, torch.tensor(counts), progress, criterion.weight.cpu())

    return probabilities


def prepare(config: Config, resuming: bool, runtime: Runtime) -> tuple[Training, dict[str, Any], dict[str, Any]]:
    """Return data, model, loss and optimizer at epoch 1, the settings that decide the result, and what a checkpoint
    says of the data.
    """
    runtime.check_batch_size(config.batch_size)
    lists = runtime.broadcast(read_lists(config, runtime) if runtime.is_main else None)
    train_set, val_set, _ = lists
    if train_set.note:
        runtime.say(train_set.note)
    if config.stage == "features":
        check_batches(len(train_set), config.batch_size, config.image_size, runtime)
    counts = train_set.class_counts(config.num_classes)
    model = build_model(config, resuming, runtime)
    criterion = build_criterion(config, counts).to(runtime.device)
    loaders = [
        ImageLoader(images, config.image_size, config.test_resize, config.workers, runtime)
        for images in (train_set, val_set)
    ]
    probabilities = sampling_of_epochs(config, counts, criterion)
    training = TwoPartTraining(
        model=model,
        parallel_model=runtime.parallelize(model),
        criterion=criterion,
        optimizer=build_optimizer(model, config),
        schedule=cosine_schedule(config.num_epochs, config.warmup_epochs),
        train_batches=lambda epoch: loaders[0].training_batches(
            probabilities(epoch), config.batch_size, epoch_seed(config.seed, epoch)
        ),
        val_batches=loaders[1].evaluation_batches,
        batches_per_epoch=math.ceil(len(train_set) / config.batch_size),
        images_per_epoch=len(train_set),
        num_classes=config.num_classes,
        epochs=config.num_epochs,
        seed=config.seed,
        loss_function=F.cross_entropy if config.sampling == "difficulty" else None,
        keep_by_class=len(set(val_set.class_counts(config.num_classes))) > 1,
    )
    runtime.say(
        f"{train_set.file.name}: {len(train_set)} training images of {config.num_classes} classes ({max(counts)} to "
        f"{min(counts)} a class), {len(val_set)} for validation; {config.stage}, {config.loss_type}, "
        f"sampling {config.sampling}; {runtime}"
    )
    arguments = config.settings() | {
        f"{split}_list": f"{images.file.name} {images.blob}"
        for split, images in zip(("train", "val", "test"), lists, strict=True)
    }
    starts = {key: Path(place).name for key in ("first_stage", "pretrained") if (place := getattr(config, key))}
    arguments |= starts
    names = read_class_names(config.path("class_list"), config.num_classes) if config.class_list else None
    return (
        training,
        arguments,
        {
            "class_names": names or train_set.class_names(config.num_classes),
            "class_counts": counts,
            "first_stage": starts.get("first_stage"),
            "normalization": normalization_of(model.feat_model),
        },
    )


def train(args: Namespace, config: Config) -> None:
    """Train, or continue, the whole run, then test its best epoch."""
    precision = training_precision(config.precision, config.image_size, config.device)
    with start_runtime(config.n_gpus, precision, config.device) as runtime:
        folder = config.path("model_dir")
        if f"{folder.name}.json" in RESULTS.values():
            raise ValueError(
                f"model_dir {folder}: {folder.name}.json is the name of a result, not of a run; choose another "
                "--model_dir"
            )
        run = Run(
            folder, folder.name, BEST, args.tensorboard, results=[*list(RESULTS.values())[1:], *PICTURES.values()]
        )
        if runtime.is_main and (folder / CONFIG).exists() and not any(path.exists() for path in run.files):
            raise ValueError(
                f"{folder / CONFIG} would be replaced by this run's settings: choose another --model_dir, or move it "
                "away"
            )
        training, arguments, description = prepare(
            config, runtime.broadcast(args.resume and run.last.exists()), runtime
        )
        if begin(training, run, arguments, description, args.resume, args.overwrite, runtime) and runtime.is_main:
            write_atomically(folder / CONFIG, config.dump().encode())
        unfinished = training.first_epoch <= training.epochs
        fit(training, run, {"arguments": arguments, **description}, runtime)
        if runtime.broadcast(unfinished or not (folder / RESULTS["classifier"]).exists()):
            evaluate(config, folder, "classifier", runtime)


def run(args: Namespace) -> int | None:
    """Train, test a trained model, or predict with it. Return an exit code, or None for 0."""
    config = resolve(args)
    if args.predict:
        return write_predictions(config, args.predict, args.data_root, args.out, args.top or TOP)
    if not args.test:
        return train(args, config)
    with start_runtime(config.n_gpus, config.precision, config.device) as runtime:
        method = next((name for name in RESULTS if getattr(args, name, False)), "classifier")
        return evaluate(config, config.path("model_dir"), method, runtime, draw=True)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return exit_code(
        lambda: run(args), hint="; no prediction was written" if args.predict else "" if args.test else RESUME_HINT
    )


if __name__ == "__main__":
    sys.exit(main())
