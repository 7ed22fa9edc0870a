"""Test a trained 3D-ResNeXt-101 on test clips, or predict the classes of videos.

top-1, precision and recall; on EGTEA also of majority and minority classes, on your own clips by shots:
    python EGTEA_test.py --data_root ~/datasets/EGTEA/extracted_frames --trained_model models/best_model.pth --n_gpus 2
the most probable classes of a video, or of all videos in a folder, as CSV:
    python EGTEA_test.py --trained_model models/best_model.pth --predict VIDEO_OR_FOLDER [--out FILE.csv]

A checkpoint of ours says everything: classes, class counts, frames per clip, frame size. One of the released code holds
the weights alone; --train_file then gives the counts, and the paper's recipe the rest. The confusion matrix is drawn
beside the checkpoint.
"""

import contextlib
import json
import sys
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # longtail/ is beside this folder

from egtea_clips import MOST_CLASSES, Clip, check_labels, count_labels, is_own, names_file, read_class_names, read_clips
from egtea_dataset import ClipSet, evaluation_batches, memory_format
from egtea_predict import find_inputs, predict
from longtail.checkpoints import is_count, load_checkpoint, load_weights
from longtail.cli import ArgumentParser, add_device_arguments, exit_code, file_path, positive_int, seed_number
from longtail.confusion_picture import draw_confusion
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.files import check_place, write_atomically
from longtail.heads import HEADS
from longtail.metrics import SHOT_SIZES, count_confusion, report
from longtail.predictions import PredictionTable
from resnext3d import AUTO_PRECISION, ResNeXt3D, clip_precision, warn_of_bf16

HERE = Path(__file__).resolve().parent
MAJORITY_ABOVE = 600  # training clips; the paper's four largest verbs
FRAMES_PER_CLIP, SAMPLE_SIZE = 10, 224  # of a released checkpoint
HEAD_KEYS = [prefix + key for prefix in ("", "module.") for key in ("fc.bias", "fc.weight")]
TOP = 5  # classes of a predicted video
CLIP_SHOTS = SHOT_SIZES.replace("images", "clips")
GROUPS = ("all", "majority", "minority")  # of classes, as in the paper
# that matplotlib writes by itself
FIGURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg", ".eps", ".ps")


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
        metavar="CLIPS",
        help="a class with more training clips is a majority class; default: 600 for EGTEA, none for your own clips",
    )
    parser.add_argument("--batch_size", type=positive_int, default=8, help="clips at a time; default: 8")
    add_device_arguments(parser, AUTO_PRECISION)
    parser.add_argument("--workers", type=seed_number, default=4, help="threads that load clips, 0 or more; default: 4")
    parser.add_argument(
        "--figure", type=file_path, metavar="PNG", help="the confusion matrix; default: beside the checkpoint"
    )
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--predict", type=file_path, metavar="PATH", help="predict the classes of a video, or of a folder of videos"
    )
    parser.add_argument(
        "--out", type=file_path, metavar="FILE", help="with --predict: write the table there (CSV); default: print it"
    )
    parser.add_argument(
        "--top", type=positive_int, metavar="K", help="with --predict: the K most probable classes; default: 5"
    )
    args = parser.parse_args(argv)
    if (args.out or args.top) and not args.predict:
        parser.error("--out and --top belong to --predict")
    if args.predict and (args.json or args.figure):
        parser.error("--json and --figure belong to a test, not to --predict")
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
    check_place("--out", args.out)


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint, ours or a released one, says of its model."""

    class_names: list[str]
    class_counts: list[int]  # training clips
    frames_per_clip: int
    sample_size: int
    head: str
    weights: dict[str, Tensor]


def describe(args: Namespace, checkpoint: dict[str, Any]) -> TrainedModel:
    """Return what a checkpoint says of its model; the flags --frames_per_clip and --sample_size come first.

    Raise ValueError if it does not describe a model of this experiment.
    """
    weights = checkpoint.get("state_dict", checkpoint)
    num_classes = count_classes(weights, args.trained_model)
    if "class_counts" in checkpoint:
        described = checkpoint
    else:
        described = describe_released(args.train_file, num_classes)
    check_description(described, num_classes, args.trained_model)
    return TrainedModel(
        class_names=described["class_names"],
        class_counts=described["class_counts"],
        frames_per_clip=args.frames_per_clip or described["frames_per_clip"],
        sample_size=args.sample_size or described["sample_size"],
        head=described["head"],
        weights=weights,
    )


def count_classes(weights: object, path: Path) -> int:
    """Return the number of classes of the head among `weights`. Raise ValueError if there is none."""
    head = None
    if isinstance(weights, dict):
        head = next((weights[key] for key in HEAD_KEYS if key in weights), None)
    if not isinstance(head, Tensor) or head.is_nested or head.ndim not in (1, 2) or len(head) > MOST_CLASSES:
        raise ValueError(
            f"{path} has no head (fc) of at most {MOST_CLASSES} classes: it is not a trained model of this experiment"
        )
    return len(head)


def describe_released(train_file: Path, num_classes: int) -> dict[str, Any]:
    """Return what a released checkpoint does not say: the paper's recipe, and the counts of `train_file`."""
    clips = read_clips(train_file)
    check_labels(train_file, clips, num_classes)
    return {
        "class_names": read_class_names(names_file(train_file, clips), num_classes),
        "class_counts": count_labels(clips, num_classes),
        "frames_per_clip": FRAMES_PER_CLIP,
        "sample_size": SAMPLE_SIZE,
        "head": "linear",
    }


