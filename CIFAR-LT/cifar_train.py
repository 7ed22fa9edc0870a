"""Train ResNet-32 on a long-tailed CIFAR-100 (or CIFAR-10, or digits) with the CDB-CE loss or one of its rivals.

one GPU, or the CPU of a machine without:
    python cifar_train.py --class_num 100 --imbalance 200 --loss_type CDB-CE --tau 1.5 --n_gpus 1
all of a machine's GPUs, one process each (on the CPU too):
    torchrun --standalone --nproc-per-node 4 cifar_train.py --imbalance 200 --tau 1.5
no data at hand, about a minute:
    python cifar_train.py --dataset digits --save_model ./saved_model/digits

The run's folder, saved_model/, holds best_cifar100_imbalance200.pth, the epoch with the best validation accuracy,
last_....pth (for --resume), the log ....csv (`../longtail/plot.py` draws it), and ....json with the arguments.
"""

import math
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # longtail/ stands beside this folder

from cdb_loss import CDBLoss
from cifar_dataset import (
    NUM_CLASSES,
    PROTOCOLS,
    Augmentation,
    ImageSet,
    check_present,
    class_names,
    evaluation_batches,
    long_tailed,
    training_batches,
)
from longtail.cli import (
    RESUME_HINT,
    ArgumentParser,
    add_device_arguments,
    add_run_arguments,
    exit_code,
    file_path,
    number_in,
    plain_arguments,
    positive_int,
    run_mode,
    seed_number,
)
from longtail.compiling import compile_for_training
from longtail.devices import Runtime
from longtail.distillation import Distillation, Teacher
from longtail.distributed import start_runtime
from longtail.logs import find_log
from longtail.loss_flags import add_loss_arguments, build_loss, complete_loss_arguments
from longtail.losses import LOSSES, find_loss, logit_scale
from longtail.records import Description, Plain
from longtail.run import Run
from longtail.seeds import epoch_seed
from longtail.training import Training, fit, start_or_resume
from muon import Muon
from refit import logged_weights, replay_weights
from resnet32 import ResNet32
from strong_augmentation import StrongAugmentation
from teachers import checksum, find_checkpoint, load_teachers

HERE = Path(__file__).resolve().parent
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4


@dataclass(frozen=True)
class Recipe:
    """How to train unless a flag says otherwise; `schedule` maps progress in 0..1 to a factor of lr."""

    epochs: int
    batch_size: int
    lr: float
    schedule: Callable[[float], float]
    nesterov: bool = False
    flip: bool = True
    # decay of the moving average of the weights, which is validated and kept; 0: no average
    average: float = 0.0
    # peak relative step of Muon on all convolutions but the first; 0: SGD on them too
    muon: float = 0.0
    strong: bool = False  # AutoAugment and Cutout after crop and flip

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain values, the schedule by its name."""
        return {**asdict(self), "schedule": self.schedule.__name__}


def step_schedule(progress: float) -> float:
    """Return the paper's factor: times 0.01 after 2/3 and again after 7/8 of training (epochs 160 and 210 of 240)."""
    if progress < 2 / 3:
        return 1.0
    return 0.01 if progress < 7 / 8 else 0.01**2


def one_cycle_schedule(progress: float) -> float:
    """Rise from 0.04 to 1 over the first 30 %, then fall to 0, along cosines.

    Smith and Topin, 2018, as PyTorch's OneCycleLR.
    """
    if progress < 0.3:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / 0.3)) / 2
    return (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) / 2


def level_schedule(progress: float) -> float:
    """Rise linearly from 0.04 to 1 over the first tenth, stay until 0.4, fall linearly to 0."""
    if progress < 0.1:
        return 0.04 + 9.6 * progress
    return 1.0 if progress < 0.4 else (1 - progress) / 0.6


