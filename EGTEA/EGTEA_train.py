"""Train a 3D-ResNeXt-101 on the verbs of EGTEA Gaze+, or on clips of your own, with CDB-CE or one of its rivals.

two GPUs of one machine; a machine without a GPU uses its CPU:
    python EGTEA_train.py --data_root ~/datasets/EGTEA/extracted_frames --loss_type CDB-CE --tau 1.5 --n_gpus 2
one process for each GPU:
    torchrun --standalone --nproc-per-node 4 EGTEA_train.py --data_root ~/datasets/EGTEA/extracted_frames --tau 1.5
less memory: the same batch of 8 clips, in 4 parts:
    python EGTEA_train.py --data_root ~/datasets/EGTEA/extracted_frames --accumulate 4

Run data/extract_frames.py and data/make_splits.py before it, and fetch the Kinetics weights (README). The run's folder,
models/, holds best_model.pth, the epoch with the best validation accuracy, last_model.pth (for --resume), the log
model.csv (`../longtail/plot.py` draws it), and model.json with the arguments.
"""

import math
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # longtail/ is beside this folder

from cdb_loss import CDBLoss
from clip_model import ClipDescription
from egtea_clips import check_labels, count_labels, names_file, read_class_names, read_clips, split_identity
from egtea_dataset import ClipSet, evaluation_batches, memory_format, training_batches
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
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.loss_flags import absent_classes_line, add_loss_arguments, build_loss, complete_loss_arguments
from longtail.losses import find_loss
from longtail.records import Plain
from longtail.run import Run
from longtail.training import Training, fit, start_or_resume
from resnext3d import AUTO_PRECISION, BF16_ON_CPU, ResNeXt3D, load_pretrained, warn_of_bf16

HERE = Path(__file__).resolve().parent
WEIGHT_DECAY = 5e-4
KINETICS = "resnext-101-kinetics.pth"
KINETICS_SOURCE = "github.com/kenshohara/3D-ResNets-PyTorch"


def step_schedule(progress: float) -> float:
    """Return the paper's factor: times 0.1 after 60 % of training."""
    return 0.1 if progress >= 0.6 else 1.0


def default_pretrained() -> Path:
    """Return the Kinetics file in this folder's pretrained_weights/ if there is one, else in the top folder's."""
    inside = HERE / "pretrained_weights"
    return (inside if inside.is_dir() else HERE.parent / "pretrained_weights") / KINETICS


def parse_arguments(argv: list[str] | None) -> Namespace:
    """Return the flags: those of the released script, and more. The defaults are the paper's recipe."""
    parser = ArgumentParser(__doc__)
    add_data_arguments(parser)
    add_loss_arguments(parser)
    add_training_arguments(parser)
    add_execution_arguments(parser)
    args = parser.parse_args(argv)
    complete_loss_arguments(args)
    check_accumulate(args)
    if args.class_names and not args.class_names.is_file():
        raise FileNotFoundError(f"--class_names {args.class_names}: there is no such file")
    return args


def add_data_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data_root", type=file_path, default=HERE / "extracted_frames", help="default: ./extracted_frames"
    )
    group.add_argument(
        "--train_file", type=file_path, default=HERE / "data/train_split.txt", help="default: ./data/train_split.txt"
    )
    group.add_argument(
        "--val_file", type=file_path, default=HERE / "data/val_split.txt", help="default: ./data/val_split.txt"
    )
    group.add_argument(
        "--class_names",
        type=file_path,
        metavar="FILE",
        help="lines `1 take`; default: verbs.txt beside --train_file, or classes.txt for clips of your own",
    )
    group.add_argument("--frames_per_clip", type=positive_int, default=10, help="default: 10")
    group.add_argument(
        "--sample_size", type=positive_int, default=224, help="side of the network's input, in pixels; default: 224"
    )


