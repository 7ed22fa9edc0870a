"""torchvision's networks as backbones.

Sizes as torchvision publishes them, and whole runs with the smallest of them.
"""

import contextlib
import json
import re
import sys
from urllib.error import URLError

import pytest
import torch
from torchvision import models

from backbones import (
    BACKBONES,
    check_batches,
    check_precision,
    fetch_published,
    load_pretrained,
    load_published,
    torchvision_backbone,
    trains_in_bf16_on_cpu,
)
from builders import (
    IMAGE_COUNTS,
    assert_same_state,
    last_checkpoint,
    log_rows,
    make_folder,
    train_imagenet,
    write_config,
)
from imagenet_config import read_config
from imagenet_model import ImageNetModel, split_state
from imagenet_run import BEST
from imagenet_table import name_of
from imagenet_training import build_optimizer, cosine_schedule
from longtail.checkpoints import load_checkpoint
from longtail.devices import Runtime
from longtail.training import train_epoch
from main import main
from resnet10 import ResNet10

# of 1000 classes, from torchvision's table of its weights
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("small"), IMAGE_COUNTS)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_sizes(backbone):
    with torch.device("meta"):
        network = ImageNetModel(1000, backbone=backbone)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS.get(backbone, 5_418_792)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_small_images_reach_layer4_as_one_pixel(backbone):
    """Up to 16 pixels, then more: a 3x3 convolution of stride 2 on one pixel has wrong gradients in bf16 on a CPU."""
    sides = []
    with torch.device("meta"):
        network = ImageNetModel(5, backbone=backbone).eval()
        network.feat_model.layer4.register_forward_pre_hook(
            lambda layer, inputs: sides.append(tuple(inputs[0].shape[2:]))
        )
        for side in (1, 16, 17, 32):
            network(torch.zeros(1, 3, side, side))
    assert sides == [(1, 1), (1, 1), (2, 2), (2, 2)]


def test_small_images_are_trained_in_fp32_on_a_cpu(data, tmp_path, failing, capsys):
    assert [trains_in_bf16_on_cpu(side) for side in (16, 17)] == [False, True]
    for side, device, bf16 in ((16, "cpu", False), (16, "cuda:0", True), (17, "cpu", True)):
        check_precision(side, Runtime(torch.device(device), bf16=bf16))  # these are right
    folder = train_imagenet(tmp_path, data, "small", num_epochs=1, image_size=16, device="cpu")
    assert json.loads((folder / "small.json").read_text())["precision"] == "fp32"
    asked = write_config(tmp_path, data, "asked", num_epochs=1, image_size=16, device="cpu", precision="bf16")
    assert "precision bf16" in failing(main, "--cfg", asked)


@pytest.mark.parametrize("backbone", ["resnet18", "resnext50_32x4d"])
def test_a_network_computes_what_torchvisions_does(backbone):
    torch.manual_seed(0)
    theirs, ours = models.get_model(backbone, num_classes=5).eval(), ImageNetModel(5, backbone=backbone).eval()
    state = theirs.state_dict()
    ours.classifier.load_state_dict({key: state[key] for key in ("fc.weight", "fc.bias")})
    ours.feat_model.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})
    images = torch.randn(2, 3, 40, 32)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)


