"""Image files as cameras, microscopes and browsers write them. The expected pixels are by hand or Pillow's."""

import io
import struct

import cv2
import numpy as np
import pytest
import torchvision.io
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from builders import BLUE, RED, encoded, evaluation_view, pixels, quarters, training_view, with_orientation
from imagenet_decoding import EncodedImage, grey_line, has_more_frames

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_divided_by_257(kind):
    view = pixels(encoded(Image.fromarray(RAMP), kind))
    assert np.array_equal(view[..., 0], np.round(RAMP / 257)) and np.array_equal(view[..., 0], view[..., 2])
    assert view.mean() == pytest.approx(127.5, abs=0.01) and len(np.unique(view)) == 256


def test_sixteen_bits_of_other_writers():
    """OpenCV's TIFF, big-endian and compressed, and three channels, of which Pillow keeps the high byte."""
    assert np.array_equal(pixels(cv2.imencode(".tiff", RAMP)[1].tobytes())[..., 1], np.round(RAMP / 257))
    big_endian = Image.frombytes("I;16B", (256, 256), RAMP.astype(">u2").tobytes())
    assert np.array_equal(pixels(encoded(big_endian, "TIFF"))[..., 1], np.round(RAMP / 257))
    color = pixels(cv2.imencode(".png", np.stack([RAMP, RAMP, RAMP], 2))[1].tobytes())
    assert np.abs(color[..., 0] - RAMP / 257).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_a_white_level_of_12_bits(kind):
    """4095 is white, 2048 the middle (127.53), and what is above is white too; 0 stays black."""
    values = np.array([[0, 8, 2048, 4095, 5000]], dtype=np.uint16)
    image = EncodedImage(encoded(Image.fromarray(values), kind), white_level=4095)
    assert image.decode()[0, 0].tolist() == [0, 0, 128, 255, 255]
    assert pixels(encoded(Image.fromarray(values), kind))[0, :, 0].tolist() == [0, 0, 8, 16, 19]


@pytest.mark.parametrize(
    ("brightest", "white_level", "words"),
    [
        (4095, 65535, ("3 of 4 images", "none above 4095", "use 16 of 256 grey levels", "white_level: 4095 in")),
        (2300, 65535, ("none above 2300", "use 9 of 256 grey levels", "white_level: 4095 in")),
        (16383, 65535, ("white_level: 16383 in",)),
        (5000, 4095, ("3 of 4 images", "up to 5000", "brighter than white_level 4095")),
        (16384, 65535, ()),
        (65535, 65535, ()),
        (4095, 4095, ()),
        (0, 65535, ("none above 0", "use 1 of 256", "white_level: 255 in")),
    ],
)
def test_what_is_said_of_sixteen_bits(brightest, white_level, words, tmp_path):
    files = [tmp_path / name for name in ("a.png", "b.tif", "c.ppm", "d.jpg")]
    for file, kind in zip(files[:3], ("PNG", "TIFF", "PPM"), strict=True):
        file.write_bytes(encoded(Image.fromarray(np.full((4, 4), brightest, np.uint16)), kind))
    files[3].write_bytes(encoded(quarters()))
    line = grey_line(files, white_level)
    assert all(word in line for word in words) and bool(line) == bool(words)


def test_a_png_with_much_text_and_a_large_profile(tmp_path):
    """2 MB of each; Pillow alone refuses more than 1 MB."""
    text = PngInfo()
    text.add_text("comment", "x" * 2_000_000, zip=True)
    rng = np.random.default_rng(0)
    content = encoded(quarters(), "PNG", pnginfo=text, icc_profile=rng.bytes(2_000_000))
    assert np.array_equal(pixels(content), np.asarray(quarters()))


def test_floats_are_multiplied_by_255():
    """0, 1/255 and so on to 1: each value is its own level."""
    ramp = (np.arange(256, dtype=np.float32) / 255).reshape(16, 16)
    assert pixels(encoded(Image.fromarray(ramp), "TIFF"))[..., 0].ravel().tolist() == list(range(256))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([0.0, 1.5], "floats .*0 to 1.5"),
        ([-0.25, 1.0], "run from -0.25 to 1"),
        ([0.0, float("nan")], "run from nan to nan"),
        ([0, 70_000], "32-bit .*0 to 70000"),
        ([-1, 3], "run from -1 to 3"),
    ],
)
def test_an_unknown_scale_is_refused(values, match):
    kind = np.float32 if isinstance(values[0], float) else np.int32
    with pytest.raises(ValueError, match=match):
        EncodedImage(encoded(Image.fromarray(np.array([values], dtype=kind)), "TIFF"))


