"""Download the three ImageNet-LT lists (Liu et al., CVPR 2019) from the classifier-balancing repository, and verify
them.

    python data/ImageNet_LT/fetch_lists.py            # into this script's folder; files that are there and right stay
    python data/ImageNet_LT/fetch_lists.py --check    # only verify; no network

A list is right if git's blob id of it is the one below, that of the published file.
"""

import http.client
import sys
import urllib.request
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # longtail/ stands beside ImageNet-LT/

from longtail.cli import ArgumentParser, exit_code, file_path
from longtail.files import blob_id, write_atomically

SOURCE = "https://raw.githubusercontent.com/facebookresearch/classifier-balancing/main/data/ImageNet_LT/"
BLOBS = {
    "ImageNet_LT_train.txt": "a063f095fcd475db4cf8b0658c4b73955535bbf9",
    "ImageNet_LT_val.txt": "3ed3188b2f44829ce2dec1cc27040d8d40984088",
    "ImageNet_LT_test.txt": "76a2fb9749d6cd29e765cc4f8c270f2504131e2f",
}
SECONDS = 60  # without an answer
LARGEST = 1 << 25  # bytes; the training list has 5 million


def check(name: str, content: bytes, remedy: str) -> None:
    """Raise ValueError unless `content` is that of the published list."""
    if (found := blob_id(content)) != BLOBS[Path(name).name]:
        raise ValueError(
            f"{name} is not the published list: its blob id is {found}, not {BLOBS[Path(name).name]}; {remedy}"
        )


def download(url: str) -> bytes:
    """Return the content of a published list. Raise OSError or ValueError if it cannot be had."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            content = answer.read(LARGEST)
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        raise OSError(
            f"{url} could not be downloaded: {error}; fetch it by other means and put it beside this script"
        ) from None
    check(url, content, "nothing was written")
    return content


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--check", action="store_true", help="only verify the files that are there")
    parser.add_argument(
        "--folder", type=file_path, default=Path(__file__).resolve().parent, help="default: this script's"
    )
    parser.add_argument("--source", default=SOURCE, metavar="URL", help="default: %(default)s")
    return parser.parse_args(argv)


def run(args: Namespace) -> None:
    """Download the lists that are missing, and verify all of them."""
    for name in BLOBS:
        path = args.folder / name
        if not path.is_file():
            if args.check:
                raise FileNotFoundError(f"{path} not found: without --check it is downloaded")
            write_atomically(path, download(args.source + name))
        check(str(path), path.read_bytes(), "remove it to download it again")
        print(f"{path}: the published list")


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
