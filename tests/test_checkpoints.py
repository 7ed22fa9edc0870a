"""A checkpoint survives a full disk, and a hostile file cannot run code."""

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from longtail.checkpoints import find_weights, load_checkpoint, load_weights, save_checkpoint


def test_checkpoint_round_trip(tmp_path):
    state = {"weights": {"a": torch.arange(3)}, "epoch": 4, "names": ["x", "y"], "accuracy": 0.5}
    save_checkpoint(tmp_path / "a.pth", state)
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert torch.equal(loaded["weights"]["a"], torch.arange(3))
    assert loaded["epoch"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


class Gadget:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize("content", [b"", b"PK", b"nonsense" * 100, pickle.dumps({"a": Gadget()}), pickle.dumps([1])])
def test_damaged_or_hostile_checkpoints(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match="a.pth"):
        load_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "owned").exists()


def test_hostile_torch_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Gadget()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="more than plain values"):
        load_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"arguments": [1]}, "arguments"),
        ({"epoch": torch.tensor(3)}, "epoch"),
        ({"accuracy": "0.5"}, "accuracy"),
    ],
)
def test_what_a_checkpoint_says_of_itself_is_checked(tmp_path, state, match):
    save_checkpoint(tmp_path / "a.pth", state)
    with pytest.raises(ValueError, match=f"a.pth .*{match}"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "state",
    [
        None,
        [torch.ones(1)],
        {1: torch.ones(1)},
        {"weight": torch.eye(3, 2).to_sparse(), "bias": torch.ones(3)},
        {"weight": torch.ones(3, 2, device="meta"), "bias": torch.ones(3)},
    ],
)
def test_weights_that_are_none(state):
    with pytest.raises(ValueError, match=r"x\.pth"):
        load_weights(nn.Linear(2, 3), state, Path("x.pth"))


def test_truncated_checkpoint_and_missing_one(tmp_path):
    save_checkpoint(tmp_path / "a.pth", {"weights": torch.zeros(1000)})
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="a.pth.*damaged"):
        load_checkpoint(tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match=r"b\.pth"):
        load_checkpoint(tmp_path / "b.pth")


def test_load_weights_strips_module_and_names_what_differs():
    network = nn.Linear(2, 3)
    load_weights(network, {"module.weight": torch.ones(3, 2), "module.bias": torch.ones(3)}, Path("x.pth"))
    assert network.weight.sum() == 6
    with pytest.raises(ValueError, match=r"x\.pth .*bias 4 .*3; extra scalar .*; weight .*3x2"):
        load_weights(network, {"bias": torch.ones(4), "extra": torch.tensor(1)}, Path("x.pth"))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_fits_no_weight():
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(ValueError, match=r"x\.pth .*weight Tensor .*3x2"):
        load_weights(nn.Linear(2, 3), {"weight": nested, "bias": torch.ones(3)}, Path("x.pth"))


@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html><html><body>404</body></html>", b"\xef\xbb\xbf\n  <html>", b"<?xml version='1.0'?><Error/>"],
)
def test_a_web_page_is_called_one(content, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pth is a web page"):
        load_checkpoint(tmp_path / "x.pth")


class Wrapped(nn.Module):
    """As a LightningModule holds a network, with its loss beside it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.loss = model, nn.CrossEntropyLoss(weight=torch.ones(3))


@pytest.mark.parametrize(
    "save",
    [
        lambda network: network.state_dict(),
        lambda network: nn.DataParallel(network).state_dict(),
        lambda network: torch.compile(network).state_dict(),
        lambda network: torch.compile(nn.DataParallel(network)).state_dict(),
        lambda network: torch.optim.swa_utils.AveragedModel(network).state_dict(),
        lambda network: {"net": network.state_dict(), "acc": 91.5, "epoch": 7},
        lambda network: {"model_state_dict": nn.DataParallel(network).state_dict(), "optimizer_state_dict": {}},
        lambda network: {"model": network.state_dict(), "epoch": 7},
        lambda network: {"state_dict": Wrapped(network).state_dict(), "pytorch-lightning_version": "2.6", "epoch": 7},
    ],
    ids=["bare", "parallel", "compiled", "both", "averaged", "net", "model_state_dict", "model", "Lightning"],
)
def test_weights_are_found_in_what_other_programs_save(save, tmp_path):
    saved, network = nn.Linear(2, 3), nn.Linear(2, 3)
    torch.save(save(saved), tmp_path / "a.pth")
    load_weights(network, find_weights(load_checkpoint(tmp_path / "a.pth")), tmp_path / "a.pth")
    assert torch.equal(network.weight, saved.weight) and torch.equal(network.bias, saved.bias)


def test_flags_inside_a_checkpoint_are_named_with_the_remedy(tmp_path):
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth .*argparse\.Namespace"):
        load_checkpoint(tmp_path / "a.pth")