LAYOUTS = {  # the same weights as different programs save them, each with a head of its own size
    "torchvision": lambda bare, parts: bare,
    "DataParallel": lambda bare, parts: {f"module.{key}": value for key, value in bare.items()},
    "under state_dict": lambda bare, parts: {"state_dict": bare},
    "under model": lambda bare, parts: {"model": bare, "epoch": 3},
    "this project": lambda bare, parts: {**parts, "epoch": 3},
    "released": lambda bare, parts: {"state_dict_best": parts},
    "both parts in one": lambda bare, parts: {
        f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()
    },
    "PyTorch 0.4": lambda bare, parts: {key: value for key, value in bare.items() if "num_batches" not in key},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pretrained_weights_are_read(layout, tmp_path):
    torch.manual_seed(0)
    network, other = ImageNetModel(3), ResNet10()
    parts, head = split_state(network.state_dict()), {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    torch.save(LAYOUTS[layout](parts["feat_model"] | head, parts), tmp_path / "x.pth")
    load_pretrained(other, tmp_path / "x.pth")
    assert all(torch.equal(value, network.feat_model.state_dict()[key]) for key, value in other.state_dict().items())


def test_weights_of_another_network_are_named(tmp_path):
    torch.save(torchvision_backbone("resnet18")[0].state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth .*layer1\.1\.bn1\.bias 64"):
        load_pretrained(ResNet10(), tmp_path / "x.pth")
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth .*pretrained"):
        load_pretrained(ResNet10(), tmp_path / "x.pth")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A ResNet-18 of 1000 classes, as torchvision saves one."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(models.resnet18().state_dict(), file)
    return file


@pytest.fixture(scope="module")
def first_stage(data, pretrained, tmp_path_factory):
    return train_imagenet(
        tmp_path_factory.mktemp("first"),
        data,
        "r18",
        backbone="resnet18",
        pretrained=pretrained,
        num_epochs=2,
        lr=1e-30,
    )


def test_a_run_starts_from_pretrained_weights(first_stage, pretrained, data, tmp_path):
    """With a learning rate of nothing the weights stay what they were."""
    state, weights = last_checkpoint(first_stage), torch.load(pretrained)
    assert torch.equal(state["feat_model"]["layer4.1.conv2.weight"], weights["layer4.1.conv2.weight"])
    assert state["classifier"]["fc.weight"].shape == (3, 512) and state["arguments"]["backbone"] == "resnet18"
    assert (
        state["arguments"]["pretrained"] == "resnet18.pth"
        and str(pretrained) not in (first_stage / "r18.json").read_text()
    )
    figures = json.loads((first_stage / "test.json").read_text())
    assert name_of(figures) == "CE, resnet18 from resnet18.pth"


def test_resume_is_exact_and_needs_no_pretrained_weights(data, pretrained, tmp_path, monkeypatch, capsys):
    """One run ends in its second epoch, the file is removed, and it continues; another one runs through."""

    def broken_off(training, epoch, runtime):
        if epoch == 2:
            raise OSError("the power is gone")
        return train_epoch(training, epoch, runtime)

    (tmp_path / "whole").mkdir()
    settings = {"backbone": "resnet18", "num_epochs": 2}
    whole = train_imagenet(tmp_path / "whole", data, "x", **settings, pretrained=pretrained)
    (tmp_path / "resnet18.pth").symlink_to(pretrained)
    file = write_config(tmp_path, data, "x", **settings, pretrained=tmp_path / "resnet18.pth")
    with monkeypatch.context() as patched:
        patched.setattr("longtail.training.train_epoch", broken_off)
        assert main(["--cfg", str(file)]) == 2
    (tmp_path / "resnet18.pth").unlink()
    assert main(["--cfg", str(file), "--resume"]) == 0
    assert_same_state(last_checkpoint(whole), last_checkpoint(tmp_path / "x"))
    assert log_rows(whole) == log_rows(tmp_path / "x")


@pytest.mark.parametrize("stage", ["crt", "lws"])
def test_second_stages(stage, first_stage, data, tmp_path, failing, capsys):
    folder = train_imagenet(
        tmp_path, data, stage, stage=stage, first_stage=first_stage, backbone="resnet18", num_epochs=1
    )
    before, after = load_checkpoint(first_stage / BEST), last_checkpoint(folder)
    assert all(torch.equal(value, after["feat_model"][key]) for key, value in before["feat_model"].items())
    other = write_config(tmp_path, data, "other", stage=stage, first_stage=first_stage, num_epochs=1)
    assert "backbone resnet18, not resnet10" in failing(main, "--cfg", other)


@pytest.mark.parametrize("method", [[], ["--tau_norm"], ["--ncm"]])
def test_every_test_runs(method, first_stage, capsys):
    assert main(["--test", "--model_dir", str(first_stage), *method]) == 0
    assert "15 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("backbone", "resnet20", "backbone .*resnet10.* timm/NAME.*'resnet20'"),
        ("pretrained", "none.pth", "no checkpoint at"),
        ("stage", "crt\nfirst_stage: /x\npretrained: x.pth", "pretrained x.pth .*stage crt"),
    ],
)
def test_wrong_settings(key, value, message, data, tmp_path, failing):
    assert re.search(message, failing(main, "--cfg", write_config(tmp_path, data, "x", **{key: value})))


@pytest.mark.parametrize(
    ("images", "batch_size", "side", "processes", "gpus", "fits"),
    [
        (65, 64, 32, 1, 0, False),
        (65, 64, 64, 1, 0, True),
        (66, 64, 32, 1, 1, True),
        (64, 64, 32, 1, 0, True),
        (67, 64, 32, 2, 1, False),
        (65, 64, 32, 2, 1, True),
        (640, 4, 32, 4, 1, False),
        (67, 64, 32, 1, 2, False),
        (68, 64, 32, 1, 2, True),
        (69, 64, 32, 1, 4, False),
    ],
)
def test_a_single_image_of_a_single_pixel_is_refused(images, batch_size, side, processes, gpus, fits):
    """BatchNorm needs two values of a channel; 32 pixels reach layer4 as one. 67 in two processes: a rest of 3, one for
    each.

    DataParallel gives a rest of 3 to two GPUs as 2 and 1, one of 5 to four as 2, 2 and 1.
    """
    runtime = Runtime(torch.device("cpu"), gpus=gpus, world_size=processes)
    with (
        contextlib.nullcontext()
        if fits
        else pytest.raises(ValueError, match=f"batch_size {batch_size} of {images} images")
    ):
        check_batches(images, batch_size, side, runtime)


def test_such_a_batch_ends_before_the_first_epoch(data, tmp_path, failing):
    count = len((data / "Small_train.txt").read_text().splitlines())
    file = write_config(tmp_path, data, "x", image_size=32, test_resize=32, batch_size=count - 1)
    assert "choose another batch_size" in failing(main, "--cfg", file)


WEIGHTS_18 = "resnet18-f37072fd.pth"  # as torchvision's page of models names them


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """PyTorch's folder of downloaded weights, empty, on a machine without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(URLError("no network")))
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_published_weights_are_used(cache, data, tmp_path, capsys):
    """With a learning rate of nothing the weights stay what they were; the file holds random ones under its name."""
    torch.manual_seed(2)
    weights = models.resnet18().state_dict()
    torch.save(weights, cache / WEIGHTS_18)
    settings = {"backbone": "resnet18", "pretrained": "imagenet", "num_epochs": 2, "lr": 1e-30, "warmup_epochs": 1}
    state = last_checkpoint(train_imagenet(tmp_path, data, "x", **settings))
    assert torch.equal(state["feat_model"]["layer4.1.conv2.weight"], weights["layer4.1.conv2.weight"])
    assert state["arguments"]["pretrained"] == "imagenet"


@pytest.mark.parametrize(
    ("backbone", "file"),
    [("resnet18", WEIGHTS_18), ("timm/vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors")],
)
def test_without_a_network_the_file_its_folder_and_the_key_are_named(backbone, file, cache, data, tmp_path, failing):
    if backbone.startswith("timm"):
        pytest.importorskip("timm")
    settings = {"backbone": backbone, "pretrained": "imagenet", "image_size": 224, "test_resize": 256}
    error = failing(main, "--cfg", write_config(tmp_path, data, "x", **settings))
    assert str(cache) in error and file in error and "key pretrained" in error
    assert not (tmp_path / "x").exists()


def test_there_are_no_published_weights_of_resnet10(cache, data, tmp_path, failing):
    error = failing(main, "--cfg", write_config(tmp_path, data, "x", pretrained="imagenet"))
    assert "backbone resnet10" in error


def test_a_damaged_download_is_named(cache, data, tmp_path, failing):
    (cache / WEIGHTS_18).write_bytes(b"<html>a login</html>")
    file = write_config(tmp_path, data, "x", backbone="resnet18", pretrained="imagenet")
    assert str(cache / WEIGHTS_18) in failing(main, "--cfg", file)


def test_a_network_of_timm_gets_the_images_that_it_knows(cache):
    """This one was trained with mean and std 0.5; its weights come from a file in PyTorch's folder."""
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    name = "vit_tiny_patch16_224"
    torch.manual_seed(3)
    theirs = timm.create_model(name, num_classes=1000).eval()
    file = cache / f"{name}.augreg_in21k_ft_in1k.safetensors"
    safetensors.save_file(theirs.state_dict(), file)
    ours = ImageNetModel(5, backbone=f"timm/{name}").eval()
    load_published(ours.feat_model, f"timm/{name}", fetch_published(f"timm/{name}"))
    pixels = torch.rand(2, 3, 224, 224)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    theirs.reset_classifier(0)
    with torch.no_grad():
        assert torch.allclose(ours.feat_model((pixels - mean) / std), theirs((pixels - 0.5) / 0.5), atol=1e-4)
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=file.name):
        load_published(ours.feat_model, f"timm/{name}", file)


