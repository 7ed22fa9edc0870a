"""What `prepare` wires together: the constants of the recipes, the flags, the images of an epoch.

Nothing is trained.
"""

import re

import numpy as np
import pytest
import torch

import cifar_dataset
from builders import write_cifar, write_python2
from cifar_train import main, parse_arguments, prepare
from longtail.checkpoints import load_checkpoint
from longtail.devices import Runtime
from longtail.heads import CosineHead
from longtail.training import Training
from resnet32 import ResNet32

CPU = Runtime(torch.device("cpu"))
MEAN, STD = (
    torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)  # ImageNet's
DIGITS = ("--dataset", "digits", "--imbalance", "20")
COUNTS = [114, 81, 58, 41, 30, 21, 15, 11, 7, 5]  # 114 * 20 ** (-c / 9)


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory) -> tuple[str, ...]:
    """Flags for 400 training and 250 validation images.

    Red is a pixel's row, green its column, both from 1 on, blue the class.
    """
    root = write_cifar(tmp_path_factory.mktemp("cifar10"), "cifar10", tests=1)
    labels = np.arange(130) % 10
    row, column = (np.broadcast_to(axis, (32, 32)) for axis in np.ogrid[1:33, 1:33])
    pixels = np.stack([np.stack([row, column, np.full((32, 32), label)]) for label in labels]).astype(np.uint8)
    for path in root.glob("*/data_batch_*"):
        write_python2(path, {b"data": pixels.reshape(130, 3072), b"labels": labels.tolist()})
    return "--class_num", "10", "--imbalance", "1", "--data_root", str(root)


def prepared(*flags: str) -> Training:
    return prepare(parse_arguments([*flags]), CPU)[0]


def rates(training: Training, epochs: tuple[int, ...]) -> list[list[float]]:
    """The learning rate of each parameter group at the start of each epoch."""
    found = []
    for epoch in epochs:
        training.set_lr(epoch, 0)
        found.append([group["lr"] for group in training.optimizer.param_groups])
    return found


def groups(training: Training) -> list[tuple[int, float]]:
    """How many parameters each group has, and their weight decay."""
    return [(len(group["params"]), group["weight_decay"]) for group in training.optimizer.param_groups]


def pixels(images: torch.Tensor) -> torch.Tensor:
    """What ImageNet's constants were applied to, 0 to 255."""
    return (images * STD + MEAN) * 255


def test_paper_recipe(cifar10):
    """240 epochs of batches of 32; 0.1, from epoch 161 on 0.001, from 211 on 0.00001.

    All but the head's bias decays by 5e-4.
    """
    training = prepared(*cifar10)
    assert (training.epochs, training.batches_per_epoch, training.ema) == (240, 13, None)
    assert len(next(iter(training.train_batches(1)))[1]) == 32
    assert rates(training, (1, 160, 161, 210, 211, 240)) == [
        pytest.approx([lr] * 2) for lr in (0.1, 0.1, 1e-3, 1e-3, 1e-5, 1e-5)
    ]
    assert groups(training) == [(94, 5e-4), (1, 0)]
    assert training.optimizer.param_groups[1]["params"][0] is training.model.linear.bias
    assert all((group["momentum"], group["nesterov"]) == (0.9, False) for group in training.optimizer.param_groups)


def test_fast_recipe(cifar10):
    """30 epochs of batches of 64; a rise from 4 % in 3 epochs, level to the 12th, then down.

    Muon steps at 0.02 on 30 convolutions.
    """
    training = prepared(*cifar10, "--recipe", "fast")
    assert (training.epochs, training.batches_per_epoch) == (30, 7)
    assert len(next(iter(training.train_batches(1)))[1]) == 64
    shares = {1: 0.04, 4: 1, 12: 1, 22: 0.5, 28: 1 / 6}
    assert rates(training, tuple(shares)) == [
        pytest.approx([0.1 * share, 0.1 * share, 0.02 * share]) for share in shares.values()
    ]
    assert groups(training) == [(64, 5e-4), (1, 0), (30, 0)]
    assert training.optimizer.param_groups[1]["params"][0] is training.model.linear.bias
    assert [group.get("orthogonal", False) for group in training.optimizer.param_groups] == [False, False, True]
    assert all((group["momentum"], group["nesterov"]) == (0.9, True) for group in training.optimizer.param_groups)


