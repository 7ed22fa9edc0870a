"""The augmentation of the strong recipe: crop and flip, AutoAugment, Cutout."""

import functools
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cifar_dataset import Augmentation, mean_and_std
from longtail.devices import send

if TYPE_CHECKING:
    from torchvision.transforms import v2

CUTOUT = 16  # pixels, the side of the square; DeVries and Taylor, 2017
GREY = 128  # what a geometric operation leaves open; the AutoAugment paper's code
OPERATIONS = 2  # of each image, at most
LEVELS = 10  # of each magnitude

Operation = tuple[str, float]  # torchvision's name, and the magnitude with its sign


class StrongAugmentation(Augmentation):
    """Crop and flip, then one draw of AutoAugment's CIFAR policy (Cubuk et al., CVPR 2019) for each image, then Cutout.

    All draws of an image depend on the generator's seed and the image's number alone, so that one process and several
    draw the same.
    """

    def __init__(self, count: int, flip: bool, generator: torch.Generator, device: torch.device):
        super().__init__(count, flip, generator, device)
        self.policy = auto_augment
        self.seeds = torch.randint(2**62, (count,), generator=generator)
        self.centres = torch.rand(2, count, generator=generator).to(device)
        self.colour = mean_and_std("train", device)[0].round().to(torch.uint8)

    def __call__(self, images: Tensor, which: Tensor, which_on_cpu: Tensor) -> Tensor:
        """Transform (n, 3, H, W) uint8 images by the draws numbered `which`, (n,), on their device and on the CPU."""
        images = super().__call__(images, which, which_on_cpu)
        images = self.policy(images, self.seeds[which_on_cpu].tolist())
        return cut_out(images, self.centres[:, which], self.colour)


class Choice(NamedTuple):
    """An operation that an image gets with a probability; half of the signed ones get the negative magnitude."""

    name: str
    probability: float
    magnitude: float
    signed: bool


@functools.cache
def torchvisions_policy() -> "v2.AutoAugment":
    """Return torchvision's transform. It is imported here, since only this recipe needs it."""
    from torchvision.transforms import v2

    return v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=GREY)


@functools.cache
def policies(height: int, width: int) -> list[list[Choice]]:
    """Return the pairs of operations, one of which is drawn for each image of a size."""
    policy = torchvisions_policy()
    pairs = []
    for pair in policy._policies:
        choices = []
        for name, probability, level in pair:
            magnitudes_of, signed = policy._AUGMENTATION_SPACE[name]
            magnitude = 0.0 if level is None else float(magnitudes_of(LEVELS, height, width)[level])
            # torchvision compares in float32
            choices.append(Choice(name, float(np.float32(probability)), magnitude, signed and level is not None))
        pairs.append(choices)
    return pairs


def draw(pairs: list[list[Choice]], seeds: list[int]) -> list[list[Operation | None]]:
    """Return the operations of each image, drawn as torchvision draws them after manual_seed; None for one left out."""
    generator = torch.Generator()
    numbers, shares = [], []
    for seed in seeds:
        generator.manual_seed(seed)
        numbers.append(torch.randint(len(pairs), (), generator=generator))
        shares.append(torch.rand(2 * OPERATIONS, generator=generator))
    drawn = zip(torch.stack(numbers).tolist(), torch.stack(shares).tolist(), strict=True)
    operations = []
    for number, image_shares in drawn:
        rest = iter(image_shares)
        operations.append([choose(choice, rest) for choice in pairs[number]])
    return operations


def choose(choice: Choice, shares: Iterator[float]) -> Operation | None:
    """Return the operation, if the next number in 0..1 says so; the one after it decides the sign."""
    if next(shares) > choice.probability:
        return None
    if choice.signed and next(shares) <= 0.5:
        return choice.name, -choice.magnitude
    return choice.name, choice.magnitude


def auto_augment(images: Tensor, seeds: list[int]) -> Tensor:
    """Return (n, 3, H, W) uint8 images, each as torchvision's AutoAugment returns it after torch.manual_seed(its seed).

    All images that drew the same operation go through it together: a GPU waits for the number of calls, not for pixels.
    """
    images, policy = images.clone(), torchvisions_policy()
    drawn = draw(policies(*images.shape[2:]), seeds)
    for position in range(OPERATIONS):
        groups: dict[Operation, list[int]] = defaultdict(list)
        for index, operations in enumerate(drawn):
            operation = operations[position]
            if operation is not None:
                groups[operation].append(index)
        numbers = torch.tensor([index for group in groups.values() for index in group], dtype=torch.long)
        parts = send(numbers, images.device).split([len(group) for group in groups.values()])
        for (name, magnitude), part in zip(groups, parts, strict=True):
            changed = policy._apply_image_or_video_transform(
                images[part], name, magnitude, interpolation=policy.interpolation, fill=policy._fill
            )
            images.index_copy_(0, part, changed)
    return images


def cut_out(images: Tensor, centres: Tensor, colour: Tensor) -> Tensor:
    """Return (n, 3, H, W) uint8 images with a square of one colour, (1, 3, 1, 1).

    `centres` (2, n) are rows and columns as shares of the side. The square may cross the border, as in the paper: then
    less than CUTOUT x CUTOUT pixels are covered.
    """
    height, width = images.shape[2:]
    inside = []
    for size, centre in ((height, centres[0]), (width, centres[1])):
        offset = torch.arange(size, device=images.device) - (centre * size).floor()[:, None]  # (n, size)
        inside.append((offset >= -CUTOUT // 2) & (offset < CUTOUT // 2))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(square, colour, images)
