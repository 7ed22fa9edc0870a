"""Read an image file of any usual format, and decode the part of it that is wanted to upright RGB, 8 bits a channel."""

import contextlib
import io
import math
import random
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError, features
from torch import Tensor

# not EPS, which Pillow would have Ghostscript run
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "AVIF")
JPEG = ("JPEG", "MPO")  # MPO: phones append a second picture
HAS_AVIF = "avif" in features.get_supported_modules()  # Pillow has it from 11.3 on, if it was built with it
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp"),
    *((".avif",) if HAS_AVIF else ()),
)
MOST_PIXELS = 1 << 26  # of an image
# EXIF's value for an image that needs no turning, and the tag that holds it; TIFF 6.0, page 36
UPRIGHT, ORIENTATION = 1, 0x0112
MAY_TURN = {"exif", "xmp"}  # what Pillow calls the blocks that may hold it
SWAPS_SIDES = 5  # orientations from here on exchange height and width
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TORCHVISION = re.compile(r"^decode_jpeg, \S+\.cpp:\d+, ")  # what torchvision puts before its reasons
WHITE = 65535  # the grey value of 16 bits that becomes 255
SAMPLE = 200  # images that are looked at before a training
DARK = 4  # a remark is due if white is more than so many times as bright as the brightest image
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop; Szegedy et al., CVPR 2015
LOG_RATIO = (math.log(RATIO[0]), math.log(RATIO[1]))
MOST_TEXT = 1 << 26  # bytes of comments or of a colour profile in a PNG

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns in several lines; check_pixels has ours
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MOST_TEXT  # Pillow would refuse more than 1 MB