def check_description(described: dict[str, Any], num_classes: int, path: Path) -> None:
    """Raise ValueError that names each part of a description that is missing or does not fit the head."""
    wrong = [key for key in ("frames_per_clip", "sample_size") if not is_count(described.get(key))]
    wrong += [key for key in ("class_names", "class_counts") if len(described.get(key) or ()) != num_classes]
    if described.get("head") not in HEADS:
        wrong.append("head")
    if wrong:
        raise ValueError(f"{path} does not describe a model of clips; missing or wrong: {', '.join(wrong)}")


@dataclass(frozen=True)
class GroupMeans:
    """Measures of a group of classes. Means are over the classes that have test clips."""

    classes: int
    tested: int
    top1: float
    precision: float
    recall: float


def group_means(classes: list[dict[str, Any]]) -> GroupMeans | None:
    """Return the means over `classes`, entries of metrics.report; None if none of them has test clips."""
    tested = [entry for entry in classes if entry["images"]]
    if not tested:
        return None
    correct = sum(entry["correct"] for entry in tested)
    return GroupMeans(
        classes=len(classes),
        tested=len(tested),
        top1=correct / sum(entry["images"] for entry in tested),
        precision=fmean(entry["precision"] for entry in tested),
        recall=fmean(entry["correct"] / entry["images"] for entry in tested),
    )


def paper_groups(classes: list[dict[str, Any]], majority_above: int | None) -> dict[str, Any]:
    """Return the paper's measures: means over all, and over majority and minority classes, if a number parts them.

    A group without test clips has none.
    """
    groups = {"all": classes}
    if majority_above:
        groups["majority"] = [entry for entry in classes if entry["training_images"] > majority_above]
        groups["minority"] = [entry for entry in classes if entry["training_images"] <= majority_above]
    means = {name: group_means(group) for name, group in groups.items()}
    return {
        "majority_above": majority_above,
        **{name: asdict(group) for name, group in means.items() if group},
    }


