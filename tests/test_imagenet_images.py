"""Views of an image against Pillow and torchvision, odd and damaged files, and workers that change nothing."""

import io
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from builders import encoded, evaluation_view, jpeg, make_folder, picture, pixels, training_view
from conftest import ROOT
from imagenet_decoding import Crop, EncodedImage, random_crop, reduction_for
from imagenet_lists import ImageList, encode_paths, locate, read_list
from imagenet_loader import ImageLoader
from imagenet_readers import count_workers
from imagenet_transforms import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    augment,
    jitter,
    normalize,
    resize,
)
from longtail.devices import Runtime

CPU = Runtime(torch.device("cpu"))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decoding_is_pillows(mode):
    content = encoded(picture(mode=mode))
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    image = EncodedImage(content)
    assert (image.height, image.width, image.orientation, image.image.mode) == (375, 500, 1, mode)
    assert np.abs(pixels(content) - expected).max() <= 2


def test_a_png_named_jpeg_is_read():
    content = encoded(picture(), "PNG")
    assert np.array_equal(pixels(content), np.asarray(picture()))
    assert training_view(content, 32, 0).shape == (32, 32, 3)


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00", b"\xff\xd8" + b"\xff" * 20])
def test_a_header_that_is_none(content):
    with pytest.raises(ValueError):
        EncodedImage(content)


@pytest.mark.parametrize(
    ("height", "width", "size", "reduction"),
    [
        (447, 900, 224, 1),
        (448, 448, 224, 2),
        (900, 3000, 224, 4),
        (1792, 1792, 224, 8),
        (9000, 9000, 224, 8),
        (100, 100, 224, 1),
    ],
)
def test_reductions(height, width, size, reduction):
    assert reduction_for(height, width, size) == reduction


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_reduced_decoding_costs_no_quality(factor):
    content = encoded(picture(1000, 800))
    full, reduced = EncodedImage(content).decode(), EncodedImage(content).decode(factor)
    assert reduced.shape == (3, 800 // factor, 1000 // factor)
    small = full.float().unfold(1, factor, factor).unfold(2, factor, factor).mean((3, 4))
    assert (small - reduced).abs().mean() < 1.5


@pytest.mark.parametrize("seed", range(3))
def test_a_reduced_training_view_is_the_full_one(seed, monkeypatch):
    content = encoded(picture(200, 160).resize((1600, 1280), Image.BICUBIC))
    monkeypatch.setattr("imagenet_decoding.AREA", (0.5, 1.0))
    reduced = training_view(content, 64, seed).astype(int)
    monkeypatch.setattr("imagenet_decoding.reduction_for", lambda *_: 1)
    assert np.abs(reduced - training_view(content, 64, seed)).mean() < 4


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (300, 256), (256, 256), (1111, 70), (90, 90)])
def test_evaluation_view_is_torchvisions(width, height):
    from torchvision.transforms import functional

    content = encoded(picture(width, height))
    image = Image.open(io.BytesIO(content))
    expected = np.asarray(functional.center_crop(functional.resize(image, 256), 224)).astype(int)
    view = evaluation_view(content, 224, 256)
    assert view.shape == (224, 224, 3)
    assert np.abs(view - expected).mean() < 1.0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adjust_brightness, "adjust_brightness"),
        (adjust_contrast, "adjust_contrast"),
        (adjust_saturation, "adjust_saturation"),
    ],
)
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_jitter_is_torchvisions(ours, theirs, factor):
    from torchvision.transforms import functional

    image = picture(64, 48)
    expected = np.asarray(getattr(functional, theirs)(image, factor)).astype(int)
    assert np.abs(ours(np.asarray(image), factor).astype(int) - expected).max() <= 2


class Asked(random.Random):
    """Keeps an order, and gives the lowest of what it is asked for; remembers the ranges."""

    def __init__(self):
        super().__init__()
        self.ranges = []

    def sample(self, choices, count):
        assert len(choices) == count == 3
        return list(choices)

    def uniform(self, low, high):
        self.ranges.append((low, high))
        return low


