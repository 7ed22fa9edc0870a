"""Extract the frames of EGTEA's action clips as numbered JPEGs: OUT/VIDEO/CLIP/000000.jpg, 000001.jpg, ...

    python data/extract_frames.py --videos cropped_clips --out extracted_frames

VIDEO is the clip's name up to its third dash. A clip's folder appears when it is complete, so that after an
interruption the same command continues. A video that cannot be read does not stop the others; it is named at the end,
and the exit code is 1. An empty file N.frames beside the N frames of a clip lets training notice when some of them are
lost.
"""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NoReturn

from filelock import FileLock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # egtea_clips.py
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # longtail/ stands beside EGTEA/

from egtea_clips import CLIP_FORM, is_clip_name, video_of
from longtail.cli import ArgumentParser, exit_code, file_path, positive_int, say_error
from longtail.files import hold_lock, read_text, write_atomically
from video_frames import write_frames

HERE = Path(__file__).resolve().parents[1]  # EGTEA/
SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
LARGEST_NOTE = 1 << 16  # bytes


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--videos",
        type=file_path,
        default=HERE / "cropped_clips",
        help="folder that holds the clips, at any depth; default: EGTEA/cropped_clips",
    )
    parser.add_argument(
        "--out", type=file_path, default=HERE / "extracted_frames", help="default: EGTEA/extracted_frames"
    )
    parser.add_argument("--every", type=positive_int, default=1, metavar="N", help="keep every N-th frame; default: 1")
    parser.add_argument(
        "--allow_short",
        action="store_true",
        help="accept a video with fewer frames than its container promises; cutting "
        "without encoding again makes such files",
    )
    parser.add_argument(
        "--workers", type=positive_int, default=os.cpu_count() or 1, help="processes; default: one for each core"
    )
    return parser.parse_args(argv)


def find_videos(root: Path) -> list[Path]:
    """Return all videos below `root`.

    Raise ValueError for one that is not named as a clip, or a name that two of them have.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"--videos {root} is not a folder; it should hold EGTEA's cropped clips")
    videos = {}
    for path in sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES):
        if not is_clip_name(path.stem):
            raise ValueError(f"{path} is not named as a clip, {CLIP_FORM}")
        if path.stem in videos:
            raise ValueError(f"{path} has the name of {videos[path.stem]}: which one is the clip?")
        videos[path.stem] = path
    if not videos:
        raise ValueError(f"--videos {root} holds no video ({', '.join(SUFFIXES)})")
    return list(videos.values())


def clip_folder(video: Path, out: Path) -> Path:
    """Return where a video's frames go."""
    return out / video_of(video.stem) / video.stem


def lock_folder(out: Path) -> FileLock:
    """Lock the folder: two processes would mix the frames of a clip.

    Raise OSError if another process extracts into it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--out {out} cannot be written: {error.strerror}") from error
    try:
        return hold_lock(out / "extraction.lock")
    except BlockingIOError:
        raise OSError(f"another process extracts into {out}; wait for it, or choose another --out") from None


def prepare_out(out: Path, every: int) -> None:
    """Note --every in the folder, since frames of two choices must not mix.

    Raise ValueError if an earlier choice differs.
    """
    note = out / "extraction.json"
    try:
        before = json.loads(read_text(note, LARGEST_NOTE))["every"] if note.exists() else every
        if type(before) is not int:
            raise TypeError(before)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{note} is damaged; delete it if you know that {out} was extracted with --every {every}"
        ) from error
    if before != every:
        raise ValueError(f"{out} was extracted with --every {before}, not {every}: choose another --out")
    write_atomically(note, (json.dumps({"every": every}) + "\n").encode())


def start_worker() -> None:
    """Make a worker end with its parent, leave Ctrl-C to the parent, use one core, and silence FFmpeg."""

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ.update(OPENCV_LOG_LEVEL="SILENT", OPENCV_FFMPEG_LOGLEVEL="-8", OPENCV_FFMPEG_CAPTURE_OPTIONS="threads;1")
    import cv2

    cv2.setNumThreads(0)


def extract(video: Path, out: Path, every: int, allow_short: bool) -> str | None:
    """Make one clip's folder, complete or not at all. Return what is wrong with the video, or None.

    Raise OSError if writing fails.
    """
    folder = clip_folder(video, out)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a killed extraction
        partial.mkdir(parents=True)
        trouble = write_frames(video, partial, every, allow_short)
        if trouble:
            shutil.rmtree(partial)
        else:
            os.rename(partial, folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"{folder} could not be written: {error.strerror or error}; the same command continues here"
        ) from error
    return trouble


def run(args: Namespace) -> int:
    """Extract what is missing. Return 1 if some videos could not be read, else 0."""
    videos = find_videos(args.videos)
    lock = lock_folder(args.out)
    prepare_out(args.out, args.every)
    missing = [video for video in videos if not clip_folder(video, args.out).is_dir()]
    print(f"{len(videos)} videos, {len(videos) - len(missing)} of them extracted before", flush=True)
    troubles = extract_all(missing, args) if missing else {}
    lock.release()
    print(f"{len(videos) - len(troubles)} clips of {len(videos)} are in {args.out}", flush=True)
    for video, trouble in sorted(troubles.items()):
        print(f"{video} {trouble}", file=sys.stderr)
    return 1 if troubles else 0


def extract_all(videos: list[Path], args: Namespace) -> dict[Path, str]:
    """Extract in several processes. Return the videos that could not be read, and why."""
    from tqdm import tqdm

    troubles = {}
    with ProcessPoolExecutor(
        min(args.workers, len(videos)), multiprocessing.get_context("spawn"), start_worker
    ) as pool:
        tasks = {pool.submit(extract, video, args.out, args.every, args.allow_short): video for video in videos}
        try:
            for task in tqdm(as_completed(tasks), "extracting", len(tasks), unit="clip", disable=None):
                if trouble := task.result():
                    troubles[tasks[task]] = trouble
        except BrokenProcessPool as error:
            raise OSError(
                "a worker was killed, perhaps because memory ran out; the same command with fewer --workers continues"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    return troubles


def main(argv: list[str] | None = None) -> int:
    def stop(number: int, frame: object) -> NoReturn:
        say_error(f"stopped by {signal.Signals(number).name}; the same command continues")
        os._exit(128 + number)  # the workers end with this process

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return exit_code(lambda: run(parse_arguments(argv)))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
