"""Decode an image file, of any usual format, to upright RGB with 8 bits a channel."""

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from longtail.files import check_file

if TYPE_CHECKING:
    from PIL import Image

# not EPS, which Pillow would have Ghostscript run
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp")
LARGEST_FILE = 1 << 26  # bytes; ImageNet's largest has 15 million
MOST_PIXELS = 1 << 26  # of an image
# EXIF's value for an image that stands, and its tag; TIFF 6.0, page 36
UPRIGHT, ORIENTATION = 1, 0x0112
SWAPS_SIDES = 5  # orientations from here on exchange height and width
JPEG_START, EXIF = b"\xff\xd8", b"Exif\0\0"
TORCHVISION = re.compile(r"^decode_jpeg, \S+\.cpp:\d+, ")  # stands before torchvision's reasons
HALF, STEP = 128, 257  # 65535 / 257 = 255

Result = TypeVar("Result")


class JpegHeader(NamedTuple):
    """What a JPEG file says before its pixels: their size as stored, channels, and how they must be turned (EXIF, 1
    to 8).
    """

    height: int
    width: int
    channels: int
    orientation: int = UPRIGHT


def jpeg_header(content: bytes) -> JpegHeader | None:
    """Read the header of a JPEG file. Return None for any other file."""
    place, orientation = 2 if content[:2] == JPEG_START else len(content), UPRIGHT
    while place + 10 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(content[place + offset : place + offset + 2], "big") for offset in (5, 7))
            return JpegHeader(height, width, content[place + 9], orientation)
        else:
            end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
            if marker == 0xE1 and content.startswith(EXIF, place + 4):
                orientation = orientation_in(functools.partial(parse_exif, content[place + 4 : end]))
            place = end
    return None


def orientation_in(read: "Callable[[], Image.Exif]") -> int:
    """Return the orientation, 1 to 8, that the EXIF block from `read` asks for, and 1 where it is absent or damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = read().get(ORIENTATION)
        except Exception:  # Pillow raises anything over a damaged block
            return UPRIGHT
    return value if isinstance(value, int) and UPRIGHT <= value <= 8 else UPRIGHT


def parse_exif(block: bytes) -> "Image.Exif":
    """Parse an EXIF block with Pillow."""
    from PIL import Image

    exif = Image.Exif()
    exif.load(block)
    return exif


def open_image(content: bytes) -> "Image.Image":
    """Open an image file with Pillow, in any of FORMATS; others are programs.

    Raise ValueError for an unknown format.
    """
    from PIL import Image, UnidentifiedImageError

    # Pillow's own limit warns in several lines; check_pixels has ours
    Image.MAX_IMAGE_PIXELS = None
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("its format is unknown") from None


def check_pixels(height: int, width: int) -> None:
    """Raise ValueError for an image without pixels, or with more than MOST_PIXELS."""
    if not 0 < height * width <= MOST_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels; 1 to {MOST_PIXELS:,} are allowed")


def to_rgb(image: "Image.Image") -> "Image.Image":
    """Return the first frame in RGB, 8 bits a channel, transparent parts over white.

    Grey values of 16 bits are divided by 257, and floats from 0 to 1 multiplied by 255. Raise ValueError for floats
    or 32-bit integers whose scale is unknown.
    """
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(to_bytes(np.asarray(image), image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_bytes(values: np.ndarray, image: "Image.Image") -> np.ndarray:
    """Scale grey values (H, W) of more than 8 bits to bytes."""
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # nan is neither
            raise ValueError(
                f"its floats run from {low:g} to {high:g}, and must lie between 0 and 1: scale them, or save 8 or 16 "
                "bits"
            )
        return (values * 255).round().astype(np.uint8)
    # Pillow opens some 16-bit files of these two as 32 bits
    if image.mode != "I" or image.format in ("PNG", "PPM"):
        return ((values.astype(np.int32) + HALF) // STEP).astype(np.uint8)
    if low < 0 or high > 255:
        raise ValueError(f"its 32-bit integers run from {low} to {high}, a scale that is not known: save 8 or 16 bits")
    return values.astype(np.uint8)


def turned(image: "Image.Image", orientation: int) -> "Image.Image":
    """Return the image upright."""
    from PIL.Image import Transpose

    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(ways[orientation]) if orientation != UPRIGHT else image


def to_tensor(image: "Image.Image") -> Tensor:
    """Return an RGB image as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class EncodedImage:
    """An image file's content with its upright height and width.

    A JPEG is decoded when it is asked for, others at once.

    Creation raises ValueError for a file that is not an image or has too many pixels, before memory is allocated for
    it.
    """

    def __init__(self, content: bytes):
        self.content, self.header = content, jpeg_header(content)
        if self.header:
            height, width, _, orientation = self.header
            check_pixels(height, width)
            self.height, self.width = (width, height) if orientation >= SWAPS_SIDES else (height, width)
        else:
            self.pixels = decode_other(content)
            self.height, self.width = self.pixels.shape[1:]

    def decode(self, reduction: int = 1) -> Tensor:
        """Return RGB (3, H, W) uint8.

        A JPEG is 1/2, 1/4 or 1/8 as large if `reduction` is 2, 4 or 8: that saves most of its decoding.
        """
        if not self.header:
            return self.pixels
        if self.header.channels in (1, 3) and self.header.orientation == UPRIGHT and reduction == 1:
            # 1.3 times as fast as Pillow, and the same bytes. Deprecated since torchvision 0.29; TorchCodec,
            # which replaces it, would be one more requirement and needs PyTorch 2.11. A torchvision without it
            # leaves the work to Pillow.
            with contextlib.suppress(ImportError):
                from torchvision.io import ImageReadMode, decode_jpeg

                return decode_jpeg(torch.frombuffer(bytearray(self.content), dtype=torch.uint8), ImageReadMode.RGB)
        with open_image(self.content) as image:  # some of ImageNet is CMYK
            image.draft("RGB", (image.width // reduction, image.height // reduction))
            return to_tensor(turned(image.convert("RGB"), self.header.orientation))


def use_image(path: Path, use: Callable[[bytes], Result]) -> Result:
    """Return use(content) for an image file.

    Raise ValueError that names the file and what is wrong with it, in one line.
    """
    try:
        check_file(path, LARGEST_FILE)
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        return use(content)
    except Exception as error:  # a decoder may raise anything over a damaged file
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        reason = TORCHVISION.sub("", reason)
        raise ValueError(f"{path} is not an image that can be decoded: {reason}") from None


def decode_other(content: bytes) -> Tensor:
    """Decode an image file that is not a JPEG (one .JPEG of ImageNet is a PNG) to upright RGB (3, H, W) uint8."""
    with open_image(content) as image:
        check_pixels(image.height, image.width)
        return to_tensor(turned(to_rgb(image), orientation_in(image.getexif)))


def has_more_frames(content: bytes) -> bool:
    """Return whether an image file is an animation or has several pages, of which only the first one is used."""
    if content.startswith(JPEG_START):  # phones append a second picture, which is not a frame
        return False
    with open_image(content) as image:
        try:
            return getattr(image, "is_animated", False)
        except Exception:  # what follows the first frame is damaged, and not needed
            return True
