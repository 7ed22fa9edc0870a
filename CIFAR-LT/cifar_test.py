"""Test a trained ResNet-32 on the balanced test set: top-1, many / medium / few shot, and the hardest classes.

    python cifar_test.py --saved_model_path saved_model/best_cifar100_imbalance200.pth --class_num 100 --n_gpus 1

A checkpoint of ours says everything: data set, head, class counts, normalisation. One of the released code holds the
weights alone: their shape gives the data set; --imbalance (else the file's name) and --normalization say the rest.
The last line printed has the form `Test Accuracy is 0.3740`.
"""

import json
import math
import re
import sys
from argparse import Namespace
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # longtail/ stands beside this folder

from cifar_dataset import (
    HELD_OUT_PER_CLASS,
    NORMALIZATION,
    NUM_CLASSES,
    VALIDATED_ON_TEST,
    ImageSet,
    check_present,
    class_names,
    evaluation_batches,
    long_tail_counts,
    long_tailed,
    read_split,
)
from longtail.checkpoints import Checkpoint, find_weights, load_checkpoint, load_weights
from longtail.cli import ArgumentParser, add_device_arguments, exit_code, file_path, number_in, positive_int
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.files import check_place, write_atomically
from longtail.heads import HEADS
from longtail.hits import count_with_hits, pack_hits
from longtail.losses import logit_scale
from longtail.metrics import SHOT_SIZES, SHOTS, Batches, report
from longtail.posthoc import STRENGTHS, LogitShift, best_of, extract, without_bf16
from longtail.records import TestFigures
from resnet32 import ResNet32

HERE = Path(__file__).resolve().parent
HARDEST = 10  # classes that the report names
IMAGES_PER_CLASS = {"cifar100": 500, "cifar10": 5000}


def parse_arguments(argv: list[str] | None) -> Namespace:
    """Return the flags of the released script, and those that a checkpoint of the released code needs."""
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--saved_model_path", type=file_path, required=True, help="best_X.pth of a run, or a released checkpoint"
    )
    parser.add_argument(
        "--class_num", type=positive_int, help="must be the checkpoint's; default: what the checkpoint has"
    )
    parser.add_argument(
        "--dataset", choices=NUM_CLASSES, help="must be the checkpoint's; default: what the checkpoint has"
    )
    parser.add_argument(
        "--data_root",
        type=file_path,
        default=HERE / "data",
        help="folder that holds cifar-100-python/; default: ./data",
    )
    parser.add_argument("--download", action="store_true", help="fetch the data set into --data_root if it is missing")
    parser.add_argument(
        "--imbalance", type=number_in(1, math.inf), help="for a checkpoint without class counts; default: by its name"
    )
    parser.add_argument(
        "--normalization",
        choices=NORMALIZATION,
        help="default: the checkpoint's; for one that does not say, 'train', the constants of the released training",
    )
    parser.add_argument(
        "--logit_adjustment",
        action="store_true",
        help="subtract strength x log prior from the scores (Menon et al., ICLR 2021); validation chooses the strength",
    )
    parser.add_argument(
        "--flip", action="store_true", help="take the mean of the probabilities of each image and its mirror image"
    )
    add_device_arguments(parser)
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write all figures there")
    return parser.parse_args(argv)


@dataclass
class Trained:
    """A trained network: its weights, and what its checkpoint and the flags say of it.

    class_counts and protocol are None where neither says it. `logit_scale` makes logits of the network's outputs.
    """

    dataset: str
    class_counts: list[int] | None
    head: str
    normalization: str
    state_dict: dict[str, Tensor]
    protocol: str | None = None
    logit_scale: float = 1.0


def read_trained(args: Namespace) -> Trained:
    """Return the network of --saved_model_path.

    Raise ValueError if the checkpoint does not describe a model of this experiment, or if a flag contradicts it.
    """
    path = args.saved_model_path
    checkpoint = load_checkpoint(path)
    is_ours = not {"dataset", "class_counts", "arguments"}.isdisjoint(checkpoint)
    trained = ours(args, checkpoint) if is_ours else released(args, find_weights(checkpoint))
    classes = NUM_CLASSES[trained.dataset]
    if args.class_num not in (None, classes):
        raise ValueError(f"--class_num {args.class_num}: {path} has {classes} classes")
    if args.dataset not in (None, trained.dataset):
        raise ValueError(f"--dataset {args.dataset}: {path} was trained on {trained.dataset}")
    trained.normalization = args.normalization or trained.normalization
    return trained


