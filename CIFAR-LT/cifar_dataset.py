"""CIFAR-100, CIFAR-10 and scikit-learn's digits.

They are read, held out, cut to a long tail as in the paper, and augmented in whole batches.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_pickle import read_pickle
from longtail.devices import Runtime
from longtail.files import blob_id
from longtail.metrics import Batches

NUM_CLASSES = {"cifar100": 100, "cifar10": 10, "digits": 10}
HELD_OUT_PER_CLASS = 25  # paper, section 4.1: images of each class for validation
VALIDATED_ON_TEST = ("common", "paper-on-test")  # protocols; see long_tailed
UNVALIDATED = ("all", "refit")
PROTOCOLS = ("paper", *VALIDATED_ON_TEST, "all")  # that a user chooses; --refit brings its own
DIGITS_HELD_OUT, DIGITS_TEST = 20, 40  # images of each class
DIGITS_SIDE = 16  # pixels, twice the originals': a demo has to be quick
NORMALIZATION = {  # mean, std of R, G, B on a scale of 0 to 1
    "train": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's; released cifar_train.py
    "released-test": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # CIFAR-10's; released cifar_test.py
}
EVALUATION_BATCH = 256
PADDING = 4  # pixels of zeros on each side before the random crop
FOLDERS = {"cifar100": "cifar-100-python", "cifar10": "cifar-10-batches-py"}
FILES = {
    "cifar100": {"train": ["train"], "test": ["test"], "names": ["meta"]},
    "cifar10": {
        "train": [f"data_batch_{number}" for number in range(1, 6)],
        "test": ["test_batch"],
        "names": ["batches.meta"],
    },
}
LABELS = {"cifar100": b"fine_labels", "cifar10": b"labels"}  # keys in the files
NAMES = {"cifar100": b"fine_label_names", "cifar10": b"label_names"}


@dataclass(frozen=True)
class ImageSet:
    """Images (N, 3, H, W) uint8 and labels (N,) int64, on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> "ImageSet":
        return ImageSet(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> "ImageSet":
        return ImageSet(self.images.to(device), self.labels.to(device))

    def class_counts(self, num_classes: int) -> list[int]:
        return self.labels.bincount(minlength=num_classes).tolist()

    def identity(self) -> str:
        """Return a checksum of the images and labels, in their order. They must be on the CPU."""
        return blob_id(self.images.numpy().tobytes() + self.labels.numpy().tobytes())


def paths(dataset: str, data_root: Path, part: str) -> list[Path]:
    """Return the files of the 'train', 'test' or 'names' part of an official data set."""
    return [data_root / FOLDERS[dataset] / name for name in FILES[dataset][part]]


def read_images(path: Path, dataset: str) -> ImageSet:
    """Return the images and labels of one file. Raise ValueError if they are not CIFAR's."""
    entry = read_pickle(path)
    pixels, labels = entry.get(b"data"), entry.get(LABELS[dataset])
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise ValueError(f"{path} has no (N, 3072) uint8 array under 'data'")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(label) is int for label in labels):
        raise ValueError(
            f"{path} needs one whole number under '{LABELS[dataset].decode()}' for each of its {len(pixels)} images"
        )
    if not labels or min(labels) < 0 or max(labels) >= NUM_CLASSES[dataset]:
        raise ValueError(f"{path} has no image, or a label outside 0 to {NUM_CLASSES[dataset] - 1}")
    return ImageSet(torch.from_numpy(pixels.copy()).view(-1, 3, 32, 32), torch.tensor(labels))


