"""Split files, frame choice, the view of a clip, decoding, and batches."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import egtea_dataset
from egtea_clips import video_of
from egtea_dataset import (
    MEAN,
    ClipSet,
    View,
    decoding_flag,
    evaluation_batches,
    frame_indices,
    map_ahead,
    normalize,
    read_clip,
    read_frame,
    read_header,
    training_batches,
)
from longtail.devices import Runtime

CPU = Runtime(torch.device("cpu"))


def write_clip(root: Path, clip: str, frames: list[np.ndarray]) -> Path:
    """A clip's folder of JPEGs, as extract_frames.py leaves it."""
    folder = root / video_of(clip) / clip
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return folder


def claiming(jpeg: bytes, height: int, width: int) -> bytes:
    """The same JPEG with another size in its header."""
    offset = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:offset] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[offset + 4 :]


def grey(level: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def picture(height: int, width: int) -> np.ndarray:
    """Smooth, and different everywhere and in every channel."""
    y, x = np.mgrid[:height, :width] / height
    return np.stack([120 + 90 * np.sin(2 * x + channel) * np.cos(3 * y - channel) for channel in range(3)], -1).astype(
        np.uint8
    )


@pytest.fixture
def clips(tmp_path) -> ClipSet:
    """Seven clips of noise frames, 3 classes."""
    generator = np.random.default_rng(0)
    names = [(f"P0{i}-R01-Pizza-{i}", i % 3) for i in range(7)]
    for name, _ in names:
        write_clip(tmp_path, name, list(generator.integers(0, 256, (6, 20, 28, 3), np.uint8)))
    return ClipSet(tmp_path, names, frames=4, size=16)


@pytest.mark.parametrize(("height", "width"), [(65535, 65535), (30000, 30000), (1, 65535), (8192, 8193)])
def test_a_frame_that_claims_to_be_huge_is_refused_unread(tmp_path, height, width):
    path = write_clip(tmp_path, "P01-R01-Tea-1", [picture(48, 64)]) / "000000.jpg"
    path.write_bytes(claiming(path.read_bytes(), height, width))
    with pytest.raises(ValueError, match=f"000000.jpg .*{width} x {height}"):
        read_frame(path, 224)


def test_a_clip_of_absurd_size(tmp_path):
    for frames, size in ((10**9, 224), (10, 10**6)):
        with pytest.raises(ValueError, match="--frames_per_clip or --sample_size"):
            ClipSet(tmp_path, [], frames, size)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (20, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]),
        (30, [1, 4, 7, 10, 13, 16, 19, 22, 25, 28]),
        (4, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),
        (1, [0] * 10),
    ],
)
def test_evaluation_takes_segment_centres(count, expected):
    assert frame_indices(count, 10).tolist() == expected


@given(st.integers(1, 300), st.integers(1, 32), st.integers(0, 2**32 - 1))
def test_training_takes_one_frame_of_every_segment(count, segments, seed):
    indices = frame_indices(count, segments, np.random.default_rng(seed))
    for i, index in enumerate(indices):
        assert (
            math.floor(i * count / segments)
            <= index
            < max((i + 1) * count / segments, math.floor(i * count / segments) + 1)
        )


def test_training_reaches_every_frame_of_a_segment():
    generator = np.random.default_rng(0)
    assert {int(index) for _ in range(200) for index in frame_indices(30, 3, generator)} == set(range(30))


def test_clip_of_numbered_frames(tmp_path):
    """Frames carry their number as their grey level; JPEG keeps flat grey to within 1."""
    write_clip(tmp_path, "P01-R01-Tea-1", [grey(8 * number) for number in range(30)])
    clip = ClipSet(tmp_path, [("P01-R01-Tea-1", 0)], frames=10, size=12).load(0)
    assert clip.shape == (10, 12, 12, 3)
    assert np.round(clip.mean((1, 2, 3)) / 8).tolist() == [1, 4, 7, 10, 13, 16, 19, 22, 25, 28]
    assert clip.std((1, 2, 3)).max() < 1


@pytest.mark.parametrize(("position", "columns"), [(0.0, slice(0, 48)), (1.0, slice(16, 64)), (0.5, slice(8, 56))])
def test_square_of_the_full_height(tmp_path, position, columns):
    folder = write_clip(tmp_path, "P01-R01-Tea-1", [picture(48, 64)])
    frame = cv2.imread(str(folder / "000000.jpg"))[:, :, ::-1]
    assert np.array_equal(read_clip([folder / "000000.jpg"], View(position), 48)[0], frame[:, columns])
    mirrored = read_clip([folder / "000000.jpg"], View(position, flip=True), 48)[0]
    assert np.abs(mirrored.astype(int) - frame[:, columns][:, ::-1]).max() <= 1


