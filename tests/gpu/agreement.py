"""Does a GPU compute what the CPU computes?

Forward pass, loss and gradients of the networks; thirty steps of each recipe. All in fp32.
"""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import cifar_train
import EGTEA_train
import main as imagenet_main
from gpu import small_data
from gpu.check import Checks, Outcome, Setup
from imagenet_model import ImageNetModel
from longtail.devices import Runtime
from longtail.distributed import start_runtime
from longtail.training import Training, train_epoch
from resnet32 import ResNet32
from resnext3d import Bottleneck, ResNeXt3D

TIMES, FLOOR = (
    10,
    1e-6,
)  # a GPU may be this many times as far from float64 as the CPU's fp32; relative distances below the floor pass
BF16_DISTANCE = 0.02  # relative; bf16 rounds by at most 2 ** -9, and some versions of cuDNN convolve wrongly in it
STEPS, EARLY = 30, 10
EARLY_LOSSES, MEAN_LOSS = (
    0.02,
    0.05,
)  # relative, and absolute below 1; steps at the recipe's rate drive rounding errors up


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """Keep cuDNN from computing convolutions in TF32, which has 10 bits of mantissa."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the relative distance of two tensors, by their Euclidean norms."""
    ours, theirs = ours.detach().cpu().double(), theirs.detach().cpu().double()
    return ((ours - theirs).norm() / theirs.norm()).item()


def one_step(
    model: nn.Module, inputs: Tensor, labels: Tensor, device: str, dtype: torch.dtype = torch.float
) -> list[Tensor]:
    """Return logits, loss and all gradients as one vector, of a copy of the model on a device."""
    model = copy.deepcopy(model).to(device, dtype).train()
    logits = model(inputs.to(device, dtype))
    loss = nn.functional.cross_entropy(logits, labels.to(device))
    loss.backward()
    return [
        logits,
        loss,
        torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]),
    ]


def network(build: Callable[[], nn.Module], shape: tuple[int, ...], setup: Setup) -> Outcome:
    """Compare one step on noise, on the device and on the CPU, with the CPU's in float64."""
    torch.manual_seed(0)
    model, inputs = build(), torch.randn(shape)
    labels = torch.arange(shape[0])
    with exact_fp32():
        reference = one_step(model, inputs, labels, "cpu", torch.double)
        here, cpu = (
            [
                distance(value, true)
                for value, true in zip(one_step(model, inputs, labels, device), reference, strict=True)
            ]
            for device in (setup.device, "cpu")
        )
    return Outcome(
        "from float64: logits {:.1e}, loss {:.1e}, gradients {:.1e}; the CPU's fp32 {:.1e}, {:.1e}, {:.1e}".format(
            *here, *cpu
        ),
        f"at most {TIMES} times the CPU's",
        all(ours <= TIMES * theirs + FLOOR for ours, theirs in zip(here, cpu, strict=True)),
    )


def prepare_cifar(folder: Path, runtime: Runtime) -> Training:
    flags = ["--imbalance", "10", "--tau", "1.5", "--data_root", str(small_data.cifar(folder))]
    return cifar_train.prepare(cifar_train.parse_arguments(flags), runtime)[0]


def prepare_imagenet(folder: Path, runtime: Runtime) -> Training:
    flags = ["--cfg", str(small_data.images(folder))]
    return imagenet_main.prepare(imagenet_main.resolve(imagenet_main.parse_arguments(flags)), False, runtime)[0]


def prepare_egtea(folder: Path, runtime: Runtime) -> Training:
    flags = [*small_data.clips(folder), "--pretrained_model", "none", "--sample_size", "64", "--tau", "1.5"]
    return EGTEA_train.prepare(EGTEA_train.parse_arguments(flags), False, runtime)[0]


def losses(prepare: Callable[[Path, Runtime], Training], folder: Path, device: str, steps: int) -> Tensor:
    """Return the loss of each of the first steps of training."""
    with start_runtime(precision="fp32", device=device) as runtime:
        training, found, epoch = prepare(folder, runtime), [], 0
        batches_of = training.train_batches

        def recorded(logits: Tensor, labels: Tensor) -> Tensor:
            found.append(training.criterion(logits, labels))
            return found[-1]

        training.loss_function = recorded
        training.train_batches = lambda epoch: itertools.islice(batches_of(epoch), steps - len(found))
        while len(found) < steps:
            epoch += 1
            train_epoch(training, epoch, runtime)
        return torch.stack(found).detach().cpu()


