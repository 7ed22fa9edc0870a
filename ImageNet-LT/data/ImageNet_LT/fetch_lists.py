"""Download the three ImageNet-LT lists (Liu et al., CVPR 2019) from the classifier-balancing repository, and verify them.

    python data/ImageNet_LT/fetch_lists.py            # into this script's folder; files that are there and right stay
    python data/ImageNet_LT/fetch_lists.py --check    # only verify; no network

A list is right if git's blob id of it is the one below, that of the published file.
"""

import argparse
import hashlib
import http.client
import os
import sys
import urllib.request
from pathlib import Path
from typing import NoReturn

SOURCE = "https://raw.githubusercontent.com/facebookresearch/classifier-balancing/main/data/ImageNet_LT/"
BLOBS = {"ImageNet_LT_train.txt": "a063f095fcd475db4cf8b0658c4b73955535bbf9",
         "ImageNet_LT_val.txt": "3ed3188b2f44829ce2dec1cc27040d8d40984088",
         "ImageNet_LT_test.txt": "76a2fb9749d6cd29e765cc4f8c270f2504131e2f"}
SECONDS = 60            # without an answer
LARGEST = 1 << 25       # bytes; the training list has 5 million


def blob_id(content: bytes) -> str:
    """What `git hash-object` prints for a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def check(path: Path) -> None:
    """FileNotFoundError or ValueError unless this is the published list."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: without --check it is downloaded")
    if (found := blob_id(path.read_bytes())) != BLOBS[path.name]:
        raise ValueError(f"{path} is not the published list: its blob id is {found}, not {BLOBS[path.name]}; remove it to download it anew")


def download(name: str, source: str) -> bytes:
    """A published list; OSError or ValueError if it cannot be had."""
    try:
        with urllib.request.urlopen(source + name, timeout=SECONDS) as answer:
            content = answer.read(LARGEST)
    except (OSError, ValueError, http.client.HTTPException) as error:      # URLError is an OSError
        raise OSError(f"{source + name} could not be downloaded: {error}; fetch it by other means and put it beside this script") from None
    if (found := blob_id(content)) != BLOBS[name]:
        raise ValueError(f"{source + name} is not the published list: its blob id is {found}, not {BLOBS[name]}; nothing was written")
    return content


def write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written: {error.strerror}") from None


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help explains)\n")


def main(argv: list[str] | None = None) -> int:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only verify the files that are there")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent, help="default: this script's")
    parser.add_argument("--source", default=SOURCE, metavar="URL", help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        for name in BLOBS:
            path = args.folder / name
            if not args.check and not path.is_file():
                write_atomically(path, download(name, args.source))
            check(path)
            print(f"{path}: the published list")
    except (OSError, ValueError) as error:
        print(f"fetch_lists.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
