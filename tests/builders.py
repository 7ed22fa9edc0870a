"""Data sets, files, networks and short runs that several test files build."""

import io
import pickle
import struct
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

import extract_frames
import main
import make_splits
from imagenet_decoding import EncodedImage
from imagenet_readers import ViewSettings, read_view
from longtail.checkpoints import load_checkpoint
from longtail.logs import cells, read_log
from resnext3d import ResNeXt3D

SPLITS = ("train", "val", "test")
RED, BLUE = (255, 0, 0), (0, 0, 255)
IMAGE_COUNTS = {"train": [12, 6, 3], "val": [3, 3, 3], "test": [5, 5, 5]}
IMAGENET_YAML = """
data_root: {root}
train_list: "{{data_root}}/Small_train.txt"
val_list: "{{data_root}}/Small_val.txt"
test_list: "{{data_root}}/Small_test.txt"
num_classes: 3
image_size: 32
test_resize: 36
model_dir: {model_dir}
num_epochs: 3
batch_size: 8
lr: 0.05
workers: 0
precision: fp32
"""
CLIPS = {"P01": (1, 1, 1, 2, 2, 3, 3, 1), "P20": (1, 2, 3), "OP01": (1, 2, 3, 3)}  # the verbs of each subject's clips
# a training that takes seconds
EGTEA_FLAGS = "--pretrained_model none --sample_size 40 --frames_per_clip 3 --batch_size 4 --max_epochs 2 --lr 0.01"

# A training that sends itself a signal after its first epoch: shell(..., "-c", this, NUMBER, MODULE, FLAGS...)
SIGNAL_AFTER_AN_EPOCH = """
import importlib, os, sys
from longtail.run import Run
finish = Run.finish_epoch
def finish_and_signal(*arguments):
    finish(*arguments)
    os.kill(os.getpid(), int(sys.argv[1]))
Run.finish_epoch = finish_and_signal
sys.exit(importlib.import_module(sys.argv[2]).main(sys.argv[3:]))
"""


# --- images -------------------------------------------------------------


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
                target = root / "val" if split == "test" and flat_test else root / folder
                shade = (colors[c] + rng.integers(-20, 20, 3)).clip(0, 255)
                (target / name).write_bytes(jpeg(tuple(map(int, shade))))
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


def picture(width=500, height=375, mode="RGB") -> Image.Image:
    """Smooth, with every color."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([127 + 100 * np.sin(x / 31), 127 + 100 * np.cos(y / 23), 127 + 100 * np.sin((x + y) / 41)], 2)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def quarters(width: int = 48, height: int = 32) -> Image.Image:
    """Red, green, blue and white quarters, each of one colour: how it is turned can be read off its corners."""
    image = Image.new("RGB", (width, height), "white")
    for box, color in (((0, 0), RED), ((width // 2, 0), (0, 255, 0)), ((0, height // 2), BLUE)):
        image.paste(color, (*box, box[0] + width // 2, box[1] + height // 2))
    return image


def with_orientation(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"subsampling": 0} if kind == "JPEG" else {}
    return encoded(quarters(), kind, exif=exif, **settings)


# --- CIFAR-LT -----------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Byte strings as Python 2 wrote them; numpy's old module path is put in by write_cifar."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, text):
        short = len(text) < 256
        self.write(
            (pickle.SHORT_BINSTRING + bytes([len(text)]) if short else pickle.BINSTRING + struct.pack("<i", len(text)))
            + text
        )
        self.memoize(text)

    dispatch[bytes] = save_bytes


def write_python2(path: Path, entry: dict) -> None:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(entry)
    path.write_bytes(buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def write_cifar(root: Path, dataset: str = "cifar100", per_class: int = 27, tests: int = 2) -> Path:
    """A data set of noise in the official format; image i of the training set has the value i % 251 everywhere."""
    classes, key = (100, b"fine_labels") if dataset == "cifar100" else (10, b"labels")
    folder = root / ("cifar-100-python" if dataset == "cifar100" else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    labels = np.tile(np.arange(classes), per_class)
    images = (np.arange(len(labels)) % 251).astype(np.uint8)[:, None].repeat(3072, axis=1)
    files = ["train"] if dataset == "cifar100" else [f"data_batch_{n}" for n in range(1, 6)]
    for name, part, part_labels in zip(
        files, np.array_split(images, len(files)), np.array_split(labels, len(files)), strict=True
    ):
        write_python2(folder / name, {b"data": part, key: part_labels.tolist()})
    test_labels = np.tile(np.arange(classes), tests)
    noise = np.random.default_rng(0).integers(0, 256, (len(test_labels), 3072), dtype=np.uint8)
    write_python2(
        folder / ("test" if dataset == "cifar100" else "test_batch"), {b"data": noise, key: test_labels.tolist()}
    )
    names = [f"class {c}".encode() for c in range(classes)]
    meta, names_key = ("meta", b"fine_label_names") if dataset == "cifar100" else ("batches.meta", b"label_names")
    write_python2(folder / meta, {names_key: names})
    return root


class Gadget:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "owned")


# --- ImageNet-LT --------------------------------------------------------


def write_config(path: Path, data: Path, run: str, **settings) -> Path:
    file = path / f"{run}.yaml"
    changed = "".join(f"{key}: {value}\n" for key, value in settings.items())
    lines = IMAGENET_YAML.format(root=data, model_dir=path / run).splitlines(keepends=True)
    file.write_text("".join(line for line in lines if line.split(":")[0] not in settings) + changed)
    return file


def train_imagenet(path: Path, data: Path, name: str, *flags: object, **settings) -> Path:
    """Train; the run's folder."""
    assert main.main(["--cfg", str(write_config(path, data, name, **settings)), *map(str, flags)]) == 0
    return path / name


