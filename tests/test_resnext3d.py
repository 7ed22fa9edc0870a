"""The 3D network against the published key list, its loading of pretrained weights, and its refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from builders import random_state
from gpu.agreement import clip_network
from longtail.checkpoints import shape_of
from longtail.devices import Runtime, wants_bf16
from resnext3d import BF16_ON_CPU, Bottleneck, ResNeXt3D, load_pretrained, warn_of_bf16


@pytest.fixture(scope="module")
def network() -> ResNeXt3D:
    torch.manual_seed(0)
    return clip_network(5)


def test_parameters_at_19_classes():
    with torch.device("meta"):
        network = ResNeXt3D(19)
    assert sum(parameter.numel() for parameter in network.parameters()) == 47_560_147


def test_keys_and_shapes_are_the_published_ones(shared_data):
    lines = (shared_data / "checkpoint-keys/resnext-101-kinetics.tsv").read_text().splitlines()
    published = dict(line.split("\t") for line in lines)
    assert len(published) == 626
    assert {key: shape_of(value) for key, value in random_state().items()} == published


def test_stages_have_the_sizes_of_the_paper(network):
    sizes = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape)))
        for layer in (network.layer1, network.layer2, network.layer3, network.layer4)
    ]
    network.eval()
    with torch.no_grad():
        logits = network(torch.zeros(1, 3, 16, 64, 64))
    for hook in hooks:
        hook.remove()
    assert sizes == [(1, 256, 8, 16, 16), (1, 512, 4, 8, 8), (1, 1024, 2, 4, 4), (1, 2048, 1, 2, 2)]
    assert logits.shape == (1, 5)


def reference_logits(state: dict[str, Tensor], clips: Tensor) -> Tensor:
    """The network of github.com/kenshohara/3D-ResNets-PyTorch (models/resnext.py, depth 101, shortcut B), in steps."""

    def convolve(x: Tensor, key: str, **options: object) -> Tensor:
        return F.conv3d(x, state[f"{key}.weight"], **options)

    def normalize(x: Tensor, key: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{key}.{name}"].view(-1, 1, 1, 1) for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = normalize(convolve(clips, "conv1", stride=(1, 2, 2), padding=(3, 3, 3)), "bn1").clamp(min=0)
    x = F.max_pool3d(x, kernel_size=3, stride=2, padding=1)
    for stage, blocks in ((1, 3), (2, 4), (3, 23), (4, 3)):
        for block in range(blocks):
            key, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = normalize(convolve(x, f"{key}.conv1"), f"{key}.bn1").clamp(min=0)
            y = normalize(convolve(y, f"{key}.conv2", stride=stride, padding=1, groups=32), f"{key}.bn2").clamp(min=0)
            y = normalize(convolve(y, f"{key}.conv3"), f"{key}.bn3")
            if block == 0:
                x = normalize(convolve(x, f"{key}.downsample.0", stride=stride), f"{key}.downsample.1")
            x = (x + y).clamp(min=0)
    return x.mean((2, 3, 4)) @ state["fc.weight"].T + state["fc.bias"]


def test_logits_are_those_of_a_plain_second_implementation():
    generator = torch.Generator().manual_seed(0)
    network = ResNeXt3D(5).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                for values, low, high in (
                    (module.running_mean, -0.1, 0.1),
                    (module.running_var, 0.5, 2),
                    (module.weight, 0.5, 1),
                    (module.bias, -0.1, 0.1),
                ):
                    values.uniform_(low, high, generator=generator)
        clips = torch.randn(1, 3, 4, 40, 40, generator=generator)  # layer4 sees 1 x 2 x 2
        expected = reference_logits(network.state_dict(), clips)
        assert (network(clips) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert network.conv1.weight.std().item() == pytest.approx((2 / (64 * 7**3)) ** 0.5, rel=0.02)  # He et al., fan-out
    assert network.layer2[0].conv3.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)


def test_a_block_begins_as_its_shortcut():
    """Training from random weights learns sooner then; pretrained weights replace it."""
    blocks = [module for module in ResNeXt3D(5).modules() if isinstance(module, Bottleneck)]
    assert len(blocks) == 33
    x = torch.rand(2, 512, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    # the last of layer2, without a convolution in its shortcut; the first of layer3
    for block in (blocks[6], blocks[7]):
        y = block(x)
        assert torch.equal(y, block.downsample(x).relu())
        assert y.any()
        y.sum().backward()
        assert block.bn3.weight.grad.any()  # so that it can leave zero


@pytest.mark.parametrize("shape", [(1, 3, 1, 33, 33), (2, 3, 5, 40, 56), (1, 3, 3, 24, 24)])
def test_any_length_and_frame_size(network, shape):
    network.eval()
    with torch.no_grad():
        assert network(torch.zeros(shape)).isfinite().all()


def test_channels_last_gives_the_same_logits(network):
    clips = torch.randn(2, 3, 4, 40, 40, generator=torch.Generator().manual_seed(1))
    network.eval()
    with torch.no_grad():
        expected = network(clips)
        network.to(memory_format=torch.channels_last_3d)
        assert torch.allclose(network(clips.to(memory_format=torch.channels_last_3d)), expected, rtol=1e-3, atol=1e-3)


def test_a_clip_too_small_for_batch_statistics_is_refused(network):
    network.train()
    with pytest.raises(ValueError, match="4 frames of 32x32 .*--sample_size"):
        network(torch.zeros(1, 3, 4, 32, 32))


def test_bf16_on_a_cpu_only_when_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)  # a processor on which bf16 is faster
    cpu = torch.device("cpu")
    assert not BF16_ON_CPU
    assert [wants_bf16(choice, cpu, BF16_ON_CPU) for choice in ("auto", "fp32", "bf16")] == [False, False, True]
    assert wants_bf16("auto", cpu)


def test_bf16_on_a_cpu_is_warned_of(capsys):
    for bf16, device in ((False, "cpu"), (True, "cuda"), (True, "cpu")):
        warn_of_bf16(Runtime(torch.device(device), bf16=bf16))
    assert capsys.readouterr().out.count("--precision fp32 is right") == 1


@pytest.mark.parametrize("left_out", ["nothing", "num_batches_tracked", "fc.", "state_dict"])
def test_kinetics_file_gives_everything_but_the_head(network, tmp_path, left_out):
    state = {key: value for key, value in random_state().items() if left_out not in key}
    torch.save(
        state if left_out == "state_dict" else {"state_dict": state, "arch": "resnext-101", "epoch": 1},
        tmp_path / "k.pth",
    )
    head, own = network.fc.weight.clone(), sum(not key.startswith("fc.") for key in network.state_dict())
    counters = sum(key.endswith("num_batches_tracked") for key in network.state_dict())
    assert own == 624
    assert load_pretrained(network, tmp_path / "k.pth") == own - (counters if left_out == "num_batches_tracked" else 0)
    assert torch.equal(network.fc.weight, head)
    assert torch.equal(network.layer3[22].conv2.weight, state["module.layer3.22.conv2.weight"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"module.layer3.9.bn2.weight": None, "module.layer3.9.bnn2.weight": (512,)},
            "layer3.9.bn2.weight absent .*512; layer3.9.bnn2.weight 512 .*absent",
        ),
        ({"module.conv1.weight": (64, 3, 3, 7, 7)}, "conv1.weight 64x3x3x7x7 .*64x3x7x7x7"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(network, tmp_path, change, match):
    state = random_state()
    for key, shape in change.items():
        state.pop(key, None)
        state.update({key: torch.zeros(shape)} if shape else {})
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    before = network.conv1.weight.clone()
    with pytest.raises(ValueError, match=f"other.pth .*: {match}$"):
        load_pretrained(network, tmp_path / "other.pth")
    assert torch.equal(network.conv1.weight, before)


def test_a_file_without_weights_is_refused(network, tmp_path):
    torch.save({"state_dict": [1, 2]}, tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth"):
        load_pretrained(network, tmp_path / "list.pth")


def test_cosine_head_gives_cosines():
    network = ResNeXt3D(3, head="cosine").eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, 2, 33, 33)).abs().max() <= 1
    assert "fc.bias" not in network.state_dict()
    with pytest.raises(ValueError, match="'sigmoid'"):
        ResNeXt3D(3, head="sigmoid")


def test_weights_without_names(tmp_path):
    torch.save({"state_dict": {1: torch.zeros(3)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth holds no weights"):
        load_pretrained(ResNeXt3D(3), tmp_path / "x.pth")
