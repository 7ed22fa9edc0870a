"""Devices, shares, precision."""

import contextlib
import sys

import pytest
import torch
from torch import nn

from longtail import devices
from longtail.devices import Runtime, check_gpus, choose_device, find_gpus, wants_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("n_gpus", "found", "match"),
    [
        (0, 0, "--n_gpus .*not 0"),
        (-2, 1, "not -2"),
        (2, 1, "--n_gpus 2: .* 1 GPU$"),
        (5, 4, "has 4 GPUs$"),
    ],
)
def test_impossible_numbers_of_gpus(n_gpus, found, match):
    with pytest.raises(ValueError, match=match):
        check_gpus(n_gpus, found)


def test_possible_numbers_of_gpus():
    check_gpus(1, 0)
    check_gpus(8, 0)  # a machine without any says so and uses its CPU
    check_gpus(4, 4)
    with pytest.raises(ValueError, match="process 3 .* 2 GPUs"):
        check_gpus(1, 2, local_rank=2)


def test_pytorch_decides_which_gpus_there_are(monkeypatch):
    """current_accelerator() names a type even where there is no GPU."""
    for name, answer in (("is_available", True), ("current_accelerator", torch.device("xpu")), ("device_count", 3)):
        monkeypatch.setattr(torch.accelerator, name, lambda answer=answer: answer)
    assert find_gpus() == ("xpu", 3)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert find_gpus() == ("cpu", 0)


@pytest.mark.parametrize(
    ("found", "asked", "expected"),
    [
        (("cpu", 0), (None, 4), ("cpu", 0)),
        (("cuda", 4), (None, 1), ("cuda:0", 1)),
        (("cuda", 4), ("cuda", 3), ("cuda:0", 3)),
        (("cuda", 4), ("cuda:2", 1), ("cuda:2", 1)),
        (("mps", 1), ("mps", 1), ("mps:0", 1)),
        (("xpu", 2), (None, 1, 1, 2), ("xpu:1", 1)),
        (("cuda", 4), ("cpu", 4), ("cpu", 0)),
        (("cuda", 2), ("cpu", 1, 3, 4), ("cpu", 0)),
    ],
)
def test_the_device_of_a_process(monkeypatch, found, asked, expected):
    """asked: --device, --n_gpus, the process's number on its machine, how many processes."""
    monkeypatch.setattr(devices, "find_gpus", lambda: found)
    device, gpus = choose_device(*asked)
    assert (str(device), gpus) == expected


@pytest.mark.parametrize(
    ("found", "asked", "match"),
    [
        (("cpu", 0), ("cuda", 1), "--device cuda: .*: none$"),
        (("mps", 1), ("cuda", 1), "1 of type mps$"),
        (("cuda", 2), ("cuda:2", 1), "2 of type cuda$"),
        (("cuda", 2), ("gpu", 1), "--device gpu"),
        (("cuda", 2), ("meta", 1), "no such device"),
        (("cuda", 2), ("cuda:1", 2), "cuda:1 names one GPU"),
        (("cuda", 2), ("cuda:1", 1, 1, 2), "cuda:1 names one GPU"),
        (("cuda", 2), (None, 3), "--n_gpus 3: .* 2 GPUs"),
        (("cuda", 2), ("cpu", 0), "--n_gpus .*1"),
    ],
)
def test_a_device_that_cannot_be(monkeypatch, found, asked, match):
    monkeypatch.setattr(devices, "find_gpus", lambda: found)
    with pytest.raises(ValueError, match=match):
        choose_device(*asked)


def test_data_parallel_wraps_for_several_gpus(monkeypatch):
    monkeypatch.setattr(nn, "DataParallel", lambda module, device_ids: (module.model, device_ids))
    model = nn.Linear(1, 1)
    assert Runtime(torch.device("cuda", 0), gpus=2).parallelize(model) == (model, [0, 1])
    assert Runtime(torch.device("cuda", 0), gpus=1).parallelize(model) is model


def test_replicas_compute_in_the_precision_of_the_run(monkeypatch):
    """PyTorch's own threads, with what they ask a GPU for patched: without InPrecision both would report float16."""
    apply = sys.modules["torch.nn.parallel.parallel_apply"]
    for name, answer in (("is_available", True), ("current_accelerator", torch.device("cuda"))):
        monkeypatch.setattr(torch.accelerator, name, lambda *_, answer=answer: answer)
    for name in ("current_stream", "device_index"):
        monkeypatch.setattr(torch.accelerator, name, lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(apply, "_get_device_index", lambda *_: 0)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr(nn, "DataParallel", lambda module, device_ids: module)
    seen = []

    class Probe(nn.Module):
        def forward(self, inputs):
            seen.append(torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else torch.float32)
            return inputs

    for bf16, expected in ((True, torch.bfloat16), (False, torch.float32)):
        runtime = Runtime(torch.device("cuda", 0), gpus=2, bf16=bf16)
        replicas = [runtime.parallelize(Probe()) for _ in range(2)]
        with runtime.autocast():
            apply.parallel_apply(replicas, [torch.zeros(1)] * 2, devices=[0, 0])
        assert [seen.pop(), seen.pop()] == [expected] * 2


def test_shares_are_equal_and_disjoint():
    batch = torch.arange(8)
    shares = [Runtime(CPU, rank=rank, world_size=3).share(batch).tolist() for rank in range(3)]
    assert shares == [[0, 1], [2, 3], [4, 5]]
    assert Runtime(CPU).share(batch).tolist() == list(range(8))
    assert len(Runtime(CPU, rank=1, world_size=3).share(torch.arange(2))) == 0
    Runtime(CPU, world_size=4).check_batch_size(32)
    with pytest.raises(ValueError, match="batch of 32 .* 3 processes"):
        Runtime(CPU, world_size=3).check_batch_size(32)


@pytest.mark.parametrize(
    ("amx", "avx512", "processor", "bf16"),
    [
        (True, True, "Intel(R) Xeon(R) Processor", True),
        (False, True, "Intel(R) Xeon(R) Processor", False),
        (False, True, "AMD EPYC 9R14", True),
        (False, False, "AMD EPYC 7571", False),
    ],
)
def test_auto_is_bf16_on_processors_that_are_faster_in_it(amx, avx512, processor, bf16, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr("longtail.devices.device_name", lambda device: processor)
    assert wants_bf16("auto", CPU) == bf16


def test_precision():
    assert wants_bf16("bf16", CPU)
    assert not wants_bf16("fp32", CPU)
    assert not wants_bf16("auto", torch.device("mps"))
    runtime = Runtime(CPU, bf16=True)
    with runtime.autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16
    with Runtime(CPU).autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.float32