def test_integers_of_32_bits_that_are_bytes_stay_what_they_are():
    values = np.array([[0, 7, 255]], dtype=np.int32)
    assert pixels(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 7, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_pillows(kind, orientation):
    content = with_orientation(orientation, kind)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")).astype(int)
    assert np.abs(pixels(content) - expected).max() <= 2
    assert EncodedImage(content).width == expected.shape[1]


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_a_phone_held_upright(reduction):
    """Orientation 6: what is stored must be turned by 90 degrees clockwise.

    The red corner comes from the left to the right.
    """
    image = EncodedImage(with_orientation(6)).decode(reduction).permute(1, 2, 0).numpy().astype(int)
    assert image.shape == (48 // reduction, 32 // reduction, 3)
    for position, color in (((0, -1), RED), ((0, 0), BLUE), ((-1, -1), (0, 255, 0)), ((-1, 0), (255, 255, 255))):
        assert np.abs(image[position] - color).max() < 12


def test_views_of_a_phone_held_upright():
    """The square in the middle of the upright picture has blue at the top left; every training view has more rows
    than the file.
    """
    view = evaluation_view(with_orientation(6), 32, 32).astype(int)
    assert view[0, 0, 2] > 240 and view[0, 0, 0] < 15 and view[0, -1, 0] > 240
    tall = Image.new("L", (400, 20), 0)  # stored on its side: 20 wide and 400 high once upright
    tall.paste(255, (0, 0, 200, 20))  # its upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6
    views = [training_view(encoded(tall, "JPEG", exif=exif), 16, seed) for seed in range(20)]
    assert all(
        np.abs(view[:, 0].astype(int) - view[:, -1]).max() < 60 for view in views
    )  # it changes from row to row alone


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",
    ],
)
def test_a_damaged_or_impossible_orientation_says_nothing(block, recwarn):
    plain = encoded(quarters(), "JPEG")
    content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    image = EncodedImage(content)
    assert (image.height, image.width, image.orientation) == (32, 48, 1)
    assert np.array_equal(pixels(content), pixels(plain))
    assert not [warning for warning in recwarn if warning.category is UserWarning]  # Pillow's would be lines of its own


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_torchvision_without_its_decoder_gives_the_same_pixels(monkeypatch, mode):
    noise = np.random.default_rng(0).integers(0, 256, (45, 67, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise).convert(mode), "JPEG", quality=80)
    before = pixels(content)
    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    assert np.array_equal(before, pixels(content)) and len(np.unique(before)) > 100


def test_transparent_is_white():
    """Red at alpha 0, 128 and 255 over white: 255 - 255 * 128 / 255 = 127 is left of green and blue in the middle."""
    image = Image.new("RGBA", (3, 1), RED)
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (*RED, alpha))
    for kind in ("PNG", "TIFF"):
        assert pixels(encoded(image, kind))[0].tolist() == [[255, 255, 255], [255, 127, 127], [255, 0, 0]]
    grey = Image.merge("LA", (Image.new("L", (2, 1), 50), Image.frombytes("L", (2, 1), bytes([0, 255]))))
    assert pixels(encoded(grey, "PNG"))[0, :, 0].tolist() == [255, 50]
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([9, 9, 9, 60, 70, 80])
    palette.putpixel((0, 0), 0)
    for kind in ("PNG", "GIF"):
        assert pixels(encoded(palette, kind, transparency=0))[0].tolist() == [[255, 255, 255], [60, 70, 80]]


def test_opaque_pixels_do_not_change():
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (64, 64, 4), dtype=np.uint8)
    colors[..., 3] = 255
    assert np.array_equal(pixels(encoded(Image.fromarray(colors), "PNG")), colors[..., :3])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(kind):
    first, second = Image.new("RGB", (20, 10), RED), Image.new("RGB", (20, 10), BLUE)
    settings = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(first, kind, save_all=True, append_images=[second], **settings)
    assert has_more_frames(content) and not has_more_frames(encoded(first, kind))
    assert np.array_equal(pixels(content), np.asarray(first))
    assert EncodedImage(content).has_more_frames and not EncodedImage(encoded(first)).has_more_frames


def test_a_gif_whose_second_frame_is_cut_is_still_an_image():
    """Cut anywhere after its first frame, it decodes to that frame, and nothing fails on the way."""
    first, second = quarters(), Image.effect_noise((48, 32), 90).convert("RGB")
    content, alone = encoded(first, "GIF", save_all=True, append_images=[second]), encoded(first, "GIF")
    for end in range(len(alone) + 20, len(content), 211):
        assert isinstance(has_more_frames(content[:end]), bool)
        assert np.array_equal(pixels(content[:end]), np.asarray(first))
