"""Apply a trained model to videos: one row for each, with its most probable classes."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from egtea_dataset import frame_names, map_ahead, normalize, read_centre
from longtail.cli import first_few
from longtail.devices import Runtime
from longtail.predictions import PredictionTable
from longtail.signals import raise_if_stopped
from resnext3d import ResNeXt3D
from video_files import find_videos
from video_frames import silence_decoders, write_frames


def find_inputs(path: Path) -> list[Path]:
    """Return the videos that --predict names: one, or all in a folder, at any depth."""
    if path.is_dir():
        return find_videos(path)
    if not path.exists():
        raise FileNotFoundError(f"--predict {path} not found; it takes a video or a folder of videos")
    return [path]


def read_video(video: Path, frames: int, size: int) -> np.ndarray | str:
    """Return a video as a test sees its clip, (T, H, W, 3) bytes, or what is wrong with it.

    Its frames are extracted as extract_frames.py does it, to a folder that is deleted.
    """
    with tempfile.TemporaryDirectory() as folder:
        trouble = write_frames(video, Path(folder), every=1, allow_short=True)
        if trouble:
            return trouble
        return read_centre(Path(folder), frame_names(Path(folder)), frames, size)


@torch.no_grad()
def predict(
    model: ResNeXt3D, videos: list[Path], frames: int, size: int, workers: int, table: PredictionTable, runtime: Runtime
) -> None:
    """Add a row for each video to `table`."""
    silence_decoders()
    model.eval()
    clips = map_ahead(lambda video: read_video(video, frames, size), videos, workers, ahead=workers)
    bar = tqdm(zip(videos, clips, strict=True), "predicting", len(videos), unit="video", disable=None)
    for video, clip in bar:
        raise_if_stopped()
        if isinstance(clip, str):
            table.add_error(str(video), clip)
            continue
        batch = normalize(runtime.move(torch.from_numpy(clip[None])))
        with runtime.autocast():
            logits = model(batch)
        table.add(str(video), logits[0].float().softmax(0).cpu())
    if table.failed:
        failed = f"{len(table.failed)} of {len(videos)} videos cannot be used, see the column error"
        print(f"{failed}: {first_few(table.failed)}", file=sys.stderr)
