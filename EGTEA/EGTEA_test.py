"""Test a trained 3D-ResNeXt-101 on EGTEA's test clips: top-1, precision, recall; of all, majority and minority classes.

    python EGTEA_test.py --data_root ~/datasets/EGTEA/extracted_frames --trained_model models/best_model.pth --n_gpus 2

A checkpoint of ours says everything: classes, class counts, frames per clip, frame size. One of the released code holds
the weights alone; --train_file then gives the counts, and the paper's recipe the rest. The confusion matrix is drawn
beside the checkpoint.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # longtail/ stands beside this folder

from egtea_clips import MOST_VERBS, check_labels, count_labels, read_class_names, read_clips
from egtea_dataset import ClipSet, evaluation_batches, memory_format
from longtail.checkpoints import is_count, load_checkpoint, load_weights
from longtail.cli import ArgumentParser, add_device_arguments, exit_code, file_path, positive_int, seed_number
from longtail.distributed import start_runtime
from longtail.files import check_place, write_atomically
from longtail.heads import HEADS
from longtail.metrics import count_confusion, known
from longtail.pictures import new_figure, save_figure
from resnext3d import AUTO_PRECISION, ResNeXt3D, clip_precision, warn_of_bf16

HERE = Path(__file__).resolve().parent
MAJORITY_ABOVE = 600  # training clips; the paper's four largest verbs
FRAMES_PER_CLIP, SAMPLE_SIZE = 10, 224  # of a released checkpoint
HEAD_KEYS = [prefix + key for prefix in ("", "module.") for key in ("fc.bias", "fc.weight")]
LARGEST_FIGURE = 40  # inches, width and height
FIGURE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".tif",
    ".tiff",
    ".pdf",
    ".svg",
    ".eps",
    ".ps",
)  # that matplotlib writes by itself


def parse_arguments(argv: list[str] | None) -> Namespace:
    """Return the flags of the released script, and those that a checkpoint of the released code needs."""
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--trained_model",
        type=file_path,
        default=HERE / "models/best_model.pth",
        help="default: ./models/best_model.pth",
    )
    parser.add_argument(
        "--data_root", type=file_path, default=HERE / "extracted_frames", help="default: ./extracted_frames"
    )
    parser.add_argument(
        "--test_file", type=file_path, default=HERE / "data/test_split.txt", help="default: ./data/test_split.txt"
    )
    parser.add_argument(
        "--train_file",
        type=file_path,
        default=HERE / "data/train_split.txt",
        help="gives the class counts if the checkpoint has none; default: ./data/train_split.txt",
    )
    parser.add_argument("--frames_per_clip", type=positive_int, help="default: the checkpoint's")
    parser.add_argument(
        "--sample_size", type=positive_int, help="side of the network's input, in pixels; default: the checkpoint's"
    )
    parser.add_argument(
        "--majority_above",
        type=positive_int,
        default=MAJORITY_ABOVE,
        metavar="CLIPS",
        help="a class with more training clips is a majority class; default: 600",
    )
    parser.add_argument("--batch_size", type=positive_int, default=8, help="clips at a time; default: 8")
    add_device_arguments(parser, AUTO_PRECISION)
    parser.add_argument("--workers", type=seed_number, default=4, help="threads that load clips, 0 or more; default: 4")
    parser.add_argument(
        "--figure", type=file_path, metavar="PNG", help="the confusion matrix; default: beside the checkpoint"
    )
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write all figures there")
    args = parser.parse_args(argv)
    args.figure = args.figure or args.trained_model.parent / "confusion_matrix.png"
    return args


def check_places(args: Namespace) -> None:
    """Raise OSError or ValueError if there is no checkpoint, or if results could not be written in the end."""
    if not args.trained_model.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {args.trained_model}: train one with EGTEA_train.py first, or pass --trained_model"
        )
    if args.figure.suffix.lower() not in FIGURE_SUFFIXES:
        raise ValueError(f"--figure {args.figure}: a picture's name ends in {', '.join(FIGURE_SUFFIXES)}")
    check_place("--figure", args.figure)
    check_place("--json", args.json)


def describe(args: Namespace, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint, ours or a released one, says of its model.

    These are class_names, class_counts, frames_per_clip, sample_size, head and state_dict. The flags --frames_per_clip
    and --sample_size come first. Raise ValueError if it does not describe a model of this experiment.
    """
    path = args.trained_model
    weights = checkpoint.get("state_dict", checkpoint)
    bias = (
        next((value for key, value in weights.items() if key in HEAD_KEYS), None) if isinstance(weights, dict) else None
    )
    if not isinstance(bias, Tensor) or bias.is_nested or bias.ndim not in (1, 2) or len(bias) > MOST_VERBS:
        raise ValueError(
            f"{path} has no head (fc) of at most {MOST_VERBS} verbs: it is not a trained model of this experiment"
        )
    description = {
        key: checkpoint.get(key) for key in ("class_names", "class_counts", "frames_per_clip", "sample_size", "head")
    }
    if "class_counts" not in checkpoint:
        clips = read_clips(args.train_file)
        check_labels(args.train_file, clips, len(bias))
        description = {
            "class_names": read_class_names(args.train_file.with_name("verbs.txt"), len(bias)),
            "head": "linear",
            "class_counts": count_labels(clips, len(bias)),
            "frames_per_clip": FRAMES_PER_CLIP,
            "sample_size": SAMPLE_SIZE,
        }
    fit = {
        "class_names": lambda names: names and len(names) == len(bias),
        "class_counts": lambda counts: counts and len(counts) == len(bias),
        "frames_per_clip": is_count,
        "sample_size": is_count,
        "head": lambda head: isinstance(head, str) and head in HEADS,
    }
    wrong = [key for key, fits in fit.items() if not fits(description[key])]
    if wrong:
        raise ValueError(f"{path} does not describe an EGTEA model; missing or wrong: {', '.join(wrong)}")
    given = {key: value for key in ("frames_per_clip", "sample_size") if (value := getattr(args, key))}
    return {**description, **given, "state_dict": weights}


