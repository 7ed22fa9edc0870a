"""AutoAugment and Cutout of the strong recipe: draws of an image belong to it alone; the square's place by hand."""

import pytest
import torch

from strong_augmentation import StrongAugmentation, cut_out


@pytest.fixture
def images():
    return torch.randint(256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def augmentation(seed: int = 3) -> StrongAugmentation:
    return StrongAugmentation(8, True, torch.Generator().manual_seed(seed), torch.device("cpu"))


def test_one_process_and_several_draw_the_same(images):
    """Whole batch, or its parts in another order, as processes share it: each image comes out the same."""
    whole = augmentation()(images, torch.arange(8))
    parts = {
        number: augmentation()(images[numbers], torch.tensor(numbers))[place]
        for numbers in ([6, 1, 4], [0, 2], [7, 5, 3])
        for place, number in enumerate(numbers)
    }
    for number in range(8):
        assert torch.equal(whole[number], parts[number])
    assert whole.dtype == torch.uint8 and whole.shape == images.shape
    assert not torch.equal(whole, augmentation(seed=4)(images, torch.arange(8)))


def test_draws_are_for_each_image(images):
    """Eight copies of one image do not come out alike."""
    copies = augmentation()(images[:1].expand(8, -1, -1, -1), torch.arange(8))
    assert len({tuple(image.flatten().tolist()) for image in copies}) == 8


def test_the_global_generator_is_left_alone(images):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    augmentation()(images, torch.arange(8))
    assert torch.rand(1) == expected


def test_cutout_crosses_the_border():
    """Centres (16, 16) and (0, 31): rows 8 to 23, columns 8 to 23; and rows 0 to 7, columns 23 to 31."""
    black = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    centres = torch.tensor([[0.5, 0.0], [0.5, 0.99]])
    square = cut_out(black, centres) != 0
    expected = torch.zeros(2, 32, 32, dtype=torch.bool)
    expected[0, 8:24, 8:24] = True
    expected[1, :8, 23:] = True
    assert torch.equal(square, expected[:, None].expand(-1, 3, -1, -1))
    assert cut_out(black, centres)[0, :, 16, 16].tolist() == [124, 116, 104]  # 255 times .485, .456, .406
