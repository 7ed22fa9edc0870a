"""Lists of images, with lines such as `train/n01440764/n01440764_190.JPEG 0`: read, check, find on disk, and order for an epoch."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from longtail.files import blob_id, check_file

SHOWN = 5      # missing images that an error names
LARGEST_LIST = 1 << 26     # bytes; the 1.28 million lines of all of ImageNet-1k have 52 million


@dataclass(frozen=True)
class ImageList:
    """The paths below `root` and labels (N,) of a list file, in its order; `blob` is git's id of the file."""

    file: Path
    root: Path
    paths: list[str]
    labels: Tensor
    blob: str

    def __len__(self) -> int:
        return len(self.paths)

    def class_counts(self, num_classes: int) -> list[int]:
        return self.labels.bincount(minlength=num_classes).tolist()

    def class_names(self, num_classes: int) -> list[str]:
        """Return the folder of each class's first image; ILSVRC names its folders by WordNet id."""
        names = [""] * num_classes
        for path, label in zip(reversed(self.paths), reversed(self.labels.tolist()), strict=True):
            names[label] = path.split("/")[-2] if "/" in path else str(label)
        return names


def read_list(file: Path, root: Path, num_classes: int) -> ImageList:
    """Return the content of a list file. Raise ValueError that names a line without a usable path or label."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} not found: data/ImageNet_LT/fetch_lists.py downloads the published lists; "
                                "train_list, val_list and test_list in the YAML name them")
    check_file(file, LARGEST_LIST)
    content = file.read_bytes()
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text: {error}") from None
    lines_of: dict[str, int] = {}
    labels = []
    for number, line in enumerate(lines, 1):
        try:
            path, label = parse_line(line, num_classes)
            if lines_of.setdefault(path, number) != number:
                raise ValueError(f"{path} stands in line {lines_of[path]} already")
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
        labels.append(label)
    if not labels:
        raise ValueError(f"{file} lists no image")
    return ImageList(file, root, list(lines_of), torch.tensor(labels), blob_id(content))


def parse_line(line: str, num_classes: int) -> tuple[str, int]:
    """Return path and label. Raise ValueError that says what is wrong."""
    path, _, label = line.strip().rpartition(" ")
    if not path or "\0" in path or not (label.isascii() and label.isdecimal()):
        raise ValueError(f"{line[:80]!r} is not `path label` with a whole number for a label")
    if int(label) >= num_classes:
        raise ValueError(f"label {label} must lie between 0 and {num_classes - 1} (num_classes {num_classes})")
    if path.startswith(("/", "~")) or ".." in path.split("/"):
        raise ValueError(f"{path} leaves data_root: a path must lead down from it, without `..`")
    return path, int(label)


def check_classes(images: ImageList, num_classes: int) -> None:
    """Raise ValueError if a class has no image."""
    absent = [c for c, count in enumerate(images.class_counts(num_classes)) if not count]
    if absent:
        more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        raise ValueError(f"{images.file} has no image of class {', '.join(map(str, absent[:SHOWN]))}{more}; "
                         f"labels must run from 0 to num_classes - 1 = {num_classes - 1}")


def locate(*lists: ImageList) -> tuple[ImageList, ...]:
    """Return the lists with each path as it is on disk. Raise FileNotFoundError that counts the missing images and names the first five.

    ILSVRC's validation images may be in class folders, as the lists have them, or flat: val/<wnid>/X or val/X.
    """
    root = lists[0].root
    if not root.is_dir():
        raise FileNotFoundError(f"data_root {root} not found: name the folder that holds {lists[0].paths[0].split('/')[0]}/ "
                                "with --data_root or in the YAML")
    found = find_present(root, {path for images in lists for path in images.paths})
    missing = {path: images for images in lists for path in images.paths if path not in found}
    if missing:
        flat = find_present(root, {flattened(path) for path in missing})
        found |= {path: flattened(path) for path in missing if flattened(path) in flat}
        missing = {path: images for path, images in missing.items() if path not in found}
    if missing:
        first = ", ".join(list(missing)[:SHOWN])
        raise FileNotFoundError(f"{len(missing)} of {sum(map(len, lists))} listed images are not below data_root {root}: {first}"
                                f"{', ...' if len(missing) > SHOWN else ''} (listed in {next(iter(missing.values())).file})")
    return tuple(dataclasses.replace(images, paths=[found[path] for path in images.paths]) for images in lists)


def flattened(path: str) -> str:
    """Return val/X for val/<wnid>/X."""
    parts = path.split("/")
    return "/".join([*parts[:-2], parts[-1]])


def find_present(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return {path: path} of those that exist. Each folder is listed once, since a network drive is slow at asking for each file."""
    names_in: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, _, name = path.rpartition("/")
        names_in[folder].append(name)
    found = {}
    for folder, names in names_in.items():
        try:
            present = set(os.listdir(root / folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        found |= {path: path for name in names if name in present for path in [f"{folder}/{name}" if folder else name]}
    return found


def class_probabilities(sampling: str, counts: Tensor, progress: float, weight: Tensor) -> Tensor | None:
    """Return the probability of each class, (C,), after the share `progress` of training; None if every image is used once an epoch.

    Kang et al., ICLR 2020, section 3: equation 1 with q = 0 (balanced) and 1/2 (square root), equation 4 (progressive).
    "difficulty" is proportional to the weights of the CDB loss.
    """
    if sampling == "uniform":
        return None
    counts = counts.double()
    share, even = counts / counts.sum(), torch.full_like(counts, 1 / len(counts))
    return {"balanced": even, "square_root": counts.sqrt() / counts.sqrt().sum(), "progressive": (1 - progress) * share + progress * even,
            "difficulty": weight.double() / weight.double().sum()}[sampling]


def draw_epoch(labels: Tensor, probabilities: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return the indices (N,) of an epoch's images: a permutation, or draws of a class by its probability and of any image in it."""
    if probabilities is None:
        return torch.randperm(len(labels), generator=generator)
    counts = labels.bincount(minlength=len(probabilities))
    classes = torch.multinomial(probabilities, len(labels), replacement=True, generator=generator)
    within = (torch.rand(len(labels), dtype=torch.double, generator=generator) * counts[classes]).long()
    return labels.argsort(stable=True)[(counts.cumsum(0) - counts)[classes] + within]
