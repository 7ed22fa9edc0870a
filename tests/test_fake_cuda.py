"""No GPU at hand: PyTorch's fake tensors run the forward pass and every loss as if on CUDA, and catch a tensor left
on the CPU."""

import argparse

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import cifar_dataset
import egtea_dataset
import imagenet_transforms
from cdb_loss import CDBLoss
from imagenet_model import ImageNetModel
from longtail.loss_flags import build_loss
from longtail.losses import LOSSES, REDUCTION, LossType, build_rival, find_loss
from resnet32 import ResNet32
from resnext3d import ResNeXt3D

CUDA = torch.device("cuda")


def build_criterion(loss: LossType, class_counts: list[int]) -> torch.nn.Module:
    settings = argparse.Namespace(
        loss_type=loss.name, **{setting.name: setting.default for setting in loss.settings} | {"difficulty": "smoothed"}
    )
    return build_loss(settings, class_counts, CDBLoss)


def on_cuda(module: torch.nn.Module) -> bool:
    return all(value.device.type == "cuda" for value in [*module.parameters(), *module.buffers()])


def check(network: torch.nn.Module, criterion: torch.nn.Module, inputs: torch.Tensor) -> None:
    """Forward pass and loss of a batch; every tensor is on the GPU."""
    loss = criterion(network(inputs), torch.zeros(len(inputs), dtype=torch.long))
    assert inputs.device.type == loss.device.type == "cuda"
    assert loss.shape == ()
    assert on_cuda(network)
    assert on_cuda(criterion)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_cifar(loss):
    with FakeTensorMode(allow_non_fake_inputs=False), CUDA:
        network = ResNet32(100, loss.head)
        criterion = build_criterion(loss, list(range(100, 0, -1)))
        check(network, criterion, cifar_dataset.normalize(torch.empty(8, 3, 32, 32, dtype=torch.uint8)))


@pytest.mark.parametrize("stage", ["features", "crt", "lws"])
def test_imagenet(stage):
    with FakeTensorMode(allow_non_fake_inputs=False), CUDA:
        images = imagenet_transforms.normalize(torch.empty(4, 3, 64, 64, dtype=torch.uint8))
        for criterion in [CDBLoss(1000, 1.5, reduction) for reduction in REDUCTION.words]:
            check(ImageNetModel(1000, stage), criterion, images)


@pytest.mark.parametrize("loss_type", ["CDB-CE", "CDB-FL", "EQL", "LDAM-DRW"])
def test_egtea(loss_type):
    loss = find_loss(loss_type)
    with FakeTensorMode(allow_non_fake_inputs=False), CUDA:
        network = ResNeXt3D(19, loss.head)
        criterion = build_criterion(loss, list(range(19, 0, -1)))
        check(network, criterion, egtea_dataset.normalize(torch.empty(2, 10, 64, 64, 3, dtype=torch.uint8)))


def test_a_tensor_on_the_cpu_is_caught():
    with FakeTensorMode(), CUDA:
        criterion = build_rival("Balanced_Softmax", [3, 2, 1])
        criterion.class_counts = torch.ones(3, device="cpu")
        with pytest.raises(Exception, match="cpu"):
            criterion(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
