"""Backbones: ResNet-10, those of torchvision and timm, and pretrained weights for all of them."""

from pathlib import Path

import torch
from torch import Tensor, nn

from imagenet_transforms import MEAN, STD
from longtail.checkpoints import Checkpoint, load_checkpoint, load_weights
from longtail.devices import Runtime
from resnet10 import FEATURES, ResNet10

TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d")
BACKBONES = ("resnet10", *TORCHVISION)
TIMM = "timm/"  # before the name of one of timm's networks
# A file may hold its weights under one of these, or two.
LAYERS = ("state_dict_best", "state_dict", "model", "feat_model")
HEADS = ("fc.", "classifier.", "head.")
STRIDE_BEFORE_LAYER4 = 16  # of each backbone here
COUNTER = "num_batches_tracked"  # of BatchNorm; files from before PyTorch 0.4.1 lack it


def build_backbone(name: str) -> tuple[nn.Module, int]:
    """Return a backbone with random weights, from images (N, 3, H, W) to features (N, F), and F."""
    if name == "resnet10":
        return ResNet10(), FEATURES
    if name.startswith(TIMM):
        return timm_backbone(name)
    return torchvision_backbone(name)


def torchvision_backbone(name: str) -> tuple[nn.Module, int]:
    """Return one of TORCHVISION with random weights, from images (N, 3, H, W) to features (N, F), and F."""
    from torchvision import models

    network = models.get_model(name, weights=None)
    features = network.fc.in_features
    network.fc = nn.Identity()
    return network, features


def timm_backbone(name: str, file: Path | None = None) -> tuple[nn.Module, int]:
    """Return one of timm's networks with random weights, or a file's, from images to features (N, F), and F."""
    try:
        import timm
    except ImportError:
        raise ValueError(f"backbone {name} needs timm: pip install timm, or choose {', '.join(BACKBONES)}") from None
    weights = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}} if file else {}
    try:
        network = timm.create_model(name.removeprefix(TIMM), num_classes=0, **weights)
    except RuntimeError as error:
        raise ValueError(f"backbone {name}: {error}; timm.list_models() names those of this version") from None
    take_imagenet_normalization(network)
    return network, getattr(network, "head_hidden_size", network.num_features)


def take_imagenet_normalization(network: nn.Module) -> None:
    """Let a network of timm take images with ImageNet's mean and std, as all here do, if it was trained with others."""
    config = network.pretrained_cfg
    if tuple(config["mean"]) == MEAN and tuple(config["std"]) == STD:
        return
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    own_mean, own_std = torch.tensor(config["mean"]).view(3, 1, 1), torch.tensor(config["std"]).view(3, 1, 1)
    network.register_buffer("input_scale", std / own_std, persistent=False)
    network.register_buffer("input_shift", (mean - own_mean) / own_std, persistent=False)

    def rescale(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0] * module.input_scale + module.input_shift

    network.register_forward_pre_hook(rescale)


def check_image_size(backbone: nn.Module, name: str, image_size: int) -> None:
    """Raise ValueError if a network of timm does not take images of this size, as many transformers do not."""
    if not name.startswith(TIMM):
        return
    backbone.eval()
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"backbone {name} does not take image_size {image_size}: {error}") from None


def is_transformer(backbone: nn.Module) -> bool:
    """Return whether a network has blocks of attention or is trained like one, which SGD trains badly."""
    return any(isinstance(module, nn.LayerNorm) for module in backbone.modules())


