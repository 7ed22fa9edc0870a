"""Small data sets in the formats of the three experiments, for checks that need no real data.

Each class has a colour of its own.
"""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

VERBS = 3
CONFIG = """
data_root: {root}
train_list: "{{data_root}}/Small_train.txt"
val_list: "{{data_root}}/Small_val.txt"
test_list: "{{data_root}}/Small_test.txt"
num_classes: 8
image_size: 64
test_resize: 72
model_dir: {root}/run
loss_type: CDB-CE
num_epochs: 90
batch_size: 32
lr: 0.05
workers: 2
"""


def shades(rng: np.random.Generator, color: np.ndarray, *shape: int) -> np.ndarray:
    """Return bytes of the given shape, whose last axis is the three channels: a colour and noise."""
    return (color + rng.normal(0, 40, (*shape, 3))).clip(0, 255).astype(np.uint8)


def photo(rng: np.random.Generator, width: int = 500, height: int = 375) -> Image.Image:
    """Return smooth blobs with some grain: as a JPEG about as large as ImageNet's.

    Pillow alone, since OpenCV's threads do not fork.
    """
    blobs = Image.fromarray(rng.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)).resize(
        (width, height), Image.BICUBIC
    )
    return Image.fromarray((np.asarray(blobs) + rng.normal(0, 6, (height, width, 3))).clip(0, 255).astype(np.uint8))


def cifar(root: Path, per_class: int = 60) -> Path:
    """Write CIFAR-100's three files. Return the folder for --data_root."""
    rng, folder = np.random.default_rng(0), root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    colors = rng.integers(0, 256, (100, 3))
    for name, count in (("train", per_class), ("test", 10)):
        labels = np.tile(np.arange(100), count)
        images = np.stack([shades(rng, colors[label], 1024).T.reshape(-1) for label in labels])
        (folder / name).write_bytes(pickle.dumps({b"data": images, b"fine_labels": labels.tolist()}, protocol=2))
    (folder / "meta").write_bytes(
        pickle.dumps({b"fine_label_names": [f"class {c}".encode() for c in range(100)]}, protocol=2)
    )
    return root


def images(root: Path, training: int = 40, size: tuple[int, int] = (80, 100)) -> Path:
    """Write lists, JPEGs and a configuration in ImageNet-LT's form. Return the configuration's file."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (8, 3))
    for split, count in (("train", training), ("val", 4), ("test", 4)):
        lines = []
        for c in range(8):
            (root / f"{split}{c}").mkdir(parents=True, exist_ok=True)
            for number in range(max(2, count // (c + 1)) if split == "train" else count):
                name = f"{split}{c}/{number}.JPEG"
                Image.fromarray(shades(rng, colors[c], *size)).save(root / name, quality=90)
                lines.append(f"{name} {c}\n")
        (root / f"Small_{split}.txt").write_text("".join(lines))
    (root / "config.yaml").write_text(CONFIG.format(root=root))
    return root / "config.yaml"


def clips(root: Path, training: int = 16) -> list[str]:
    """Write frames and splits in EGTEA's form. Return the flags that name them."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (VERBS, 3))
    for split, count in (("train", training), ("val", 3)):
        lines = []
        for number in range(count * VERBS):
            verb, clip = number % VERBS, f"P01-R01-Tea-{split == 'val':d}{number:04d}-F{number:06d}"
            folder = root / "frames/P01-R01-Tea" / clip
            folder.mkdir(parents=True, exist_ok=True)
            for frame in range(12):
                Image.fromarray(shades(rng, colors[verb], 60, 80)).save(folder / f"{frame:06d}.jpg", quality=90)
            lines.append(f"{clip} 1 {verb + 1} 1\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return [
        "--data_root",
        str(root / "frames"),
        "--train_file",
        str(root / "train.txt"),
        "--val_file",
        str(root / "val.txt"),
    ]
