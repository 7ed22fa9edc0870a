"""Which files of a folder are videos, and the videos of class folders. Needs neither torch nor OpenCV."""

from collections.abc import Iterable
from pathlib import Path

from egtea_clips import natural_order
from longtail.folders import walk_files

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")


def find_videos(root: Path) -> list[Path]:
    """Return all videos below a folder, but no hidden ones. Raise OSError or ValueError if there is none."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder of videos")
    videos = sorted(path for path in walk_files(root) if path.suffix.lower() in SUFFIXES)
    if not videos:
        raise ValueError(f"{root} holds no video ({', '.join(SUFFIXES)})")
    return videos


def own_clip(root: Path, video: Path) -> str:
    """Return the name of a clip of one's own, CLASS/CLIP."""
    return video.relative_to(root).with_suffix("").as_posix()


def find_class_videos(root: Path) -> list[Path]:
    """Return the videos of the class folders in `root`, CLASS/VIDEO. Raise ValueError for a video at another depth."""
    videos = find_videos(root)
    for video in videos:
        parts = video.relative_to(root).parts
        if len(parts) != 2:
            raise ValueError(
                f"{video} is not in a class folder of {root}: --folders takes CLASS/VIDEO, one folder for each class"
            )
    check_unique(videos, [own_clip(root, video) for video in videos])
    return videos


def check_unique(videos: list[Path], names: list[str]) -> None:
    """Raise ValueError if two videos are clips of one name."""
    first: dict[str, Path] = {}
    for video, name in zip(videos, names, strict=True):
        if name in first:
            raise ValueError(f"{video} has the name of {first[name]}: which one is the clip?")
        first[name] = video


def class_names(clips: Iterable[str]) -> list[str]:
    """Return the classes of clips that are named CLASS/CLIP, in natural order."""
    return sorted({clip.partition("/")[0] for clip in clips}, key=natural_order)