def published_file(name: str) -> tuple[str, Path]:
    """Return the address of the weights that torchvision or timm publishes for a backbone, and where they are kept.

    Raise ValueError for a backbone without such weights.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if name in TORCHVISION:
        from torchvision import models

        address = models.get_model_weights(name).DEFAULT.url
        return address, folder / Path(address).name
    if name.startswith(TIMM):
        import timm

        config = timm.get_pretrained_cfg(name.removeprefix(TIMM))
        if config and config.hf_hub_id:
            address = f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
            return address, folder / f"{config.architecture}.{config.tag}.safetensors"
    raise ValueError(
        f"pretrained imagenet: there are no published weights for backbone {name}; choose another backbone, such as "
        "resnet50, or train from random weights, without the key pretrained"
    )


def fetch_published(name: str) -> Path:
    """Return the file with a backbone's published weights, which is downloaded unless it is there.

    Raise OSError that says what to put where if it cannot be.
    """
    address, file = published_file(name)
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    checked = torch.hub.HASH_REGEX.search(file.name) if name in TORCHVISION else None
    try:
        torch.hub.download_url_to_file(address, str(file), checked[1] if checked else None)
    except (OSError, RuntimeError) as error:  # no network; another hash than the name's
        raise OSError(
            f"{address} cannot be downloaded ({error}): put it into {file.parent} as {file.name}, or train from random "
            "weights, without the key pretrained"
        ) from None
    return file


def load_published(backbone: nn.Module, name: str, file: Path) -> None:
    """Load the file of fetch_published. Raise ValueError if it is damaged or of another network."""
    if not name.startswith(TIMM):
        return load_pretrained(backbone, file)
    try:
        backbone.load_state_dict(timm_backbone(name, file)[0].state_dict())  # timm renames the keys of older files
    except Exception as error:  # safetensors has an exception of its own
        raise ValueError(
            f"{file} holds no weights of backbone {name}: {error}; remove it, to download it again"
        ) from None


def trains_in_bf16_on_cpu(image_size: int) -> bool:
    """Return whether bf16 gradients are right on a CPU: not for images of at most 16 pixels.

    They reach layer4 as a single pixel. There PyTorch 2.14 computes the weight gradient of a 3x3 convolution of stride
    2 wrongly in bf16: infinite, or, worse, finite.
    """
    return image_size > STRIDE_BEFORE_LAYER4


def check_precision(image_size: int, runtime: Runtime) -> None:
    """Raise ValueError if bf16 was asked for where its gradients are wrong."""
    if runtime.bf16 and runtime.device.type == "cpu" and not trains_in_bf16_on_cpu(image_size):
        raise ValueError(
            f"precision bf16 with image_size {image_size}: on a CPU, PyTorch's gradients are wrong for images of at "
            f"most {STRIDE_BEFORE_LAYER4} pixels; use precision fp32, or larger images"
        )


def check_batches(images: int, batch_size: int, image_size: int, runtime: Runtime) -> None:
    """Raise ValueError if one model would train on one image that layer4 sees as one pixel.

    BatchNorm needs two values of a channel. DataParallel cuts a process's part of a batch as Tensor.chunk does.
    """
    processes, gpus = runtime.world_size, max(runtime.gpus, 1)
    shares = []
    for size in (batch_size, images % batch_size):
        shares += [len(part) for part in torch.arange(size // processes).chunk(gpus)]
    if image_size <= 2 * STRIDE_BEFORE_LAYER4 and 1 in shares:
        raise ValueError(
            f"batch_size {batch_size} of {images} images, on {processes * gpus} GPUs or processes, leaves one a "
            f"single image, and BatchNorm cannot learn from one image of {image_size} pixels: choose another batch_size"
        )


def backbone_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights by name in a file of torchvision, of this project or of the released code.

    They may be nested under a key, and their names may start with DataParallel's `module.`.
    """
    for layer in LAYERS:
        if isinstance(checkpoint.get(layer), dict):
            checkpoint = checkpoint[layer]
    state = {
        key.removeprefix("module.").removeprefix("feat_model."): value
        for key, value in checkpoint.items()
        if isinstance(key, str)
    }
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def load_pretrained(backbone: nn.Module, file: Path) -> None:
    """Load a backbone's weights from a file, whose head is ignored. ValueError names every key that differs."""
    own = backbone.state_dict()
    state = backbone_weights(load_checkpoint(file))
    state = {key: value for key, value in state.items() if key in own or not key.startswith(HEADS)}
    if not state:
        raise ValueError(f"{file} holds no weights by name; pretrained must name a state dict")
    counters = {key: value for key, value in own.items() if key.endswith(COUNTER)}
    load_weights(backbone, counters | state, file)