def ours(args: Namespace, checkpoint: Checkpoint) -> Trained:
    """Return what a checkpoint of this repository says."""
    path = args.saved_model_path
    wrong = []
    for key, allowed in (("dataset", NUM_CLASSES), ("head", HEADS), ("normalization", NORMALIZATION)):
        value = checkpoint.get(key)
        if not isinstance(value, str) or value not in allowed:
            wrong.append(key)
    if not isinstance(checkpoint.get("state_dict"), dict):
        wrong.append("state_dict")
    counts = checkpoint.get("class_counts")
    if not wrong and (counts is None or len(counts) != NUM_CLASSES[checkpoint["dataset"]]):
        wrong = ["class_counts"]
    if wrong:
        raise ValueError(f"{path} does not describe a CIFAR-LT model; missing or unknown: {', '.join(wrong)}")
    arguments = checkpoint.get("arguments", {})
    if args.imbalance not in (None, arguments.get("imbalance")):
        raise ValueError(
            f"--imbalance {args.imbalance:g} is not what {path} was trained with; it knows its class counts itself"
        )
    return Trained(
        dataset=checkpoint["dataset"],
        class_counts=counts,
        head=checkpoint["head"],
        normalization=checkpoint["normalization"],
        state_dict=checkpoint.get("state_dict", {}),
        protocol=arguments.get("protocol"),
        logit_scale=logit_scale(checkpoint["head"], arguments.get("loss_type")),
    )


def released(args: Namespace, weights: dict[str, Any]) -> Trained:
    """Return what can be said of a checkpoint of the released code: bare weights, under DataParallel's `module.`."""
    bias = weights.get("module.linear.bias", weights.get("linear.bias"))
    if not isinstance(bias, Tensor) or bias.ndim != 1:
        raise ValueError(f"{args.saved_model_path} has no linear.bias: it is not a ResNet-32 of this experiment")
    dataset = args.dataset or {100: "cifar100", 10: "cifar10"}.get(len(bias))
    if dataset is None or NUM_CLASSES[dataset] != len(bias):
        raise ValueError(
            f"{args.saved_model_path} has {len(bias)} classes: that fits no data set here, or not --dataset"
        )
    named = re.search(r"imbalance(\d+(?:\.\d+)?)", args.saved_model_path.stem)
    imbalance = args.imbalance or (float(named[1]) if named else None)
    counts = None
    if imbalance and dataset in IMAGES_PER_CLASS:
        counts = long_tail_counts(IMAGES_PER_CLASS[dataset] - HELD_OUT_PER_CLASS, len(bias), imbalance)
    return Trained(dataset, counts, head="linear", normalization="train", state_dict=weights)


def print_report(figures: TestFigures, strength: float | None) -> None:
    """Print the report; the accuracy in its fixed form comes last. `strength` is that of a logit adjustment."""
    if strength is not None:
        print(f"logit adjustment of strength {strength:g}, chosen on validation")
    if figures.shots:
        shares = [f"{name} {figures.shots[name]:.4f}" for name in SHOTS[1:] if figures.shots[name] is not None]
        print(f"accuracy ({SHOT_SIZES}):  " + "  ".join(shares))
    else:
        print("the checkpoint does not say what it was trained on: --imbalance gives accuracy by many / medium / few")
    print("hardest classes:")
    tested = [one for one in figures.classes if one.images]
    for one in sorted(tested, key=attrgetter("accuracy"))[:HARDEST]:
        seen = "" if one.training_images is None else f"{one.training_images:6d} training images"
        print(f"  {one.name:<16}{one.accuracy:.3f}{seen}")
    print(f"Test Accuracy is {figures.accuracy:.4f}", flush=True)