def test_strong_recipe(cifar10):
    """The fast recipe's optimizer and average, 100 epochs of batches of 64; a rise in 10, level to the 40th.

    AutoAugment and Cutout on the images: whole squares of ImageNet's mean colour, 124, 116 and 104 of 255.
    """
    training = prepared(*cifar10, "--recipe", "strong")
    assert (training.epochs, training.batches_per_epoch) == (100, 7)
    shares = {1: 0.04, 11: 1, 41: 1, 71: 0.5}
    assert rates(training, tuple(shares)) == [
        pytest.approx([0.1 * share, 0.1 * share, 0.02 * share]) for share in shares.values()
    ]
    assert groups(training) == [(64, 5e-4), (1, 0), (30, 0)] and training.ema is not None
    images, labels = next(iter(training.train_batches(1)))
    assert len(labels) == 64
    is_mean = (pixels(images).round() == torch.tensor([124.0, 116.0, 104.0]).view(3, 1, 1)).all(1)
    assert is_mean.sum((1, 2)).min() >= 8 * 8


def test_fast_recipe_averages_with_decay_0_998(cifar10):
    training = prepared(*cifar10, "--recipe", "fast")
    for value in (0.0, 1.0):
        torch.nn.init.constant_(training.model.linear.bias, value)
        training.ema.update_parameters(training.model)
    assert training.selected.linear.bias.tolist() == pytest.approx([0.002] * 10, rel=1e-4)


@pytest.mark.parametrize(("recipe", "expected"), [("paper", [0.2, 0.2]), ("fast", [0.2, 0.2, 0.04])])
def test_lr_flag_moves_every_rate(cifar10, recipe, expected):
    """Twice the recipe's 0.1; the fourth epoch has the peak rate in both."""
    assert rates(prepared(*cifar10, "--recipe", recipe, "--lr", "0.2"), (4,)) == [pytest.approx(expected)]


@pytest.mark.parametrize("recipe", ["paper", "fast"])
def test_training_images_are_shifted_by_up_to_4_pixels_flipped_and_normalised(cifar10, recipe):
    """Two pixels in the middle say where a crop was cut and whether it was flipped.

    Row 16, column 16 or 17, moved by -4 to 4.
    """
    images = pixels(torch.cat([images for images, _ in prepared(*cifar10, "--recipe", recipe).train_batches(1)]))
    assert len(images) == 400
    assert (images - images.round()).abs().max() < 1e-3 and images.round().unique().tolist() == list(range(33))
    row, column, step = images[:, 0, 15, 15], images[:, 1, 15, 15], images[:, 1, 15, 16] - images[:, 1, 15, 15]
    assert row.round().unique().tolist() == list(range(12, 21))
    assert (column + step.clamp(max=0)).round().unique().tolist() == list(range(12, 21))
    assert 150 < (step < 0).sum() < 250


def test_validation_images_are_whole_and_normalised_as_in_training(cifar10):
    images, labels = (torch.cat(parts) for parts in zip(*prepared(*cifar10).val_batches(), strict=True))
    assert torch.allclose(
        pixels(images)[:, :2], torch.stack(torch.meshgrid(*[torch.arange(1.0, 33)] * 2, indexing="ij")), atol=1e-3
    )
    assert torch.allclose(pixels(images)[:, 2, 0, 0], labels.float(), atol=1e-3)
    assert labels.bincount().tolist() == [25] * 10


