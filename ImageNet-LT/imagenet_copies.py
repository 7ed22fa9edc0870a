"""Make smaller copies of large photographs once, so that training reads and decodes less."""

import io
from pathlib import Path

from PIL import Image

from imagenet_decoding import JPEG, WHITE, read_image
from imagenet_transforms import resize, resized_sides

QUALITY = 95  # of a JPEG; Pillow calls more than that a waste


def smaller_copy(path: Path, short_side: int, white_level: int = WHITE) -> bytes | None:
    """Return the content of a copy whose shorter side has `short_side` pixels, or None for an image that has no more.

    A JPEG stays a JPEG; any other image becomes a PNG. It may raise anything over a damaged file.
    """
    image = read_image(path, white_level)
    if min(image.height, image.width) <= short_side:
        return None
    height, width = resized_sides(image.height, image.width, short_side)
    pixels = resize(image.decode_whole(short_side), height, width)
    copy = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    file = io.BytesIO()
    if image.image.format in JPEG:
        copy.save(file, "JPEG", quality=QUALITY)
    else:
        copy.save(file, "PNG")
    return file.getvalue()
