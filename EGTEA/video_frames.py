"""Write the frames of a video as numbered JPEGs, at equal steps of time."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import cv2

JPEG_QUALITY = 90  # frames are used at about half their size
# frames, or 1 %: a container that estimates their number from the duration may promise so many too many
FEW_MISSING = 2
LONGEST_STILL = 60_000  # milliseconds that a frame may be shown; a longer gap is a jump of the clock


def silence_decoders() -> None:
    """Keep OpenCV and FFmpeg from writing to stderr, and FFmpeg to one thread. Call it before OpenCV is imported."""
    os.environ.update(OPENCV_LOG_LEVEL="SILENT", OPENCV_FFMPEG_LOGLEVEL="-8", OPENCV_FFMPEG_CAPTURE_OPTIONS="threads;1")


def steps_of_frames(times: np.ndarray) -> np.ndarray | None:
    """Return the step of each frame on a grid of equal steps of time, (N,); None where the rate is constant.

    times: in milliseconds. A rate is constant if no gap between frames differs from the usual gap by more than
    half of it. It is taken as constant where the times do not increase, as in containers without times.
    """
    gaps = np.diff(times)
    if not len(gaps) or gaps.min() <= 0:
        return None
    usual = np.median(gaps)
    regular = np.abs(gaps - usual) <= usual / 2
    if regular.all():
        return None
    step = gaps[regular].mean()
    gaps = np.where(gaps > LONGEST_STILL, step, gaps)
    return np.concatenate([[0], (gaps.cumsum() / step).round()]).astype(int)


def jpegs_of_frames(steps: np.ndarray, every: int) -> dict[int, list[int]]:
    """Return, for each frame that is used, the numbers of the JPEGs that show it.

    Each JPEG shows what the video shows at its time.
    """
    shown = np.searchsorted(steps, np.arange(0, steps[-1] + 1, every), side="right") - 1
    numbers: dict[int, list[int]] = {}
    for number, frame in enumerate(shown.tolist()):
        numbers.setdefault(frame, []).append(number)
    return numbers


def write_frames(video: Path, folder: Path, every: int, allow_short: bool = False) -> str | None:
    """Write every `every`-th frame as a numbered JPEG, and note how many they are.

    Return what is wrong with the video, or None.

    OpenCV applies a phone's rotation. A video of variable rate is sampled at equal steps of time.
    """
    import cv2

    if not video.is_file():  # reading a pipe might never end
        return "is not a regular file"
    capture = cv2.VideoCapture(str(video))
    if not capture.isOpened():
        return "cannot be opened as a video"
    times: list[float] = []
    count = 0
    for count, jpeg in enumerate(encoded_frames(capture, every, times), 1):
        write_jpeg(folder, count - 1, jpeg)
    promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if not count:
        return "holds no frame that can be decoded"
    decoded = len(times)
    steps = steps_of_frames(np.array(times))
    if steps is not None:
        decoded = max(decoded, int(steps[-1]) + 1)  # where frames are counted by duration
        count = write_in_time(video, folder, jpegs_of_frames(steps, every))
    if not allow_short and promised - decoded > max(FEW_MISSING, promised // 100):
        return (
            f"breaks off after {decoded} of {promised} frames; fetch it again, or accept it as it is with --allow_short"
        )
    (folder / f"{count}.frames").touch()
    return None


def encoded_frames(capture: "cv2.VideoCapture", every: int, times: list[float]) -> Iterator[bytes]:
    """Yield every `every`-th frame as a JPEG, up to the first that cannot be decoded; note the time of each frame."""
    import cv2

    while capture.grab():
        if len(times) % every == 0:
            decoded, frame = capture.retrieve()
            if not decoded:
                return
            yield cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))


def write_in_time(video: Path, folder: Path, numbers: dict[int, list[int]]) -> int:
    """Write the frames again, each under all of its numbers. Return how many JPEGs that are."""
    import cv2

    for path in folder.glob("*.jpg"):
        path.unlink()
    for frame, jpeg in enumerate(encoded_frames(cv2.VideoCapture(str(video)), 1, [])):
        for number in numbers.get(frame, ()):
            write_jpeg(folder, number, jpeg)
    return sum(map(len, numbers.values()))


def write_jpeg(folder: Path, number: int, jpeg: bytes) -> None:
    (folder / f"{number:06d}.jpg").write_bytes(jpeg)
