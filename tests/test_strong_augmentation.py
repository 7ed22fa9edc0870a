"""AutoAugment and Cutout of the strong recipe.

The draws of an image belong to it alone, its pixels are those of torchvision's AutoAugment, and the position of the
square is computed by hand.
"""

import pytest
import torch
from torchvision.transforms import v2

import cifar_train
import strong_augmentation
from cifar_dataset import PADDING, Augmentation, ImageSet, normalize
from longtail.devices import Runtime
from longtail.seeds import epoch_seed
from longtail.training import train_epoch
from strong_augmentation import StrongAugmentation, cut_out

CPU = Runtime(torch.device("cpu"))
MEAN_COLOUR = [124, 116, 104]  # 255 times .485, .456, .406


def noise(count: int) -> torch.Tensor:
    """Return blocks of 4 x 4 pixels with some grain, so that a shift by a pixel and a change of contrast both show."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(40, 216, (count, 3, 8, 8), generator=generator)
    grain = torch.randint(-40, 40, (count, 3, 32, 32), generator=generator)
    return (blocks.repeat_interleave(4, 2).repeat_interleave(4, 3) + grain).to(torch.uint8)


@pytest.fixture
def images():
    return noise(8)


def augmentation(seed: int = 3, count: int = 8) -> StrongAugmentation:
    return StrongAugmentation(count, True, torch.Generator().manual_seed(seed), CPU.device)


def transformed(augment: Augmentation, images: torch.Tensor, which: list[int] | None = None) -> torch.Tensor:
    """Return the images by the draws of these numbers; by those of their own indices if there are none."""
    numbers = torch.arange(len(images)) if which is None else torch.tensor(which)
    return augment(images, numbers, numbers)


def without_crop_and_flip(changed: StrongAugmentation) -> StrongAugmentation:
    """Return it with draws that leave each image where it is."""
    changed.rows.fill_(PADDING)
    changed.columns.fill_(PADDING)
    changed.flipped.fill_(False)
    return changed


def without_policy(changed: StrongAugmentation) -> StrongAugmentation:
    changed.policy = lambda images, *_: images
    return changed


def test_pixels_are_those_of_torchvisions_autoaugment(monkeypatch):
    """Of 400 images, each equals torchvision's AutoAugment of it alone under its seed; CIFAR's policy, 128 outside."""
    monkeypatch.setattr(strong_augmentation, "cut_out", lambda images, *_: images)
    images, ours = noise(400), without_crop_and_flip(augmentation(count=400))
    reference = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128)
    changed = transformed(ours, images)
    for image, seed, result in zip(images, ours.seeds.tolist(), changed, strict=True):
        torch.manual_seed(seed)
        assert torch.equal(result, reference(image))
    differs = (changed != images).flatten(1).any(1)
    assert 250 < differs.sum() < 400


def test_crop_and_flip_come_first(images):
    """Without the policy, and outside the square, the image is Augmentation's of the same seed."""
    plain = transformed(Augmentation(8, True, torch.Generator().manual_seed(3), CPU.device), images)
    changed = transformed(without_policy(augmentation()), images)
    covered = (changed == torch.tensor(MEAN_COLOUR).view(1, 3, 1, 1)).all(1, keepdim=True)
    assert torch.equal(torch.where(covered, plain, changed), plain)
    assert not torch.equal(plain, images) and covered.flatten(1).sum(1).max() < 300


def test_cutout_is_last_and_of_the_images_own_centre():
    """Black images 1 and 0 of two, centres (8, 24) and (16, 16): a square of 16 x 16 of the mean colour in each."""
    ours = without_policy(augmentation(count=2))
    ours.centres = torch.tensor([[0.5, 0.25], [0.5, 0.75]])
    changed = transformed(ours, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), [1, 0])
    expected = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    colour = torch.tensor(MEAN_COLOUR, dtype=torch.uint8).view(3, 1, 1)
    expected[0, :, 0:16, 16:32] = colour
    expected[1, :, 8:24, 8:24] = colour
    assert torch.equal(changed, expected)


def test_a_thousand_images_have_a_thousand_seeds_and_centres_up_to_the_border():
    drawn = augmentation(count=1000)
    assert len(set(drawn.seeds.tolist())) == 1000
    assert drawn.centres.shape == (2, 1000)
    assert (drawn.centres.amax(1) > 0.95).all() and (drawn.centres.amin(1) < 0.05).all()
    assert (drawn.centres.amax(1) < 1).all()


def test_the_strong_recipe_trains_on_these_images():
    """An epoch of it: the first batch holds the pixels that this augmentation gives under the epoch's seed."""
    args = cifar_train.parse_arguments(["--class_num", "10", "--recipe", "strong", "--batch_size", "6"])
    train_set = ImageSet(noise(12), torch.arange(12) % 10)
    training = cifar_train.build_training(args, cifar_train.STRONG, "linear", train_set, train_set, CPU)
    inputs, labels = next(iter(training.train_batches(1)))
    generator = torch.Generator().manual_seed(epoch_seed(0, 1))
    order = torch.randperm(12, generator=generator)[:6]
    expected = transformed(StrongAugmentation(12, True, generator, CPU.device), train_set.images[order], order.tolist())
    assert torch.equal(inputs, normalize(expected)) and torch.equal(labels, train_set.labels[order])
    before = training.model.conv1.weight.clone()
    assert 1 < train_epoch(training, 1, CPU) < 5  # log(10) = 2.3
    assert not torch.equal(training.model.conv1.weight, before)


def test_one_process_and_several_draw_the_same(images):
    """Whole batch, or its parts in another order, as processes share it: each image comes out the same."""
    whole = transformed(augmentation(), images)
    for numbers in ([6, 1, 4], [0, 2], [7, 5, 3]):
        part = transformed(augmentation(), images[numbers], numbers)
        assert torch.equal(part, whole[numbers])
    assert whole.dtype == torch.uint8 and whole.shape == images.shape
    assert not torch.equal(whole, transformed(augmentation(seed=4), images))


def test_draws_are_for_each_image(images):
    """Eight copies of one image do not come out alike."""
    copies = transformed(augmentation(), images[:1].expand(8, -1, -1, -1))
    assert len({tuple(image.flatten().tolist()) for image in copies}) == 8


def test_the_global_generator_is_left_alone(images):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    transformed(augmentation(), images)
    assert torch.rand(1) == expected


def test_cutout_crosses_the_border():
    """Centres (16, 16) and (0, 31): rows 8 to 23, columns 8 to 23; and rows 0 to 7, columns 23 to 31."""
    black = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    centres = torch.tensor([[0.5, 0.0], [0.5, 0.99]])
    colour = torch.tensor([1, 2, 3], dtype=torch.uint8).view(1, 3, 1, 1)
    square = cut_out(black, centres, colour) != 0
    expected = torch.zeros(2, 32, 32, dtype=torch.bool)
    expected[0, 8:24, 8:24] = True
    expected[1, :8, 23:] = True
    assert torch.equal(square, expected[:, None].expand(-1, 3, -1, -1))
    assert cut_out(black, centres, colour)[0, :, 16, 16].tolist() == [1, 2, 3]