def add_training_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    rate = number_in(0, math.inf, include_low=False)
    group.add_argument(
        "--pretrained_model",
        type=file_path,
        default=default_pretrained(),
        help=f"checkpoint whose weights, all but the head, training starts from, or 'none'; default: {KINETICS} in "
        "./pretrained_weights if there is such a folder, else in ../pretrained_weights",
    )
    group.add_argument("--max_epochs", type=positive_int, default=100, help="default: 100")
    group.add_argument(
        "--batch_size", type=positive_int, default=8, help="the whole batch, however many GPUs share it; default: 8"
    )
    group.add_argument(
        "--accumulate", type=positive_int, default=1, help="parts of a batch, one after the other; default: 1"
    )
    group.add_argument("--lr", type=rate, default=0.001, help="default: 0.001")
    group.add_argument(
        "--head_lr",
        type=rate,
        metavar="LR",
        help="learning rate of the classifier (fc); default: --lr. From random weights, a small one keeps it steady",
    )
    group.add_argument("--momentum", type=number_in(0, 1), default=0.0, help="default: 0")
    group.add_argument("--seed", type=seed_number, default=0, help="default: 0")
    group.add_argument(
        "--validate_after_every",
        type=positive_int,
        default=1,
        metavar="EPOCHS",
        help="validate, and renew CDB's weights, after every so many epochs and after the last; default: 1",
    )


def add_execution_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("execution")
    add_device_arguments(group, AUTO_PRECISION)
    group.add_argument("--workers", type=seed_number, default=4, help="threads that load clips, 0 or more; default: 4")
    group.add_argument(
        "--save_model", type=file_path, default=HERE / "models", help="the run's folder; default: ./models"
    )
    add_run_arguments(group, "--save_model")


def check_accumulate(args: Namespace) -> None:
    """Raise ValueError if a batch cannot be taken in --accumulate parts."""
    if args.accumulate > args.batch_size:
        raise ValueError(
            f"--accumulate {args.accumulate}: a batch of {args.batch_size} clips cannot be split into so many parts"
        )
    if args.accumulate > 1 and build_loss(args, [1], CDBLoss).reduction == "weighted_mean":
        raise ValueError(
            f"--accumulate {args.accumulate} does not go with --loss_type {args.loss_type}, or not with --reduction "
            "weighted_mean: the loss divides by the summed weights of the whole batch, which its parts do not know"
        )


@dataclass(frozen=True)
class Data:
    """Training and validation clips, and name and training clips of each class."""

    train: ClipSet
    val: ClipSet
    class_names: list[str]
    class_counts: list[int]


def read_data(args: Namespace, runtime: Runtime) -> Data:
    """Return the data that the flags name. Raise ValueError for a class without clips."""
    train, val = read_clips(args.train_file), read_clips(args.val_file)
    num_classes = 1 + max(clip.label for clip in train)
    if num_classes < 2:
        raise ValueError(f"{args.train_file} holds clips of one class; at least 2 classes can be trained")
    counts = count_labels(train, num_classes)
    absent = absent_classes(counts)
    if absent:
        raise ValueError(
            f"{args.train_file} has no clip of class {', '.join(absent)}; classes are numbered from 1 without gaps"
        )
    check_labels(args.val_file, val, num_classes)
    if find_loss(args.loss_type).measures_difficulty:
        absent = absent_classes(count_labels(val, num_classes))
        line = absent_classes_line(args, absent, args.val_file, "--difficulty smoothed")
        if line:
            runtime.say(line)
    return Data(
        train=ClipSet(args.data_root, train, args.frames_per_clip, args.sample_size),
        val=ClipSet(args.data_root, val, args.frames_per_clip, args.sample_size),
        class_names=read_class_names(args.class_names or names_file(args.train_file, train), num_classes),
        class_counts=counts,
    )


def absent_classes(counts: list[int]) -> list[str]:
    """Return the numbers of the classes that have no clip, as a split file writes them: from 1 on."""
    return [str(number) for number, count in enumerate(counts, start=1) if not count]


