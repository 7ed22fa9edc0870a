"""Training images/s at batch 32: this repository against the conventional pipeline, timed alternately in one run.

    python tests/benchmarks/cifar_step.py [--compile] [--precision bf16] [--rounds 7] [--batches 60]

Conventional: one PIL image after the other through torchvision's transforms in DataLoader workers (the fastest of 0,
2 and 8, found first), fp32, NCHW, PyTorch's SGD. Ours: what cifar_train.py runs. Model, batch size and number of
images are the same; the images are noise of CIFAR's size, for speed does not depend on them. Quiet machine, please.
"""

import argparse
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "CIFAR-LT"))

from cdb_loss import CDBLoss
from cifar_dataset import ImageSet, evaluation_batches, long_tail_counts
from cifar_train import PAPER, build_optimizer, training_batches
from longtail.cli import PRECISIONS
from longtail.compiling import compile_for_training
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.metrics import count_correct
from longtail.training import Training, train_epoch
from resnet32 import ResNet32

BATCH, WORKERS = 32, (0, 2, 8)
CPU = torch.device("cpu")
CONVOLUTIONS = ("aten::convolution_backward", "aten::mkldnn_convolution")
COUNTS = long_tail_counts(475, 100, 200)


def noise(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def conventional(
    images: torch.Tensor, labels: torch.Tensor, workers: int, device: torch.device = CPU, batch: int = BATCH
) -> Callable[[int], float]:
    """images/s of the usual training script; its workers live as long as the function."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    class Images(Dataset):
        arrays = images.permute(0, 2, 3, 1).numpy()
        transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.transform(Image.fromarray(self.arrays[index])), int(labels[index])

    loader = DataLoader(
        Images(),
        batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
    )
    model = ResNet32(100).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    criterion = torch.nn.CrossEntropyLoss()

    def forever() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader

    stream = forever()

    def speed(batches: int) -> float:
        model.train()
        start = time.perf_counter()
        for inputs, targets in itertools.islice(stream, batches):
            optimizer.zero_grad()
            loss = criterion(model(inputs.to(device)), targets.to(device))
            loss.backward()
            optimizer.step()
        loss.item()  # waits for a GPU
        return batches * batch / (time.perf_counter() - start)

    return speed


def ours(
    images: torch.Tensor, labels: torch.Tensor, compiled: bool, runtime: Runtime, batch: int = BATCH
) -> tuple[Callable[[int], float], Training]:
    """images/s of cifar_train.py's own functions, and the training that they work on."""
    train = ImageSet(images, labels).to(runtime.device)
    model = ResNet32(100).to(runtime.device, memory_format=torch.channels_last)
    optimizer = build_optimizer(model, PAPER.lr, PAPER)
    training = Training(
        model=model,
        parallel_model=compile_for_training(model, batch, runtime) if compiled else model,
        criterion=CDBLoss(len(COUNTS), tau=1.5).to(runtime.device),
        optimizer=optimizer,
        schedule=lambda progress: 1.0,
        train_batches=lambda epoch: (),
        val_batches=lambda: (),
        batches_per_epoch=1,
        images_per_epoch=len(train),
        num_classes=100,
        epochs=1,
    )

    def speed(batches: int) -> float:
        training.train_batches = lambda epoch: itertools.islice(endless(train, batch, runtime), batches)
        start = time.perf_counter()
        train_epoch(training, 1, runtime)
        return batches * batch / (time.perf_counter() - start)

    return speed, training


def endless(train: ImageSet, batch: int, runtime: Runtime) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Epochs without their last, smaller batches."""
    for seed in itertools.count():
        yield from itertools.islice(training_batches(train, batch, True, seed, runtime), len(train) // batch)


def convolution_share(speed: Callable[[int], float], batches: int = 10) -> float:
    """The share of the operators' time that convolutions take, forward and backward, on a CPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        speed(batches)
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    return sum(value for key, value in times.items() if key in CONVOLUTIONS) / sum(times.values())


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="torch.compile the model of this repository")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="of this repository's training; default: auto"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=60, help="a round")
    args = parser.parse_args()
    torch_alone = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    images, labels = noise(sum(COUNTS)), torch.arange(100).repeat_interleave(torch.tensor(COUNTS))
    with start_runtime(precision=args.precision) as runtime:
        speed, training = ours(images, labels, args.compile, runtime)
        speed(10)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory of this repository's training: {peak - torch_alone:.0f} MB above the imports")
        candidates = {workers: conventional(images, labels, workers) for workers in WORKERS}
        for candidate in candidates.values():
            candidate(10)
        trial = {workers: candidate(args.batches) for workers, candidate in candidates.items()}
        best = max(trial, key=trial.__getitem__)
        print(
            "conventional, images/s by workers: "
            + ", ".join(f"{workers}: {value:.0f}" for workers, value in trial.items())
        )
        rounds = [(speed(args.batches), candidates[best](args.batches)) for _ in range(args.rounds)]
        start = time.perf_counter()
        count_correct(
            training.model, evaluation_batches(ImageSet(images[:2500], labels[:2500]), "train", runtime), 100, runtime
        )
        validation = time.perf_counter() - start
        epoch = len(images) / statistics.median(mine for mine, _ in rounds)
        print(
            f"{runtime}{', compiled' if args.compile else ''}; "
            f"median (smallest to largest) of {args.rounds} alternating rounds"
        )
        print(f"convolutions take {100 * convolution_share(speed):.0f} % of this repository's step")
        print(f"this repository {spread([mine for mine, _ in rounds])} images/s")
        print(f"conventional, {best} workers {spread([theirs for _, theirs in rounds])} images/s")
        print(f"validation {100 * validation / (epoch + validation):.1f} % of an epoch at imbalance 200")
        print(f"ratio {spread([mine / theirs for mine, theirs in rounds])}")


if __name__ == "__main__":
    main()