PAPER = Recipe(epochs=240, batch_size=32, lr=0.1, schedule=step_schedule)
# Chosen for cross-entropy's validation accuracy at imbalance 20 with seeds 10 and 11: about 0.95 with Muon, 0.92
# without it, 0.85 at a tenth of the peak rate. A mirrored digit is another picture, so no flip.
DIGITS = Recipe(
    epochs=30, batch_size=32, lr=0.1, schedule=one_cycle_schedule, nesterov=True, flip=False, average=0.98, muon=0.02
)
# At a high learning rate, accuracy fluctuates from epoch to epoch, and CDB's class weights with it. Those of the
# average do not.
FAST = Recipe(epochs=30, batch_size=64, lr=0.1, schedule=level_schedule, nesterov=True, average=0.998, muon=0.02)
# The augmentation of later published results, AutoAugment and Cutout, with half of their epochs.
STRONG = Recipe(
    epochs=100, batch_size=64, lr=0.1, schedule=level_schedule, nesterov=True, average=0.998, muon=0.02, strong=True
)
RECIPES = {"paper": PAPER, "fast": FAST, "strong": STRONG, "digits": DIGITS}


def defaults(field: str) -> str:
    """Return the help text of a flag whose default depends on the recipe."""
    return "default: " + ", ".join(f"{name} {getattr(recipe, field):g}" for name, recipe in RECIPES.items())


def parse_arguments(argv: list[str] | None) -> Namespace:
    """Return the flags: those of the released script, and more. The defaults are the paper's recipe."""
    parser = ArgumentParser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument("--class_num", type=positive_int, help="100: CIFAR-100 (default), 10: CIFAR-10")
    data.add_argument("--dataset", choices=NUM_CLASSES, help="instead of --class_num")
    data.add_argument(
        "--imbalance", type=number_in(1, math.inf), help="largest class size / smallest; default: 200; digits 20"
    )
    data.add_argument(
        "--data_root",
        type=file_path,
        default=HERE / "data",
        help="folder that holds cifar-100-python/; default: ./data",
    )
    data.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="paper",
        help="paper (default): hold out 25 images of each class for validation, cut the rest; common: cut all images "
        "and validate on the test set, as many papers do; paper-on-test: cut as paper, validate on the test set; "
        "all: cut as paper and add what it holds out, validate nothing, keep the last epoch",
    )
    data.add_argument("--download", action="store_true", help="fetch the data set into --data_root if it is missing")
    add_loss_arguments(parser)
    training = parser.add_argument_group("training")
    training.add_argument(
        "--recipe",
        choices=("paper", "fast", "strong"),
        help="fast: an eighth of the epochs; strong: 100 epochs with AutoAugment and Cutout; default: paper",
    )
    training.add_argument("--max_epochs", type=positive_int, help=defaults("epochs"))
    training.add_argument(
        "--batch_size",
        type=positive_int,
        help="the whole batch, however many GPUs share it; the released script's --n_gpus 4, which takes 32 images for "
        "each GPU, is --batch_size 128 here; " + defaults("batch_size"),
    )
    training.add_argument(
        "--lr",
        type=number_in(0, math.inf, include_low=False),
        help="peak learning rate, and Muon's in proportion; " + defaults("lr"),
    )
    own_scale = [loss.name for loss in LOSSES if loss.cosine_scale]
    training.add_argument(
        "--head",
        choices=("linear", "cosine"),
        help="the classifier; cosine: 32 times the cosines between features and class vectors; default: linear, but "
        f"cosine for {' and '.join(own_scale)}, which have a scale of their own",
    )
    training.add_argument(
        "--teacher",
        nargs="+",
        default=[],
        type=file_path,
        metavar="RUN",
        help="learn from finished runs too: half of the loss is 4 times the divergence from the mean of their "
        "probabilities at temperature 2; RUN is a run's folder, its CSV file or a checkpoint",
    )
    training.add_argument(
        "--refit",
        type=file_path,
        metavar="RUN",
        help="train as a finished run did, whose flags are given again, on the images that other papers train on: all "
        "are cut, nothing is held out, the last epoch is kept; epoch e has the class weights of the run's log after "
        "epoch e - 1; RUN is the run's folder or its CSV file",
    )
    training.add_argument("--seed", type=seed_number, default=0, help="default: 0")
    training.add_argument(
        "--validate_after_every",
        type=positive_int,
        default=1,
        metavar="EPOCHS",
        help="validate, and renew CDB's weights, after every so many epochs and after the last; default: 1",
    )
    execution = parser.add_argument_group("execution")
    add_device_arguments(execution)
    execution.add_argument(
        "--compile", action="store_true", help="torch.compile the model: a minute to start, then faster"
    )
    execution.add_argument(
        "--save_model", type=file_path, default=HERE / "saved_model", help="the run's folder; default: ./saved_model"
    )
    add_run_arguments(execution, "--save_model")
    return complete(parser.parse_args(argv))


