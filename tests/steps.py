"""A short epoch of an experiment in 1, 2 and 4 processes; test_processes.py starts it.

    python tests/steps.py {CIFAR-LT,ImageNet-LT,EGTEA} COUNTS OUT FLAGS...

COUNTS is a list such as 1,2,4. OUT/1.pth, 2.pth and 4.pth get validation counts, the weights that follow from them,
and the steps, (P,). BatchNorm is held in evaluation mode, since its batch statistics are each process's own.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import conftest  # noqa: F401  (the folders on sys.path)
from forked import fork
from longtail.training import Training
from shallow import SHALLOW

SHAPES = {"CIFAR-LT": (8, 3, 32, 32), "ImageNet-LT": (8, 3, 32, 32), "EGTEA": (8, 3, 4, 40, 40)}
GENTLE = 0.01  # of the learning rate: without batch statistics a step goes far


def smooth(values: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """Replace ReLU, at whose kink a rounding error may turn a gradient on or off: seen in EGTEA, 2 % of the
    steps."""
    return nn.functional.silu(values)


def prepare(experiment: str, flags: list[str], runtime):
    """The experiment's own training, at epoch 1."""
    if experiment == "CIFAR-LT":
        import cifar_train

        return cifar_train.prepare(cifar_train.parse_arguments(flags), runtime)[0]
    if experiment == "EGTEA":
        import EGTEA_train

        return EGTEA_train.prepare(EGTEA_train.parse_arguments(flags), False, runtime)[0]
    import main

    return main.prepare(main.resolve(main.parse_arguments(flags)), False, runtime)[0]


def hold_batch_statistics(training: Training, shape: tuple[int, ...]) -> None:
    """Running statistics from one batch, the same in every process; from then on they stay.

    Each block's branch counts for a tenth: a hundred layers that nothing normalizes would blow a rounding error up.
    """
    for module in training.model.modules():
        norms = [child for child in module.children() if isinstance(child, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = 1.0
        if len(norms) > 1:
            nn.init.constant_(norms[-1].weight, 0.1)
    training.model.train()
    generator = torch.Generator().manual_seed(0)
    colors = torch.randn((*shape[:2], *(1 for _ in shape[2:])), generator=generator)
    with torch.no_grad():
        training.model((colors + 0.3 * torch.randn(shape, generator=generator)) * (50 if len(shape) == 5 else 1))
    training.parallel_model.train = lambda mode=True: nn.Module.train(training.parallel_model, False)


def parameters(model: nn.Module) -> torch.Tensor:
    """All of them, (P,), a copy."""
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def work(experiment: str, out: Path, flags: list[str], world_size: int) -> None:
    """One process's part."""
    from longtail.distributed import start_runtime
    from longtail.metrics import count_confusion
    from longtail.training import train_epoch, validate

    with start_runtime(precision="fp32") as runtime:
        training = prepare(experiment, flags, runtime)
        for group in training.optimizer.param_groups:
            group["initial_lr"] *= GENTLE
        hold_batch_statistics(training, SHAPES[experiment])
        start = parameters(training.model)
        counts = count_confusion(training.parallel_model, training.val_batches(), training.num_classes, runtime)
        validate(training, runtime)
        train_epoch(training, 1, runtime)
        if runtime.is_main:
            steps = parameters(training.model) - start
            torch.save(
                {"counts": counts, "weight": training.criterion.weight, "steps": steps}, out / f"{world_size}.pth"
            )


def main(experiment: str, counts: str, out: str, *flags: str) -> None:
    nn.functional.relu = smooth
    for network, make_layer in SHALLOW.items():
        network._make_layer = make_layer
    if experiment == "CIFAR-LT":
        import sklearn.datasets  # noqa: F401  (of the digits; here and not in every child)
    for world_size in map(int, counts.split(",")):
        fork(world_size, lambda world_size=world_size: work(experiment, Path(out), list(flags), world_size))


if __name__ == "__main__":
    main(*sys.argv[1:])