def test_upright_frames_are_cut_to_their_width(tmp_path):
    folder = write_clip(tmp_path, "P01-R01-Tea-1", [picture(64, 48)])
    frame = cv2.imread(str(folder / "000000.jpg"))[:, :, ::-1]
    assert np.array_equal(read_clip([folder / "000000.jpg"], View(), 48)[0], frame[8:56])


@pytest.mark.parametrize("angle", [10.0, -6.5])
@pytest.mark.parametrize("flip", [False, True])
def test_one_warp_equals_crop_rotate_flip_resize(tmp_path, angle, flip):
    """Against the steps one by one, away from the corners that a rotation uncovers."""
    folder = write_clip(tmp_path, "P01-R01-Tea-1", [picture(480, 640)])
    frame = cv2.imread(str(folder / "000000.jpg"))[:, :, ::-1]
    square = np.ascontiguousarray(frame[:, 40:520])  # position 0.25 of 160 spare columns
    turned = cv2.warpAffine(square, cv2.getRotationMatrix2D((239.5, 239.5), angle, 1.0), (480, 480))
    steps = cv2.resize(turned[:, ::-1] if flip else turned, (224, 224), interpolation=cv2.INTER_AREA)
    seen = read_clip([folder / "000000.jpg"], View(0.25, angle, flip), 224)[0]
    assert np.abs(seen.astype(int) - steps)[30:-30, 30:-30].mean() < 1.0


def test_beyond_the_frame_lies_the_mean(tmp_path):
    folder = write_clip(tmp_path, "P01-R01-Tea-1", [grey(255, 40, 40)])
    corner = read_clip([folder / "000000.jpg"], View(angle=10.0), 40)[0, 0, 0]
    assert corner.tolist() == [115, 108, 99]


def test_random_views_cover_the_recipe():
    """Position 0 to 1, +-10 degrees, half mirrored.

    Of 4,000 draws each quarter has 1,000, give or take 4 standard deviations (27).
    """
    generator = np.random.default_rng(0)
    views = [View.random(generator) for _ in range(4000)]
    for values, low, high in (([view.position for view in views], 0, 1), ([view.angle for view in views], -10, 10)):
        assert low <= min(values) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < max(values) <= high
        assert np.histogram(values, 4, (low, high))[0] == pytest.approx(1000, abs=110)
    assert sum(view.flip for view in views) == pytest.approx(2000, abs=127)
    assert len({view.flip for view in views if abs(view.angle) > 9 and view.position > 0.9}) == 2


def test_a_seed_decides_frames_and_view(clips):
    centre, one, other = clips.load(0), clips.load(0, seed=1), clips.load(0, seed=2)
    assert np.array_equal(one, clips.load(0, seed=1))
    assert not np.array_equal(one, centre)
    assert not np.array_equal(one, other)


def test_a_seed_turns_even_a_still_picture(tmp_path):
    """All frames are the same: what differs is the view."""
    write_clip(tmp_path, "P01-R01-Tea-1", [picture(48, 80)] * 3)
    still = ClipSet(tmp_path, [("P01-R01-Tea-1", 0)], frames=3, size=32)
    assert len({still.load(0, seed)[0].tobytes() for seed in (None, 1, 2, 3)}) == 4


def test_one_view_for_a_whole_clip(tmp_path):
    write_clip(tmp_path, "P01-R01-Tea-1", [picture(48, 80)] * 8)
    clip = ClipSet(tmp_path, [("P01-R01-Tea-1", 0)], frames=5, size=32).load(0, seed=3)
    assert (clip == clip[0]).all()


@pytest.mark.parametrize(
    ("height", "size", "flag"),
    [
        (480, 224, cv2.IMREAD_REDUCED_COLOR_2),
        (448, 224, cv2.IMREAD_REDUCED_COLOR_2),
        (447, 224, cv2.IMREAD_COLOR),
        (120, 112, cv2.IMREAD_COLOR),
        (960, 224, cv2.IMREAD_REDUCED_COLOR_4),
        (256, 32, cv2.IMREAD_REDUCED_COLOR_8),
    ],
)
def test_reduced_decoding_never_falls_below_the_output(tmp_path, height, size, flag):
    path = write_clip(tmp_path, "P01-R01-Tea-1", [grey(9, height, height + 50)]) / "000000.jpg"
    assert read_header(path, path.read_bytes()) == (height, height + 50, "JPEG")
    assert decoding_flag(height, size) == flag
    assert min(read_frame(path, size).shape[:2]) >= min(size, height)


