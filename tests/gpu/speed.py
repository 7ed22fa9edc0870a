"""How fast are the training steps on a GPU, against the conventional pipeline?

And how much of a step is the input, and how much memory does it take?
"""

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from benchmarks import cifar_step, step_operators
from cifar_dataset import ImageSet
from gpu import small_data
from gpu.check import Checks, Outcome, Setup, can_compile
from imagenet_lists import ImageList, encode_paths
from imagenet_loader import ImageLoader
from imagenet_model import ImageNetModel
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.metrics import Batches
from longtail.training import Training, train_epoch
from resnext3d import ResNeXt3D

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}  # of clips
ROUNDS, WORKERS = 5, (2, 8)  # the conventional pipeline gets the better number of workers


def build_training(model: nn.Module, classes: int) -> Training:
    """Return the training of a model with cross-entropy and SGD; `speed` gives it its batches."""
    groups = [{"params": model.parameters(), "initial_lr": 0.01}]
    return Training(
        model=model,
        parallel_model=model,
        criterion=nn.CrossEntropyLoss(),
        schedule=lambda progress: 1.0,
        optimizer=torch.optim.SGD(groups, lr=0.01, momentum=0.9, fused=True),
        train_batches=lambda epoch: (),
        val_batches=lambda: (),
        batches_per_epoch=1,
        images_per_epoch=1,
        num_classes=classes,
        epochs=1,
    )


def speed(training: Training, batches: Callable[[], Batches], samples: int, runtime: Runtime) -> float:
    """Return samples per second of an epoch of these batches, through the experiments' own loop."""
    training.train_batches = lambda epoch: batches()
    start = time.perf_counter()
    train_epoch(training, 1, runtime)
    return samples / (time.perf_counter() - start)


def peak(device: str) -> str:
    """Return the most memory that tensors took since the last call of reset, where PyTorch counts it."""
    return "" if device in ("cpu", "mps") else f", at most {torch.accelerator.max_memory_allocated() / 2**30:.1f} GiB"


def reset(device: str) -> None:
    """Count memory from now on."""
    if device != "cpu":
        with contextlib.suppress(RuntimeError):  # MPS has them only in newer versions
            torch.accelerator.empty_cache()
            torch.accelerator.reset_peak_memory_stats()


def spread(values: list[float], form: str = "{:.0f}") -> str:
    """Return median (smallest to largest)."""
    low, high = form.format(min(values)), form.format(max(values))
    return f"{form.format(statistics.median(values))} ({low} to {high})"