def read_split(dataset: str, data_root: Path, split: str) -> ImageSet:
    """Return the 'train' or 'test' images of an official data set, or of digits, in file order."""
    if dataset == "digits":
        return read_digits(split)
    parts = [read_images(path, dataset) for path in paths(dataset, data_root, split)]
    return ImageSet(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def read_digits(split: str) -> ImageSet:
    """Return scikit-learn's 1,797 digits as 16x16 RGB; the last DIGITS_TEST images of each class are the test set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    larger = F.interpolate(grey, size=(DIGITS_SIDE, DIGITS_SIDE), mode="bilinear")
    images = larger.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    everything = ImageSet(images, torch.from_numpy(digits.target).long())
    rest, test = hold_out(everything, DIGITS_TEST)
    return everything[test if split == "test" else rest]


def class_names(dataset: str, data_root: Path) -> list[str]:
    """Return the names of the classes in the order of their labels."""
    if dataset == "digits":
        return [str(digit) for digit in range(10)]
    path, key = paths(dataset, data_root, "names")[0], NAMES[dataset]
    names = read_pickle(path).get(key)
    if (
        not isinstance(names, list)
        or len(names) != NUM_CLASSES[dataset]
        or not all(isinstance(name, bytes) for name in names)
    ):
        raise ValueError(f"{path} does not name {NUM_CLASSES[dataset]} classes under '{key.decode()}'")
    return [name.decode("utf-8", "replace") for name in names]


def check_present(dataset: str, data_root: Path, download: bool) -> None:
    """Raise FileNotFoundError that says what to get and where to put it.

    With `download`, let torchvision fetch and verify it.
    """
    if dataset == "digits":
        return
    missing = []
    for part in FILES[dataset]:
        missing += [path for path in paths(dataset, data_root, part) if not path.is_file()]
    if missing and not download:
        archive = FOLDERS[dataset].replace("-batches-py", "-python") + ".tar.gz"
        raise FileNotFoundError(
            f"{missing[0]} not found: --download fetches it, or unpack {archive} of "
            f"https://www.cs.toronto.edu/~kriz/cifar.html in {data_root}; "
            "--dataset digits needs no download"
        )
    if missing:
        from torchvision.datasets import CIFAR10, CIFAR100
        from torchvision.datasets.utils import download_and_extract_archive

        source = CIFAR100 if dataset == "cifar100" else CIFAR10
        try:
            download_and_extract_archive(source.url, str(data_root), filename=source.filename, md5=source.tgz_md5)
        except (OSError, RuntimeError) as error:
            raise OSError(f"{dataset} could not be downloaded to {data_root}: {error}") from error


def hold_out(images: ImageSet, per_class: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the rest and of the last `per_class` images of each class, both in file order."""
    mask = torch.zeros(len(images), dtype=torch.bool)
    for c in images.labels.unique():
        indices = (images.labels == c).nonzero().flatten()
        mask[indices[len(indices) - per_class :]] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def long_tail_counts(largest: int, num_classes: int, imbalance: float) -> list[int]:
    """Return the images of each class: from `largest` down exponentially to `largest / imbalance`.

    The paper, section 4.1.
    """
    if not 1 <= imbalance <= largest:
        raise ValueError(
            f"--imbalance must lie between 1 and {largest}, the images of the largest class, not {imbalance:g}"
        )
    return [int(largest * (1 / imbalance) ** (c / (num_classes - 1))) for c in range(num_classes)]


def first_of_each_class(labels: Tensor, counts: list[int]) -> Tensor:
    """Return the indices of the first counts[c] images of each class c, in file order."""
    return torch.cat([(labels == c).nonzero().flatten()[:count] for c, count in enumerate(counts)]).sort().values


def long_tailed(
    dataset: str, data_root: Path, imbalance: float, protocol: str = "paper"
) -> tuple[ImageSet, ImageSet | None]:
    """Return the long-tailed training set, and the set on which difficulty is measured and the epoch is chosen, if any.

    "paper" holds out the last HELD_OUT_PER_CLASS images of each class before the cut. "common" is what most other
    papers do: it cuts all images and validates on the test set. The test set then chooses the epoch, which makes the
    numbers too good, and gives CDB its difficulties, which no rival gets. "paper-on-test" separates the two changes:
    the paper's training set, validated on the test set. "all" adds the images that "paper" holds out to its training
    set, and "refit" has the training set of "common"; both validate nothing.
    """
    images = read_split(dataset, data_root, "train")
    num_classes = NUM_CLASSES[dataset]
    held_out = 0
    if protocol not in ("common", "refit"):
        held_out = DIGITS_HELD_OUT if dataset == "digits" else HELD_OUT_PER_CLASS
        if min(images.class_counts(num_classes)) <= held_out:
            raise ValueError(
                f"{data_root}: a class of {dataset} has {held_out} images or fewer, all of which validation takes"
            )
    rest, held = hold_out(images, held_out)
    counts = long_tail_counts(min(images[rest].class_counts(num_classes)), num_classes, imbalance)
    kept = rest[first_of_each_class(images.labels[rest], counts)]
    if protocol == "all":
        kept = torch.cat([kept, held]).sort().values
    if protocol in UNVALIDATED:
        return images[kept], None
    if protocol in VALIDATED_ON_TEST:
        return images[kept], read_split(dataset, data_root, "test")
    return images[kept], images[held]


def normalize(images: Tensor, constants: str = "train") -> Tensor:
    """Convert (N, 3, H, W) uint8 images to floats with mean 0 and variance 1, channels last in memory."""
    return standardize(images, *mean_and_std(constants, images.device))


def mean_and_std(constants: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and std on a scale of 0 to 255, (1, 3, 1, 1) each, on a device."""
    mean, std = NORMALIZATION[constants]
    pair = 255 * torch.tensor([mean, std]).view(2, 1, 3, 1, 1).to(device)
    return pair[0], pair[1]


def standardize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Convert (N, 3, H, W) uint8 images to floats, less the mean, over std, channels last in memory."""
    return images.contiguous(memory_format=torch.channels_last).float().sub_(mean).div_(std)


def to_input(picture: object, constants: str = "train") -> Tensor:
    """Return the network's input (3, H, W) for a PIL picture, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W)."""
    if not isinstance(picture, Tensor):
        picture = torch.from_numpy(
            np.array(picture.convert("RGB") if hasattr(picture, "convert") else picture)
        ).permute(2, 0, 1)
    return normalize(picture[None], constants)[0]


def evaluation_batches(images: ImageSet, constants: str, runtime: Runtime) -> Batches:
    """Yield normalised images and their labels.

    Each of several processes gets its own images. `images` are on the device.
    """
    own = torch.arange(runtime.rank, len(images), runtime.world_size, device=images.labels.device)
    for batch in own.split(EVALUATION_BATCH):
        yield normalize(images.images[batch], constants), images.labels[batch]


class Augmentation:
    """Random crops of the zero-padded image and horizontal flips, drawn for `count` images at once.

    A CPU generator draws them, so that they are the same on every device and in every process.
    """

    def __init__(self, count: int, flip: bool, generator: torch.Generator, device: torch.device):
        draws = torch.randint(2 * PADDING + 1, (2, count), generator=generator)
        self.rows, self.columns = draws.to(device)
        self.flipped = (torch.rand(count, generator=generator) < 0.5 * flip).to(device)

    def __call__(self, images: Tensor, which: Tensor, which_on_cpu: Tensor) -> Tensor:
        """Transform (n, 3, H, W) uint8 images by the draws numbered `which`, (n,), on their device and on the CPU."""
        height, width = images.shape[2:]
        windows = F.pad(images, [PADDING] * 4).unfold(2, height, 1).unfold(3, width, 1)  # (n, 3, 9, 9, H, W), a view
        crops = windows[torch.arange(len(images), device=images.device), :, self.rows[which], self.columns[which]]
        return torch.where(self.flipped[which].view(-1, 1, 1, 1), crops.flip(3), crops)


def training_batches(
    train: ImageSet,
    batch_size: int,
    flip: bool,
    seed: int,
    runtime: Runtime,
    augmentation: type[Augmentation] = Augmentation,
) -> Batches:
    """Yield this process's part of each batch, augmented and normalised; `train` is on the device.

    `seed` alone decides the order and the draws; epoch_seed derives it from the run's seed and the epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train), generator=generator)
    augment = augmentation(len(train), flip, generator, runtime.device)
    constants = mean_and_std("train", runtime.device)
    batches = order.split(batch_size)
    batches_on_device = runtime.move(order).split(batch_size)
    for batch, batch_on_device in zip(batches, batches_on_device, strict=True):
        which = runtime.share(batch_on_device)
        if len(which):
            images = augment(train.images[which], which, runtime.share(batch))
            yield standardize(images, *constants), train.labels[which]
