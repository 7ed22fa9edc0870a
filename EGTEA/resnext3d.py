"""3D-ResNeXt-101 for video clips.

Hara, Kataoka, Satoh, CVPR 2018: 3-4-23-3 blocks, cardinality 32, shortcuts of type B.

47,560,147 parameters at 19 classes. Attribute names are the keys of the published Kinetics checkpoint.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.checkpoints import find_weights, load_checkpoint, load_weights
from longtail.devices import Runtime
from longtail.heads import build_head

CARDINALITY, EXPANSION = 32, 2
FEATURES = 2048
BF16_ON_CPU = False  # 3D convolution in bf16 is wrong there (pytorch issue 169688)
AUTO_PRECISION = "bf16 on GPUs that accelerate it, fp32 on a CPU"


class Bottleneck(nn.Module):
    """1x1x1, grouped 3x3x3 and 1x1x1 convolutions beside the shortcut.

    The shortcut is the identity, or a 1x1x1 convolution where the shape changes.
    """

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        channels = width * EXPANSION
        self.conv1 = nn.Conv3d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, groups=CARDINALITY, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(channels)
        if (in_channels, stride) == (channels, 1):
            self.downsample = nn.Identity()
        else:
            convolution = nn.Conv3d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm3d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


class ResNeXt3D(nn.Module):
    """Map clips (N, 3, T, H, W) of any length and frame size to logits (N, num_classes)."""

    def __init__(self, num_classes: int, head: str = "linear"):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        self.layer1 = self._make_layer(64, 128, blocks=3, stride=1)
        self.layer2 = self._make_layer(256, 256, blocks=4, stride=2)
        self.layer3 = self._make_layer(512, 512, blocks=23, stride=2)
        self.layer4 = self._make_layer(1024, 1024, blocks=3, stride=2)
        self.fc = build_head(head, FEATURES, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            # a block begins as its shortcut: 33 of them learn sooner from random weights
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    @staticmethod
    def _make_layer(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        rest = (Bottleneck(width * EXPANSION, width, 1) for _ in range(blocks - 1))
        return nn.Sequential(Bottleneck(in_channels, width, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1 and x.shape[2] <= 16 and max(x.shape[3:]) <= 32:
            raise ValueError(
                f"one clip of {x.shape[2]} frames of {x.shape[3]}x{x.shape[4]} leaves layer4 a single value a channel, "
                "and BatchNorm needs two: a larger --sample_size, or a --batch_size and --accumulate that leave no "
                "clip alone"
            )
        # the weight gradient in bf16 writes past its buffer in PyTorch 2.14
        with torch.autocast("cpu", enabled=False):
            x = self.conv1(x)
        x = self.maxpool(F.relu(self.bn1(x), inplace=True))
        x = self.layer1(x)  # (N, 256, T/2, H/4, W/4)
        x = self.layer2(x)  # (N, 512, T/4, H/8, W/8)
        x = self.layer3(x)  # (N, 1024, T/8, H/16, W/16)
        x = self.layer4(x)  # (N, 2048, T/16, H/32, W/32)
        return self.fc(x.mean(dim=(2, 3, 4)))


def warn_of_bf16(runtime: Runtime) -> None:
    """Say so if clips are computed in bf16 on a CPU."""
    if runtime.bf16 and runtime.device.type == "cpu":
        runtime.say(
            "bf16 on a CPU: PyTorch's 3D convolutions give wrong results in it (pytorch issue 169688); "
            "--precision fp32 is right"
        )


def load_pretrained(model: ResNeXt3D, path: Path) -> int:
    """Load everything but the head from a checkpoint, such as the Kinetics file. Return the number of tensors.

    num_batches_tracked may be missing, since older PyTorch did not have it. Raise ValueError that names every other key
    that differs.
    """
    checkpoint = load_checkpoint(path)
    weights = find_weights(checkpoint)
    if not all(isinstance(key, str) for key in weights):
        raise ValueError(f"{path} holds no weights by name")
    taken = {key: value for key, value in weights.items() if not key.startswith("fc.")}
    state = dict(taken)
    for key, value in model.state_dict().items():
        if key.startswith("fc."):
            state[key] = value
        elif key.endswith("num_batches_tracked"):
            state.setdefault(key, value)
    load_weights(model, state, path)
    return len(taken)