def cifar(batch: int, compiled: bool, setup: Setup, batches: int = 100, rounds: int = ROUNDS) -> Outcome:
    """Time CIFAR-LT's step, as its command starts it, against PIL, DataLoader workers and fp32 in NCHW.

    The rounds alternate.
    """
    if compiled and not can_compile(setup.device):
        return Outcome("not tried: no C compiler, or no Triton")
    images, labels = (
        cifar_step.noise(sum(cifar_step.COUNTS)),
        torch.arange(100).repeat_interleave(torch.tensor(cifar_step.COUNTS)),
    )
    reset(setup.device)
    with start_runtime(device=setup.device) as runtime:
        mine, _ = cifar_step.ours(images, labels, compiled, runtime, batch)
        rivals = [cifar_step.conventional(images, labels, workers, runtime.device, batch) for workers in WORKERS]
        mine(3)
        theirs = max(rivals, key=lambda rival: (rival(3), rival(max(batches // 5, 1)))[1])
        pairs = [(mine(batches), theirs(batches)) for _ in range(rounds)]
        share = input_share(
            ImageSet(images, labels).to(runtime.device), batch, runtime, batches, statistics.median(a for a, _ in pairs)
        )
        return Outcome(
            f"{spread([a for a, _ in pairs])} images/s, conventional {spread([b for _, b in pairs])}, ratio "
            f"{spread([a / b for a, b in pairs], '{:.2f}')}; input {100 * share:.0f} % of the time{peak(setup.device)}"
        )


def input_share(images: ImageSet, batch: int, runtime: Runtime, batches: int, images_per_second: float) -> float:
    """Return what share of a step's time making the batch alone would take."""
    start = time.perf_counter()
    for inputs, _ in itertools.islice(cifar_step.endless(images, batch, runtime), batches):
        last = inputs
    last.sum().item()  # waits for the device
    return (time.perf_counter() - start) / (batches * batch / images_per_second)


def steps(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    classes: int,
    setup: Setup,
    layout: torch.memory_format = torch.channels_last,
    precision: str = "auto",
    batches: int = 10,
) -> Outcome:
    """A network's training step on what is on the device already."""
    reset(setup.device)
    with start_runtime(precision=precision, device=setup.device) as runtime:
        noise = torch.randn(shape, device=runtime.device).contiguous(memory_format=layout)
        labels = torch.arange(shape[0], device=runtime.device) % classes
        training = build_training(build().to(runtime.device, memory_format=layout), classes)
        speeds = [
            speed(training, lambda: [(noise, labels)] * batches, batches * shape[0], runtime) for _ in range(ROUNDS + 1)
        ][1:]
        return Outcome(f"{spread(speeds, '{:.1f}')} samples/s, {runtime.precision}{peak(setup.device)}")


def images_from_files(setup: Setup, size: int = 224, batch: int = 512, batches: int = 16, files: int = 256) -> Outcome:
    """Time ResNet-10 with images that all cores read from JPEG files of ImageNet's size, and without input."""
    folder, rng = setup.out / "small/speed", np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        small_data.photo(rng).save(folder / f"{number}.JPEG", quality=90)
    count = batches * batch
    labels = torch.arange(count) % 1000
    paths = encode_paths(f"{number % files}.JPEG" for number in range(count))
    listed = ImageList(folder / "list", folder, paths, labels, "")
    reset(setup.device)
    with start_runtime(device=setup.device) as runtime:
        training = build_training(ImageNetModel(1000).to(runtime.device, memory_format=torch.channels_last), 1000)
        loader = ImageLoader(listed, size, size + 32, None, runtime)
        held = next(iter(loader.training_batches(None, batch, 0)))
        pairs = [
            (
                speed(training, lambda: [held] * batches, count, runtime),
                speed(training, lambda seed=seed: loader.training_batches(None, batch, seed), count, runtime),
            )
            for seed in range(ROUNDS)
        ][1:]
        share = statistics.median(1 - with_input / without for without, with_input in pairs)
        return Outcome(
            f"{spread([b for _, b in pairs])} images/s with {loader.readers.workers} workers, "
            f"{spread([a for a, _ in pairs])} without input, which takes {100 * share:.0f} % of the time"
            f"{peak(setup.device)}"
        )


def operators(recipe: str, setup: Setup, batches: int = 20) -> Outcome:
    """Count what the host starts in a step, and how often it waits for the GPU."""
    with start_runtime(precision="bf16", device=setup.device) as runtime:
        counted = step_operators.count_step(recipe, batches, runtime)
    mean, most = counted.counts.total() / batches, step_operators.MOST[recipe]
    return Outcome(
        f"{mean:.0f} operators and {counted.waits.total() / batches:.1f} waits a step",
        f"at most {most}, no wait",
        mean <= most and not counted.waits,
    )


def recipe(name: str, compiled: bool, setup: Setup, batches: int = 100, rounds: int = ROUNDS) -> Outcome:
    """Time a recipe's whole step: its input, network, optimizer and average."""
    if compiled and not can_compile(setup.device):
        return Outcome("not tried: no C compiler, or no Triton")
    flags = ("--compile",) if compiled else ()
    reset(setup.device)
    with start_runtime(device=setup.device) as runtime:
        training = step_operators.build_training(name, batches, step_operators.SIDE, runtime, *flags)
        epoch_of = training.train_batches
        samples = training.images_per_epoch
        speeds = [
            speed(training, lambda epoch=epoch: epoch_of(epoch), samples, runtime) for epoch in range(1, rounds + 2)
        ]
        return Outcome(f"{spread(speeds[1:])} images/s, {runtime.precision}{peak(setup.device)}")


CHECKS: Checks = {
    **{f"operators of a step, {name}": partial(operators, name) for name in step_operators.MOST},
    **{
        f"CIFAR-LT, recipe {name}{', --compile' if compiled else ''}": partial(recipe, name, compiled)
        for name in step_operators.MOST
        for compiled in (False, True)
    },
    **{
        f"CIFAR-LT, batch {batch}{', --compile' if compiled else ''}": partial(cifar, batch, compiled)
        for batch in (32, 512)
        for compiled in (False, True)
    },
    "ResNet-10, 224 pixels, batch 512": partial(steps, lambda: ImageNetModel(1000), (512, 3, 224, 224), 1000),
    **{
        f"3D-ResNeXt-101, 10 frames of 224 pixels, batch 8, {name}, {precision}": partial(
            steps, lambda: ResNeXt3D(19), (8, 3, 10, 224, 224), 19, layout=layout, precision=precision
        )
        for name, layout in LAYOUTS.items()
        for precision in ("fp32", "bf16")
    },
    "ResNet-10 with images from files": images_from_files,
}
