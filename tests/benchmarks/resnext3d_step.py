"""3D-ResNeXt-101, this repository against plain PyTorch (NCDHW, fp32), timed alternately on the same clips.

    python tests/benchmarks/resnext3d_step.py [--batch_size 4] [--sample_size 112] [--rounds 3] [--bf16]

A training step is forward, backward and the optimizer's step; an evaluation step is the forward pass in eval mode.
--bf16 times --precision bf16 too, no default on a CPU.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "EGTEA"))

from egtea_dataset import memory_format
from longtail.devices import Runtime, keep_large_blocks
from longtail.run import device_name
from resnext3d import ResNeXt3D

CLASSES, FRAMES = 19, 10


class Contender:
    """A model with its layout, precision and optimizer."""

    def __init__(self, name: str, clips: Tensor, layout: torch.memory_format, bf16: bool, fused: bool):
        torch.manual_seed(0)
        self.name, self.runtime = name, Runtime(torch.device("cpu"), bf16=bf16)
        self.model = ResNeXt3D(CLASSES).to(memory_format=layout)
        self.clips = clips.contiguous(memory_format=layout)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, weight_decay=5e-4, fused=fused)
        self.train_seconds: list[float] = []
        self.eval_seconds: list[float] = []

    def train_step(self, labels: Tensor) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        with self.runtime.autocast():
            logits = self.model(self.clips)
        F.cross_entropy(logits.float(), labels).backward()
        self.optimizer.step()

    @torch.no_grad()
    def eval_step(self) -> None:
        self.model.eval()
        with self.runtime.autocast():
            self.model(self.clips)

    def time(self, labels: Tensor) -> None:
        start = time.perf_counter()
        self.train_step(labels)
        middle = time.perf_counter()
        self.eval_step()
        self.train_seconds.append(middle - start)
        self.eval_seconds.append(time.perf_counter() - middle)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def ratio(plain: list[float], other: list[float]) -> str:
    return spread([a / b for a, b in zip(plain, other, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--sample_size", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    keep_large_blocks()
    clips = torch.randn(
        args.batch_size, 3, FRAMES, args.sample_size, args.sample_size, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(args.batch_size) % CLASSES
    layout = memory_format(torch.device("cpu"))
    contenders = [
        Contender("plain", clips, torch.contiguous_format, bf16=False, fused=False),
        Contender("this repository", clips, layout, bf16=False, fused=True),
    ]
    if args.bf16:
        contenders.append(Contender("--precision bf16", clips, layout, bf16=True, fused=True))
    for _ in range(args.rounds + 1):
        for contender in contenders:
            contender.time(labels)
    print(
        f"{args.batch_size} clips of {FRAMES} frames of {args.sample_size} pixels; {device_name(clips.device)}, "
        f"{torch.get_num_threads()} threads; PyTorch {torch.__version__}; "
        f"median (smallest to largest) of {args.rounds} alternating rounds"
    )
    plain = contenders[0]
    for contender in contenders:
        del contender.train_seconds[0], contender.eval_seconds[0]  # the first round warms up
        print(
            f"{contender.name}: training {spread(contender.train_seconds)} s, "
            f"evaluation {spread(contender.eval_seconds)} s"
        )
        if contender is not plain:
            print(
                f"  times as fast as plain: training {ratio(plain.train_seconds, contender.train_seconds)}, "
                f"evaluation {ratio(plain.eval_seconds, contender.eval_seconds)}"
            )


if __name__ == "__main__":
    main()
