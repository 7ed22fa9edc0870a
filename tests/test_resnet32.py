"""The network's size, names and start, as the paper's experiment fixes them."""

import math

import pytest
import torch

from resnet32 import BasicBlock, ResNet32


def test_parameters_and_keys():
    network = ResNet32(100)
    assert sum(p.numel() for p in network.parameters()) == 470_004
    expected = {"linear.weight", "linear.bias", "conv1.weight"}
    norms = ["bn1"] + [f"layer{i}.{j}.{n}" for i in (1, 2, 3) for j in range(5) for n in ("bn1", "bn2")]
    expected |= {
        f"{norm}.{name}"
        for norm in norms
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    expected |= {f"layer{i}.{j}.conv{k}.weight" for i in (1, 2, 3) for j in range(5) for k in (1, 2)}
    assert set(network.state_dict()) == expected


def test_head_starts_at_the_prior():
    assert ResNet32(100).linear.bias.tolist() == pytest.approx([-math.log(99)] * 100)
    assert set(dict(ResNet32(10, "cosine").linear.named_parameters())) == {"weight"}
    with pytest.raises(ValueError, match="'round'"):
        ResNet32(10, "round")


def test_shortcut_a_takes_every_second_pixel_and_pads_channels_with_zeros():
    x = torch.arange(2 * 4 * 4, dtype=torch.float).view(1, 2, 4, 4)
    y = BasicBlock(2, 4, stride=2).shortcut(x)
    assert y.shape == (1, 4, 2, 2)
    assert y[0, 1].tolist() == [[0, 2], [8, 10]]
    assert y[0, 2].tolist() == [[16, 18], [24, 26]]
    assert y[0, [0, 3]].abs().sum() == 0


@pytest.mark.parametrize("size", [4, 28, 32, 64])
def test_any_square_input(size):
    assert ResNet32(7).eval()(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_stages_halve_the_image_and_double_the_channels():
    network, shapes = ResNet32(10), []
    for stage in (network.layer1, network.layer2, network.layer3):
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_a_block_without_its_second_norm_is_its_shortcut():
    x = torch.arange(-16.0, 16).view(1, 2, 4, 4)
    same, larger = BasicBlock(2, 2, stride=1), BasicBlock(2, 4, stride=2)
    for block in (same, larger):
        torch.nn.init.zeros_(block.bn2.weight)
    assert same(x).flatten().tolist() == [0] * 16 + list(range(16))
    assert larger(x).flatten(2).tolist() == [[[0] * 4, [0] * 4, [0, 2, 8, 10], [0] * 4]]


def test_convolutions_start_as_he_et_al_2015():
    """Variance 2 / fan-in: of 16 channels, and of 32, under 3x3 filters."""
    network = ResNet32(10)
    assert network.layer2[0].conv1.weight.std().item() == pytest.approx((2 / 144) ** 0.5, rel=0.05)
    assert network.layer3[0].conv1.weight.std().item() == pytest.approx((2 / 288) ** 0.5, rel=0.05)