def test_normalize_subtracts_the_mean_and_nothing_else():
    clips = torch.tensor([[0, 128, 255], [1, 2, 3]], dtype=torch.uint8).view(1, 1, 1, 2, 3).repeat(2, 3, 4, 1, 1)
    floats = normalize(clips)
    assert floats.shape == (2, 3, 3, 4, 2)
    assert floats[0, :, 0, 0, 0].tolist() == pytest.approx([-114.7748, 128 - 107.7354, 255 - 99.4750], abs=1e-4)
    assert floats[1, :, 2, 3, 1].tolist() == pytest.approx([1 - MEAN[0], 2 - MEAN[1], 3 - MEAN[2]], abs=1e-4)
    assert floats.is_contiguous(memory_format=torch.channels_last_3d)


def test_truncated_and_damaged_frames_are_named(tmp_path):
    folder = write_clip(tmp_path, "P01-R01-Tea-1", [picture(48, 64)] * 3)
    path = folder / "000001.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    for damage in (path.read_bytes(), b"", b"\xff\xd8\xff\xd9"):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="000001.jpg .*damaged"):
            read_frame(path, 48)
    (folder / "000000.jpg").write_bytes(b"text")
    with pytest.raises(ValueError, match="000000.jpg .*damaged"):
        read_clip([folder / "000000.jpg"], View(), 16)


def test_missing_folders_are_named_at_once(tmp_path):
    write_clip(tmp_path, "P01-R01-Tea-1", [grey(1)])
    (tmp_path / "P01-R01-Tea/P01-R01-Tea-2").mkdir()
    with pytest.raises(FileNotFoundError, match="P01-R01-Tea-2 .*png.*extract_frames.py"):
        ClipSet(tmp_path, [("P01-R01-Tea-1", 0), ("P01-R01-Tea-2", 0)], 4, 16)
    with pytest.raises(FileNotFoundError, match="no frames at .*P01-R01-Tea-3"):
        ClipSet(tmp_path, [("P01-R01-Tea-3", 0)], 4, 16)
    with pytest.raises(FileNotFoundError, match="nowhere .*--data_root"):
        ClipSet(tmp_path / "nowhere", [], 4, 16)


def test_deleted_frames_are_named(tmp_path):
    """An extraction notes how many frames it wrote. One from before it did, without that note, passes."""
    folder = tmp_path / "P01-R01-Tea/P01-R01-Tea-1"
    write_clip(tmp_path, "P01-R01-Tea-1", [grey(1), grey(2), grey(3)])
    (folder / "3.frames").touch()
    assert len(ClipSet(tmp_path, [("P01-R01-Tea-1", 0)], 2, 16).names[0]) == 3
    (folder / "000002.jpg").unlink()
    with pytest.raises(
        FileNotFoundError,
        match="P01-R01-Tea-1 holds 2 of the 3",
    ):
        ClipSet(tmp_path, [("P01-R01-Tea-1", 0)], 2, 16)
    (folder / "3.frames").unlink()
    assert len(ClipSet(tmp_path, [("P01-R01-Tea-1", 0)], 2, 16).names[0]) == 2


def whole(batches) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def test_workers_and_processes_change_nothing(clips):
    inputs, labels = whole(training_batches(clips, 4, seed=5, epoch=2, workers=0, runtime=CPU))
    threaded, threaded_labels = whole(training_batches(clips, 4, seed=5, epoch=2, workers=3, runtime=CPU))
    assert torch.equal(inputs, threaded) and torch.equal(labels, threaded_labels)
    ranks = [
        list(training_batches(clips, 4, 5, 2, 0, Runtime(torch.device("cpu"), rank=rank, world_size=2)))
        for rank in (0, 1)
    ]
    together = torch.cat([part[0] for pair in zip(*ranks, strict=True) for part in pair])
    assert torch.equal(together, inputs[:6])  # 7 clips in batches of 4 and 3: two each, then one each
    another, _ = whole(training_batches(clips, 4, seed=5, epoch=3, workers=0, runtime=CPU))
    assert not torch.equal(inputs, another)


def test_every_training_clip_once_an_epoch(clips, monkeypatch):
    seen = []
    monkeypatch.setattr(
        ClipSet, "load", lambda self, index, seed: seen.append((index, seed)) or np.zeros((4, 16, 16, 3), np.uint8)
    )
    sizes = [len(labels) for _, labels in training_batches(clips, 3, 0, 1, 0, CPU)]
    assert sizes == [3, 3, 1]
    assert sorted(index for index, _ in seen) == list(range(7))
    assert len({seed for _, seed in seen}) == 7


