"""Test a trained model: top-1, many / medium / few shot, F1; also with classifiers that need no training.

tau-normalisation and nearest class mean are those of Kang et al., "Decoupling Representation and Classifier for
Long-Tailed Recognition", ICLR 2020: both are a new weight matrix on the features of a trained backbone. Logit
adjustment is that of Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, after training.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagenet_config import Config
from imagenet_lists import ImageList, check_classes, locate, read_list
from imagenet_loader import ImageLoader
from longtail.checkpoints import load_checkpoint
from longtail.confusion_picture import draw_confusion, hardest
from longtail.devices import Runtime
from longtail.files import write_atomically
from longtail.metrics import SHOT_SIZES, SHOTS, count_confusion, report
from longtail.posthoc import STRENGTHS, LogitShift, Outputs, best_of, exact, extract
from resnet10 import ImageNetModel, ScaledClassifier, load_model, tau_normalized

BEST = "final_model_checkpoint.pth"
EXPONENTS = [step / 10 for step in range(11)]  # of tau-normalisation, tried on the validation list
RESULTS = {
    "classifier": "test.json",
    "tau_norm": "test_tau_norm.json",
    "ncm": "test_ncm.json",  # by method, in a run's folder
    "logit_adjustment": "test_logit_adjustment.json",
}
CHOSEN_ON_VALIDATION = ("tau_norm", "logit_adjustment")
PICTURES = {method: name.replace("test", "confusion").replace("json", "png") for method, name in RESULTS.items()}
HARDEST = 10  # classes that a test names


class Weights(nn.Module):
    """A classifier without bias: features (N, F) times the transposed weights (C, F)."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight)


def class_means(parts: Outputs, num_classes: int, size: int, runtime: Runtime) -> Tensor:
    """Return unit vectors along each class's mean feature, (C, size): the largest product is the nearest mean by
    cosine.
    """
    sums = torch.zeros(num_classes, size, device=runtime.device)
    for features, labels in parts:
        sums.index_add_(0, labels, features)
    return F.normalize(runtime.sum(sums))


def choose_exponent(weight: Tensor, features: Outputs, runtime: Runtime) -> float:
    """Return the exponent of EXPONENTS with the best mean class accuracy on validation features, the smallest of equal
    ones.
    """
    return best_of(
        EXPONENTS, lambda exponent: Weights(tau_normalized(weight, exponent)), features, len(weight), runtime
    )


def read_configured_list(config: Config, split: str) -> ImageList:
    """Return the configuration's train, val or test list."""
    return read_list(
        config.path(f"{split}_list"), config.path("data_root"), config.num_classes, repeats=split == "train"
    )


def read_for_test(config: Config, method: str, with_train: bool) -> dict[str, ImageList]:
    """Return the lists that a method needs, checked: val where it chooses, train for ncm or if the class counts are
    unknown.
    """
    splits = [
        "test",
        *(["val"] if method in CHOSEN_ON_VALIDATION else []),
        *(["train"] if method == "ncm" or with_train else []),
    ]
    lists = {split: read_configured_list(config, split) for split in splits}
    if "train" in lists:
        check_classes(lists["train"], config.num_classes)
    needed = [split for split in splits if split != "train" or method == "ncm"]
    return lists | dict(zip(needed, locate(*(lists[split] for split in needed)), strict=True))


def check_use(checkpoint: dict[str, Any], path: Path, config: Config) -> None:
    """Raise ValueError if a checkpoint was trained with other classes or views than `config` tests it with."""
    num_classes, counts = config.num_classes, checkpoint.get("class_counts")
    if type(checkpoint.get("first_stage")) not in (str, type(None)):
        raise ValueError(f"{path} does not describe a model: its first_stage cannot be right")
    if counts and len(counts) != num_classes:
        raise ValueError(f"{path} does not describe a model of {num_classes} classes: its class_counts cannot be right")
    for key in ("image_size", "test_resize"):
        used = checkpoint.get("arguments", {}).get(key, getattr(config, key))
        if used != getattr(config, key):
            raise ValueError(
                f"{path} was trained with {key} {used}, not {getattr(config, key)}: test it with the {key} of its run"
            )