def test_jitter_draws_three_factors_from_the_released_range():
    from torchvision.transforms import functional

    image, rng = picture(64, 48), Asked()
    expected = functional.adjust_saturation(
        functional.adjust_contrast(functional.adjust_brightness(image, 0.6), 0.6), 0.6
    )
    assert np.abs(jitter(np.asarray(image), rng).astype(int) - np.asarray(expected).astype(int)).max() <= 3
    assert rng.ranges == [(0.6, 1.4)] * 3


def test_crops_have_the_area_and_shape_of_the_recipe():
    rng = random.Random(0)
    crops = [random_crop(400, 400, rng) for _ in range(4000)]
    areas = np.array([height * width / 160000 for _, _, height, width in crops])
    ratios = np.array([width / height for _, _, height, width in crops])
    assert 0.075 < areas.min() < 0.09 and 0.9 < areas.max() <= 1 and ratios.min() > 0.74 and ratios.max() < 1.35
    assert np.median(ratios) == pytest.approx(1, abs=0.03)  # uniform in its logarithm
    assert all(0 <= top <= 400 - height and 0 <= left <= 400 - width for top, left, height, width in crops)
    assert random_crop(10, 1000, rng) == (0, 493, 10, 13)  # nothing of that shape fits: the middle, 4:3


@pytest.fixture
def small_crops(monkeypatch) -> list[Crop]:
    """10,000 crops of an image of 2,000 x 2,000 pixels, of at most half of its area, so that any shape fits."""
    monkeypatch.setattr("imagenet_decoding.AREA", (0.08, 0.5))
    rng = random.Random(1)
    return [random_crop(2000, 2000, rng) for _ in range(10_000)]


def test_crops_lie_anywhere(small_crops):
    """Where a crop starts is uniform over all positions that hold it: mean 1/2, variance 1/12 of the range."""
    tops = [crop.top / (2000 - crop.height) for crop in small_crops]
    lefts = [crop.left / (2000 - crop.width) for crop in small_crops]
    for starts in (tops, lefts):
        assert min(starts) < 0.01 and max(starts) > 0.99
        assert np.mean(starts) == pytest.approx(1 / 2, abs=0.012)
        assert np.var(starts) == pytest.approx(1 / 12, abs=0.003)


def test_as_many_crops_are_tall_as_wide(small_crops):
    """Uniform in the logarithm, half of the ratios lie below 1, and a quarter below sqrt(3/4).

    Uniform in the ratio itself it would be 0.43 and 0.20.
    """
    ratios = np.array([crop.width / crop.height for crop in small_crops])
    assert (ratios < 1).mean() == pytest.approx(1 / 2, abs=0.02)
    assert (ratios < math.sqrt(3 / 4)).mean() == pytest.approx(1 / 4, abs=0.018)


