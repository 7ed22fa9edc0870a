"""Derive training, validation and test clips: the paper's, or those of your own class folders.

EGTEA's, from its own annotations of split 1:
    python data/make_splits.py --annotations action_annotation --out data
clips of your own, one folder of videos for each class, CLIPS/CLASS/VIDEO.mp4:
    python data/make_splits.py --folders CLIPS --out DIR

EGTEA: reads train_split1.txt and test_split1.txt, with one clip on each line, `clip action verb noun [noun ...]`. The
training clips of subjects P20 to P26 become the validation set. The names of the verbs go to verbs.txt, if the
annotations hold them.
Your own: of each class a fifth of the clips goes to validation and a fifth to the test, at least one each from five
clips on. Clips of one video, VIDEO_1.mp4, VIDEO_2.mp4, ..., stay in one split, also across classes. The names of the
classes go to classes.txt.

Writes train_split.txt, val_split.txt and test_split.txt.
"""

import random
import re
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # egtea_clips.py
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # longtail/ is beside EGTEA/

from egtea_clips import MOST_CLASSES, count_labels, parse_line, read_lines, read_names
from longtail.cli import ArgumentParser, exit_code, file_path, first_few
from longtail.files import write_atomically
from video_files import class_names, find_class_videos, own_clip

HERE = Path(__file__).resolve().parent
VALIDATION_SUBJECTS = tuple(f"P{number}" for number in range(20, 27))  # Sinha et al., ACCV 2020, section 4
NAME_FILES = ("verb_idx.txt", "verbs.txt")
SPLIT_FILES = {"train": "train_split.txt", "val": "val_split.txt", "test": "test_split.txt"}
HELD_OUT = 5  # of so many clips of a class one goes to validation and one to the test
FEWEST_VIDEOS = 3  # of a class, so that each split can have one

Splits = dict[str, list[str]]  # the lines of train, val and test
Names = dict[int, str]  # of classes, by their numbers


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--annotations",
        type=file_path,
        default=HERE.parent / "action_annotation",
        help="folder that holds train_split1.txt and test_split1.txt; default: EGTEA/action_annotation",
    )
    source.add_argument(
        "--folders", type=file_path, metavar="CLIPS", help="folder that holds one folder of videos for each class"
    )
    parser.add_argument("--out", type=file_path, help="default for EGTEA: EGTEA/data")
    parser.add_argument("--overwrite", action="store_true", help="replace split files that are there and differ")
    args = parser.parse_args(argv)
    if args.folders and not args.out:
        parser.error("--folders needs --out, a folder for the split files")
    args.out = args.out or HERE
    return args


def split_by_subject(training: list[str], testing: list[str]) -> Splits:
    """Return the paper's splits of annotation lines, in their order. A line begins with the subject: P20-R03-..."""
    splits: Splits = {"train": [], "val": [], "test": testing}
    for line in training:
        subject = line.partition("-")[0]
        splits["val" if subject in VALIDATION_SUBJECTS else "train"].append(line)
    return splits


def read_annotation(file: Path) -> list[str]:
    """Return the lines of an annotation file of EGTEA."""
    if not file.is_file():
        raise FileNotFoundError(
            f"no {file}; --annotations is the folder with EGTEA's train_split1.txt and test_split1.txt, and --folders "
            "takes class folders of your own videos"
        )
    return list(read_lines(file).values())


def split_annotations(folder: Path) -> tuple[Splits, Names]:
    """Return the lines of EGTEA's splits, and the names of the verbs, if the folder holds them."""
    training = read_annotation(folder / "train_split1.txt")
    testing = read_annotation(folder / "test_split1.txt")
    splits = split_by_subject(training, testing)
    for split, lines in splits.items():
        if not lines:
            raise ValueError(f"{SPLIT_FILES[split]} would be empty: are the files in {folder} those of EGTEA?")
    for file in NAME_FILES:
        if (folder / file).is_file():
            return splits, read_names(folder / file)
    return splits, {}


def source_video(clip: str) -> str:
    """Return the video that a clip was cut from: 'garden' for 'jump/garden_3', else the clip itself."""
    match = re.fullmatch(r"[^/]+/(.+)_[0-9]+", clip)
    return match[1] if match else clip


def group_by_video(clips: dict[str, list[str]]) -> tuple[dict[str, str], list[str]]:
    """Return the video of each clip, and the classes whose names do not tell videos apart: there, each clip is its own.

    clips: by class.
    """
    videos: dict[str, str] = {}
    alike = []
    for name, members in clips.items():
        sources = [source_video(clip) for clip in members]
        if len(members) >= HELD_OUT and len(set(sources)) < FEWEST_VIDEOS:
            alike.append(name)
            sources = members
        videos.update(zip(members, sources, strict=True))
    return videos, alike


