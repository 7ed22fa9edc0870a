"""Take a trained network away: `longtail.load_run(FOLDER)`, for a run of any experiment.

    model = longtail.load_run("runs/x")               # in evaluation mode, on the CPU
    logits = model(model.transform(picture)[None])    # a PIL picture, an array, a tensor or the path of a file
    print(model.class_names[logits.argmax()])

EGTEA's transform takes a clip: an array (T, H, W, 3), a tensor (T, 3, H, W) or a sequence of pictures.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from longtail.checkpoints import Checkpoint, load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
BESTS = ("final_model_checkpoint.pth", "best_*.pth")  # what the experiments call a run's best network
# The module of each experiment that has `trained_network(checkpoint, path)`.
MODULES = {"CIFAR-LT": "cifar_trained", "ImageNet-LT": "imagenet_trained", "EGTEA": "egtea_trained"}


def load_run(path: str | Path) -> nn.Module:
    """Return the best network of a run in evaluation mode, with `.transform`, `.class_names` and `.input_shape`.

    path: the folder of a run, or a checkpoint. Raise FileNotFoundError or ValueError if there is no network in it.
    """
    file = find_best(Path(path).expanduser())
    checkpoint = load_checkpoint(file)
    experiment = experiment_of(checkpoint, file)
    folder = ROOT / experiment
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} not found: networks are defined there, so load_run needs the repository")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    model: nn.Module = importlib.import_module(MODULES[experiment]).trained_network(checkpoint, file)
    return model.eval()


def find_best(path: Path) -> Path:
    """Return the checkpoint that `path` is, or the only best one in the folder."""
    if not path.is_dir():
        return path
    found = [file for pattern in BESTS for file in sorted(path.glob(pattern))]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{path} holds the networks of several runs: name one of {', '.join(map(str, found))}")
    raise FileNotFoundError(f"{path} holds no {' or '.join(BESTS)}: name the folder of a run, or a checkpoint")


def experiment_of(checkpoint: Checkpoint, path: Path) -> str:
    """Return the folder of the experiment that a checkpoint is of."""
    if "feat_model" in checkpoint or "state_dict_best" in checkpoint:
        return "ImageNet-LT"
    weights = checkpoint.get("state_dict", {}).get("conv1.weight")
    if not isinstance(weights, Tensor):
        raise ValueError(f"{path} is not a network of this repository: it has no feat_model, and no conv1.weight")
    return "EGTEA" if weights.dim() == 5 else "CIFAR-LT"


def pixels_of(picture: object) -> Tensor:
    """Return RGB (3, H, W) uint8 of a picture.

    picture: of PIL, the path of a file, an array (H, W, 3) or (H, W), or a tensor (3, H, W). Floats are from 0 to 1.
    """
    if isinstance(picture, str | Path):
        from PIL import Image, ImageOps

        picture = ImageOps.exif_transpose(Image.open(picture))
    if hasattr(picture, "convert"):
        picture = np.array(picture.convert("RGB"))
    if isinstance(picture, np.ndarray):
        grey = picture.ndim == 2
        picture = torch.from_numpy(np.ascontiguousarray(picture))
        picture = picture[None] if grey else picture.permute(2, 0, 1)
    if not isinstance(picture, Tensor) or picture.dim() != 3 or picture.shape[0] not in (1, 3):
        raise ValueError(
            f"a picture must have the shape (3, H, W), or as an array (H, W, 3), not {shape_or_type(picture)}"
        )
    if picture.is_floating_point():
        picture = (picture * 255).round().clamp(0, 255)
    return picture.to(torch.uint8).expand(3, -1, -1)


def shape_or_type(value: object) -> object:
    """Return the shape of a tensor, or the type of anything else."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