class Crop(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_crop(height: int, width: int, rng: random.Random) -> Crop:
    """Return a crop with random area and aspect ratio, or a central one if ten draws do not fit."""
    for _ in range(10):
        area = height * width * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(*LOG_RATIO))
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            return Crop(rng.randint(0, height - rows), rng.randint(0, width - columns), rows, columns)
    rows, columns = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
    return Crop((height - rows) // 2, (width - columns) // 2, rows, columns)


def reduction_for(height: int, width: int, size: int) -> int:
    """Return the strongest reduction that leaves `height` and `width` at least `size`, so that no detail is lost."""
    for factor in (8, 4, 2):
        if min(height, width) >= factor * size:
            return factor
    return 1


class EncodedImage:
    """An image file's content with its upright height and width.

    A JPEG is decoded when it is asked for, others at once.
    `white_level` is the grey value of 16 bits that becomes 255. Creation raises an exception for a file that is not an
    image, and ValueError for one with too many pixels, before memory is allocated for them.
    """

    def __init__(self, content: bytes, white_level: int = WHITE):
        self.content, self.pixels, self.has_more_frames = content, None, False
        self.image = open_image(content)
        check_pixels(self.image.height, self.image.width)
        if self.image.format in JPEG:
            self.orientation = orientation_of(self.image)
            self.height, self.width = self.image.height, self.image.width
            if self.orientation >= SWAPS_SIDES:
                self.height, self.width = self.width, self.height
        else:
            image = to_rgb(self.image, white_level)
            self.pixels = to_tensor(turned(image, orientation_of(self.image)))
            self.height, self.width = self.pixels.shape[1:]
            self.has_more_frames = has_more_frames(content)

    def decode(self, reduction: int = 1) -> Tensor:
        """Return RGB (3, H, W) uint8.

        A JPEG is 1/2, 1/4 or 1/8 as large if `reduction` is 2, 4 or 8: that saves most of its decoding.
        """
        if self.pixels is not None:
            return self.pixels
        if self.image.mode in ("L", "RGB") and self.orientation == UPRIGHT and reduction == 1:
            # 1.3 times as fast as Pillow, and the same bytes. Deprecated since torchvision 0.29; TorchCodec,
            # which replaces it, would be one more requirement and needs PyTorch 2.11. A torchvision without it
            # leaves the work to Pillow.
            with contextlib.suppress(ImportError):
                from torchvision.io import ImageReadMode, decode_jpeg

                return decode_jpeg(torch.frombuffer(bytearray(self.content), dtype=torch.uint8), ImageReadMode.RGB)
        image = open_image(self.content)  # a draft cannot be taken back
        image.draft("RGB", (image.width // reduction, image.height // reduction))
        return to_tensor(turned(image.convert("RGB"), self.orientation))  # some of ImageNet is CMYK

    def decode_whole(self, short_side: int) -> Tensor:
        """Return the image, whose shorter side has at least `short_side` pixels if the file's has."""
        return self.decode(reduction_for(self.height, self.width, short_side))

    def decode_crop(self, rng: random.Random, size: int) -> Tensor:
        """Return a random crop, whose sides have at least `size` pixels if they have so many in the file."""
        crop = random_crop(self.height, self.width, rng)
        image = self.decode(reduction_for(crop.height, crop.width, size))
        # 1, or what the decoder made of the reduction
        down, across = image.shape[1] / self.height, image.shape[2] / self.width
        top, height = round(crop.top * down), round(crop.height * down)
        left, width = round(crop.left * across), round(crop.width * across)
        return image[:, top : top + height, left : left + width]


def read_image(path: Path, white_level: int = WHITE) -> EncodedImage:
    """Read an image file. It may raise anything over a damaged file: `problem` says in one line what is wrong."""
    return EncodedImage(path.read_bytes(), white_level)


def problem(error: Exception) -> str:
    """Say in one line what is wrong with an image file, from what reading or decoding it raised."""
    if isinstance(error, OSError) and error.errno:  # Pillow raises OSError too, without a number
        return f"cannot be read: {error.strerror}"
    reason = str(error).splitlines()[0] if str(error) else repr(error)
    return f"is not an image that can be decoded: {TORCHVISION.sub('', reason)}"


def open_image(content: bytes) -> Image.Image:
    """Open an image file with Pillow, in any of FORMATS; others are programs.

    Raise ValueError for an unknown format.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a damaged EXIF block, in several lines
        try:
            return Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError("its format is unknown") from None


def check_pixels(height: int, width: int) -> None:
    """Raise ValueError for an image without pixels, or with more than MOST_PIXELS."""
    if not 0 < height * width <= MOST_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels; 1 to {MOST_PIXELS:,} are allowed")


def orientation_of(image: Image.Image) -> int:
    """Return the orientation, 1 to 8, that an image's EXIF block asks for, and 1 where it is absent or damaged."""
    if image.format in JPEG and not image.info.keys() & MAY_TURN:
        return UPRIGHT  # what getexif would find out, in a tenth of its time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = image.getexif().get(ORIENTATION)
        except Exception:  # Pillow raises anything over a damaged block
            return UPRIGHT
    return value if isinstance(value, int) and UPRIGHT <= value <= 8 else UPRIGHT


def to_rgb(image: Image.Image, white_level: int = WHITE) -> Image.Image:
    """Return the first frame in RGB, 8 bits a channel, transparent parts over white.

    Grey values of 16 bits are scaled so that `white_level` becomes 255, and floats from 0 to 1 multiplied by 255. Raise
    ValueError for floats or 32-bit integers whose scale is unknown.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(to_bytes(np.asarray(image), image, white_level)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def has_sixteen_bits(image: Image.Image) -> bool:
    """Return whether an image opened by Pillow holds grey values of 16 bits."""
    # Pillow opens some 16-bit files of these two formats as 32 bits
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def grey_line(files: Sequence[Path], white_level: int = WHITE) -> str:
    """Return a remark if images of 16 bits use few grey levels, as those with 12 bits or millimetres do, or too many.

    Some of the files are looked at, evenly spread. The line is empty if nothing is to be said.
    """
    step = max(1, len(files) // SAMPLE)
    brightest = []
    for path in files[::step]:
        try:
            with Image.open(path, formats=FORMATS) as image:
                if has_sixteen_bits(image):
                    brightest.append(int(np.asarray(image).max()))
        except Exception:  # a decoder may raise anything over a damaged file; training will name it
            continue
    largest = max(brightest, default=white_level)
    found = f"{len(brightest)} of {len(files[::step])} images that were looked at hold grey values of 16 bits"
    if largest > white_level:
        return f"{found}, up to {largest}: what is brighter than white_level {white_level} becomes white"
    if largest * DARK >= white_level:
        return ""
    fitting = max(255, 2 ** largest.bit_length() - 1)
    levels = largest * 255 // white_level + 1
    return (
        f"{found}, none above {largest}, so that they use {levels} of 256 grey levels: white_level: {fitting} in the "
        "YAML would use more"
    )


def to_bytes(values: np.ndarray, image: Image.Image, white_level: int) -> np.ndarray:
    """Scale grey values (H, W) of more than 8 bits to bytes."""
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # nan is neither
            raise ValueError(
                f"its floats run from {low:g} to {high:g}, and must lie between 0 and 1: scale them, or save 8 or 16 "
                "bits"
            )
        return (values * 255).round().astype(np.uint8)
    if has_sixteen_bits(image):
        levels = (values.astype(np.int64) * 255 + white_level // 2) // white_level
        return levels.clip(0, 255).astype(np.uint8)
    if low < 0 or high > 255:
        raise ValueError(f"its 32-bit integers run from {low} to {high}, a scale that is not known: save 8 or 16 bits")
    return values.astype(np.uint8)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image upright."""
    return image if orientation == UPRIGHT else image.transpose(TURNS[orientation])


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def has_more_frames(content: bytes) -> bool:
    """Return whether an image file is an animation or has several pages, of which only the first one is used."""
    try:
        return getattr(open_image(content), "is_animated", False)
    except Exception:  # what follows the first frame is damaged, and not needed
        return True
