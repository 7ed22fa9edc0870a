"""Extract the frames of clips as numbered JPEGs: 000000.jpg, 000001.jpg, ...

EGTEA's clips, to OUT/VIDEO/CLIP/, where VIDEO is the clip's name up to its third dash:
    python data/extract_frames.py --videos cropped_clips --out extracted_frames
clips of your own, one folder for each class, from CLIPS/CLASS/CLIP.mp4 to FRAMES/CLASS/CLIP/:
    python data/extract_frames.py --folders CLIPS --out FRAMES

A clip's folder appears when it is complete, so that after an interruption the same command continues. A video that
cannot be read does not stop the others; it is named at the end, and the exit code is 1. An empty file N.frames beside
the N frames of a clip lets training notice when some of them are lost.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # egtea_clips.py
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # longtail/ is beside EGTEA/

from egtea_clips import CLIP_FORM, clip_folder, is_clip_name
from longtail.cli import ArgumentParser, exit_code, file_path, positive_int, say_error
from longtail.files import HeldLock, hold_lock, read_text, write_atomically
from video_files import check_unique, find_class_videos, find_videos, own_clip
from video_frames import silence_decoders, write_frames

HERE = Path(__file__).resolve().parents[1]  # EGTEA/
LARGEST_NOTE = 1 << 16  # bytes


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--videos",
        type=file_path,
        default=HERE / "cropped_clips",
        help="folder that holds EGTEA's clips, at any depth; default: EGTEA/cropped_clips",
    )
    source.add_argument(
        "--folders", type=file_path, metavar="CLIPS", help="folder that holds one folder of videos for each class"
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


def find_clips(args: Namespace) -> dict[str, Path]:
    """Return the videos by the names of their clips. Raise ValueError for one that is not named as EGTEA's are."""
    if args.folders:
        return {own_clip(args.folders, video): video for video in find_class_videos(args.folders)}
    videos = find_videos(args.videos)
    for video in videos:
        if not is_clip_name(video.stem):
            raise ValueError(
                f"{video} is not named as a clip of EGTEA, {CLIP_FORM}; for class folders of your own videos there is "
                "--folders"
            )
    check_unique(videos, [video.stem for video in videos])
    return {video.stem: video for video in videos}


def lock_folder(out: Path) -> HeldLock:
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
            f"{note} is damaged; move it away if you know that {out} was extracted with --every {every}"
        ) from error
    if before != every:
        raise ValueError(f"{out} was extracted with --every {before}, not {every}: choose another --out")
    write_atomically(note, (json.dumps({"every": every}) + "\n").encode())


def start_worker() -> None:
    """Make a worker end with its parent, leave Ctrl-C to the parent, use one core, and silence FFmpeg."""

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    silence_decoders()
    import cv2

    cv2.setNumThreads(0)


def extract(video: Path, folder: Path, every: int, allow_short: bool) -> str | None:
    """Make one clip's folder, complete or not at all. Return what is wrong with the video, or None.

    Raise OSError if writing fails.
    """
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
    clips = find_clips(args)
    lock = lock_folder(args.out)
    prepare_out(args.out, args.every)
    folders = {video: args.out / clip_folder(clip) for clip, video in clips.items()}
    missing = {video: folder for video, folder in folders.items() if not folder.is_dir()}
    print(f"{len(clips)} videos, {len(clips) - len(missing)} of them extracted before", flush=True)
    troubles = extract_all(missing, args) if missing else {}
    lock.release()
    print(f"{len(clips) - len(troubles)} clips of {len(clips)} are in {args.out}", flush=True)
    for video, trouble in sorted(troubles.items()):
        print(f"{video} {trouble}", file=sys.stderr)
    return 1 if troubles else 0


def extract_all(folders: dict[Path, Path], args: Namespace) -> dict[Path, str]:
    """Extract each video to its folder, in several processes. Return the videos that could not be read, and why."""
    from tqdm import tqdm

    troubles = {}
    with ProcessPoolExecutor(
        min(args.workers, len(folders)), multiprocessing.get_context("spawn"), start_worker
    ) as pool:
        tasks = {
            pool.submit(extract, video, folder, args.every, args.allow_short): video
            for video, folder in folders.items()
        }
        try:
            for task in tqdm(as_completed(tasks), "extracting", len(tasks), unit="clip", disable=None):
                trouble = task.result()
                if trouble:
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
