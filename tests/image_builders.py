"""Small images, and folders of them with lists, for the tests."""

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from imagenet_decoding import EncodedImage
from imagenet_readers import ViewSettings, read_view

SPLITS = ("train", "val", "test")


def jpeg(
    color: tuple[int, ...] = (200, 100, 50), size: tuple[int, int] = (40, 36), mode: str = "RGB", **settings
) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, "JPEG", **settings)
    return file.getvalue()


def make_folder(root: Path, counts: dict[str, list[int]], prefix: str = "Small", flat_test: bool = False) -> Path:
    """Small images of one colour a class below `root`, and lists of counts[split][c] images of class c, as
    ImageNet-LT has them.
    """
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (len(counts["train"]), 3))
    for split in SPLITS:
        lines = []
        for c, count in enumerate(counts[split]):
            folder = f"{'val' if split == 'test' else 'train'}/n{c:08d}"
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                name = (
                    f"ILSVRC2012_val_{c:04d}{number:04d}.JPEG" if split == "test" else f"n{c:08d}_{split}{number}.JPEG"
                )
                place = root / "val" if split == "test" and flat_test else root / folder
                shade = (colors[c] + rng.integers(-20, 20, 3)).clip(0, 255)
                (place / name).write_bytes(jpeg(tuple(map(int, shade))))
                lines.append(f"{folder}/{name} {c}\n")
        (root / f"{prefix}_{split}.txt").write_text("".join(lines))
    return root


def encoded(image: Image.Image, kind: str = "JPEG", **settings) -> bytes:
    """The file's content; a JPEG of quality 95 unless another is named."""
    if kind == "JPEG":
        settings = {"quality": 95, **settings}
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    """What is decoded from a file's content, (H, W, 3)."""
    return EncodedImage(content).decode().permute(1, 2, 0).numpy()


def training_view(content: bytes, image_size: int, seed: int) -> np.ndarray:
    """The training view of a file with this content."""
    return view_of(content, seed, ViewSettings(image_size, image_size))


def evaluation_view(content: bytes, image_size: int, test_resize: int) -> np.ndarray:
    """The evaluation view of a file with this content."""
    return view_of(content, None, ViewSettings(image_size, test_resize))


def view_of(content: bytes, seed: int | None, settings: ViewSettings) -> np.ndarray:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return read_view(Path(file.name), seed, settings)[0]
