"""Smaller copies: their sides by hand, their pixels against Pillow's."""

import io

import numpy as np
import pytest
from PIL import Image

from builders import encoded, picture
from imagenet_copies import smaller_copy


@pytest.mark.parametrize(
    ("width", "height", "size"), [(500, 375, (341, 256)), (375, 500, (256, 341)), (2000, 1500, (341, 256))]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_copy_is_the_image_resized(width, height, size, kind, tmp_path):
    image = picture(width, height)
    (tmp_path / "a").write_bytes(encoded(image, kind))
    content = smaller_copy(tmp_path / "a", 256)
    copy = Image.open(io.BytesIO(content))
    assert (copy.size, copy.format) == (size, kind)
    expected = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(np.asarray(copy).astype(int) - expected).mean() < 2


@pytest.mark.parametrize("size", [(256, 300), (90, 70)])
def test_an_image_that_is_small_enough_needs_no_copy(size, tmp_path):
    (tmp_path / "a").write_bytes(encoded(picture(*size)))
    assert smaller_copy(tmp_path / "a", 256) is None


def test_a_copy_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").write_bytes(encoded(picture(500, 375), exif=exif))
    copy = Image.open(io.BytesIO(smaller_copy(tmp_path / "a", 100)))
    assert copy.size == (100, 133) and not copy.getexif()
