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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # longtail/ is beside this folder

from clip_model import ClipDescription, load_model, read_description
from egtea_clips import Clip, check_labels, is_own, read_clips
from egtea_dataset import ClipSet, evaluation_batches
from egtea_predict import find_inputs, predict
from longtail.checkpoints import Checkpoint, load_checkpoint
from longtail.cli import ArgumentParser, add_device_arguments, exit_code, file_path, positive_int, seed_number
from longtail.confusion_picture import draw_confusion
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.files import check_place, write_atomically
from longtail.hits import count_with_hits, pack_hits
from longtail.metrics import SHOT_SIZES, report
from longtail.predictions import PredictionTable
from longtail.records import ClassFigures, TestFigures
from resnext3d import AUTO_PRECISION, BF16_ON_CPU, ResNeXt3D, warn_of_bf16

HERE = Path(__file__).resolve().parent
MAJORITY_ABOVE = 600  # training clips; the paper's four largest verbs
TOP = 5  # classes of a predicted video
CLIP_SHOTS = SHOT_SIZES.replace("images", "clips")
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
class GroupMeans:
    """Measures of a group of classes. Means are over the classes that have test clips."""

    classes: int
    tested: int
    top1: float
    precision: float
    recall: float


def group_means(classes: list[ClassFigures]) -> GroupMeans | None:
    """Return the means over `classes`; None if none of them has test clips."""
    tested = [figures for figures in classes if figures.images]
    if not tested:
        return None
    correct = sum(figures.correct for figures in tested)
    return GroupMeans(
        classes=len(classes),
        tested=len(tested),
        top1=correct / sum(figures.images for figures in tested),
        precision=fmean(figures.precision for figures in tested),
        recall=fmean(figures.correct / figures.images for figures in tested),
    )


def group_figures(classes: list[ClassFigures], majority_above: int | None) -> dict[str, GroupMeans]:
    """Return the paper's measures: means over all, and over majority and minority classes, if a number parts them.

    A group without test clips is left out.
    """
    groups = {"all": classes}
    if majority_above:
        groups |= {"majority": [], "minority": []}
        for figures in classes:
            is_large = (figures.training_images or 0) > majority_above
            groups["majority" if is_large else "minority"].append(figures)
    means = {name: group_means(group) for name, group in groups.items()}
    return {name: group for name, group in means.items() if group}


def print_report(figures: TestFigures, groups: dict[str, GroupMeans], majority_above: int | None) -> None:
    """Print the figures of each class, the means of the groups, and last the accuracy in its fixed form."""
    width = 2 + max(len(one.name) for one in figures.classes)
    print(f"{'class':<{width}}  train   test  precision  recall")
    for one in figures.classes:
        recall = "-" if one.accuracy is None else f"{one.accuracy:.4f}"
        print(f"{one.name:<{width}}{one.training_images:7d}{one.images:7d}{one.precision:11.4f}{recall:>8}")
    if majority_above:
        print(f"majority: more than {majority_above} training clips")
    elif figures.shots:
        shares = [f"{name} {share:.4f}" for name, share in figures.shots.items() if share is not None]
        print(f"accuracy ({CLIP_SHOTS}):  {'  '.join(shares)}")
    for name, group in groups.items():
        print(
            f"{name:<9}{group.classes:3d} classes, {group.tested} tested  top-1 {group.top1:.4f}  "
            f"mean precision {group.precision:.4f}  mean recall {group.recall:.4f}"
        )
    print(f"Test Accuracy is {figures.accuracy:.4f}", flush=True)


def describe_for(args: Namespace, checkpoint: Checkpoint) -> ClipDescription:
    """Return what the checkpoint says of its model; the flags --frames_per_clip and --sample_size come first."""
    described = read_description(checkpoint, args.trained_model, args.train_file)
    return replace(
        described,
        frames_per_clip=args.frames_per_clip or described.frames_per_clip,
        sample_size=args.sample_size or described.sample_size,
    )


def test(args: Namespace) -> None:
    """Load the model, count, report. The files come last, since writing them may fail."""
    check_places(args)
    with start_runtime(args.n_gpus, args.precision, args.device, BF16_ON_CPU) as runtime:
        warn_of_bf16(runtime)
        checkpoint = load_checkpoint(args.trained_model)
        described = describe_for(args, checkpoint)
        model = load_model(checkpoint, described, args.trained_model, runtime)
        clips = read_clips(args.test_file)
        confusion, hits = count_on_clips(args, model, described, clips, runtime)
        if runtime.is_main:
            figures = report(confusion, described.class_counts, described.class_names)
            majority_above = args.majority_above or (None if is_own(clips[0].name) else MAJORITY_ABOVE)
            groups = group_figures(figures.classes, majority_above)
            print_report(figures, groups, majority_above)
            if args.json:
                values = {
                    "checkpoint": args.trained_model.name,
                    "arguments": described.arguments,
                    "epoch": described.epoch,
                    "val_accuracy": described.accuracy,
                    **figures.entries(),
                    "majority_above": majority_above,
                    **{name: asdict(group) for name, group in groups.items()},
                    "confusion": confusion.tolist(),
                    "hits": pack_hits(hits),
                }
                write_atomically(args.json, (json.dumps(values, indent=1) + "\n").encode())
            draw_confusion(confusion, described.class_names, args.figure)


def count_on_clips(
    args: Namespace, model: ResNeXt3D, described: ClipDescription, clips: list[Clip], runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """Return the confusion matrix (C, C) on the clips of --test_file, and which of them are right; on the CPU."""
    num_classes = len(described.class_names)
    check_labels(args.test_file, clips, num_classes)
    test_set = ClipSet(args.data_root, clips, described.frames_per_clip, described.sample_size)
    batches = evaluation_batches(test_set, args.batch_size, args.workers, runtime)
    confusion, hits = count_with_hits(runtime.parallelize(model, trains=False), batches, num_classes, runtime)
    return confusion.cpu(), hits.cpu()


def write_predictions(args: Namespace) -> int:
    """Predict, and write the table to --out, or print it. Return an exit code: 1 if some videos cannot be used."""
    check_places(args)
    videos = find_inputs(args.predict)
    messages = sys.stdout if args.out else sys.stderr  # stdout gets the table alone
    started = start_runtime(args.n_gpus, args.precision, args.device, BF16_ON_CPU)
    with contextlib.redirect_stdout(messages), started as runtime:
        if runtime.world_size > 1:
            raise ValueError("--predict runs in one process")
        warn_of_bf16(runtime)
        checkpoint = load_checkpoint(args.trained_model)
        described = describe_for(args, checkpoint)
        model = load_model(checkpoint, described, args.trained_model, runtime)
        table = PredictionTable(described.class_names, args.top or TOP)
        predict(model, videos, described.frames_per_clip, described.sample_size, args.workers, table, runtime)
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
