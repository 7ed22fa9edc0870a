"""ResNet-32 for small images; He et al., CVPR 2016, section 4.2.

It has 3 stages of 5 blocks and shortcuts without parameters (option A).

470,004 parameters at 100 classes. Attribute names are the checkpoint's keys.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from longtail.heads import build_head


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters.

    It maps (N, C, H, W) to (N, C', H / stride, W / stride).
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.new_channels = stride, channels - in_channels

    def shortcut(self, x: Tensor) -> Tensor:
        """Return every stride-th pixel, with zeros for the new channels, half of them on either side (option A)."""
        if not self.new_channels:
            return x
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.new_channels // 2, self.new_channels - self.new_channels // 2))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class ResNet32(nn.Module):
    """Map images (N, 3, H, W), H and W divisible by 4, to logits (N, num_classes)."""

    def __init__(self, num_classes: int, head: str = "linear"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._make_layer(16, 16, stride=1)
        self.layer2 = self._make_layer(16, 32, stride=2)
        self.layer3 = self._make_layer(32, 64, stride=2)
        self.linear = build_head(head, 64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        if head == "linear":  # released code: every class starts at the probability 1 / C of a sigmoid
            nn.init.constant_(self.linear.bias, -math.log(num_classes - 1) if num_classes > 1 else 0.0)

    @staticmethod
    def _make_layer(in_channels: int, channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(in_channels, channels, stride), *[BasicBlock(channels, channels, 1) for _ in range(4)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer1(x)  # (N, 16, H, W)
        x = self.layer2(x)  # (N, 32, H/2, W/2)
        x = self.layer3(x)  # (N, 64, H/4, W/4)
        return self.linear(x.mean(dim=(2, 3)))
