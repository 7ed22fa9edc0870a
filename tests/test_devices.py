"""No GPU at hand: PyTorch's fake tensors run the forward pass and every loss as if on CUDA, and catch a tensor left on the CPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from baseline_losses import LOSS_TYPES, build_loss
from cifar_dataset import normalize
from resnet32 import ResNet32

CUDA = torch.device("cuda")


def on_cuda(module: torch.nn.Module) -> bool:
    return all(value.device.type == "cuda" for value in [*module.parameters(), *module.buffers()])


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_cifar_forward_and_loss(loss_type):
    with FakeTensorMode(allow_non_fake_inputs=False), CUDA:
        network = ResNet32(100, "cosine" if loss_type == "LDAM-DRW" else "linear")
        criterion = build_loss(loss_type, list(range(100, 0, -1)))
        images = torch.empty(8, 3, 32, 32, dtype=torch.uint8)
        loss = criterion(network(normalize(images)), torch.zeros(8, dtype=torch.long))
    assert loss.device.type == "cuda"
    assert loss.shape == ()
    assert on_cuda(network)
    assert on_cuda(criterion)


def test_a_tensor_on_the_cpu_is_caught():
    with FakeTensorMode(), CUDA:
        criterion = build_loss("Balanced_Softmax", [3, 2, 1])
        criterion.class_counts = torch.ones(3, device="cpu")
        with pytest.raises(Exception, match="cpu"):
            criterion(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