def report(confusion: Tensor, counts: list[int], names: list[str], majority_above: int) -> dict[str, Any]:
    """Return every figure of the test as plain values. Means are over the classes that have test clips.

    A class that is never predicted has precision 0; one without test clips has no recall.
    """
    correct, total = confusion.diagonal().double(), confusion.sum(1)
    precision, recall = correct / confusion.sum(0).clamp_min(1), correct / total
    majority = torch.tensor(counts) > majority_above
    figures: dict[str, Any] = {"clips": int(total.sum()), "majority_above": majority_above}
    for name, group in (("all", majority | ~majority), ("majority", majority), ("minority", ~majority)):
        tested = group & (total > 0)
        if tested.any():
            figures[name] = {
                "classes": int(group.sum()),
                "tested": int(tested.sum()),
                "top1": (correct[tested].sum() / total[tested].sum()).item(),
                "precision": precision[tested].mean().item(),
                "recall": recall[tested].mean().item(),
            }
    figures["verbs"] = [
        {
            "name": name,
            "training_clips": counts[c],
            "clips": int(total[c]),
            "correct": int(correct[c]),
            "precision": precision[c].item(),
            "recall": known(recall[c].item()),
        }
        for c, name in enumerate(names)
    ]
    return figures


def show(figures: dict[str, Any]) -> None:
    """Print the report."""
    width = max(len(entry["name"]) for entry in figures["verbs"]) + 2
    print(f"{'verb':<{width}}  train   test  precision  recall")
    for entry in figures["verbs"]:
        recall = "-" if entry["recall"] is None else f"{entry['recall']:.4f}"
        print(
            f"{entry['name']:<{width}}{entry['training_clips']:7d}{entry['clips']:7d}"
            f"{entry['precision']:11.4f}{recall:>8}"
        )
    print(f"majority: more than {figures['majority_above']} training clips")
    for name in ("all", "majority", "minority"):
        if name in figures:
            group = figures[name]
            print(
                f"{name:<9}{group['classes']:3d} classes, {group['tested']} tested  top-1 {group['top1']:.4f}  "
                f"mean precision {group['precision']:.4f}  mean recall {group['recall']:.4f}"
            )
    print(f"Test Accuracy is {figures['all']['top1']:.4f}", flush=True)


def draw(confusion: Tensor, names: list[str], path: Path) -> None:
    """Draw the confusion matrix: colours are shares of a true class's clips, numbers are clips."""
    from sklearn.metrics import ConfusionMatrixDisplay

    size = min(2.5 + 0.45 * len(names), LARGEST_FIGURE)
    figure = new_figure(size + 1, size)
    axes = figure.subplots()
    shares = (confusion / confusion.sum(1, keepdim=True).clamp_min(1)).numpy()
    display = ConfusionMatrixDisplay(shares, display_labels=names).plot(
        ax=axes, cmap="Blues", xticks_rotation="vertical", include_values=False, im_kw={"vmin": 0, "vmax": 1}
    )
    for true, predicted in confusion.nonzero().tolist():
        axes.text(
            predicted,
            true,
            int(confusion[true, predicted]),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[true, predicted] > 0.5 else "black",
        )
    axes.set(xlabel="predicted verb", ylabel="true verb")
    display.im_.colorbar.set_label("share of the true verb's clips")
    save_figure(figure, path, dpi=150)


def test(args: Namespace) -> None:
    """Load the model, count, report. The files come last, since writing them may fail."""
    check_places(args)
    with start_runtime(args.n_gpus, clip_precision(args.precision, args.device), args.device) as runtime:
        warn_of_bf16(runtime)
        checkpoint = load_checkpoint(args.trained_model)
        description = describe(args, checkpoint)
        names, counts = description["class_names"], description["class_counts"]
        model = ResNeXt3D(len(names), description["head"])
        load_weights(model, description["state_dict"], args.trained_model)
        clips = read_clips(args.test_file)
        check_labels(args.test_file, clips, len(names))
        test_set = ClipSet(args.data_root, clips, description["frames_per_clip"], description["sample_size"])
        model.to(runtime.device, memory_format=memory_format(runtime.device))
        batches = evaluation_batches(test_set, args.batch_size, args.workers, runtime)
        confusion = count_confusion(runtime.parallelize(model, trains=False), batches, len(names), runtime).cpu()
        if runtime.is_main:
            figures = {
                "checkpoint": args.trained_model.name,
                "arguments": checkpoint.get("arguments", {}),
                "epoch": checkpoint.get("epoch"),
                "val_accuracy": checkpoint.get("accuracy"),
                **report(confusion, counts, names, args.majority_above),
                "confusion": confusion.tolist(),
            }
            show(figures)
            if args.json:
                write_atomically(args.json, (json.dumps(figures, indent=1) + "\n").encode())
            draw(confusion, names, args.figure)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: test(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
