"""The paper's CIFAR100-LT: counts, hold-out, file format, augmentation."""

import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100

from builders import write_cifar, write_python2
from cifar_dataset import (
    NORMALIZATION,
    Augmentation,
    ImageSet,
    check_present,
    class_names,
    evaluation_batches,
    first_of_each_class,
    hold_out,
    long_tail_counts,
    long_tailed,
    normalize,
    read_split,
    training_batches,
)
from cifar_pickle import read_pickle
from longtail.devices import Runtime


@pytest.mark.parametrize(
    ("imbalance", "total"), [(200, 9_022), (100, 10_302), (50, 11_975), (20, 15_111), (10, 18_591), (1, 47_500)]
)
def test_long_tail_totals_of_the_paper(imbalance, total):
    counts = long_tail_counts(475, 100, imbalance)
    assert sum(counts) == total
    assert counts[0] == 475
    assert counts[-1] == int(475 / imbalance + 1e-9)


@pytest.mark.parametrize(
    ("imbalance", "total"), [(200, 9_502), (100, 10_847), (50, 12_608), (20, 15_907), (10, 19_573), (1, 50_000)]
)
def test_long_tail_totals_of_other_papers(imbalance, total):
    assert sum(long_tail_counts(500, 100, imbalance)) == total


@pytest.mark.parametrize("imbalance", [0, 0.5, -3, 476])
def test_imbalance_out_of_range(imbalance):
    with pytest.raises(ValueError, match=f"between 1 and 475.*not {imbalance:g}"):
        long_tail_counts(475, 100, imbalance)
    assert long_tail_counts(475, 100, 475)[-1] == 1


def test_hold_out_takes_the_last_of_each_class_in_file_order():
    images = ImageSet(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1]))
    rest, held = hold_out(images, 2)
    assert rest.tolist() == [0, 1, 2, 3]
    assert held.tolist() == [4, 5, 6, 7]
    assert first_of_each_class(images.labels, [3, 1]).tolist() == [0, 1, 2, 4]


def test_official_format_python_2_and_3(tmp_path):
    write_cifar(tmp_path)
    train = read_split("cifar100", tmp_path, "train")
    assert train.images.shape == (2700, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert train.images[260].unique().tolist() == [9]
    assert train.labels[260] == 60
    assert class_names("cifar100", tmp_path)[60] == "class 60"
    entry = read_pickle(tmp_path / "cifar-100-python" / "train")
    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps(entry, protocol=4))
    assert torch.equal(read_split("cifar100", tmp_path, "train").images, train.images)


def test_long_tailed_parts_do_not_overlap(tmp_path):
    write_cifar(tmp_path, "cifar10", per_class=35)
    train, val = long_tailed("cifar10", tmp_path, 10)
    assert train.class_counts(10) == long_tail_counts(10, 10, 10) == [10, 7, 5, 4, 3, 2, 2, 1, 1, 1]
    assert val.class_counts(10) == [25] * 10
    seen = train.images[:, 0, 0, 0].tolist()
    assert sorted(seen)[:12] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]  # the first images of the file
    assert (
        val.images[:, 0, 0, 0].min() == 0 and val.images[0, 0, 0, 0] == 100
    )  # images 100.. are held out; 251 wraps to 0


def test_other_protocols_cut_from_all_images_or_validate_on_the_test_set(tmp_path):
    write_cifar(tmp_path, "cifar10", per_class=35, tests=3)
    train, val = long_tailed("cifar10", tmp_path, 10, "common")
    assert train.class_counts(10) == [35, 27, 20, 16, 12, 9, 7, 5, 4, 3]  # 35 * 10 ** (-c / 9), cut to a whole number
    assert torch.equal(val.images, read_split("cifar10", tmp_path, "test").images)
    held_out_first, val = long_tailed("cifar10", tmp_path, 10, "paper-on-test")
    assert torch.equal(
        held_out_first.images, long_tailed("cifar10", tmp_path, 10)[0].images
    )  # 10 of 35 images, 25 unused
    assert torch.equal(val.images, read_split("cifar10", tmp_path, "test").images)
    assert [sum(long_tail_counts(500, 100, imbalance)) for imbalance in (200, 100, 50, 20, 10)] == [
        9_502,
        10_847,
        12_608,
        15_907,
        19_573,
    ]


