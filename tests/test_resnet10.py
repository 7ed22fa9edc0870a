"""ResNet-10 against torchvision's, and the second-stage classifiers against sums done by hand."""

import pytest
import torch
from torch import nn

from imagenet_model import (
    ImageNetModel,
    LinearClassifier,
    ScaledClassifier,
    join_state,
    load_model,
    split_state,
    start_second_stage,
    tau_normalized,
)
from resnet10 import ResNet10


def test_backbone_is_torchvisions():
    from torchvision.models import resnet

    torch.manual_seed(0)
    ours, theirs = ResNet10(), resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1])
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict())  # strict: the same keys
    images = torch.randn(2, 3, 64, 96)
    for train in (True, False):  # in training mode the running statistics move too
        assert torch.allclose(ours.train(train)(images), theirs.train(train)(images), atol=1e-5)


@pytest.mark.parametrize("stage", ["crt", "lws"])
def test_second_stage_leaves_the_backbone_alone(stage):
    torch.manual_seed(0)
    model = ImageNetModel(3, stage).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == ({"classifier.scales"} if stage == "lws" else {"classifier.fc.weight", "classifier.fc.bias"})


def test_first_stage_trains_its_batch_statistics():
    model = ImageNetModel(3).train()
    model(torch.randn(4, 3, 32, 32))
    assert model.feat_model.bn1.num_batches_tracked == 1


def test_scaled_classifier_by_hand():
    classifier = ScaledClassifier(2)
    features = torch.zeros(1, 512)
    features[0, :2] = torch.tensor([3.0, 4.0])
    with torch.no_grad():
        classifier.fc.weight.zero_()
        classifier.fc.weight[:, :2] = torch.tensor([[1.0, 2.0], [-1.0, 1.0]])
        classifier.fc.bias.copy_(torch.tensor([0.5, -0.5]))
        classifier.scales.copy_(torch.tensor([2.0, 3.0]))
    assert classifier(features).tolist() == [[22.5, 2.5]]  # 2 * (3 + 8) + 0.5, 3 * (-3 + 4) - 0.5


def test_second_stages_start_from_the_first():
    torch.manual_seed(0)
    first, crt, lws = ImageNetModel(4), ImageNetModel(4, "crt"), ImageNetModel(4, "lws")
    for model in (crt, lws):
        start_second_stage(model, first)
        assert torch.equal(model.feat_model.conv1.weight, first.feat_model.conv1.weight)
    assert not torch.equal(crt.classifier.fc.weight, first.classifier.fc.weight)
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(lws.eval()(images), first.eval()(images), atol=1e-6)  # scales of 1 change nothing


def test_tau_normalisation_by_hand():
    weight = torch.tensor([[3.0, 4.0], [0.0, 2.0]])  # norms 5 and 2
    assert tau_normalized(weight, 0.0).tolist() == weight.tolist()
    assert torch.allclose(tau_normalized(weight, 1.0), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert torch.allclose(tau_normalized(weight, 0.5), torch.tensor([[3 / 5**0.5, 4 / 5**0.5], [0.0, 2**0.5]]))


def released(model: ImageNetModel) -> dict:
    """The layout of the released code, with DataParallel's prefix."""
    parts = split_state(model.state_dict())
    return {
        "state_dict_best": {part: {f"module.{key}": value for key, value in parts[part].items()} for part in parts},
        "epoch": 90,
    }


def test_released_layout_is_read():
    model = ImageNetModel(5)
    loaded = load_model(released(model), "x.pth", 5)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_a_released_lws_scales_the_bias_too():
    """There the logits are f_c * (w_c . x + b_c), as in models/TauNormClassifier.py of classifier-balancing."""
    model, features = ImageNetModel(5, "lws"), torch.randn(4, 512)
    model.classifier.scales.data.uniform_(0.5, 2)
    expected = model.classifier.scales * model.classifier.fc(features)
    assert torch.allclose(load_model(released(model), "x.pth", 5).classifier(features), expected, atol=1e-5)
    assert torch.equal(
        load_model(split_state(model.state_dict()), "x.pth", 5).classifier(features), model.classifier(features)
    )
    second = ImageNetModel(5, "lws")
    start_second_stage(second, load_model(released(model), "x.pth", 5))
    assert torch.allclose(second.classifier(features), expected, atol=1e-5)


@pytest.mark.parametrize("stage", ["features", "lws"])
def test_our_layout_is_read(stage):
    model = ImageNetModel(5, stage)
    loaded = load_model(split_state(model.state_dict()), "x.pth", 5)
    assert isinstance(loaded.classifier, ScaledClassifier if stage == "lws" else LinearClassifier)
    assert loaded.state_dict().keys() == model.state_dict().keys()


def test_misfits_are_named():
    with pytest.raises(ValueError, match=r"x\.pth .*classifier.fc.bias 5 .*7"):
        load_model(split_state(ImageNetModel(5).state_dict()), "x.pth", 7)
    for checkpoint in ({}, {"feat_model": {}}, {"state_dict_best": 3}, {"feat_model": 1, "classifier": 2}):
        with pytest.raises(ValueError, match=r"x\.pth is not a model"):
            join_state(checkpoint, "x.pth")
