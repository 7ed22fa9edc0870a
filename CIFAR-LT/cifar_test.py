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
from operator import itemgetter
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
from longtail.checkpoints import load_checkpoint, load_weights
from longtail.cli import ArgumentParser, add_device_arguments, exit_code, file_path, number_in, positive_int
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.files import check_place, write_atomically
from longtail.heads import HEADS
from longtail.hits import count_with_hits, pack_hits
from longtail.metrics import SHOT_SIZES, SHOTS, Batches, report
from longtail.posthoc import STRENGTHS, LogitShift, best_of, exact, extract
from resnet32 import ResNet32
from teachers import logit_scale

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


def describe(args: Namespace, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return dataset, class_counts (None if unknown), head, normalization, state_dict, protocol and logit_scale.

    Raise ValueError if it does not describe a model of this experiment, or if a flag contradicts it.
    """
    path = args.saved_model_path
    description = describe_ours(args, checkpoint) if "state_dict" in checkpoint else describe_released(args, checkpoint)
    classes = NUM_CLASSES[description["dataset"]]
    if args.class_num not in (None, classes):
        raise ValueError(f"--class_num {args.class_num}: {path} has {classes} classes")
    if args.dataset not in (None, description["dataset"]):
        raise ValueError(f"--dataset {args.dataset}: {path} was trained on {description['dataset']}")
    description["normalization"] = args.normalization or description["normalization"]
    return description


def describe_ours(args: Namespace, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the description that our checkpoints carry."""
    path, counts, trained = args.saved_model_path, checkpoint.get("class_counts"), checkpoint.get("arguments", {})
    wrong = [
        key
        for key, known in (("dataset", NUM_CLASSES), ("head", HEADS), ("normalization", NORMALIZATION))
        if not isinstance(checkpoint.get(key), str) or checkpoint[key] not in known
    ]
    if not wrong and (counts is None or len(counts) != NUM_CLASSES[checkpoint["dataset"]]):
        wrong = ["class_counts"]
    if wrong:
        raise ValueError(f"{path} does not describe a CIFAR-LT model; missing or unknown: {', '.join(wrong)}")
    if args.imbalance not in (None, trained.get("imbalance")):
        raise ValueError(
            f"--imbalance {args.imbalance:g} is not what {path} was trained with; it knows its class counts itself"
        )
    return {
        **{key: checkpoint[key] for key in ("dataset", "class_counts", "head", "normalization", "state_dict")},
        "protocol": trained.get("protocol"),
        "logit_scale": logit_scale(checkpoint["head"], trained.get("loss_type")),
    }


def describe_released(args: Namespace, weights: dict[str, Any]) -> dict[str, Any]:
    """Return what can be said of a checkpoint of the released code: bare weights, under DataParallel's `module.`."""
    bias = next((value for key, value in weights.items() if key.removeprefix("module.") == "linear.bias"), None)
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
    return {
        "dataset": dataset,
        "class_counts": counts,
        "head": "linear",
        "normalization": "train",
        "state_dict": weights,
        "protocol": None,
        "logit_scale": 1.0,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the report; the accuracy in its fixed form comes last."""
    if "logit_adjustment" in figures:
        print(f"logit adjustment of strength {figures['logit_adjustment']:g}, chosen on validation")
    if shots := figures.get("shots"):
        shares = [f"{name} {shots[name]:.4f}" for name in SHOTS[1:] if shots[name] is not None]
        print(f"accuracy ({SHOT_SIZES}):  " + "  ".join(shares))
    else:
        print("the checkpoint does not say what it was trained on: --imbalance gives accuracy by many / medium / few")
    print("hardest classes:")
    for entry in sorted(filter(itemgetter("images"), figures["classes"]), key=itemgetter("accuracy"))[:HARDEST]:
        seen = "" if entry["training_images"] is None else f"{entry['training_images']:6d} training images"
        print(f"  {entry['name']:<16}{entry['accuracy']:.3f}{seen}")
    print(f"Test Accuracy is {figures['accuracy']:.4f}", flush=True)


def validation_set(args: Namespace, description: dict[str, Any]) -> ImageSet:
    """Return the held-out images of the model's training.

    Raise ValueError where there are none, or no class counts to adjust by.
    """
    if not description["class_counts"]:
        raise ValueError(
            f"--logit_adjustment needs the class counts, which {args.saved_model_path} does not hold: give --imbalance"
        )
    protocol = description["protocol"] or "paper"
    if protocol in VALIDATED_ON_TEST:
        raise ValueError(
            f"--logit_adjustment needs validation images; with --protocol {protocol} the test set took their place"
        )
    _, validation = long_tailed(description["dataset"], args.data_root, 1, protocol)  # the same at any imbalance
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
    confusion, hits = count_with_hits(adjusted(strength), outputs, num_classes, exact(runtime))
    return confusion, hits, strength


def test(args: Namespace) -> None:
    """Load the model, count on the test set, report."""
    check_place("--json", args.json)
    with start_runtime(args.n_gpus, args.precision, args.device) as runtime:
        description = describe(args, load_checkpoint(args.saved_model_path))
        dataset, normalization = description["dataset"], description["normalization"]
        runtime.broadcast(check_present(dataset, args.data_root, args.download) if runtime.is_main else None)
        images = read_split(dataset, args.data_root, "test").to(runtime.device)
        model = ResNet32(NUM_CLASSES[dataset], description["head"])
        load_weights(model, description["state_dict"], args.saved_model_path)
        parallel_model = runtime.parallelize(model.to(runtime.device, memory_format=torch.channels_last), trains=False)
        scale = description["logit_scale"]
        if args.flip:
            parallel_model, scale = WithMirror(parallel_model, scale), 1.0
        batches, strength = evaluation_batches(images, normalization, runtime), None
        if args.logit_adjustment:
            validation = validation_set(args, description).to(runtime.device)
            confusion, hits, strength = count_adjusted(
                parallel_model,
                evaluation_batches(validation, normalization, runtime),
                batches,
                description["class_counts"],
                scale,
                runtime,
            )
        else:
            confusion, hits = count_with_hits(parallel_model, batches, NUM_CLASSES[dataset], runtime)
        if runtime.is_main:
            figures = {
                "checkpoint": args.saved_model_path.name,
                "dataset": dataset,
                "normalization": normalization,
                **({} if strength is None else {"logit_adjustment": strength}),
                **({"flip": True} if args.flip else {}),
                **report(confusion.cpu(), description["class_counts"], class_names(dataset, args.data_root)).entries(),
                "hits": pack_hits(hits),
            }
            if description["protocol"] in VALIDATED_ON_TEST:
                print(
                    "this model's epoch was chosen on the test set, and CDB's difficulties were measured on it: "
                    f"--protocol {description['protocol']}"
                )
            show(figures)
            if args.json:
                write_atomically(args.json, (json.dumps(figures, indent=1) + "\n").encode())


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: test(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