def validation_set(args: Namespace, trained: Trained) -> ImageSet:
    """Return the held-out images of the model's training.

    Raise ValueError where there are none, or no class counts to adjust by.
    """
    if not trained.class_counts:
        raise ValueError(
            f"--logit_adjustment needs the class counts, which {args.saved_model_path} does not hold: give --imbalance"
        )
    protocol = trained.protocol or "paper"
    if protocol in VALIDATED_ON_TEST:
        raise ValueError(
            f"--logit_adjustment needs validation images; with --protocol {protocol} the test set took their place"
        )
    _, validation = long_tailed(trained.dataset, args.data_root, 1, protocol)  # the same at any imbalance
    if validation is None:
        raise ValueError(f"--logit_adjustment needs validation images; with protocol {protocol} none were held out")
    return validation


class WithMirror(nn.Module):
    """Return logarithms of the mean probabilities of each image and its mirror image, (N, C).

    `scale` makes logits of what `model` puts out.
    """

    def __init__(self, model: nn.Module, scale: float):
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, images: Tensor) -> Tensor:
        original = (self.scale * self.model(images).float()).softmax(1)
        mirrored = (self.scale * self.model(images.flip(3)).float()).softmax(1)
        return ((original + mirrored) / 2).log()


def count_adjusted(
    model: nn.Module, validation: Batches, test: Batches, class_counts: list[int], scale: float, runtime: Runtime
) -> tuple[Tensor, Tensor, float]:
    """Return the confusion (C, C) on `test` after logit adjustment, which images are right, (N,), and the strength.

    `validation` chose the strength. Logits are meant: `scale` times what the network puts out.
    """
    num_classes = len(class_counts)

    def adjusted(strength: float) -> nn.Module:
        return LogitShift(class_counts, strength / scale).to(runtime.device)

    strength = best_of(STRENGTHS, adjusted, extract(model, validation, runtime), num_classes, runtime)
    outputs = extract(model, test, runtime)
    confusion, hits = count_with_hits(adjusted(strength), outputs, num_classes, without_bf16(runtime))
    return confusion, hits, strength


def load_model(args: Namespace, trained: Trained, runtime: Runtime) -> tuple[nn.Module, float]:
    """Return the network, to be called on a batch, and what makes logits of its outputs."""
    model = ResNet32(NUM_CLASSES[trained.dataset], trained.head)
    load_weights(model, trained.state_dict, args.saved_model_path)
    parallel_model = runtime.parallelize(model.to(runtime.device, memory_format=torch.channels_last), trains=False)
    if args.flip:
        return WithMirror(parallel_model, trained.logit_scale), 1.0
    return parallel_model, trained.logit_scale


def test(args: Namespace) -> None:
    """Load the model, count on the test set, report."""
    check_place("--json", args.json)
    with start_runtime(args.n_gpus, args.precision, args.device) as runtime:
        trained = read_trained(args)
        runtime.broadcast(check_present(trained.dataset, args.data_root, args.download) if runtime.is_main else None)
        model, scale = load_model(args, trained, runtime)
        images = read_split(trained.dataset, args.data_root, "test").to(runtime.device)
        batches = evaluation_batches(images, trained.normalization, runtime)
        settings: dict[str, Any] = {"flip": True} if args.flip else {}
        if args.logit_adjustment:
            held_out = validation_set(args, trained).to(runtime.device)
            validation = evaluation_batches(held_out, trained.normalization, runtime)
            confusion, hits, strength = count_adjusted(model, validation, batches, trained.class_counts, scale, runtime)
            settings["logit_adjustment"] = strength
        else:
            confusion, hits = count_with_hits(model, batches, NUM_CLASSES[trained.dataset], runtime)
        if runtime.is_main:
            write_report(args, trained, settings, confusion.cpu(), hits)


def write_report(args: Namespace, trained: Trained, settings: dict[str, Any], confusion: Tensor, hits: Tensor) -> None:
    """Print what the test found, and write it to --json; `settings` are those of the test."""
    found = report(confusion, trained.class_counts, class_names(trained.dataset, args.data_root))
    figures = {
        "checkpoint": args.saved_model_path.name,
        "dataset": trained.dataset,
        "normalization": trained.normalization,
        **settings,
        **found.entries(),
        "hits": pack_hits(hits),
    }
    if trained.protocol in VALIDATED_ON_TEST:
        print(
            "this model's epoch was chosen on the test set, and CDB's difficulties were measured on it: "
            f"--protocol {trained.protocol}"
        )
    print_report(found, settings.get("logit_adjustment"))
    if args.json:
        write_atomically(args.json, (json.dumps(figures, indent=1) + "\n").encode())


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: test(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