def test_shrinking_is_pillows():
    """256 to 64 pixels of noise: without the wider filter three of four rows would be left out."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(noise).resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    small = resize(torch.from_numpy(noise).permute(2, 0, 1), 64, 64).permute(1, 2, 0).numpy()
    assert np.abs(small - expected).max() <= 2


def test_jitter_comes_in_every_order(monkeypatch):
    """Three changes have six orders. That 60 draws miss one of them has a probability of 6 * (5/6) ** 60 = 0.0001."""
    calls = []
    for name in ("brightness", "contrast", "saturation"):
        change = partial(lambda image, factor, name: calls.append(name) or image, name=name)
        monkeypatch.setattr(f"imagenet_transforms.adjust_{name}", change)
    for seed in range(60):
        jitter(np.zeros((4, 4, 3), np.uint8), random.Random(seed))
    orders = {tuple(calls[start : start + 3]) for start in range(0, 180, 3)}
    assert len(calls) == 180 and len(orders) == 6


def test_every_second_view_is_mirrored():
    """4,000 draws: 0.5 within four standard errors of 0.008."""
    crop = torch.zeros(3, 4, 4, dtype=torch.uint8)
    crop[:, :, 2:] = 255
    mirrored = [augment(crop, 4, random.Random(seed))[0, 0, 0] > 100 for seed in range(4000)]
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.032)


def test_half_of_the_views_are_mirrored():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    content = encoded(Image.fromarray(image))
    right = [
        (view := training_view(content, 32, seed).astype(int))[:, -1].mean() - view[:, 0].mean() for seed in range(400)
    ]
    clear = [difference for difference in right if abs(difference) > 100]
    assert len(clear) > 150 and 0.4 < np.mean(np.array(clear) > 0) < 0.6


def test_a_training_view_is_the_crop_jittered(monkeypatch):
    """The crop is grey, 100, and all around it black.

    What jitter does to an even grey is its brightness's factor, 0.6 to 1.4.
    """
    image = np.zeros((64, 64, 3), np.uint8)
    image[8:24, 16:48] = 100
    content = encoded(Image.fromarray(image), "PNG")
    monkeypatch.setattr("imagenet_decoding.random_crop", lambda *_: Crop(8, 16, 16, 32))
    views = np.stack([training_view(content, 16, seed) for seed in range(200)]).astype(int)
    assert (np.ptp(views, axis=(1, 2, 3)) == 0).all()
    assert 57 <= views.min() < 63 and 137 < views.max() <= 140  # each step rounds down


def test_normalisation():
    images = torch.tensor([[0, 255, 124], [10, 20, 30]], dtype=torch.uint8).view(1, 1, 2, 3).permute(0, 3, 1, 2)
    assert normalize(images)[0, :, 0, 0].tolist() == pytest.approx(
        [-0.485 / 0.229, (1 - 0.456) / 0.224, (124 / 255 - 0.406) / 0.225]
    )
    assert normalize(images)[0, 1, 0, 1].item() == pytest.approx((20 / 255 - 0.456) / 0.224)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("images"), {"train": [60, 30, 10], "val": [1, 1, 1], "test": [1, 1, 1]})
    return locate(read_list(root / "Small_train.txt", root, 3))[0]


def epoch(images, workers=0, runtime=CPU, seed=5):
    return list(ImageLoader(images, 32, 36, workers, runtime).training_batches(None, 70, seed))


def test_workers_change_nothing(images):
    alone, helped = epoch(images), epoch(images, workers=2)
    assert [len(labels) for _, labels in alone] == [70, 30]
    for (views, labels), (others, other_labels) in zip(alone, helped, strict=True):
        assert torch.equal(views, others) and torch.equal(labels, other_labels)
    assert not torch.equal(alone[0][0], epoch(images, seed=6)[0][0])


def test_an_image_is_seen_anew_in_every_epoch(tmp_path):
    """A list of one image, sixteen times: no view of an epoch comes again, in it or in the next."""
    (tmp_path / "a.JPEG").write_bytes(encoded(picture(90, 70)))
    labels = torch.zeros(16, dtype=torch.long)
    one = ImageList(tmp_path / "list.txt", tmp_path, encode_paths(["a.JPEG"] * 16), labels, "")
    views = [view.numpy().tobytes() for seed in (5, 6) for batch, _ in epoch(one, seed=seed) for view in batch]
    assert len(set(views)) == len(views) == 32


def test_processes_share_the_same_batches(images):
    whole = epoch(images)
    parts = [epoch(images, runtime=Runtime(CPU.device, rank=rank, world_size=2)) for rank in range(2)]
    for (views, labels), *shares in zip(whole, *parts, strict=True):
        assert torch.equal(views, torch.cat([share for share, _ in shares]))
        assert torch.equal(labels, torch.cat([share for _, share in shares]))


def test_processes_divide_evaluation(images):
    parts = [
        list(ImageLoader(images, 32, 36, 0, Runtime(CPU.device, rank=rank, world_size=3)).evaluation_batches())
        for rank in range(3)
    ]
    labels = torch.cat([labels for part in parts for _, labels in part])
    assert Counter(labels.tolist()) == {0: 60, 1: 30, 2: 10}
    few = locate(read_list(images.root / "Small_val.txt", images.root, 3))[0]
    for rank in (3, 98):  # 98: more than there are images
        assert (
            list(ImageLoader(few, 32, 36, 2, Runtime(CPU.device, rank=rank, world_size=rank + 1)).evaluation_batches())
            == []
        )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda content: content[: len(content) // 2], "is not an image"),
        (lambda content: b"", "is not an image"),
        (lambda content: content[:30] + b"\0" * 600, "is not an image"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_image_is_named(tmp_path, workers, damage, match):
    root = make_folder(tmp_path, {"train": [2, 2, 2], "val": [1, 1, 1], "test": [1, 1, 1]})
    images = read_list(root / "Small_train.txt", root, 3)
    bad = root / images.names()[3]
    rng = np.random.default_rng(0)
    content = encoded(Image.fromarray(rng.integers(0, 256, (90, 90, 3)).astype(np.uint8)))
    bad.unlink()
    if damage:
        bad.write_bytes(damage(content))
    try:
        epoch(images, workers)
    except ValueError as error:
        message = str(error)  # and no more: a kept traceback would keep the workers, too
    assert message.startswith(f"{bad} {match}") and "\n" not in message


def test_number_of_workers(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert count_workers(3) == 3 and count_workers(0) == 0 and count_workers(None) == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert count_workers(None) == 8


def test_workers_die_with_their_parent(images):
    code = (
        "import sys, time, torch, multiprocessing; from pathlib import Path; from imagenet_lists import read_list\n"
        "from imagenet_loader import ImageLoader; from longtail.devices import Runtime\n"
        "root = Path(sys.argv[1]); images = read_list(root / 'Small_train.txt', root, 3)\n"
        "batches = ImageLoader(images, 32, 36, 2, Runtime(torch.device('cpu')))"
        ".training_batches(None, 2, 0); next(batches)\n"
        "print(*[child.pid for child in multiprocessing.active_children()], flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(images.root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT / "ImageNet-LT", env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert len(workers) == 2
    end = time.monotonic() + 20
    while any(running(pid) for pid in workers):
        assert time.monotonic() < end, "a worker outlives its parent"
        time.sleep(0.05)


def running(pid: int) -> bool:
    """Neither gone nor waiting to be reaped."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_one_color_stays_one_color():
    view = training_view(jpeg((128, 128, 128)), 32, 1)
    assert np.ptp(view) <= 2


