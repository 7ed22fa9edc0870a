"""Training images/s of ResNet-10 on the CPU, in alternating rounds.

Compares channels last and bf16, as main.py runs it, with fp32 in NCHW.

    python tests/benchmarks/resnet10_step.py [--size 224] [--batch 32] [--rounds 5]

bf16 pays with AMX and with AMD's AVX512-BF16; elsewhere main.py stays in fp32.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ImageNet-LT"))

from cdb_loss import CDBLoss
from imagenet_model import ImageNetModel
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.training import Training, train_epoch


def step(memory_format: torch.memory_format, runtime: Runtime, batch: int, size: int) -> Callable[[], float]:
    """images/s of one epoch of two batches of noise through the engine's own loop."""
    model = ImageNetModel(1000).to(memory_format=memory_format)
    images = torch.randn(batch, 3, size, size).to(memory_format=memory_format)
    labels = torch.arange(batch) % 1000
    groups = [{"params": model.parameters(), "initial_lr": 0.01}]
    training = Training(
        model=model,
        parallel_model=model,
        criterion=CDBLoss(1000),
        schedule=lambda progress: 1.0,
        optimizer=torch.optim.SGD(groups, lr=0.01, momentum=0.9, fused=True),
        val_batches=lambda: (),
        seed=0,
        train_batches=lambda epoch: [(images, labels)] * 2,
        batches_per_epoch=2,
        images_per_epoch=2 * batch,
        num_classes=1000,
        epochs=1,
    )

    def speed() -> float:
        start = time.perf_counter()
        train_epoch(training, 1, runtime)
        return 2 * batch / (time.perf_counter() - start)

    return speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with start_runtime(precision="bf16") as runtime:
        plain = Runtime(runtime.device)
        slow = step(torch.contiguous_format, plain, args.batch, args.size)
        fast = step(torch.channels_last, runtime, args.batch, args.size)
        slow(), fast()
        rounds = [(slow(), fast()) for _ in range(args.rounds)]
    old, new = (statistics.median(speeds) for speeds in zip(*rounds, strict=True))
    ratio = statistics.median(fast / slow for slow, fast in rounds)
    print(
        f"{runtime}, {args.size}x{args.size}, batch {args.batch}: fp32 NCHW {old:.1f} images/s, "
        f"bf16 channels last {new:.1f} images/s, ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