def test_a_run_with_a_network_of_timm(data, tmp_path, failing, capsys):
    """Trained with AdamW, resumed and tested. A size or a name that does not fit is named before training."""
    pytest.importorskip("timm")
    settings = {
        "backbone": "timm/test_vit",
        "image_size": 160,
        "test_resize": 160,
        "num_epochs": 2,
        "optimizer": "adamw",
    }
    folder = train_imagenet(tmp_path, data, "x", **settings)
    assert main(["--cfg", str(tmp_path / "x.yaml"), "--resume"]) == 0
    assert main(["--test", "--model_dir", str(folder)]) == 0
    assert last_checkpoint(folder)["arguments"]["backbone"] == "timm/test_vit"
    small = write_config(tmp_path, data, "y", **{**settings, "backbone": "timm/vit_tiny_patch16_224"})
    assert re.search("timm/vit_tiny_patch16_224 .*image_size 160", failing(main, "--cfg", small))
    unknown = write_config(tmp_path, data, "y", **{**settings, "backbone": "timm/resnet1888"})
    assert "backbone timm/resnet1888" in failing(main, "--cfg", unknown)


def test_without_timm_its_networks_are_refused(data, tmp_path, monkeypatch, failing):
    monkeypatch.setitem(sys.modules, "timm", None)
    file = write_config(tmp_path, data, "x", backbone="timm/resnet18")
    assert "pip install timm" in failing(main, "--cfg", file)


