"""A backbone and its classifier, those of second stages too, and how a checkpoint holds the two."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import build_backbone
from longtail.checkpoints import Checkpoint, load_weights, plain_names
from resnet10 import FEATURES

PARTS = ("feat_model", "classifier")  # of a model, and of a checkpoint


class LinearClassifier(nn.Module):
    """Map features (N, F) to logits (N, num_classes)."""

    def __init__(self, num_classes: int, features: int = FEATURES):
        super().__init__()
        self.fc = nn.Linear(features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(features)


class ScaledClassifier(LinearClassifier):
    """Learnable weight scaling: w_c becomes f_c * w_c, and only f is learned; Kang et al., ICLR 2020, section 4.2."""

    def __init__(self, num_classes: int, features: int = FEATURES):
        super().__init__(num_classes, features)
        self.fc.requires_grad_(False)
        self.scales = nn.Parameter(torch.ones(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.scales[:, None] * self.fc.weight, self.fc.bias)


class ImageNetModel(nn.Module):
    """Backbone and classifier: images (N, 3, H, W) to logits (N, C).

    Second stages ("crt", "lws") freeze the backbone and its BatchNorm. `backbone` is one of backbones.BACKBONES, or
    timm/NAME.
    """

    def __init__(self, num_classes: int, stage: str = "features", backbone: str = "resnet10"):
        super().__init__()
        self.feat_model, features = build_backbone(backbone)
        classifier = ScaledClassifier if stage == "lws" else LinearClassifier
        self.classifier = classifier(num_classes, features)
        self.frozen = stage != "features"
        self.feat_model.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> "ImageNetModel":
        super().train(mode)
        self.feat_model.train(mode and not self.frozen)
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.feat_model(images))


def split_state(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Split a model's state dict into the two that a checkpoint holds."""
    return {
        part: {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        for part in PARTS
    }


def join_state(checkpoint: Checkpoint, path: object) -> dict[str, Tensor]:
    """Return a model's state dict from a checkpoint: ours, or the released {state_dict_best: PARTS}."""
    parts = checkpoint.get("state_dict_best", checkpoint)
    if not isinstance(parts, dict) or not all(isinstance(parts.get(part), dict) for part in PARTS):
        raise ValueError(f"{path} is not a model of this experiment: it holds no feat_model and classifier")
    if not all(isinstance(key, str) for part in PARTS for key in parts[part]):
        raise ValueError(f"{path} holds no weights by name")
    return {f"{part}.{key}": value for part in PARTS for key, value in plain_names(parts[part]).items()}


def load_model(checkpoint: Checkpoint, path: object, num_classes: int, backbone: str = "resnet10") -> ImageNetModel:
    """Return the model of a checkpoint. Raise ValueError that names what does not fit."""
    state = join_state(checkpoint, path)
    trained = checkpoint.get("arguments", {}).get("backbone", backbone)  # a released one does not say
    if trained != backbone:
        raise ValueError(f"{path} was trained with backbone {trained}, not {backbone}: set backbone to {trained}")
    model = ImageNetModel(num_classes, "lws" if "classifier.scales" in state else "features", backbone)
    model.requires_grad_(True)
    load_weights(model, state, path)
    if "state_dict_best" in checkpoint and isinstance(model.classifier, ScaledClassifier):
        model.classifier.fc.bias.data.mul_(model.classifier.scales.data)  # the released LWS scales the bias too
    return model


def start_second_stage(model: ImageNetModel, first: ImageNetModel) -> None:
    """Copy the first stage's backbone, and for LWS its classifier and scales. cRT learns a new classifier."""
    model.feat_model.load_state_dict(first.feat_model.state_dict())
    if isinstance(model.classifier, ScaledClassifier):
        model.classifier.load_state_dict(first.classifier.state_dict(), strict=False)


def tau_normalized(weight: Tensor, exponent: float) -> Tensor:
    """Return w_c / ||w_c|| ** exponent for weights (C, F); Kang et al., equation 5. As there, the bias is left out."""
    return weight / weight.norm(dim=1, keepdim=True) ** exponent