def test_protocols_without_validation_train_on_what_others_hold_out(tmp_path):
    """35 images of a class: "all" has 10 * 10 ** (-c / 9) and the last 25, "refit" the same as "common"."""
    write_cifar(tmp_path, "cifar10", per_class=35)
    train, validation = long_tailed("cifar10", tmp_path, 10, "all")
    assert validation is None
    assert train.class_counts(10) == [25 + count for count in (10, 7, 5, 4, 3, 2, 2, 1, 1, 1)]
    paper, held = long_tailed("cifar10", tmp_path, 10)
    seen = sorted(paper.images[:, 0, 0, 0].tolist() + held.images[:, 0, 0, 0].tolist())
    assert sorted(train.images[:, 0, 0, 0].tolist()) == seen
    train, validation = long_tailed("cifar10", tmp_path, 10, "refit")
    assert validation is None
    assert torch.equal(train.images, long_tailed("cifar10", tmp_path, 10, "common")[0].images)


def test_digits():
    train, val = long_tailed("digits", Path("nowhere"), 20)
    test = read_split("digits", Path("nowhere"), "test")
    assert len(val) == 200
    assert len(test) == 400
    assert train.class_counts(10)[0] == 114  # the rarest digit, 8, has 174 images: 174 - 40 - 20
    assert train.class_counts(10)[-1] == 5
    assert train.images.shape[1:] == (3, 16, 16)
    assert torch.equal(train.images[:, 0], train.images[:, 2])
    assert train.images.max() > 200


def test_digits_are_doubled_bilinearly_and_rounded():
    """A pixel of the doubled image is 9/16, 3/16, 3/16 and 1/16 of its four nearest, and at the border of fewer."""
    from sklearn.datasets import load_digits

    original = np.pad(load_digits().images[0] * 255 / 16, 1, mode="edge")
    expected = np.zeros((16, 16))
    for row in range(16):
        for column in range(16):
            near = (row // 2 + 1, column // 2 + 1)
            far = (near[0] + (1 if row % 2 else -1), near[1] + (1 if column % 2 else -1))
            expected[row, column] = (
                9 * original[near] + 3 * original[far[0], near[1]] + 3 * original[near[0], far[1]] + original[far]
            ) / 16
    digit = read_split("digits", Path("nowhere"), "train").images[0, 0].numpy()
    is_half = np.abs(expected % 1 - 0.5) < 1e-3  # where fp32 decides
    assert is_half.sum() < 20
    assert np.array_equal(digit[~is_half], np.rint(expected)[~is_half])


def test_a_class_needs_an_image_beside_those_held_out(tmp_path):
    write_cifar(tmp_path / "25", "cifar10", per_class=25)
    with pytest.raises(ValueError, match="25 images or fewer"):
        long_tailed("cifar10", tmp_path / "25", 1)
    write_cifar(tmp_path / "26", "cifar10", per_class=26)
    assert long_tailed("cifar10", tmp_path / "26", 1)[0].class_counts(10) == [1] * 10


def test_real_cifar100(shared_data, tmp_path):
    """All 100 classes as the paper cuts them, from the real images, where they are at hand."""
    from PIL import Image

    labels = np.load(shared_data / "cifar-100/labels.npz")["train"]
    first = np.asarray(Image.open(shared_data / "cifar-100/train_000.webp").convert("RGB"))[:32, :32]
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.zeros((50_000, 3072), dtype=np.uint8)
    pixels[0] = first.transpose(2, 0, 1).reshape(-1)
    write_python2(folder / "train", {b"data": pixels, b"fine_labels": labels.tolist()})
    train, val = long_tailed("cifar100", tmp_path, 200)
    assert (len(train), len(val)) == (9_022, 2_500)
    assert val.class_counts(100) == [25] * 100
    assert torch.equal(
        read_split("cifar100", tmp_path, "train").images[0], torch.from_numpy(first.transpose(2, 0, 1).copy())
    )


@pytest.mark.parametrize(
    "entry",
    [
        [1, 2],
        {},
        {b"data": np.zeros((2, 3072), np.float32), b"fine_labels": [0, 1]},
        {b"data": np.zeros((2, 3071), np.uint8)},
        {b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, 100]},
        {b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, -1]},
        {b"data": np.zeros((0, 3072), np.uint8), b"fine_labels": []},
        {b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, "1"]},
    ],
)
def test_files_that_are_no_cifar(tmp_path, entry):
    (tmp_path / "cifar-100-python").mkdir()
    write_python2(tmp_path / "cifar-100-python" / "train", entry)
    with pytest.raises(ValueError, match=r"cifar-100-python/train"):
        read_split("cifar100", tmp_path, "train")


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_pickle(tmp_path)