def build_classifier(
    method: str, classifier: nn.Module, features: dict[str, Outputs], class_counts: list[int], runtime: Runtime
) -> tuple[nn.Module, dict[str, float]]:
    """Return the classifier that `method` tests, and what validation chose for it: an exponent or a strength."""
    num_classes = len(class_counts)
    if method == "tau_norm":
        weight = classifier.fc.weight.detach()
        exponent = choose_exponent(weight, features["val"], runtime)
        return Weights(tau_normalized(weight, exponent)), {"exponent": exponent}
    if method == "logit_adjustment":

        def adjusted(strength: float) -> nn.Module:
            return nn.Sequential(classifier, LogitShift(class_counts, strength)).to(runtime.device)

        strength = best_of(STRENGTHS, adjusted, features["val"], num_classes, runtime)
        return adjusted(strength), {"strength": strength}
    if method == "ncm":
        return Weights(class_means(features["train"], num_classes, classifier.fc.in_features, runtime)), {}
    return classifier, {}


def load_best(config: Config, model_dir: Path, runtime: Runtime) -> tuple[dict[str, Any], ImageNetModel]:
    """Return the best checkpoint in `model_dir` and its model on the device.

    Raise ValueError if it does not fit the configuration.
    """
    path = model_dir / BEST
    checkpoint = runtime.broadcast(load_checkpoint(path) if runtime.is_main else None)
    model = load_model(checkpoint, path, config.num_classes, config.backbone).to(
        runtime.device, memory_format=torch.channels_last
    )
    check_use(checkpoint, path, config)
    return checkpoint, model


def evaluate(config: Config, model_dir: Path, method: str, runtime: Runtime, draw: bool = False) -> None:
    """Test the best checkpoint in `model_dir` by a method of RESULTS, print a table, and write its figures beside the
    checkpoint.

    With `draw`, draw the confusion of the hardest classes beside them.
    """
    checkpoint, model = load_best(config, model_dir, runtime)
    counts = checkpoint.get("class_counts")
    lists = runtime.broadcast(read_for_test(config, method, with_train=not counts) if runtime.is_main else None)
    counts = counts or lists["train"].class_counts(config.num_classes)
    if method == "tau_norm" and isinstance(model.classifier, ScaledClassifier):
        raise ValueError(
            f"--tau_norm: {model_dir / BEST} is of stage lws, whose classifier is rescaled already; name a first stage"
        )
    backbone = runtime.parallelize(model.feat_model, trains=False)
    features = {
        split: extract(
            backbone,
            ImageLoader(
                lists[split], config.image_size, config.test_resize, config.workers, runtime
            ).evaluation_batches(),
            runtime,
        )
        for split in lists
        if split != "train" or method == "ncm"
    }
    classifier, chosen = build_classifier(method, model.classifier, features, counts, runtime)
    confusion = count_confusion(classifier, features["test"], config.num_classes, exact(runtime)).cpu()
    if runtime.is_main:
        figures = {
            "run": model_dir.name,
            "method": method,
            "exponent": None,
            **chosen,
            "arguments": checkpoint.get("arguments", {}),
            "first_stage": checkpoint.get("first_stage"),
            "epoch": checkpoint.get("epoch"),
            "val_accuracy": checkpoint.get("accuracy"),
            "test_list": f"{lists['test'].file.name} {lists['test'].blob}",
            **report(confusion, counts, checkpoint.get("class_names")),
        }
        write_atomically(model_dir / RESULTS[method], (json.dumps(figures, indent=1) + "\n").encode())
        if draw:
            draw_confusion(confusion, [entry["name"] for entry in figures["classes"]], model_dir / PICTURES[method])
            print(f"{model_dir / PICTURES[method]} shows which classes the hardest ones are mistaken for")
        show(figures, [figures["classes"][c] for c in hardest(confusion, HARDEST)])


def show(figures: dict[str, Any], hard: list[dict[str, Any]]) -> None:
    """Print the hardest classes, and the report as a table."""
    width = max(len(entry["name"]) for entry in hard)
    print("hardest classes, with their training images and the class that they are most often mistaken for:")
    for entry in hard:
        print(
            f"  {entry['name']:<{width}}  {entry['correct']:4d} of {entry['images']} right "
            f"{entry['training_images']:7,d}  "
            f"{entry['taken_for'] or '-'}"
        )
    values = [*(figures["shots"][name] for name in SHOTS), figures["balanced_accuracy"], figures["f1"]]
    chosen = "".join(
        f", {name} {figures[name]:g} (chosen on validation)"
        for name in ("exponent", "strength")
        if figures.get(name) is not None
    )
    print(f"test of {figures['run']}, {figures['method']}{chosen}: {figures['images']} images; {SHOT_SIZES}")
    print("".join(f"{name:>9}" for name in (*SHOTS, "balanced", "F1")))
    print("".join(f"{'-':>9}" if value is None else f"{value:9.4f}" for value in values), flush=True)