def print_report(figures: dict[str, Any]) -> None:
    """Print the figures of each class, the means of the groups, and last the accuracy in its fixed form."""
    width = 2 + max(len(entry["name"]) for entry in figures["classes"])
    print(f"{'class':<{width}}  train   test  precision  recall")
    for entry in figures["classes"]:
        recall = "-" if entry["accuracy"] is None else f"{entry['accuracy']:.4f}"
        counts = f"{entry['training_images']:7d}{entry['images']:7d}"
        print(f"{entry['name']:<{width}}{counts}{entry['precision']:11.4f}{recall:>8}")
    if figures["majority_above"]:
        print(f"majority: more than {figures['majority_above']} training clips")
    else:
        shares = [f"{name} {share:.4f}" for name, share in figures["shots"].items() if share is not None]
        print(f"accuracy ({CLIP_SHOTS}):  {'  '.join(shares)}")
    for name in GROUPS:
        if name in figures:
            group = figures[name]
            print(
                f"{name:<9}{group['classes']:3d} classes, {group['tested']} tested  top-1 {group['top1']:.4f}  "
                f"mean precision {group['precision']:.4f}  mean recall {group['recall']:.4f}"
            )
    print(f"Test Accuracy is {figures['accuracy']:.4f}", flush=True)


def test(args: Namespace) -> None:
    """Load the model, count, report. The files come last, since writing them may fail."""
    check_places(args)
    with start_runtime(args.n_gpus, clip_precision(args.precision, args.device), args.device) as runtime:
        warn_of_bf16(runtime)
        checkpoint = load_checkpoint(args.trained_model)
        trained = describe(args, checkpoint)
        clips = read_clips(args.test_file)
        majority_above = args.majority_above or (None if is_own(clips[0].name) else MAJORITY_ABOVE)
        confusion = count_on_test_clips(args, trained, clips, runtime)
        if runtime.is_main:
            classes = report(confusion, trained.class_counts, trained.class_names).entries()
            figures = {
                "checkpoint": args.trained_model.name,
                "arguments": checkpoint.get("arguments", {}),
                "epoch": checkpoint.get("epoch"),
                "val_accuracy": checkpoint.get("accuracy"),
                **classes,
                **paper_groups(classes["classes"], majority_above),
                "confusion": confusion.tolist(),
            }
            print_report(figures)
            if args.json:
                write_atomically(args.json, (json.dumps(figures, indent=1) + "\n").encode())
            draw_confusion(confusion, trained.class_names, args.figure)


def load_model(trained: TrainedModel, path: Path, runtime: Runtime) -> ResNeXt3D:
    """Return the trained model on its device. `path` names the checkpoint in the message of a ValueError."""
    model = ResNeXt3D(len(trained.class_names), trained.head)
    load_weights(model, trained.weights, path)
    return model.to(runtime.device, memory_format=memory_format(runtime.device))


def count_on_test_clips(args: Namespace, trained: TrainedModel, clips: list[Clip], runtime: Runtime) -> Tensor:
    """Return the confusion matrix (C, C) on the clips of --test_file, on the CPU."""
    num_classes = len(trained.class_names)
    model = load_model(trained, args.trained_model, runtime)
    check_labels(args.test_file, clips, num_classes)
    test_set = ClipSet(args.data_root, clips, trained.frames_per_clip, trained.sample_size)
    batches = evaluation_batches(test_set, args.batch_size, args.workers, runtime)
    return count_confusion(runtime.parallelize(model, trains=False), batches, num_classes, runtime).cpu()


def write_predictions(args: Namespace) -> int:
    """Predict, and write the table to --out, or print it. Return an exit code: 1 if some videos cannot be used."""
    check_places(args)
    videos = find_inputs(args.predict)
    messages = sys.stdout if args.out else sys.stderr  # stdout gets the table alone
    precision = clip_precision(args.precision, args.device)
    with contextlib.redirect_stdout(messages), start_runtime(args.n_gpus, precision, args.device) as runtime:
        if runtime.world_size > 1:
            raise ValueError("--predict runs in one process")
        warn_of_bf16(runtime)
        trained = describe(args, load_checkpoint(args.trained_model))
        model = load_model(trained, args.trained_model, runtime)
        table = PredictionTable(trained.class_names, args.top or TOP)
        predict(model, videos, trained.frames_per_clip, trained.sample_size, args.workers, table, runtime)
    table.write(args.out)
    if args.out:
        print(f"{args.out}: predictions for {args.predict}", flush=True)
    return 1 if table.failed else 0


def run(args: Namespace) -> int:
    """Test, or predict. Return an exit code."""
    if args.predict:
        return write_predictions(args)
    test(args)
    return 0


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
