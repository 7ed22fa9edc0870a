"""Derive the paper's splits from EGTEA's own annotations of split 1.

    python data/make_splits.py --annotations action_annotation --out data

Reads train_split1.txt and test_split1.txt, one clip a line, `clip action verb noun [noun ...]`. The training clips of subjects P20
to P26 become the validation set. Writes train_split.txt, val_split.txt and test_split.txt, and verbs.txt if the verbs' names are there.
"""

import os
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

from extract_frames import ArgumentParser, exit_code, read_text

HERE = Path(__file__).resolve().parent
VALIDATION_SUBJECTS = tuple(f"P{number}" for number in range(20, 27))     # Sinha et al., ACCV 2020, section 4
LARGEST_FILE = 1 << 24      # bytes; EGTEA's have 700,000
LARGEST_NUMBER = 1000       # of an action, a verb or a noun; EGTEA has 106 actions
NAME_FILES = ("verb_idx.txt", "verbs.txt")


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--annotations", type=Path, default=HERE.parent / "action_annotation",
                        help="folder that holds train_split1.txt and test_split1.txt; default: EGTEA/action_annotation")
    parser.add_argument("--out", type=Path, default=HERE, help="default: EGTEA/data")
    parser.add_argument("--overwrite", action="store_true", help="replace split files that are there and differ")
    return parser.parse_args(argv)


def read_annotations(path: Path) -> list[str]:
    """The lines, checked: a clip and three or more numbers from 1 on, no clip twice."""
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; --annotations is the folder with EGTEA's train_split1.txt and test_split1.txt")
    lines, seen = [], set()
    for number, line in enumerate(read_text(path, LARGEST_FILE, "replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) < 4 or not all(map(is_number, words[1:])):
            raise ValueError(f"{path}, line {number}: {line[:100]!r} is not `clip action verb noun` with numbers from 1 on")
        if words[0].count("-") < 3 or "/" in words[0] or "\0" in words[0]:
            raise ValueError(f"{path}, line {number}: {words[0][:100]!r} is not named as a clip: OP01-R01-PastaSalad-START-END")
        if words[0] in seen:
            raise ValueError(f"{path}, line {number}: {words[0]} is there twice")
        seen.add(words[0])
        lines.append(" ".join(words))
    return lines


def is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 10 and 1 <= int(word) <= LARGEST_NUMBER


def subject_of(line: str) -> str:
    """'P20' of 'P20-R03-BaconAndEggs-...'; 'OP01' of 'OP01-R01-...'."""
    return line.partition("-")[0]


def make_splits(training: list[str], testing: list[str]) -> dict[str, list[str]]:
    """File names and lines, in the annotations' order."""
    return {"train_split.txt": [line for line in training if subject_of(line) not in VALIDATION_SUBJECTS],
            "val_split.txt": [line for line in training if subject_of(line) in VALIDATION_SUBJECTS],
            "test_split.txt": testing}


def read_names(folder: Path) -> list[str]:
    """`1 take` for each line `1 take` or `take 1` of the file of names, where there is one; what training would refuse is refused here."""
    path = next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)
    names = {}
    for place, line in enumerate(read_text(path, LARGEST_FILE, "replace").splitlines() if path else (), start=1):
        words = line.split()
        if not words:
            continue
        number = next((words.pop(end) for end in (0, -1) if words[end].isdecimal()), "")
        if not is_number(number) or not words:
            raise ValueError(f"{path}, line {place}: {line[:100]!r} is not a verb's number, from 1 on, and its name: `1 take`")
        if int(number) in names:
            raise ValueError(f"{path}, line {place}: verb {number} is named twice, {names[int(number)]!r} and {' '.join(words)!r}")
        names[int(number)] = " ".join(words)
    return [f"{number} {name}" for number, name in names.items()]


def check_free(path: Path, content: str) -> None:
    """FileExistsError if another file is there."""
    if path.exists() and read_text(path, LARGEST_FILE, "replace") != content:
        raise FileExistsError(f"{path} is there already and differs; replace it with --overwrite, or choose another --out")


def write(path: Path, content: str) -> None:
    """The file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(content)
        os.replace(partial, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}; choose another --out") from error


def run(args: Namespace) -> int:
    splits = make_splits(*(read_annotations(args.annotations / name) for name in ("train_split1.txt", "test_split1.txt")))
    for name, lines in splits.items():
        if not lines:
            raise ValueError(f"{name} would be empty: are {args.annotations}'s files EGTEA's?")
    names = read_names(args.annotations)
    files = {**splits, **({"verbs.txt": names} if names else {})}
    contents = {args.out / name: "".join(f"{line}\n" for line in lines) for name, lines in files.items()}
    for action in (write,) if args.overwrite else (check_free, write):
        for path, content in contents.items():
            action(path, content)
    for name, lines in splits.items():
        verbs = Counter(int(line.split()[2]) for line in lines)
        counts = " ".join(str(verbs[verb]) for verb in range(1, max(verbs) + 1))
        print(f"{args.out / name}: {len(lines)} clips; of each verb {counts}")
    return 0


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
