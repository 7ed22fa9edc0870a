"""Run a script of CIFAR-LT or EGTEA with networks of one block a layer:

    python tests/shallow.py EGTEA/EGTEA_train.py FLAGS...

ResNet-32 then takes a fifth of the time, and 3D-ResNeXt-101 has 9 million parameters to draw and to write, not 47.
Tests of command lines need no more; test_resnet32.py, test_resnext3d.py and test_published.py have the whole networks.
"""

import sys

from forked import FOLDERS, run_script

sys.path[:0] = [folder for folder in FOLDERS if folder not in sys.path]

from torch import nn  # noqa: E402

from resnet32 import ResNet32  # noqa: E402
from resnext3d import ResNeXt3D  # noqa: E402

WHOLE = {network: network._make_layer for network in (ResNet32, ResNeXt3D)}


def shallow_resnet32(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return WHOLE[ResNet32](in_channels, channels, stride)[:1]


def shallow_resnext3d(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    return WHOLE[ResNeXt3D](in_channels, width, 1, stride)


SHALLOW = {ResNet32: staticmethod(shallow_resnet32), ResNeXt3D: staticmethod(shallow_resnext3d)}


if __name__ == "__main__":
    for network, make_layer in SHALLOW.items():
        network._make_layer = make_layer
    run_script(*sys.argv[1:])
