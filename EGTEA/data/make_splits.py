"""Derive the paper's splits from EGTEA's own annotations of split 1.

    python data/make_splits.py --annotations action_annotation --out data

Reads train_split1.txt and test_split1.txt, with one clip on each line, `clip action verb noun [noun ...]`. The training
clips of subjects P20 to P26 become the validation set. Writes train_split.txt, val_split.txt and test_split.txt, and
verbs.txt if the annotations hold the names of the verbs.
"""

import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # egtea_clips.py
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # longtail/ stands beside EGTEA/

from egtea_clips import read_clip_lines, read_names
from longtail.cli import ArgumentParser, exit_code, file_path
from longtail.files import write_atomically

HERE = Path(__file__).resolve().parent
VALIDATION_SUBJECTS = tuple(f"P{number}" for number in range(20, 27))  # Sinha et al., ACCV 2020, section 4
NAME_FILES = ("verb_idx.txt", "verbs.txt")


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--annotations",
        type=file_path,
        default=HERE.parent / "action_annotation",
        help="folder that holds train_split1.txt and test_split1.txt; default: EGTEA/action_annotation",
    )
    parser.add_argument("--out", type=file_path, default=HERE, help="default: EGTEA/data")
    parser.add_argument("--overwrite", action="store_true", help="replace split files that are there and differ")
    return parser.parse_args(argv)


def make_splits(training: list[str], testing: list[str]) -> dict[str, list[str]]:
    """Return the lines of each split by its file name, in the annotations' order.

    A line begins with the subject: P20-R03-...
    """
    held_out = [line.partition("-")[0] in VALIDATION_SUBJECTS for line in training]
    return {
        "train_split.txt": [line for line, held in zip(training, held_out, strict=True) if not held],
        "val_split.txt": [line for line, held in zip(training, held_out, strict=True) if held],
        "test_split.txt": testing,
    }


def run(args: Namespace) -> None:
    """Read and check everything, then write the split files and print how many clips each verb has."""
    annotations = [args.annotations / name for name in ("train_split1.txt", "test_split1.txt")]
    missing = [path for path in annotations if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"no {missing[0]}; --annotations is the folder with EGTEA's train_split1.txt and test_split1.txt"
        )
    splits = make_splits(*([" ".join(words) for words in read_clip_lines(path, fields=4)] for path in annotations))
    for name, lines in splits.items():
        if not lines:
            raise ValueError(f"{name} would be empty: are the files in {args.annotations} those of EGTEA?")
    named = next((path for name in NAME_FILES if (path := args.annotations / name).is_file()), None)
    names = {"verbs.txt": [f"{number} {name}" for number, name in read_names(named).items()]} if named else {}
    contents = {
        args.out / name: "".join(f"{line}\n" for line in lines).encode() for name, lines in {**splits, **names}.items()
    }
    taken = [path for path, content in contents.items() if path.exists() and path.read_bytes() != content]
    if taken and not args.overwrite:
        raise FileExistsError(
            f"{taken[0]} is there already and differs; replace it with --overwrite, or choose another --out"
        )
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--out {args.out} cannot be written: {error.strerror}") from error
    for path, content in contents.items():
        write_atomically(path, content)
    for name, lines in splits.items():
        verbs = Counter(int(line.split()[2]) for line in lines)
        counts = " ".join(str(verbs[verb]) for verb in range(1, max(verbs) + 1))
        print(f"{args.out / name}: {len(lines)} clips; of each verb {counts}")


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
