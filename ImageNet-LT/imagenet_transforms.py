"""Turn an image file into one view of it: crop, resize, jitter.

These are pure functions; a training view depends on its seed alone.
"""

import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imagenet_decoding import EncodedImage, check_pixels
from longtail.devices import send

# of ImageNet, R, G, B on a scale of 0 to 1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow and torchvision
LEVELS = np.arange(256)  # of a uint8
JITTER = 0.4  # of brightness, contrast and saturation; released code
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop; Szegedy et al., CVPR 2015


def reduction_for(height: int, width: int, size: int) -> int:
    """Return the strongest reduction that leaves `height` and `width` at least `size`, so that the result loses no
    detail.
    """
    return next((factor for factor in (8, 4, 2) if min(height, width) >= factor * size), 1)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize (3, H, W) bilinearly, with a wider filter when shrinking, as Pillow does."""
    if image.shape[1:] == (height, width):
        return image
    # the layout that PyTorch is fast in here
    image = image[None].contiguous(memory_format=torch.channels_last)
    return F.interpolate(image, (height, width), mode="bilinear", antialias=True)[0]


def random_crop(height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a crop with random area and aspect ratio, or of a central one if ten
    draws do not fit.
    """
    for _ in range(10):
        area, ratio = height * width * rng.uniform(*AREA), math.exp(rng.uniform(*map(math.log, RATIO)))
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            return rng.randint(0, height - rows), rng.randint(0, width - columns), rows, columns
    rows, columns = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


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


def jitter(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """Change brightness, contrast and saturation, each by a random factor, in random order."""
    for adjust in rng.sample((adjust_brightness, adjust_contrast, adjust_saturation), 3):
        image = adjust(image, rng.uniform(1 - JITTER, 1 + JITTER))
    return image


def training_view(content: bytes, image_size: int, seed: int) -> np.ndarray:
    """Return a random crop, resized, perhaps mirrored, jittered: (image_size, image_size, 3) uint8."""
    import cv2

    rng = random.Random(seed)
    encoded = EncodedImage(content)
    top, left, height, width = random_crop(encoded.height, encoded.width, rng)
    image = encoded.decode(reduction_for(height, width, image_size))
    # 1, or what the decoder made of the reduction
    reduced = (image.shape[1] / encoded.height, image.shape[2] / encoded.width)
    top, height = (round(value * reduced[0]) for value in (top, height))
    left, width = (round(value * reduced[1]) for value in (left, width))
    view = resize(image[:, top : top + height, left : left + width], image_size, image_size)
    pixels = view.permute(1, 2, 0).contiguous().numpy()
    return jitter(cv2.flip(pixels, 1) if rng.random() < 0.5 else pixels, rng)


def resized_sides(height: int, width: int, test_resize: int) -> tuple[int, int]:
    """Return height and width once the shorter side is `test_resize`.

    Raise ValueError if a narrow strip would need too much memory.
    """
    short = min(height, width)
    rows, columns = test_resize * height // short, test_resize * width // short
    check_pixels(rows, columns)
    return rows, columns


def evaluation_view(content: bytes, image_size: int, test_resize: int) -> np.ndarray:
    """Resize the shorter side to `test_resize` and return the middle: (image_size, image_size, 3) uint8."""
    encoded = EncodedImage(content)
    rows, columns = resized_sides(encoded.height, encoded.width, test_resize)
    image = encoded.decode(reduction_for(encoded.height, encoded.width, test_resize))
    image = resize(image, rows, columns)
    top, left = (round((side - image_size) / 2) for side in image.shape[1:])
    return image[:, top : top + image_size, left : left + image_size].permute(1, 2, 0).numpy()


def normalize(images: Tensor) -> Tensor:
    """Convert (N, 3, H, W) uint8, channels last in memory, to floats that have mean 0 and variance 1 on ImageNet."""
    # (N, H, 3W): constants of a whole row are faster than of 3 channels
    rows = images.permute(0, 2, 3, 1).flatten(2)
    mean, std = (send(255 * torch.tensor(values).repeat(images.shape[3]), images.device) for values in (MEAN, STD))
    return rows.float().sub_(mean).div_(std).unflatten(2, (-1, 3)).permute(0, 3, 1, 2)