def build_model(args: Namespace, num_classes: int, head: str, resuming: bool, runtime: Runtime) -> ResNeXt3D:
    """Return the model on its device, with pretrained weights unless they are 'none' or the run is resumed."""
    torch.manual_seed(args.seed)
    model = ResNeXt3D(num_classes, head)
    path = args.pretrained_model
    if not resuming and str(path) == "none":
        runtime.say("training from random weights")
    elif not resuming:
        if not path.is_file():
            raise FileNotFoundError(
                f"no pretrained weights at {path}: get {KINETICS} from {KINETICS_SOURCE} (README, EGTEA), pass "
                "--pretrained_model FILE, or train from random weights with --pretrained_model none"
            )
        taken = load_pretrained(model, path)
        runtime.say(f"{path}: {taken} tensors taken, everything but the head (fc), which starts at random")
    return model.to(runtime.device).to(memory_format=memory_format(runtime.device))


def parameter_groups(model: ResNeXt3D, lr: float, head_lr: float | None) -> list[dict[str, Any]]:
    """Return the optimizer's groups: all parameters, as in the released code.

    With a `head_lr`, the head (fc) has a group of its own.
    """
    if head_lr is None:
        return [{"params": list(model.parameters()), "initial_lr": lr}]
    body = [parameter for name, parameter in model.named_parameters() if not name.startswith("fc.")]
    return [{"params": body, "initial_lr": lr}, {"params": list(model.fc.parameters()), "initial_lr": head_lr}]


def run_arguments(args: Namespace) -> dict[str, Plain]:
    """Return what a run's files say of its flags: no paths, of which a run is independent."""
    arguments = plain_arguments(args) | {"pretrained_model": args.pretrained_model.name}
    arguments.pop("class_names", None)
    return arguments


def prepare(args: Namespace, resuming: bool, runtime: Runtime) -> tuple[Training, ClipDescription]:
    """Return data, model, loss and optimizer at epoch 1, and what a checkpoint says of them."""
    runtime.check_batch_size(args.batch_size)
    data = read_data(args, runtime)
    counts = data.class_counts
    head = find_loss(args.loss_type).head
    model = build_model(args, len(counts), head, resuming, runtime)
    criterion = build_loss(args, counts, CDBLoss).to(runtime.device)
    groups = parameter_groups(model, args.lr, args.head_lr)
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum, weight_decay=WEIGHT_DECAY, fused=True)
    training = Training(
        model=model,
        parallel_model=runtime.parallelize(model),
        criterion=criterion,
        optimizer=optimizer,
        schedule=step_schedule,
        train_batches=lambda epoch: training_batches(
            data.train, args.batch_size, args.seed, epoch, args.workers, runtime
        ),
        val_batches=lambda: evaluation_batches(data.val, args.batch_size, args.workers, runtime),
        batches_per_epoch=math.ceil(len(data.train) / args.batch_size),
        images_per_epoch=len(data.train),
        num_classes=len(counts),
        epochs=args.max_epochs,
        seed=args.seed,
        validate_after_every=args.validate_after_every,
        accumulate=args.accumulate,
    )
    runtime.say(
        f"{len(data.train)} training clips of {len(counts)} classes ({max(counts)} to {min(counts)} a class), "
        f"{len(data.val)} for validation; {args.frames_per_clip} frames of {args.sample_size} pixels; "
        f"{args.loss_type}; {runtime}"
    )
    files = {"train_file": split_identity(args.train_file), "val_file": split_identity(args.val_file)}
    return training, ClipDescription(
        arguments={**run_arguments(args), **files},
        class_names=data.class_names,
        class_counts=counts,
        frames_per_clip=args.frames_per_clip,
        sample_size=args.sample_size,
        head=head,
    )


def train(args: Namespace) -> None:
    """Train, or continue, the whole run."""
    with start_runtime(args.n_gpus, args.precision, args.device, BF16_ON_CPU) as runtime:
        warn_of_bf16(runtime)
        runtime.check_settings(run_arguments(args))
        run = Run(args.save_model, "model", tensorboard=args.tensorboard, results=["confusion_matrix.png"])
        training, description = prepare(args, runtime.broadcast(args.resume and run.last.exists()), runtime)
        start_or_resume(training, run, description, run_mode(args), runtime)
        fit(training, run, description, runtime)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: train(parse_arguments(argv)), hint=RESUME_HINT)


if __name__ == "__main__":
    sys.exit(main())
