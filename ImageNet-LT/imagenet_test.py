"""Test a trained model: top-1, many / medium / few shot, F1; also with classifiers that need no training.

tau-normalisation and nearest class mean are those of Kang et al., "Decoupling Representation and Classifier for
Long-Tailed Recognition", ICLR 2020: both are a new weight matrix on the features of a trained backbone. Logit
adjustment is that of Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, after training.
"""

import csv
import io
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagenet_config import Config
from imagenet_lists import ImageList, check_classes, locate
from imagenet_model import ImageNetModel, ScaledClassifier, tau_normalized
from imagenet_run import (
    BEST,
    CLASS_TABLES,
    PICTURES,
    RESULTS,
    image_loader,
    load_best,
    read_configured_list,
)
from longtail.calibration import bin_sums, calibration_error
from longtail.confusion_picture import draw_confusion, hardest
from longtail.devices import Runtime
from longtail.files import write_atomically
from longtail.hits import count_with_hits, pack_hits
from longtail.metrics import SHOT_SIZES, SHOTS, report
from longtail.posthoc import STRENGTHS, LogitShift, Outputs, best_of, extract, without_bf16
from longtail.records import ClassJson, TestJson

EXPONENTS = [step / 10 for step in range(11)]  # of tau-normalisation, tried on the validation list
CHOSEN_ON_VALIDATION = ("tau_norm", "logit_adjustment")
HARDEST = 10  # classes that a test names
CLASS_COLUMNS = ("name", "training_images", "images", "correct", "accuracy", "precision", "taken_for")


class Weights(nn.Module):
    """A classifier without bias: features (N, F) times the transposed weights (C, F)."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight)


def class_means(parts: Outputs, num_classes: int, size: int, runtime: Runtime) -> Tensor:
    """Return unit vectors along each class's mean feature, (C, size).

    The largest product with one of them is the nearest mean by cosine.
    """
    sums = torch.zeros(num_classes, size, device=runtime.device)
    for features, labels in parts:
        sums.index_add_(0, labels, features)
    return F.normalize(runtime.sum(sums))


def choose_exponent(weight: Tensor, features: Outputs, runtime: Runtime) -> float:
    """Return the exponent with the best mean class accuracy on validation features, the smallest of equal ones."""
    return best_of(
        EXPONENTS, lambda exponent: Weights(tau_normalized(weight, exponent)), features, len(weight), runtime
    )


def read_for_test(config: Config, method: str, with_train: bool) -> dict[str, ImageList]:
    """Return the lists that a method needs, checked.

    They are test, val where the method chooses, and train for ncm, or `with_train`, if the class counts are unknown.
    """
    splits = ["test"]
    if method in CHOSEN_ON_VALIDATION:
        splits.append("val")
    if method == "ncm":
        splits.append("train")
    located = locate(*(read_configured_list(config, split) for split in splits))
    lists = dict(zip(splits, located, strict=True))
    if with_train and "train" not in lists:
        lists["train"] = read_configured_list(config, "train")
    if "train" in lists:
        check_classes(lists["train"], config.num_classes)
    return lists


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


def extract_features(
    config: Config, model: ImageNetModel, lists: dict[str, ImageList], runtime: Runtime
) -> dict[str, Outputs]:
    """Return the features of each list's images."""
    backbone = runtime.parallelize(model.feat_model, trains=False)
    features = {}
    for split, images in lists.items():
        batches = image_loader(config, images, runtime).evaluation_batches()
        features[split] = extract(backbone, batches, runtime)
    return features


def evaluate(config: Config, model_dir: Path, method: str, runtime: Runtime, draw: bool = False) -> None:
    """Test the best checkpoint in `model_dir` by a method of RESULTS: print a table, then write its figures there.

    With `draw`, draw the confusion of the hardest classes, and write a table of all classes.
    """
    checkpoint, model = load_best(config, model_dir, runtime)
    if method == "tau_norm" and isinstance(model.classifier, ScaledClassifier):
        raise ValueError(
            f"--tau_norm: {model_dir / BEST} is of stage lws, whose classifier is rescaled already; name a first stage"
        )
    counts = checkpoint.get("class_counts")
    lists = runtime.broadcast(read_for_test(config, method, with_train=not counts) if runtime.is_main else None)
    if not counts:
        counts = lists["train"].class_counts(config.num_classes)
        lists = {split: images for split, images in lists.items() if split != "train" or method == "ncm"}
    features = extract_features(config, model, lists, runtime)
    classifier, chosen = build_classifier(method, model.classifier, features, counts, runtime)
    confusion, hits = count_with_hits(classifier, features["test"], config.num_classes, without_bf16(runtime))
    confusion = confusion.cpu()
    sums = runtime.sum(bin_sums(classifier, features["test"], runtime.device))
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
            **report(confusion, counts, checkpoint.get("class_names")).entries(),
            "hits": pack_hits(hits),
        }
        if method != "ncm":  # its scores are cosines
            figures["calibration_error"] = calibration_error(sums)
        try:
            write_results(figures, confusion, model_dir, draw)
        finally:  # the table stands on the screen even if the folder cannot be written
            print_report(figures, [figures["classes"][c] for c in hardest(confusion, HARDEST)])


def print_report(figures: TestJson, hard: list[ClassJson]) -> None:
    """Print the hardest classes, and the report as a table."""
    width = max(len(entry["name"]) for entry in hard)
    print("hardest classes, with their training images and the class that they are most often mistaken for:")
    for entry in hard:
        print(
            f"  {entry['name']:<{width}}  {entry['correct']:4d} of {entry['images']} right "
            f"{entry['training_images']:7,d}  {entry['taken_for'] or '-'}"
        )
    if "calibration_error" in figures:
        print(f"calibration error {figures['calibration_error']:.4f}: confidence against accuracy, in bins")
    chosen = ""
    for name in ("exponent", "strength"):
        if figures.get(name) is not None:
            chosen += f", {name} {figures[name]:g} (chosen on validation)"
    print(f"test of {figures['run']}, {figures['method']}{chosen}: {figures['images']} images; {SHOT_SIZES}")
    values = [*(figures["shots"][name] for name in SHOTS), figures["balanced_accuracy"], figures["f1"]]
    print("".join(f"{name:>9}" for name in (*SHOTS, "balanced", "F1")))
    print("".join(f"{'-':>9}" if value is None else f"{value:9.4f}" for value in values), flush=True)


def write_results(figures: TestJson, confusion: Tensor, folder: Path, draw: bool) -> None:
    """Write the figures, and with `draw` the table of classes and the picture, into the run's folder."""
    method = figures["method"]
    write_atomically(folder / RESULTS[method], (json.dumps(figures, indent=1) + "\n").encode())
    if draw:
        table, picture = folder / CLASS_TABLES[method], folder / PICTURES[method]
        write_atomically(table, class_table(figures["classes"]).encode())
        draw_confusion(confusion, [entry["name"] for entry in figures["classes"]], picture)
        print(f"{table} has each class, {picture} what the hardest ones are mistaken for")


def class_table(classes: list[ClassJson]) -> str:
    """Return a CSV table with a row for each class, the largest training set first."""
    text = io.StringIO()
    table = csv.DictWriter(text, CLASS_COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(sorted(classes, key=lambda entry: -entry["training_images"]))
    return text.getvalue()