def test_every_epoch_has_an_order_of_its_own(cifar10):
    training, again = prepared(*cifar10), prepared(*cifar10)
    first, second, repeated = (
        torch.cat([labels for _, labels in batches])
        for batches in (training.train_batches(1), training.train_batches(2), again.train_batches(1))
    )
    assert torch.equal(first, repeated)
    assert not torch.equal(first, second) and first.bincount().tolist() == second.bincount().tolist() == [40] * 10


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (("--tau", "1.5"), "tau", 1.5),
        (("--tau", "dynamic-released"), "tau", "dynamic-released"),
        ((), "tau", "dynamic"),
        (("--reduction", "weighted_mean"), "reduction", "weighted_mean"),
        ((), "reduction", "mean"),
        (("--loss_type", "FL", "--gamma", "3"), "gamma", 3),
        (("--loss_type", "CDB-FL", "--gamma", "3"), "focal_gamma", 3),
        (("--loss_type", "EQL", "--eql_gamma", "0.3"), "gamma", 0.3),
    ],
)
def test_flags_reach_the_loss(flags, name, value):
    assert getattr(prepared(*DIGITS, *flags).criterion, name) == value


def test_losses_know_the_counts_of_the_training_set():
    """383 images: classes 8 and 9 have 1.8 and 1.3 % of them.

    5 are as good as 1 / (1 - 0.5 ** 5) = 32 / 31 of any number.
    """
    equalization = prepared(*DIGITS, "--loss_type", "EQL", "--eql_lambda", "0.02").criterion
    assert equalization.class_counts.tolist() == COUNTS
    assert equalization.rare.tolist() == [False] * 8 + [True] * 2
    weight = prepared(*DIGITS, "--loss_type", "CB_Softmax", "--beta", "0.5").criterion.weight
    assert (weight[9] / weight[0]).item() == pytest.approx(32 / 31)


def test_head_flag_gives_scaled_cosines():
    """32 times cosines for a loss that takes logits; cosines for one that has a scale of its own."""
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    largest = {}
    for loss_type in ("Balanced_Softmax", "CDB-DBM"):
        flags = [*DIGITS, "--loss_type", loss_type, "--head", "cosine"]
        training, description = prepare(parse_arguments(flags), CPU)
        training.model.linear.weight.data = torch.eye(64)[:10]
        largest[description.head] = training.model(images).abs().max().item()
    assert largest["scaled_cosine"] == pytest.approx(32 * largest["cosine"])
    assert 0.1 < largest["cosine"] <= 1


def test_a_teacher_sees_the_augmented_images(tmp_path):
    """The probabilities beside the labels are those of the batch's own images."""
    folder = tmp_path / "teacher"
    flags = (*DIGITS, "--max_epochs", "1")
    assert main([*flags, "--save_model", str(folder)]) == 0
    teacher = load_checkpoint(folder / "best_digits_imbalance20.pth")["state_dict"]
    model = ResNet32(10).eval()
    model.load_state_dict(teacher)
    training = prepared(*flags, "--teacher", str(folder), "--precision", "fp32")
    images, targets = next(iter(training.train_batches(1)))
    own_images, labels = next(iter(prepared(*flags).train_batches(1)))
    assert torch.equal(images, own_images) and torch.equal(targets[:, 0].long(), labels)
    with torch.no_grad():
        expected = (model(images) / 2).softmax(1)
    torch.testing.assert_close(targets[:, 1:], expected)
    assert not any(parameter.requires_grad for parameter in training.loss_function.teachers[0].model.parameters())


def test_ldam_gets_a_head_of_cosines():
    training, description = prepare(parse_arguments([*DIGITS, "--loss_type", "LDAM-DRW"]), CPU)
    assert isinstance(training.model.linear, CosineHead)
    assert (description.head, description.class_counts) == ("cosine", COUNTS)
    assert training.criterion.margins[[0, 9]].tolist() == pytest.approx([0.5 * (5 / 114) ** 0.25, 0.5])
    assert isinstance(prepared(*DIGITS).model.linear, torch.nn.Linear)


def test_resume_refuses_images_that_have_changed(tmp_path, failing, monkeypatch):
    """The class counts follow from --imbalance, so they do not tell."""
    flags = [*DIGITS, "--max_epochs", "1", "--save_model", str(tmp_path)]
    assert main(flags) == 0
    assert main([*flags, "--resume"]) == 0
    read = cifar_dataset.read_digits

    def changed(split):
        digits = read(split)
        digits.images[0, 0, 0, 0] += 1
        return digits

    monkeypatch.setattr(cifar_dataset, "read_digits", changed)
    error = failing(main, *flags, "--resume")
    assert re.search("last_digits_imbalance20.pth .*with data ", error)