def test_the_classifier_has_a_rate_of_its_own(data, tmp_path):
    settings = {"lr": 0.01, "head_lr": 0.1, "weight_decay": 0.05, "optimizer": "adamw"}
    config = read_config(write_config(tmp_path, data, "x", **settings))
    model = ImageNetModel(3)
    optimizer = build_optimizer(model, config)
    assert isinstance(optimizer, torch.optim.AdamW)
    body, head = optimizer.param_groups
    assert (body["initial_lr"], head["initial_lr"], body["weight_decay"]) == (0.01, 0.1, 0.05)
    assert [tuple(parameter.shape) for parameter in head["params"]] == [(3, 512), (3,)]
    assert len(body["params"]) + 2 == len(list(model.parameters()))


def test_the_rate_rises_in_the_warm_up_and_falls_afterwards():
    """Of four epochs the first warms up: half of it is half the rate, but for the hundredth with which it begins."""
    schedule = cosine_schedule(4, 1)
    assert schedule(0) == pytest.approx(0.01 / 1.01) and schedule(0.125) == pytest.approx(0.51 / 1.01)
    third = [1.0, 0.75, 0.25]  # (1 + cos) / 2 at 0, 60 and 120 degrees
    assert [schedule(epoch / 4 + 0.1) for epoch in (1, 2, 3)] == pytest.approx(third)


def test_a_resumed_adamw_is_exact(data, tmp_path, monkeypatch, capsys):
    """With two rates and a warm-up: broken off in the second of three epochs, then continued."""

    def broken_off(training, epoch, runtime):
        if epoch == 2:
            raise OSError("the power is gone")
        return train_epoch(training, epoch, runtime)

    (tmp_path / "whole").mkdir()
    settings = {"optimizer": "adamw", "lr": 0.001, "head_lr": 0.01, "warmup_epochs": 1, "num_epochs": 3}
    whole = train_imagenet(tmp_path / "whole", data, "x", **settings)
    file = write_config(tmp_path, data, "x", **settings)
    with monkeypatch.context() as patched:
        patched.setattr("longtail.training.train_epoch", broken_off)
        assert main(["--cfg", str(file)]) == 2
    assert main(["--cfg", str(file), "--resume"]) == 0
    first, second = last_checkpoint(whole), last_checkpoint(tmp_path / "x")
    for part in ("feat_model", "classifier"):
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())
    assert log_rows(whole) == log_rows(tmp_path / "x")
