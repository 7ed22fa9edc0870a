"""Turn decoded pixels into a view: resize, mirror, jitter, normalise. These are pure functions."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imagenet_decoding import check_pixels
from longtail.devices import send

# of ImageNet, R, G, B on a scale of 0 to 1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow and torchvision
LEVELS = np.arange(256)  # of a uint8
JITTER = 0.4  # of brightness, contrast and saturation; released code


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize (3, H, W) bilinearly, with a wider filter when shrinking, as Pillow does."""
    if image.shape[1:] == (height, width):
        return image
    # the layout that PyTorch is fast in here
    image = image[None].contiguous(memory_format=torch.channels_last)
    return F.interpolate(image, (height, width), mode="bilinear", antialias=True)[0]


def augment(crop: Tensor, image_size: int, rng: random.Random) -> np.ndarray:
    """Return a crop (3, H, W) resized, perhaps mirrored, and jittered: (image_size, image_size, 3) uint8."""
    import cv2

    pixels = resize(crop, image_size, image_size).permute(1, 2, 0).contiguous().numpy()
    if rng.random() < 0.5:
        pixels = cv2.flip(pixels, 1)
    return jitter(pixels, rng)


def jitter(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """Change brightness, contrast and saturation, each by a random factor, in random order."""
    for adjust in rng.sample((adjust_brightness, adjust_contrast, adjust_saturation), 3):
        image = adjust(image, rng.uniform(1 - JITTER, 1 + JITTER))
    return image


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the image (H, W, 3) uint8, mixed with black; factor 0 is black."""
    import cv2

    return cv2.LUT(image, (LEVELS * factor).clip(0, 255).astype(np.uint8))


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the image, mixed with its mean grey."""
    import cv2

    grey = float(np.dot(cv2.mean(image)[:3], GREY))
    return cv2.LUT(image, (grey + (LEVELS - grey) * factor).clip(0, 255).astype(np.uint8))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the image, mixed with the grey of each pixel."""
    import cv2

    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * np.tile(GREY, (3, 1)))


def resized_sides(height: int, width: int, test_resize: int) -> tuple[int, int]:
    """Return height and width once the shorter side is `test_resize`.

    Raise ValueError if a narrow strip would need too much memory.
    """
    short = min(height, width)
    rows, columns = test_resize * height // short, test_resize * width // short
    check_pixels(rows, columns)
    return rows, columns


def middle(image: Tensor, height: int, width: int, image_size: int, test_resize: int) -> np.ndarray:
    """Resize the shorter side to `test_resize` and return the middle: (image_size, image_size, 3) uint8.

    `height` and `width` are those in the file, of which `image`, (3, H, W), may be a reduction.
    """
    rows, columns = resized_sides(height, width, test_resize)
    image = resize(image, rows, columns)
    top, left = round((rows - image_size) / 2), round((columns - image_size) / 2)
    return image[:, top : top + image_size, left : left + image_size].permute(1, 2, 0).numpy()


def normalize(images: Tensor) -> Tensor:
    """Convert (N, 3, H, W) uint8, channels last in memory, to floats that have mean 0 and variance 1 on ImageNet."""
    # (N, H, 3W): constants of a whole row are faster than of 3 channels
    rows = images.permute(0, 2, 3, 1).flatten(2)
    mean, std = row_constants(images.shape[3], images.device)
    return rows.float().sub_(mean).div_(std).unflatten(2, (-1, 3)).permute(0, 3, 1, 2)


def row_constants(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return MEAN and STD on a scale of 0 to 255, repeated for each pixel of a row."""
    mean, std = (255 * torch.tensor(values).repeat(width) for values in (MEAN, STD))
    return send(mean, device), send(std, device)