def claiming(content: bytes, height: int, width: int) -> bytes:
    """A JPEG with another size in its header."""
    offset = content.index(b"\xff\xc0") + 5
    return content[:offset] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[offset + 4 :]


@pytest.mark.parametrize(
    "content",
    [
        claiming(jpeg(), 10_000, 15_000),
        claiming(jpeg(), 0, 40),
        b"BM"
        + bytes(8)
        + bytes([54, 0, 0, 0, 40, 0, 0, 0])
        + 2 * (100_000).to_bytes(4, "little")
        + b"\1\0\x18"
        + bytes(50),
    ],
)
@pytest.mark.parametrize(
    "view", [lambda content: evaluation_view(content, 32, 36), lambda content: training_view(content, 32, 0)]
)
def test_a_header_that_claims_too_much_is_refused_before_decoding(content, view, recwarn):
    with pytest.raises(ValueError, match="pixels; 1 to |format is unknown"):
        view(content)
    assert not recwarn.list  # Pillow's own warning would be lines of its own


def test_a_strip_is_not_resized_to_more_than_memory_holds():
    with pytest.raises(ValueError, match="15360000 x 256 pixels"):
        evaluation_view(encoded(Image.new("L", (60_000, 1))), 224, 256)


def test_an_image_that_is_a_program_is_none():
    with pytest.raises(ValueError, match="its format is unknown"):
        EncodedImage(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\nshowpage\n")