def test_a_download_brings_back_any_file(tmp_path, monkeypatch):
    """From an archive instead of the network."""
    written = write_cifar(tmp_path / "there")
    archive = tmp_path / "there/cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(written / "cifar-100-python", "cifar-100-python")
    monkeypatch.setattr(CIFAR100, "url", archive.as_uri())
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    for lost in ("train", "meta"):
        (written / "cifar-100-python" / lost).unlink()
        with pytest.raises(FileNotFoundError, match=f"{lost} .*--download"):
            check_present("cifar100", written, download=False)
        check_present("cifar100", written, download=True)
        check_present("cifar100", written, download=False)
    monkeypatch.setattr(CIFAR100, "tgz_md5", "0" * 32)
    archive.rename(tmp_path / "moved.tar.gz")
    (written / "cifar-100-python/meta").unlink()
    with pytest.raises(OSError, match="cifar100 could not"):
        check_present("cifar100", written, download=True)


def test_constants_of_the_normalisation():
    """ImageNet's, with which the released code trains, and CIFAR-10's, with which it tests."""
    assert NORMALIZATION == {
        "train": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "released-test": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    }


def test_normalize_matches_the_definition():
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = normalize(images)
    assert result[1, 2, 3, 0].item() == pytest.approx((images[1, 2, 3, 0].item() / 255 - 0.406) / 0.225, abs=1e-5)
    assert result[0, 0, 1, 1].item() == pytest.approx((images[0, 0, 1, 1].item() / 255 - 0.485) / 0.229, abs=1e-5)
    released = normalize(images, "released-test")
    assert released[0, 1, 1, 1].item() == pytest.approx((images[0, 1, 1, 1].item() / 255 - 0.4822) / 0.1994, abs=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_is_a_crop_of_the_padded_image_and_a_flip():
    images = torch.randint(1, 256, (300, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augment = Augmentation(300, True, torch.Generator().manual_seed(1), torch.device("cpu"))
    result = augment(images, torch.arange(300), torch.arange(300))
    for n in range(300):
        padded = np.pad(images[n].numpy(), ((0, 0), (4, 4), (4, 4)))
        row, column = int(augment.rows[n]), int(augment.columns[n])
        crop = padded[:, row : row + 8, column : column + 8]
        assert np.array_equal(result[n].numpy(), crop[:, :, ::-1] if augment.flipped[n] else crop)
    assert set(augment.rows.tolist()) == set(augment.columns.tolist()) == set(range(9))
    assert 100 < augment.flipped.sum() < 200
    assert not Augmentation(300, False, torch.Generator().manual_seed(1), torch.device("cpu")).flipped.any()


def test_half_of_the_images_are_flipped():
    """Of 10,000: a standard deviation is 50."""
    flipped = Augmentation(10_000, True, torch.Generator().manual_seed(0), torch.device("cpu")).flipped
    assert 4_800 < flipped.sum() < 5_200


def test_training_batches_of_a_seed():
    """Two batches of five images, whose pixels are rows and columns: the order, the crops and the flips of seed 0.

    The draws are made here again, in the same order: permutation, rows, columns, flips.
    """
    side = torch.arange(1, 9, dtype=torch.uint8)
    picture = torch.stack([side[:, None].expand(8, 8), side[None].expand(8, 8), torch.full((8, 8), 100)])
    images = ImageSet(picture.repeat(5, 1, 1, 1), torch.arange(5))
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(5, generator=generator)
    rows, columns = torch.randint(9, (2, 5), generator=generator)
    flips = torch.rand(5, generator=generator) < 0.5
    batches = list(training_batches(images, 4, True, 0, Runtime(torch.device("cpu"))))
    assert [len(labels) for _, labels in batches] == [4, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == order.tolist()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALIZATION["train"])
    shown = torch.cat([pixels for pixels, _ in batches]) * (255 * std) + 255 * mean
    for picture_shown, number in zip(shown, order.tolist(), strict=True):
        padded = np.pad(picture.numpy(), ((0, 0), (4, 4), (4, 4)))
        crop = padded[:, rows[number] : rows[number] + 8, columns[number] : columns[number] + 8]
        expected = crop[:, :, ::-1] if flips[number] else crop
        assert np.array_equal(picture_shown.round().numpy(), expected)
    assert {bool(flip) for flip in flips} == {True, False} and rows.tolist() != columns.tolist()


def test_each_evaluation_image_is_in_exactly_one_process():
    images = ImageSet(torch.zeros(601, 3, 4, 4, dtype=torch.uint8), torch.arange(601))
    for world_size in (1, 2, 3):
        runtimes = [Runtime(torch.device("cpu"), rank=rank, world_size=world_size) for rank in range(world_size)]
        seen = [
            label
            for runtime in runtimes
            for _, labels in evaluation_batches(images, "train", runtime)
            for label in labels.tolist()
        ]
        assert sorted(seen) == list(range(601))