def test_views_of_a_clip_differ_between_epochs(clips, monkeypatch):
    """Frames, angle and flip follow from the seed. Workers and another run of the same epoch change nothing."""
    seen = {}
    monkeypatch.setattr(
        ClipSet, "load", lambda self, index, seed: seen.update({index: seed}) or np.zeros((4, 16, 16, 3), np.uint8)
    )

    def seeds_of(epoch: int) -> dict[int, int]:
        seen.clear()
        list(training_batches(clips, 3, 0, epoch, 0, CPU))
        return dict(seen)

    first, second = seeds_of(1), seeds_of(2)
    assert len({*first.values(), *second.values()}) == 14
    assert first[0] != second[0]
    assert seeds_of(1) == first


def test_training_order_is_shuffled_anew_every_epoch(clips, monkeypatch):
    order = []
    monkeypatch.setattr(
        ClipSet, "load", lambda self, index, seed: order.append(index) or np.zeros((4, 16, 16, 3), np.uint8)
    )

    def order_of(seed: int, epoch: int) -> list[int]:
        order.clear()
        list(training_batches(clips, 3, seed, epoch, 0, CPU))
        return list(order)

    orders = [order_of(*choice) for choice in ((0, 1), (0, 2), (0, 3), (1, 1))]
    assert len({tuple(order) for order in [*orders, range(7)]}) == 5
    assert order_of(0, 2) == orders[1]


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_every_validation_clip_in_one_process(clips, processes):
    parts = [
        list(evaluation_batches(clips, 2, 0, Runtime(torch.device("cpu"), rank=rank, world_size=processes)))
        for rank in range(processes)
    ]
    sums = sorted(clip.sum().item() for part in parts for inputs, _ in part for clip in inputs)
    expected = sorted(clip.sum().item() for inputs, _ in evaluation_batches(clips, 7, 0, CPU) for clip in inputs)
    assert sums == pytest.approx(expected)
    assert sum(len(labels) for part in parts for _, labels in part) == 7


def test_evaluation_sees_segment_centres_and_the_centre_square(clips):
    """Of 6 frames in 4 segments the centres are 0, 2, 3 and 5."""
    inputs, labels = whole(evaluation_batches(clips, 3, 0, CPU))
    expected = [
        read_clip([folder / f"{i:06d}.jpg" for i in (0, 2, 3, 5)], View(0.5, 0.0, False), 16)
        for folder in clips.folders
    ]
    assert torch.equal(inputs, normalize(torch.from_numpy(np.stack(expected))))
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_arrives_as_it_is(clips, workers):
    path = clips.folders[4] / "000003.jpg"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=f"{path} is a truncated"):
        for epoch in range(20):  # some epoch draws the frame
            list(training_batches(clips, 4, 0, epoch, workers, CPU))


def test_map_ahead_keeps_order_and_bounds(monkeypatch):
    started = []
    results = map_ahead(lambda item: started.append(item) or item * item, range(50), workers=3, ahead=5)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(started) <= 8 + 3
    assert list(results) == [item * item for item in range(3, 50)]


def test_opencv_and_pillow_wait_until_a_frame_is_read():
    source = Path(egtea_dataset.__file__).read_text()
    assert "\nimport cv2" not in source and "\nfrom PIL" not in source


@pytest.mark.parametrize(("suffix", "form"), [(".jpg", ".jpg"), (".JPG", ".jpg"), (".jpeg", ".jpg"), (".png", ".png")])
def test_frames_are_read_in_the_order_of_their_numbers(tmp_path, suffix, form):
    """Frames img_1 to img_12 of grey levels 10 to 120, and what macOS leaves beside them."""
    folder = tmp_path / "jump" / "garden"
    folder.mkdir(parents=True)
    for number in range(1, 13):
        content = cv2.imencode(form, grey(10 * number))[1].tobytes()
        (folder / f"img_{number}{suffix}").write_bytes(content)
        (folder / f"._img_{number}{suffix}").write_bytes(b"\0\5\x16\7")
    clip = ClipSet(tmp_path, [("jump/garden", 0)], frames=6, size=8).load(0)
    assert np.round(clip.mean((1, 2, 3)) / 10).tolist() == [2, 4, 6, 8, 10, 12]


def test_a_png_that_breaks_off_is_named(tmp_path):
    content = cv2.imencode(".png", picture(48, 64))[1].tobytes()
    path = tmp_path / "1.png"
    path.write_bytes(content)
    assert read_frame(path, 48).shape == (48, 64, 3)
    path.write_bytes(content[:-20])
    with pytest.raises(ValueError, match="1.png .*damaged PNG"):
        read_frame(path, 48)