def last_checkpoint(folder: Path) -> dict:
    return load_checkpoint(folder / f"last_{folder.name}.pth")


def assert_same_state(first: dict, second: dict) -> None:
    """Bit for bit, but for the run's folder."""
    assert first.keys() == second.keys()
    for key in ("feat_model", "classifier", "criterion"):
        assert all(torch.equal(value, second[key][name]) for name, value in first[key].items()), key
    for number, buffers in first["optimizer"]["state"].items():
        assert torch.equal(buffers["momentum_buffer"], second["optimizer"]["state"][number]["momentum_buffer"])
    assert first["best_accuracy"] == second["best_accuracy"] and first["epoch"] == second["epoch"]


def log_rows(folder: Path) -> list[dict]:
    return [
        {key: value for key, value in cells(row).items() if not key.startswith(("seconds", "images_per"))}
        for row in read_log(folder / f"{folder.name}.csv")
    ]


# --- EGTEA --------------------------------------------------------------


def write_video(path: Path, levels: list[int], height: int = 48, width: int = 64) -> Path:
    """An mp4, or an AVI of JPEGs, of flat frames with the given grey levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v")), 12, (width, height)
    )
    assert writer.isOpened()
    for level in levels:
        writer.write(np.full((height, width, 3), level, np.uint8))
    writer.release()
    return path


def make_clips(root: Path) -> Path:
    """Tiny videos, brought to frames and splits by the two data scripts; a folder with frames/ and splits/."""
    (root / "annotations").mkdir(parents=True)
    lines = {"train": [], "test": []}
    for subject, verbs in CLIPS.items():
        for number, verb in enumerate(verbs):
            clip = f"{subject}-R01-Tea-{number}-F{number:06d}"
            write_video(
                root / f"videos/{subject}-R01-Tea/{clip}.mp4", [70 * verb - 20 + 2 * (frame % 5) for frame in range(9)]
            )
            lines["test" if subject == "OP01" else "train"].append(f"{clip} 1 {verb} 1\n")
    for name, split in lines.items():
        (root / f"annotations/{name}_split1.txt").write_text("".join(split))
    (root / "annotations/verbs.txt").write_text("1 take\n2 put\n3 cut\n")
    assert extract_frames.main(["--videos", str(root / "videos"), "--out", str(root / "frames"), "--workers", "1"]) == 0
    assert make_splits.main(["--annotations", str(root / "annotations"), "--out", str(root / "splits")]) == 0
    return root


def egtea_flags(data: Path, folder: Path, *flags: object) -> list[str]:
    """Arguments of EGTEA_train.py."""
    return [
        *EGTEA_FLAGS.split(),
        "--data_root",
        str(data / "frames"),
        "--train_file",
        str(data / "splits/train_split.txt"),
        "--val_file",
        str(data / "splits/val_split.txt"),
        "--save_model",
        str(folder),
        *map(str, flags),
    ]


def random_state(num_classes: int = 400) -> dict[str, torch.Tensor]:
    """Every tensor of the network under the published names; one stored value each, so that a file of them is small."""
    with torch.device("meta"):
        own = ResNeXt3D(num_classes).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        f"module.{key}": torch.rand((), generator=generator).to(value.dtype).expand(value.shape)
        for key, value in own.items()
    }