def recipe(prepare: Callable[[Path, Runtime], Training], steps: int, setup: Setup) -> Outcome:
    """Compare the losses of the first steps with the CPU's."""
    folder = setup.out / "small" / prepare.__name__
    with exact_fp32():
        ours, theirs = (losses(prepare, folder, device, steps) for device in (setup.device, "cpu"))
    early = ((ours - theirs).abs() / theirs.clamp_min(1))[:EARLY].max().item()
    mean = (abs(ours.mean() - theirs.mean()) / theirs.mean().clamp_min(1)).item()
    return Outcome(
        f"first {EARLY} losses at most {100 * early:.2g} % from the CPU's, mean of {steps} {100 * mean:.2g} %",
        f"at most {100 * EARLY_LOSSES:g} %, {100 * MEAN_LOSS:g} %",
        early <= EARLY_LOSSES and mean <= MEAN_LOSS,
    )


def clip_network(num_classes: int = 19) -> ResNeXt3D:
    """Return a network whose blocks add to their shortcuts.

    At first they do not, and their convolutions could compute anything.
    """
    model = ResNeXt3D(num_classes)
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.ones_(module.bn3.weight)
    return model


def convolutions_of(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return the different convolutions of a network and the shapes of their inputs, by their descriptions."""
    found: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        size = tuple(inputs[0].shape)
        found[f"{module} of {'x'.join(map(str, size))}"] = (module, size)

    with torch.device("meta"):
        model = build()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                module.register_forward_pre_hook(note)
        model.eval()(torch.empty(shape))
    return found


def convolve(weight: Tensor, module: nn.Module, inputs: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Return output and the gradients of input and weight of a convolution in `dtype`, of the sum of squares."""
    function = nn.functional.conv3d if isinstance(module, nn.Conv3d) else nn.functional.conv2d
    inputs, weight = (value.detach().to(dtype).requires_grad_() for value in (inputs, weight))
    output = function(inputs, weight, None, module.stride, module.padding, module.dilation, module.groups)
    output.float().square().sum().backward()
    return [output, inputs.grad, weight.grad]


def convolutions_in_bf16(build: Callable[[], nn.Module], shape: tuple[int, ...], setup: Setup) -> Outcome:
    """Compare each convolution of a network in bf16 with itself in fp32: its output, and both gradients."""
    generator = torch.Generator().manual_seed(0)
    distances = {}
    with exact_fp32():
        for name, (module, size) in convolutions_of(build, shape).items():
            # numbers that bf16 has, so that only the convolution differs
            weight = torch.randn(module.weight.shape, generator=generator).bfloat16().float().to(setup.device)
            inputs = torch.randn(size, generator=generator).bfloat16().float().to(setup.device)
            reference = convolve(weight, module, inputs, torch.float)
            rounded = convolve(weight, module, inputs, torch.bfloat16)
            distances[name] = max(map(distance, rounded, reference))
    worst = max(distances, key=distances.__getitem__)
    return Outcome(
        f"{len(distances)} convolutions, from fp32 at most {100 * distances[worst]:.2g} %: {worst}",
        f"at most {100 * BF16_DISTANCE:g} %",
        distances[worst] <= BF16_DISTANCE,
    )


CHECKS: Checks = {
    "ResNet-32": partial(network, lambda: ResNet32(100), (32, 3, 32, 32)),
    "ResNet-10": partial(network, lambda: ImageNetModel(1000), (8, 3, 224, 224)),
    "3D-ResNeXt-101": partial(network, clip_network, (2, 3, 10, 112, 112)),
    "3D-ResNeXt-101's convolutions in bf16": partial(convolutions_in_bf16, lambda: ResNeXt3D(19), (2, 3, 10, 112, 112)),
    "CIFAR-LT's recipe": partial(recipe, prepare_cifar, STEPS),
    "ImageNet-LT's recipe": partial(recipe, prepare_imagenet, STEPS),
    "EGTEA's recipe": partial(recipe, prepare_egtea, STEPS),
}