def complete(args: Namespace) -> Namespace:
    """Fill in what depends on the data set and the loss. Raise ValueError for values that contradict each other."""
    complete_loss_arguments(args)
    args.dataset = args.dataset or {10: "cifar10"}.get(args.class_num, "cifar100")
    if args.class_num not in (None, NUM_CLASSES[args.dataset]):
        raise ValueError(f"--class_num {args.class_num}: {args.dataset} has {NUM_CLASSES[args.dataset]} classes")
    args.class_num = NUM_CLASSES[args.dataset]
    if args.imbalance is None:
        args.imbalance = 20.0 if args.dataset == "digits" else 200.0
    if args.recipe and args.dataset == "digits":
        raise ValueError(f"--recipe {args.recipe} is for CIFAR: digits has a recipe of its own")
    args.recipe = args.recipe or ("digits" if args.dataset == "digits" else "paper")
    recipe = RECIPES[args.recipe]
    args.max_epochs = args.max_epochs or recipe.epochs
    args.batch_size = args.batch_size or recipe.batch_size
    args.lr = recipe.lr if args.lr is None else args.lr
    loss = find_loss(args.loss_type)
    if args.head == "linear" and loss.head == "cosine":
        raise ValueError(f"--head linear: --loss_type {args.loss_type} takes cosines; drop --head")
    args.head = args.head or loss.head
    args.teacher = [find_checkpoint(run) for run in args.teacher]
    if args.protocol == "all" and loss.measures_difficulty:
        raise ValueError(
            f"--protocol all holds no images out, on which --loss_type {args.loss_type} measures difficulty"
        )
    if args.refit and args.protocol != "paper":
        raise ValueError(f"--refit goes with --protocol paper, not {args.protocol}: it has a training set of its own")
    if args.refit:
        args.protocol = "refit"
    return args


def build_optimizer(model: ResNet32, lr: float, recipe: Recipe) -> Muon:
    """Return SGD with weight decay on everything but the head's bias, as the released code has it.

    If the recipe has Muon, it takes the steps of the convolutions.
    """
    biases, filters, others = [], [], []
    for name, parameter in model.named_parameters():
        if name == "linear.bias":
            biases.append(parameter)
        elif recipe.muon and name.startswith("layer") and ".conv" in name:
            filters.append(parameter)
        else:
            others.append(parameter)
    groups = [
        {"params": others, "weight_decay": WEIGHT_DECAY, "initial_lr": lr},
        {"params": biases, "weight_decay": 0.0, "initial_lr": lr},
        {"params": filters, "weight_decay": 0.0, "initial_lr": recipe.muon * lr / recipe.lr, "orthogonal": True},
    ]
    return Muon(
        [group for group in groups if group["params"]], lr=lr, momentum=MOMENTUM, nesterov=recipe.nesterov, fused=True
    )


def build_training(
    args: Namespace,
    recipe: Recipe,
    head: str,
    train_set: ImageSet,
    val_set: ImageSet | None,
    runtime: Runtime,
    teachers: Sequence[Teacher] = (),
) -> Training:
    """Return the training at epoch 1 of a ResNet-32 on two sets of images on the runtime's device."""
    counts = train_set.class_counts(args.class_num)
    augmentation = StrongAugmentation if recipe.strong else Augmentation
    torch.manual_seed(args.seed)
    model = ResNet32(args.class_num, head).to(runtime.device, memory_format=torch.channels_last)
    parallel_model = runtime.parallelize(model)
    if args.compile:
        parallel_model = compile_for_training(parallel_model, args.batch_size, runtime)
    training = Training(
        model=model,
        parallel_model=parallel_model,
        criterion=build_loss(args, counts, CDBLoss).to(runtime.device),
        optimizer=build_optimizer(model, args.lr, recipe),
        schedule=recipe.schedule,
        train_batches=lambda epoch: training_batches(
            train_set, args.batch_size, recipe.flip, epoch_seed(args.seed, epoch), runtime, augmentation
        ),
        val_batches=None if val_set is None else lambda: evaluation_batches(val_set, "train", runtime),
        batches_per_epoch=math.ceil(len(train_set) / args.batch_size),
        images_per_epoch=len(train_set),
        num_classes=args.class_num,
        epochs=args.max_epochs,
        seed=args.seed,
        validate_after_every=args.validate_after_every,
    )
    if recipe.average:
        training.average_weights(recipe.average)
    if teachers:
        distill(training, logit_scale(head, args.loss_type), teachers, runtime)
    return training


