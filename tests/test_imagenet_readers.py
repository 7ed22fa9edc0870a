"""The processes that read images live through the run, need no /dev/shm, and never hold up the main one."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from builders import encoded, make_folder
from conftest import ROOT
from imagenet_lists import locate, read_list
from imagenet_loader import ImageLoader
from imagenet_readers import Readers, Unit, ViewSettings
from longtail.devices import Runtime
from longtail.signals import Stopped, raise_if_stopped

CPU = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("images"), {"train": [60, 30, 10], "val": [9, 9, 9], "test": [1, 1, 1]})
    return locate(read_list(root / "Small_train.txt", root, 3))[0]


def children() -> set[int]:
    return {child.pid for child in multiprocessing.active_children()}


def test_the_same_processes_read_every_epoch(images):
    before = children()
    loader = ImageLoader(images, 32, 36, 2, CPU)
    seen = []
    for epoch in range(3):
        list(loader.training_batches(None, 70, epoch))
        seen.append(children() - before)
    assert len(seen[0]) == 2 and seen[0] == seen[1] == seen[2]
    loader.close()
    assert children() == before


def test_every_unit_comes_in_order_through_few_slots(images):
    """Units of 3 pixels' worth: 100 images are many more units than slots, and each view is its own image's."""
    settings = ViewSettings(32, 36)
    units = [Unit([images.path(index)], None) for index in range(100)]
    alone = [part.views.copy() for part in Readers(settings, 0, 1).parts(units)]
    readers = Readers(settings, 2, 1)
    assert readers.slots == 4
    helped = [part.views.copy() for part in readers.parts(units)]
    readers.close()
    assert len(helped) == 100 and all(np.array_equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert len({views.tobytes() for views in helped}) > 90


@pytest.mark.parametrize(
    ("size", "ahead", "unit", "slots"),
    # 64 views of 224 pixels are 9,633,792 bytes; 2 ** 30 bytes hold 111 of such units
    [(32, 512, 64, 8), (224, 2048, 64, 32), (224, 10**6, 64, 111), (1000, 64, 3, 22), (5000, 64, 1, 14)],
)
def test_views_that_wait_take_at_most_a_gigabyte(size, ahead, unit, slots):
    settings = ViewSettings(size, size)
    readers = Readers(settings, 2, ahead)
    assert (settings.unit, readers.slots) == (unit, slots)
    assert readers.slots * settings.unit * 3 * size**2 <= 2**30


def test_an_epoch_that_is_not_read_to_its_end_ends_its_processes(images):
    before = children()
    loader = ImageLoader(images, 32, 36, 2, CPU)
    batches = loader.training_batches(None, 10, 0)
    next(batches)
    assert len(children() - before) == 2
    batches.close()
    assert children() == before
    assert len(list(loader.training_batches(None, 10, 0))) == 10  # others start
    loader.close()


def test_a_process_that_dies_is_one_line(images):
    loader = ImageLoader(images, 32, 36, 2, CPU)
    before = children()
    batches = loader.training_batches(None, 10, 0)
    next(batches)
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(OSError, match="process .*died.*--workers 0"):
        list(batches)


def test_a_stop_signal_ends_the_wait_for_a_process_that_does_not_answer(images, monkeypatch):
    loader = ImageLoader(images, 32, 36, 2, CPU)
    before = children()
    batches = loader.training_batches(None, 10, 0)
    next(batches)
    for pid in children() - before:
        os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr("longtail.signals._received", signal.SIGTERM)
    start = time.monotonic()
    with pytest.raises(Stopped):
        list(batches)
    assert time.monotonic() - start < 2 and children() == before


def wait_for_reader(pipe: Path) -> int:
    """Return a descriptor of the pipe's end for writing, once somebody has opened the other end."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < deadline, f"nobody reads {pipe}"
            time.sleep(0.1)


@pytest.mark.parametrize(("stop", "image"), [(signal.SIGTERM, 0), (signal.SIGTERM, 1), (signal.SIGINT, 1)])
def test_a_run_that_waits_for_a_dead_drive_stops_within_seconds(stop, image, tmp_path):
    """An image is a pipe into which nobody writes: what reads it waits for ever.

    Of more than 200 images every second one is looked at before training, so image 0 holds up the main process, and
    image 1 a process that reads images.
    """
    root = make_folder(tmp_path / "data", {"train": [134, 134, 134], "val": [2, 2, 2], "test": [2, 2, 2]})
    bad = root / read_list(root / "Small_train.txt", root, 3).names()[image]
    bad.unlink()
    os.mkfifo(bad)
    file = tmp_path / "x.yaml"
    lists = "".join(f"{split}_list: {root}/Small_{split}.txt\n" for split in ("train", "val", "test"))
    file.write_text(
        f"data_root: {root}\n{lists}num_classes: 3\nimage_size: 32\ntest_resize: 36\nmodel_dir: {tmp_path}/run\n"
        "num_epochs: 1\nbatch_size: 8\nlr: 0.1\nworkers: 2\ndevice: cpu\nprecision: fp32\n"
    )
    command = [sys.executable, ROOT / "ImageNet-LT/main.py", "--cfg", file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            pipe = wait_for_reader(bad)
            time.sleep(2)
            assert process.poll() is None
            process.send_signal(stop)
            output, error = process.communicate(timeout=60)  # without the look at the flag it would never end
        finally:
            process.kill()
    os.close(pipe)
    assert process.returncode == 128 + stop and "Traceback" not in error
    assert ("training images of 3 classes" in output) == bool(image)


def test_validation_views_are_kept_if_they_fit(images, monkeypatch):
    """100 views of 32 pixels are 307,200 bytes."""
    for memory, readings in ((307_199, 3), (307_200, 1)):
        monkeypatch.setattr("imagenet_loader.memory_for_views", lambda memory=memory: memory)
        loader = ImageLoader(images, 32, 36, 0, CPU, keep_views=True)
        real, read = loader.load, []
        monkeypatch.setattr(loader, "load", lambda batches, real=real, read=read: read.append(1) or real(batches))
        passes = [torch.cat([views for views, _ in loader.evaluation_batches()]) for _ in range(3)]
        assert len(read) == readings and torch.equal(passes[0], passes[1]) and torch.equal(passes[0], passes[2])


def test_the_share_of_memory_for_kept_views(monkeypatch, tmp_path):
    """An eighth of what a container may use, divided among the processes of a machine."""
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("imagenet_loader.CGROUP_LIMIT", limit)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    from imagenet_loader import memory_for_views

    physical = memory_for_views()
    assert physical == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8
    limit.write_text("max\n")
    assert memory_for_views() == physical
    limit.write_text("1600000\n")
    assert memory_for_views() == 200_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_for_views() == 50_000


def test_an_image_of_one_colour_in_shared_memory_is_that_colour(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (40, 40), (10, 20, 30)), "PNG"))
    readers = Readers(ViewSettings(32, 32), 1, 1)
    (part,) = readers.parts([Unit([str(tmp_path / "a.png")], None)])
    assert part.views.shape == (1, 32, 32, 3) and (part.views.reshape(-1, 3) == [10, 20, 30]).all()
    readers.close()
    raise_if_stopped()
