"""Extraction: numbered frames, continuing after a kill, and videos that cannot be read."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import filelock
import numpy as np
import pytest

import extract_frames
from builders import write_video
from conftest import ROOT

SCRIPT = ROOT / "EGTEA/data/extract_frames.py"


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Twelve clips of two videos, 40 frames each, each frame's level its number times 6."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(12):
        video = f"P0{number % 2}-R01-Tea"
        write_video(root / video / f"{video}-{number}-F{number:06d}.mp4", [6 * frame for frame in range(40)])
    return root


@pytest.fixture(scope="module")
def extracted(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("extracted")
    assert extract_frames.main(["--videos", str(videos), "--out", str(out), "--workers", "2"]) == 0
    return out


def test_frames_are_numbered_in_order(extracted):
    folder = extracted / "P01-R01-Tea/P01-R01-Tea-3-F000003"
    assert [path.name for path in sorted(folder.iterdir())] == [
        *(f"{number:06d}.jpg" for number in range(40)),
        "40.frames",
    ]
    levels = [cv2.imread(str(path)).mean() / 6 for path in sorted(folder.glob("*.jpg"))]
    assert np.abs(np.array(levels) - np.arange(40)).max() < 0.8
    assert len(list(extracted.glob("*/*"))) == 12
    assert not list(extracted.glob("*/.*"))


def test_every_nth_frame(videos, tmp_path, failing):
    few = tmp_path / "videos"
    few.mkdir()
    source = videos / "P00-R01-Tea/P00-R01-Tea-0-F000000.mp4"
    (few / source.name).write_bytes(source.read_bytes())
    arguments = ["--videos", str(few), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert extract_frames.main([*arguments, "--every", "15"]) == 0
    frames = sorted((tmp_path / "out/P00-R01-Tea/P00-R01-Tea-0-F000000").iterdir())
    assert [path.name for path in frames] == ["000000.jpg", "000001.jpg", "000002.jpg", "3.frames"]
    assert [round(cv2.imread(str(path)).mean() / 6) for path in frames[:3]] == [0, 15, 30]
    assert "--every 15, not 1" in failing(extract_frames.main, *arguments)


def children(process: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def extracts(process: int) -> bool:
    """Whether it lives and is one of ours."""
    try:
        return "extract" in Path(f"/proc/{process}/cmdline").read_text()
    except OSError:  # it ended, perhaps while it was read
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_killed_extraction_leaves_no_process_and_continues_to_the_same_frames(videos, extracted, tmp_path):
    command = [sys.executable, str(SCRIPT), "--videos", str(videos), "--out", str(tmp_path), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("*/*.jpg")) and not list(tmp_path.glob("*/P*")):
        assert process.poll() is None
        time.sleep(0.001)
    workers = children(process.pid)
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while any(map(extracts, workers)):
        assert time.monotonic() < end, "a worker outlived its parent"
        time.sleep(0.05)
    half = tmp_path / "P01-R01-Tea/.P01-R01-Tea-9-F000009.partial"  # the last in order: not extracted yet
    half.mkdir(parents=True, exist_ok=True)
    (half / "000099.jpg").write_bytes(b"half a frame")
    assert extract_frames.main(command[2:]) == 0
    assert tree(tmp_path) == tree(extracted)


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "SIGINT", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_a_stop_signal_ends_in_one_line(videos, tmp_path, number, name, code):
    command = [sys.executable, str(SCRIPT), "--videos", str(videos), "--out", str(tmp_path), "--workers", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert "12 videos" in process.stdout.readline()
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert error.splitlines()[-1] == f"extract_frames.py: stopped by {name}; the same command continues"
    assert "Traceback" not in error


def test_unreadable_videos_are_named_and_do_not_stop_the_others(tmp_path, capfd):
    root = tmp_path / "videos"
    good = write_video(root / "P01-R01-Tea-1-F1.mp4", [10, 20, 30])
    write_video(root / "P01-R01-Tea-2-F2.mp4", [])
    (root / "P01-R01-Tea-3-F3.mp4").write_bytes(b"this is no video")
    (root / "P01-R01-Tea-4-F4.mp4").write_bytes(good.read_bytes()[:300])
    (root / "P01-R01-Tea-5-F5.mp4").write_bytes(b"")
    arguments = ["--videos", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert extract_frames.main(arguments) == 1
    output, error = capfd.readouterr()
    assert "1 clips of 5" in output
    named = [line.split()[0] for line in error.splitlines() if line.startswith(str(root))]
    assert [Path(name).name[:14] for name in named] == [f"P01-R01-Tea-{number}-" for number in (2, 3, 4, 5)]
    assert [path.name for path in (tmp_path / "out/P01-R01-Tea").iterdir()] == ["P01-R01-Tea-1-F1"]
    (root / "P01-R01-Tea-2-F2.mp4").unlink()
    for number in (3, 4, 5):
        (root / f"P01-R01-Tea-{number}-F{number}.mp4").write_bytes(good.read_bytes())
    assert extract_frames.main(arguments) == 0
    assert len(list((tmp_path / "out").glob("*/*/*.jpg"))) == 12


def test_a_video_that_breaks_off_is_named_and_not_taken(tmp_path, capfd):
    """An AVI that was cut still says in its header how many frames it had."""
    whole = write_video(tmp_path / "whole.avi", [2 * frame for frame in range(100)]).read_bytes()
    root = tmp_path / "videos"
    root.mkdir()
    for number, share in ((1, 1.0), (2, 0.9), (3, 0.8), (4, 0.4)):
        (root / f"P01-R01-Tea-{number}.avi").write_bytes(whole[: int(share * len(whole))])
    assert extract_frames.main(["--videos", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
    named = re.findall(r"P01-R01-Tea-(\d).avi breaks off after (\d+) of 100 frames", capfd.readouterr().err)
    assert [clip for clip, _ in named] == ["2", "3", "4"]
    assert 100 > int(named[0][1]) > int(named[1][1]) > int(named[2][1]) > 0
    assert [path.name for path in (tmp_path / "out/P01-R01-Tea").iterdir()] == ["P01-R01-Tea-1"]


@pytest.mark.parametrize(
    ("frames", "promised", "trouble"),
    [
        (40, 42, None),
        (40, 43, "breaks off after 40 of 43 frames"),
        (990, 1000, None),
        (989, 1000, "breaks off after 989 of 1000 frames"),
    ],
)
def test_a_container_may_promise_a_few_frames_too_many(tmp_path, frames, promised, trouble):
    video = write_video(tmp_path / "clip.avi", [0] * frames, 16, 16)
    content = bytearray(video.read_bytes())
    offset = content.index(b"strh") + 40  # dwLength of the stream's header
    assert int.from_bytes(content[offset : offset + 4], "little") == frames
    content[offset : offset + 4] = promised.to_bytes(4, "little")
    video.write_bytes(content)
    found = extract_frames.write_frames(video, tmp_path, every=100)
    if trouble is None:
        assert found is None
    else:
        assert found.startswith(trouble) and "--allow_short" in found
    assert extract_frames.write_frames(video, tmp_path, every=100, allow_short=True) is None


def test_one_extraction_at_a_time_into_a_folder(failing, videos, tmp_path, monkeypatch):
    arguments = ["--videos", str(videos), "--out", str(tmp_path)]
    held = []

    def extract_all(missing: list[Path], args: object) -> dict:
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(tmp_path / "extraction.lock").acquire(timeout=0)
        held.append(len(missing))
        return {}

    monkeypatch.setattr(extract_frames, "extract_all", extract_all)
    with filelock.FileLock(tmp_path / "extraction.lock"):
        assert re.search(f"another process .*{tmp_path}", failing(extract_frames.main, *arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["extraction.lock"]
    assert extract_frames.main(arguments) == extract_frames.main(arguments) == 0
    assert held == [12, 12]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks(number, videos, tmp_path, monkeypatch):
    """Which refuses, or knows no such call."""

    def flock(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr(extract_frames, "extract_all", lambda missing, args: {})
    assert extract_frames.main(["--videos", str(videos), "--out", str(tmp_path)]) == 0


def test_nothing_to_extract(failing, tmp_path):
    out = tmp_path / "out"
    assert "none is not a folder" in failing(extract_frames.main, "--videos", tmp_path / "none", "--out", out)
    (tmp_path / "empty").mkdir()
    assert "holds no video" in failing(extract_frames.main, "--videos", tmp_path / "empty", "--out", out)
    (tmp_path / "empty/@eaDir").mkdir()
    for hidden in ("._P01-R01-Tea-1.mp4", "@eaDir/P01-R01-Tea-1.mp4"):
        (tmp_path / "empty" / hidden).write_bytes(b"")
    assert "holds no video" in failing(extract_frames.main, "--videos", tmp_path / "empty", "--out", out)
    (tmp_path / "empty/movie.mp4").write_bytes(b"")
    error = failing(extract_frames.main, "--videos", tmp_path / "empty", "--out", out)
    assert "movie.mp4" in error and "--folders" in error
    (tmp_path / "empty/movie.mp4").unlink()
    for folder in ("a", "b"):
        write_video(tmp_path / "empty" / folder / "P01-R01-Tea-1.mp4", [1])
    assert "which one is the clip?" in failing(extract_frames.main, "--videos", tmp_path / "empty", "--out", out)
    assert not out.exists()


def test_wrong_flags_and_places(failing, videos, tmp_path):
    assert "'0'" in failing(extract_frames.main, "--every", 0)
    assert "--frames 3" in failing(extract_frames.main, "--frames", 3)
    (tmp_path / "file").write_text("")
    assert "--out" in failing(extract_frames.main, "--videos", videos, "--out", tmp_path / "file/out")
    (tmp_path / "extraction.json").write_text(json.dumps([1]))
    assert "extraction.json" in failing(extract_frames.main, "--videos", videos, "--out", tmp_path)


def test_class_folders_of_ones_own(tmp_path, failing):
    """Any names, CLASS/VIDEO; what macOS leaves beside them is no clip."""
    root, out = tmp_path / "clips", tmp_path / "out"
    write_video(root / "long jump/garden_1.mp4", [10, 20])
    write_video(root / "7/2024-05-01-x.MP4", [10, 20, 30])
    (root / "7/._2024-05-01-x.MP4").write_bytes(b"\0\5\x16\7")
    arguments = ["--folders", root, "--out", out, "--workers", 1]
    assert extract_frames.main([str(argument) for argument in arguments]) == 0
    assert sorted(path.relative_to(out).as_posix() for path in out.glob("*/*")) == [
        "7/2024-05-01-x",
        "long jump/garden_1",
    ]
    assert (out / "7/2024-05-01-x/3.frames").exists()
    write_video(root / "7/2024-05-01-x.avi", [10])
    assert "which one is the clip?" in failing(extract_frames.main, *arguments)
    (root / "7/2024-05-01-x.avi").unlink()
    for wrong in ("loose.mp4", "train/jump/deep.mp4"):
        write_video(root / wrong, [10])
        error = failing(extract_frames.main, *arguments)
        assert wrong in error and "CLASS/VIDEO" in error
        (root / wrong).unlink()


def test_an_unwritable_folder_ends_in_one_line(failing, videos, tmp_path):
    (tmp_path / "P00-R01-Tea").write_text("a file where a folder should be")
    error = failing(extract_frames.main, "--videos", videos, "--out", tmp_path, "--workers", 1)
    assert "P00-R01-Tea" in error and "could not be written" in error


def test_a_pipe_is_no_video_and_a_note_may_be_anything(failing, tmp_path, capsys):
    root = tmp_path / "videos"
    root.mkdir()
    os.mkfifo(root / "P01-R01-Tea-1-F1.mp4")
    arguments = ["--videos", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert extract_frames.main(arguments) == 1
    assert "P01-R01-Tea-1-F1.mp4" in capsys.readouterr().err
    for content in (b"\xff\xfe", b"[" * 100_000, b"[" * 10_000, b" " * 100_000):
        (tmp_path / "out/extraction.json").write_bytes(content)
        assert "extraction.json" in failing(extract_frames.main, *arguments)
    assert "--a b" in failing(extract_frames.main, "--a\nb")


def test_workers_start_without_torch(started):
    """Each of them imports the script again."""
    run = started("-c", "import extract_frames, sys; print('torch' in sys.modules)", cwd=SCRIPT.parent)
    assert run.stdout == "False\n", run.stderr