def split_by_video(clips: dict[str, list[str]], videos: dict[str, str]) -> dict[str, str]:
    """Return the split of each video. A fifth of a class goes to val and to test, at least one clip each from five on.

    The smallest class chooses first. What it does not hold out is for training, in the other classes too. A split gets
    more than a fifth only if every video that is left is larger.
    """
    splits: dict[str, str] = {}
    rng = random.Random(0)
    for members in sorted(clips.values(), key=len):
        sizes = Counter(videos[clip] for clip in members)  # of the class's videos, in clips
        held = Counter(splits.get(videos[clip]) for clip in members)
        free = [video for video in sizes if video not in splits]
        rng.shuffle(free)
        for split in ("val", "test"):
            chosen = choose_videos(free, sizes, len(members) // HELD_OUT, held[split])
            splits.update(dict.fromkeys(chosen, split))
            free = [video for video in free if video not in chosen]
        splits.update(dict.fromkeys(free, "train"))
    return splits


def choose_videos(free: list[str], sizes: Counter[str], wanted: int, held: int) -> list[str]:
    """Return the first videos of `free` with which a split that holds `held` clips of a class has at most `wanted`.

    It gets at least one clip if any are wanted, but never the last video.
    """
    chosen = []
    for video in free[1:]:
        if held + sizes[video] <= wanted:
            chosen.append(video)
            held += sizes[video]
    if wanted and not held and len(free) > 1:
        return [min(free, key=sizes.__getitem__)]
    return chosen


def split_folders(root: Path) -> tuple[Splits, Names]:
    """Return the lines of the splits of class folders, and the names of the classes."""
    clips = [own_clip(root, video) for video in find_class_videos(root)]
    names = class_names(clips)
    if not 2 <= len(names) <= MOST_CLASSES:
        raise ValueError(f"{root} holds {len(names)} class folders with videos; 2 to {MOST_CLASSES} can be trained")
    by_class: dict[str, list[str]] = {name: [] for name in names}
    for clip in clips:
        by_class[clip.partition("/")[0]].append(clip)
    videos, alike = group_by_video(by_class)
    split_of = split_by_video(by_class, videos)
    splits: Splits = {split: [] for split in SPLIT_FILES}
    for number, members in enumerate(by_class.values(), start=1):
        for clip in members:
            lines = splits[split_of[videos[clip]]]
            lines.append(checked(f"{clip} {number}", root))
    if not splits["val"]:
        raise ValueError(f"no clip is left for validation: at least one class in {root} must have {HELD_OUT} clips")
    print_exceptions(by_class, alike)
    return splits, dict(enumerate(names, start=1))


def print_exceptions(by_class: dict[str, list[str]], alike: list[str]) -> None:
    """Print which classes are not split by video, and which are not held out."""
    if alike:
        print(f"clips are split one by one, since their names are those of one video or two: {first_few(alike)}")
    few = [f"{name} ({len(members)})" for name, members in by_class.items() if len(members) < HELD_OUT]
    if few:
        print(f"in training alone, with fewer than {HELD_OUT} clips: {first_few(few)}")


def checked(line: str, root: Path) -> str:
    """Return a line of a split file. Raise ValueError if it would not be read as it is written."""
    name, _, number = line.rpartition(" ")
    if len(line.splitlines()) > 1 or parse_line(line) != (name, int(number) - 1):
        raise ValueError(f"{root / name!s} cannot be written to a list because of its name: rename it")
    return line


def write_files(out: Path, files: dict[str, list[str]], overwrite: bool) -> None:
    """Write the lines of each file. Raise FileExistsError, and write nothing, if a file is there that differs."""
    contents = {}
    for name, lines in files.items():
        path, content = out / name, ("\n".join(lines) + "\n").encode()
        contents[path] = content
        if path.exists() and path.read_bytes() != content and not overwrite:
            raise FileExistsError(
                f"{path} is there already and differs; replace it with --overwrite, or choose another --out"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--out {out} cannot be written: {error.strerror}") from error
    for path, content in contents.items():
        write_atomically(path, content)


def run(args: Namespace) -> None:
    """Read and check everything, then write the split files and print how many clips each class has."""
    if args.folders:
        splits, names = split_folders(args.folders)
    else:
        splits, names = split_annotations(args.annotations)
    files = {SPLIT_FILES[split]: lines for split, lines in splits.items()}
    named = [f"{number} {name}" for number, name in names.items()]
    name_file = {"classes.txt" if args.folders else "verbs.txt": named} if named else {}
    write_files(args.out, files | name_file, args.overwrite)
    for file, lines in files.items():
        clips = [parse_line(line) for line in lines]
        counts = count_labels(clips, 1 + max(clip.label for clip in clips))
        print(f"{args.out / file}: {len(lines)} clips; of each class {' '.join(map(str, counts))}")


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
