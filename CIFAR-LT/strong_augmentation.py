"""The augmentation of the strong recipe: crop and flip, AutoAugment, Cutout."""

import torch
from torch import Tensor

from cifar_dataset import NORMALIZATION, Augmentation
from longtail.devices import send

CUTOUT = 16  # pixels, the side of the square; DeVries and Taylor, 2017
GREY = 128  # what a geometric operation leaves open; the AutoAugment paper's code


class StrongAugmentation(Augmentation):
    """Crop and flip, then one draw of AutoAugment's CIFAR policy (Cubuk et al., CVPR 2019) for each image, then Cutout.

    All draws of an image depend on the generator's seed and the image's number alone, so that one process and several
    draw the same.
    """

    def __init__(self, count: int, flip: bool, generator: torch.Generator, device: torch.device):
        from torchvision.transforms import v2

        super().__init__(count, flip, generator, device)
        self.policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=GREY)
        self.seeds = torch.randint(2**62, (count,), generator=generator)
        self.centres = torch.rand(2, count, generator=generator)

    def __call__(self, images: Tensor, which: Tensor) -> Tensor:
        """Transform (n, 3, H, W) uint8 images by the draws numbered `which`, shape (n,), on the CPU."""
        images = super().__call__(images, which)
        with torch.random.fork_rng(devices=[]):  # the policy draws from PyTorch's own generator
            changed = []
            for image, seed in zip(images, self.seeds[which].tolist(), strict=True):
                torch.default_generator.manual_seed(seed)
                changed.append(self.policy(image))
        return cut_out(torch.stack(changed), send(self.centres[:, which], images.device))


def cut_out(images: Tensor, centres: Tensor) -> Tensor:
    """Return (n, 3, H, W) uint8 images with a square of the mean colour.

    `centres` (2, n) are rows and columns as shares of the side. The square may cross the border, as in the paper:
    then less than CUTOUT x CUTOUT pixels are covered.
    """
    height, width = images.shape[2:]
    inside = []
    for size, centre in ((height, centres[0]), (width, centres[1])):
        offset = torch.arange(size, device=images.device) - (centre * size).floor()[:, None]  # (n, size)
        inside.append((offset >= -CUTOUT // 2) & (offset < CUTOUT // 2))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    mean = (255 * torch.tensor(NORMALIZATION["train"][0])).round().to(torch.uint8)
    return torch.where(square, send(mean.view(1, 3, 1, 1), images.device), images)
