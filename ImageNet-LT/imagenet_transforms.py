"""Turn an image file into one view of it: decode, crop, resize, jitter.

These are pure functions; a training view depends on its seed alone.
"""

import io
import math
import random
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)     # of ImageNet, R, G, B on a scale of 0 to 1
GREY = (0.299, 0.587, 0.114)                                 # ITU-R 601, as in Pillow and torchvision
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")     # Pillow would have Ghostscript run an EPS file
MOST_PIXELS = 1 << 26                                        # of an image
LEVELS = np.arange(256)                                      # of a uint8
JITTER = 0.4                                                 # of brightness, contrast and saturation; released code
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)                    # of a random crop; Szegedy et al., CVPR 2015


def jpeg_shape(content: bytes) -> tuple[int, int, int] | None:
    """Return height, width and channels from the frame header of a JPEG file, None for another file."""
    place = 2 if content[:2] == b"\xff\xd8" else len(content)
    while place + 10 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:                                              # a fill byte
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(content[place + offset:place + offset + 2], "big") for offset in (5, 7))
            return height, width, content[place + 9]
        else:
            place += 2 + int.from_bytes(content[place + 2:place + 4], "big")
    return None


def open_image(content: bytes) -> "Image.Image":
    """Open an image file with Pillow, in any of FORMATS; others are programs. Raise ValueError for an unknown format."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None       # Pillow's own limit warns in several lines; check_pixels has ours
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("its format is unknown") from None


def size_of(content: bytes) -> tuple[int, int]:
    """Return height and width of an image file. Raise ValueError for impossible ones, before a decoder reserves memory."""
    shape = jpeg_shape(content)
    if not shape:
        with open_image(content) as image:
            shape = image.height, image.width
    check_pixels(*shape[:2])
    return shape[:2]


def check_pixels(height: int, width: int) -> None:
    """Raise ValueError for an image without pixels, or with more than MOST_PIXELS."""
    if not 0 < height * width <= MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels are none or too many")


def decode(content: bytes, reduction: int = 1) -> Tensor:
    """Return RGB (3, H, W) uint8. With `reduction` 2, 4 or 8, decode a JPEG at 1/2, 1/4 or 1/8 of its size, which is faster."""
    shape = jpeg_shape(content)
    if shape and shape[2] in (1, 3) and reduction == 1:
        from torchvision.io import ImageReadMode, decode_jpeg

        return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    with open_image(content) as image:           # some of ImageNet is CMYK, and one .JPEG is a PNG
        image.draft("RGB", (image.width // reduction, image.height // reduction))
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def reduction_for(height: int, width: int, size: int) -> int:
    """Return the strongest reduction that leaves `height` and `width` at least `size`, so that the result loses no detail."""
    return next((factor for factor in (8, 4, 2) if min(height, width) >= factor * size), 1)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize (3, H, W) bilinearly, with a wider filter when shrinking, as Pillow does."""
    if image.shape[1:] == (height, width):
        return image
    image = image[None].contiguous(memory_format=torch.channels_last)       # the layout that PyTorch is fast in here
    return F.interpolate(image, (height, width), mode="bilinear", antialias=True)[0]


def random_crop(height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a crop with random area and aspect ratio, or of a central one if ten draws do not fit."""
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
    full_height, full_width = size_of(content)
    top, left, height, width = random_crop(full_height, full_width, rng)
    image = decode(content, reduction_for(height, width, image_size))
    reduced = image.shape[1] / full_height, image.shape[2] / full_width     # 1, or what the decoder made of the reduction
    top, height = (round(value * reduced[0]) for value in (top, height))
    left, width = (round(value * reduced[1]) for value in (left, width))
    view = resize(image[:, top:top + height, left:left + width], image_size, image_size)
    pixels = view.permute(1, 2, 0).contiguous().numpy()
    return jitter(cv2.flip(pixels, 1) if rng.random() < 0.5 else pixels, rng)


def evaluation_view(content: bytes, image_size: int, test_resize: int) -> np.ndarray:
    """Resize the shorter side to `test_resize` and return the middle: (image_size, image_size, 3) uint8."""
    height, width = size_of(content)
    short = min(height, width)
    image = decode(content, reduction_for(height, width, test_resize))
    rows, columns = test_resize * height // short, test_resize * width // short
    check_pixels(rows, columns)
    image = resize(image, rows, columns)
    top, left = (round((side - image_size) / 2) for side in image.shape[1:])
    return image[:, top:top + image_size, left:left + image_size].permute(1, 2, 0).numpy()


def normalize(images: Tensor) -> Tensor:
    """Convert (N, 3, H, W) uint8, channels last in memory, to floats that have mean 0 and variance 1 on ImageNet."""
    rows = images.permute(0, 2, 3, 1).flatten(2)                # (N, H, 3W): constants of a whole row are faster than of 3 channels
    mean, std = (torch.tensor(values, device=images.device).repeat(images.shape[3]) * 255 for values in (MEAN, STD))
    return rows.float().sub_(mean).div_(std).unflatten(2, (-1, 3)).permute(0, 3, 1, 2)