def distill(training: Training, scale: float, teachers: Sequence[Teacher], runtime: Runtime) -> None:
    """Let a training learn from the teachers too; `scale` makes logits of its network's outputs."""
    distillation = Distillation(training.criterion, scale, teachers, runtime)
    train_batches = training.train_batches
    training.train_batches = lambda epoch: distillation.batches(train_batches(epoch))
    training.loss_function = distillation


@dataclass(kw_only=True)
class CifarDescription(Description):
    """The metadata of a checkpoint of this experiment."""

    dataset: str
    head: str
    normalization: str
    recipe: dict[str, Plain]


def run_arguments(args: Namespace) -> dict[str, Plain]:
    """Return what a run's files say of its flags: no paths, and each teacher by its name and its checksum."""
    arguments = plain_arguments(args)
    arguments["teacher"] = " ".join(f"{path.parent.name}/{path.name}" for path in args.teacher)
    arguments["teacher_sha256"] = " ".join(checksum(path) for path in args.teacher)
    arguments["refit"] = args.refit.name if args.refit else ""
    arguments["refit_sha256"] = checksum(find_log(args.refit)) if args.refit else ""
    return arguments


def prepare(args: Namespace, runtime: Runtime) -> tuple[Training, CifarDescription]:
    """Return data, model, loss and optimizer at epoch 1, and their checkpoints' metadata."""
    runtime.check_batch_size(args.batch_size)
    runtime.broadcast(check_present(args.dataset, args.data_root, args.download) if runtime.is_main else None)
    train_set, val_set = long_tailed(args.dataset, args.data_root, args.imbalance, args.protocol)
    data = " ".join(images.identity() for images in (train_set, val_set) if images is not None)
    train_set = train_set.to(runtime.device)
    if val_set is not None:
        val_set = val_set.to(runtime.device)
    counts = train_set.class_counts(args.class_num)
    recipe = RECIPES[args.recipe]
    is_scaled = args.head == "cosine" and not find_loss(args.loss_type).cosine_scale
    description = CifarDescription(
        arguments={**run_arguments(args), "data": data},
        class_names=class_names(args.dataset, args.data_root),
        class_counts=counts,
        dataset=args.dataset,
        head="scaled_cosine" if is_scaled else args.head,
        normalization="train",
        recipe=recipe.plain(),
    )
    teachers = load_teachers(args.teacher, description, runtime)
    training = build_training(args, recipe, description.head, train_set, val_set, runtime, teachers)
    if args.refit:
        replay_weights(training, logged_weights(args.refit, description.arguments))
    held_out = "none" if val_set is None else len(val_set)
    runtime.say(
        f"{args.dataset}, imbalance {args.imbalance:g}: {len(train_set)} training images of {args.class_num} classes "
        f"({max(counts)} to {min(counts)} a class), {held_out} for validation; {args.loss_type}; {runtime}"
    )
    return training, description


def train(args: Namespace) -> None:
    """Train, or continue, the whole run."""
    with start_runtime(args.n_gpus, args.precision, args.device) as runtime:
        runtime.check_settings(run_arguments(args))
        training, description = prepare(args, runtime)
        run = Run(args.save_model, f"{args.dataset}_imbalance{args.imbalance:g}", tensorboard=args.tensorboard)
        start_or_resume(training, run, description, run_mode(args), runtime)
        fit(training, run, description, runtime)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: train(parse_arguments(argv)), hint=RESUME_HINT)


if __name__ == "__main__":
    sys.exit(main())
