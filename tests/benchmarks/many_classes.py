"""Seconds and memory of what grows with the number of classes: lists, validation, log, resuming, pictures, report.

    python tests/benchmarks/many_classes.py [--classes 1000 8142 10000]

8,142 classes with 54 training images each is about the size of iNaturalist 2018. No image is read. Each part runs in a
process of its own; its memory is what that process needs at its peak beyond one that does nothing.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import matplotlib.figure  # noqa: F401  (once here, not in each child)
import torch
import torch._dynamo  # noqa: F401  (the first optimizer imports it)
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ImageNet-LT"))

from cdb_loss import CDBLoss
from imagenet_lists import read_list
from longtail import plot
from longtail.devices import Runtime
from longtail.logs import cells, csv_text, read_log
from longtail.metrics import report
from longtail.records import Description, EpochRow
from longtail.run import Run
from longtail.tables import markdown
from longtail.training import Training, validate

IMAGES_PER_CLASS, VALIDATION_PER_CLASS = 54, 3  # iNaturalist 2018: 437,513 and 24,426 images of 8,142 classes
EPOCHS = 600
FEATURES, BATCH = 8, 512
CPU = Runtime(torch.device("cpu"))

Part = Callable[[Path, int], None]


def read_the_list(folder: Path, classes: int) -> None:
    """Read a list of training images as ImageNet-LT's scripts do."""
    list_file = folder / "train.txt"
    with open(list_file, "w") as file:
        for c in range(classes):
            file.writelines(f"train/{c:05d}/{number:08d}.jpg {c}\n" for number in range(IMAGES_PER_CLASS))
    read_list(list_file, folder, classes)


def validate_once(folder: Path, classes: int) -> None:
    """Validate a linear classifier of a few features, and set the loss's weights."""
    torch.manual_seed(0)
    model = nn.Linear(FEATURES, classes)
    labels = torch.arange(classes).repeat(VALIDATION_PER_CLASS)
    batches = [(torch.randn(len(part), FEATURES), part) for part in labels.split(BATCH)]
    training = Training(
        model=model,
        parallel_model=model,
        criterion=CDBLoss(classes),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        schedule=lambda progress: 1.0,
        train_batches=lambda epoch: (),
        val_batches=lambda: batches,
        batches_per_epoch=1,
        images_per_epoch=1,
        num_classes=classes,
        epochs=1,
    )
    validate(training, CPU)


def row(epoch: int, classes: int) -> EpochRow:
    values = torch.rand(2, classes, generator=torch.Generator().manual_seed(epoch)).tolist()
    return EpochRow(
        epoch=epoch,
        loss=1.0,
        lr=0.1,
        accuracy=epoch / EPOCHS,
        tau=1.0,
        class_accuracy=values[0],
        class_weight=values[1],
    )


def write_the_log(folder: Path, classes: int) -> None:
    """Write the log of a run, and the last epoch with its checkpoint as a run does."""
    run = Run(folder, "many")
    run.open(Description(arguments={"loss_type": "CDB-CE"}, class_counts=[IMAGES_PER_CLASS] * classes))
    with open(run.log, "w") as file:
        for epoch in range(1, EPOCHS):
            texts = cells(row(epoch, classes))
            file.write(csv_text(list(texts), [texts], header=epoch == 1))
    checkpoint = Description(arguments={"loss_type": "CDB-CE"}, class_counts=[IMAGES_PER_CLASS] * classes, epoch=EPOCHS)
    run.finish_epoch(row(EPOCHS, classes), checkpoint.entries(), keep=True)


def read_the_log(folder: Path, classes: int) -> None:
    if len(read_log(folder / "many.csv")) != EPOCHS:
        raise SystemExit("the log has lost rows")


def resume(folder: Path, classes: int) -> None:
    run = Run(folder, "many")
    description = Description(arguments={"loss_type": "CDB-CE"}, class_counts=[IMAGES_PER_CLASS] * classes)
    if not run.open(description, "resume"):
        raise SystemExit("nothing was resumed")


def draw_the_log(folder: Path, classes: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        plot.main([str(folder)])


def report_a_test(folder: Path, classes: int) -> None:
    """Report from a confusion matrix; this is the one part whose memory grows with the square."""
    confusion = torch.eye(classes, dtype=torch.long) * VALIDATION_PER_CLASS
    report(confusion, [IMAGES_PER_CLASS] * classes, None)


PARTS: dict[str, Part] = {
    "list": read_the_list,
    "validation": validate_once,
    f"log of {EPOCHS} epochs": write_the_log,
    "reading it": read_the_log,
    "resuming": resume,
    "plot.py": draw_the_log,
    "report of a test": report_a_test,
}


def measure(part: Part, folder: Path, classes: int) -> tuple[float, int]:
    """Return seconds and peak memory in bytes of a part, in a child process."""
    start = time.perf_counter()
    child = os.fork()
    if not child:
        code = 1
        try:
            part(folder, classes)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{part.__name__} with {classes} classes ended with status {status}")
    return time.perf_counter() - start, usage.ru_maxrss << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[1000, 8142, 10_000])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [{"part": name} for name in PARTS]
    for classes in args.classes:
        with tempfile.TemporaryDirectory() as folder:
            _, nothing = measure(lambda folder, classes: None, Path(folder), classes)
            for cells_of_part, (name, part) in zip(rows, PARTS.items(), strict=True):
                seconds, memory = measure(part, Path(folder), classes)
                cells_of_part[f"{classes:,} classes"] = f"{seconds:.1f} s, {max(memory - nothing, 0) / 1e6:,.0f} MB"
                print(name, classes, f"{seconds:.1f} s", flush=True, file=sys.stderr)
    print(markdown(rows, left=("part",)))


if __name__ == "__main__":
    main()
