"""Videos as phones record them: turned, and of variable rate. Steps and levels are worked out by hand."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from builders import write_video
from video_frames import jpegs_of_frames, steps_of_frames, write_frames


def rotated(video: Path) -> None:
    """Put a rotation by 90 degrees clockwise into the display matrix of an mp4's track header (ISO 14496-12, 8.3.2)."""
    content = bytearray(video.read_bytes())
    matrix = content.index(b"tkhd") + 44
    assert struct.unpack(">9i", content[matrix : matrix + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    video.write_bytes(content)


def test_a_phone_held_upright_gives_upright_frames(tmp_path):
    """Stored 64 wide, the left half white: upright it is 64 high, and its upper half is white."""
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12, (64, 48))
    for _ in range(3):
        writer.write(np.repeat(np.arange(64) < 32, 3).reshape(1, 64, 3).repeat(48, 0).astype(np.uint8) * 255)
    writer.release()
    rotated(path)
    assert write_frames(path, tmp_path, every=1) is None
    frame = cv2.imread(str(tmp_path / "000001.jpg"))
    assert frame.shape == (64, 48, 3) and frame[:28].min() > 200 and frame[36:].max() < 55


def write_variable(path: Path, times: list[int]) -> None:
    """A video whose frame n, of level 6 n, is shown at times[n] tenths of a second, written by OpenCV's FFmpeg."""
    if not hasattr(cv2, "VIDEOWRITER_PROP_PTS"):
        pytest.skip("this OpenCV cannot write a video of variable rate")
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48), [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1]
    )
    assert writer.isOpened()
    for number, time in enumerate(times):
        writer.set(cv2.VIDEOWRITER_PROP_PTS, time)
        writer.set(cv2.VIDEOWRITER_PROP_KEY_FLAG, 1)
        writer.write(cv2.imencode(".jpg", np.full((48, 64, 3), 6 * number, np.uint8))[1].ravel())
    writer.release()


def levels(folder: Path) -> list[int]:
    return [round(cv2.imread(str(path)).mean() / 6) for path in sorted(folder.glob("*.jpg"))]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_rate_is_sampled_by_time(suffix, tmp_path):
    """21 frames in steps of 0.1 s, then 10 of 0.4 s: 61 steps in all.

    The later frames fill four steps each, but the last one.
    """
    path = tmp_path / f"clip.{suffix}"
    write_variable(path, [*range(21), *range(24, 61, 4)])
    assert write_frames(path, tmp_path, every=1) is None
    assert levels(tmp_path) == [*range(20), *[20] * 4, *[number for number in range(21, 30) for _ in range(4)], 30]
    assert (tmp_path / "61.frames").exists()
    (tmp_path / "fifth").mkdir()
    assert write_frames(path, tmp_path / "fifth", every=5) is None
    # at 2.5 s frame 21, at 4.0 s 25
    assert levels(tmp_path / "fifth") == [0, 5, 10, 15, 20, 21, 22, 23, 25, 26, 27, 28, 30]


def test_a_variable_rate_that_breaks_off_is_named(tmp_path):
    """Of the 61 steps that a Matroska file claims, the first 40 or so are left."""
    path = tmp_path / "clip.mkv"
    write_variable(path, [*range(21), *range(24, 61, 4)])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    assert "breaks off after" in write_frames(path, tmp_path, every=1)


@pytest.mark.parametrize(
    "times", [[], [0], [0, 40, 80, 120], [0, 33, 67, 100, 133], [0, 0, 0, 0], [0, 80, 40, 120], [5, 40, 90, 140, 165]]
)
def test_a_constant_rate_or_no_times(times):
    """A jitter of up to half a step is no variable rate."""
    assert steps_of_frames(np.array(times, dtype=float)) is None


def test_steps_by_hand():
    """Steps of 40 ms: one frame missing, two too early, an hour's jump of the clock."""
    assert steps_of_frames(np.array([0, 40, 120, 160.0])).tolist() == [0, 1, 3, 4]
    assert steps_of_frames(np.array([0, 40, 80, 90, 120, 160.0])).tolist() == [0, 1, 2, 2, 3, 4]
    assert steps_of_frames(np.array([0, 40, 80, 3_600_080, 3_600_120])).tolist() == [0, 1, 2, 3, 4]
    assert jpegs_of_frames(np.array([0, 1, 3, 4]), 1) == {0: [0], 1: [1, 2], 2: [3], 3: [4]}
    assert jpegs_of_frames(np.array([0, 1, 2, 2, 3, 4]), 2) == {0: [0], 3: [1], 5: [2]}  # of two in one step, the later


def test_a_constant_rate_gives_the_same_frames_as_before(tmp_path):
    """The JPEGs are OpenCV's at quality 90, one for each frame that it reads."""
    path = write_video(tmp_path / "clip.mp4", [5 * frame for frame in range(30)])
    assert write_frames(path, tmp_path, every=1) is None
    capture = cv2.VideoCapture(str(path))
    for number in range(30):
        frame = capture.read()[1]
        jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        assert (tmp_path / f"{number:06d}.jpg").read_bytes() == jpeg
    assert not capture.read()[0]
