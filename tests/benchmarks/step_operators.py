"""Count the operators of a training step of CIFAR-LT, in the real loop, as a GPU's host would launch them.

    python tests/benchmarks/step_operators.py [--batches 20] [--device cuda]

Views and allocations launch nothing and are left out. A wait is an operator whose result the host must read before it
can go on. Both are means over batches, without a first one, which sets up momentum and average. Counts do not depend on
the machine; the images are noise, the precision is bf16.
"""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "CIFAR-LT"))

import cifar_train
from cifar_dataset import ImageSet
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.metrics import Batches
from longtail.tables import markdown
from longtail.training import Training, train_epoch

PHASES = ("forward", "backward", "input", "loss, norm", "optimizer", "average")
SIDE = 32  # pixels of an image; operators do not depend on it
MOST = {"paper": 400, "fast": 600, "strong": 1100}  # operators of a step of each recipe
FREE = ("empty", "new_empty", "_unsafe_view")  # beginnings of names
WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Operators(TorchDispatchMode):
    """Counts operators, and the waits among them, by the phase of the step that they belong to."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "loss, norm"
        self.counts: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if launches(operator):
            self.counts[self.phase] += 1
        result = operator(*args, **(kwargs or {}))
        if must_wait(operator, args):
            self.waits[self.phase] += 1
        return result

    def during(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, whose operators then belong to `phase`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            before, self.phase = self.phase, phase
            try:
                return function(*args, **kwargs)
            finally:
                self.phase = before

        return call


def launches(operator: Any) -> bool:
    """Return whether an operator computes: it is no view, no allocation and no mark for a profiler."""
    name = operator.overloadpacket.__name__
    return operator.namespace == "aten" and not operator.is_view and not name.startswith(FREE)


def must_wait(operator: Any, args: Any) -> bool:
    """Return whether the result is a Python number, or has a shape that depends on values."""
    if not WAITS & set(operator.tags):
        return False
    if operator is torch.ops.aten.index.Tensor:
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return True


def build_training(recipe: str, batches: int, side: int, runtime: Runtime, *flags: str) -> Training:
    """Return the training of a recipe on noise, with so many batches an epoch."""
    args = cifar_train.parse_arguments(["--recipe", recipe, *flags])
    images = torch.randint(256, (batches * args.batch_size, 3, side, side), dtype=torch.uint8)
    train_set = ImageSet(images, torch.arange(len(images)) % 100).to(runtime.device)
    return cifar_train.build_training(args, cifar_train.RECIPES[recipe], "linear", train_set, train_set, runtime)


def in_phase(operators: Operators, batches: Batches) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches; what makes them is input."""
    following = operators.during("input", lambda: next(iterator, None))
    iterator = iter(batches)
    while (batch := following()) is not None:
        yield batch


def count_step(recipe: str, batches: int, runtime: Runtime, side: int = SIDE) -> Operators:
    """Return the operators of so many batches, after a first one that is not counted."""
    training = build_training(recipe, batches, side, runtime)
    operators, batches_of = Operators(), training.train_batches
    training.train_batches = lambda epoch: itertools.islice(batches_of(epoch), 1)
    train_epoch(training, 1, runtime)
    training.train_batches = lambda epoch: in_phase(operators, batches_of(epoch))
    training.parallel_model.forward = operators.during("forward", training.parallel_model.forward)
    training.optimizer.step = operators.during("optimizer", training.optimizer.step)
    training.update_average = operators.during("average", training.update_average)
    backward = operators.during("backward", torch.Tensor.backward)
    with mock.patch.object(torch.Tensor, "backward", lambda loss: backward(loss)), operators:
        train_epoch(training, 2, runtime)
    return operators


def row(recipe: str, batches: int, runtime: Runtime) -> dict[str, str]:
    """Return a recipe's row of the table."""
    operators = count_step(recipe, batches, runtime)
    cells = {phase: f"{operators.counts[phase] / batches:,.0f}" for phase in PHASES}
    total = f"{operators.counts.total() / batches:,.0f}"
    return {"recipe": recipe, **cells, "total": total, "waits": f"{operators.waits.total() / batches:,.1f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=20, help="of each recipe; default: 20")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    args = parser.parse_args()
    with start_runtime(precision="bf16", device=args.device) as runtime:
        rows = [row(recipe, args.batches, runtime) for recipe in ("paper", "fast", "strong")]
    print(markdown(rows, left=("recipe",)))


if __name__ == "__main__":
    main()
