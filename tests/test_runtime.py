"""Devices, shares, precision, signals."""

import contextlib
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch import nn
from torch.distributed import HashStore

import runtime
from conftest import ROOT
from runtime import ArgumentParser, Runtime, Stopped, check_gpus, epoch_seed, exit_code, raise_if_stopped, start_runtime, wants_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(("n_gpus", "found", "match"), [(0, 0, "--n_gpus must be at least 1, not 0"), (-2, 1, "not -2"),
                                                        (2, 1, "--n_gpus 2: this machine has 1 GPU$"), (5, 4, "has 4 GPUs$")])
def test_impossible_numbers_of_gpus(n_gpus, found, match):
    with pytest.raises(ValueError, match=match):
        check_gpus(n_gpus, found)


def test_possible_numbers_of_gpus():
    check_gpus(1, 0)
    check_gpus(8, 0)                     # a machine without any says so and uses its CPU
    check_gpus(4, 4)
    with pytest.raises(ValueError, match="process 3 on a machine with 2 GPUs"):
        check_gpus(1, 2, local_rank=2)


def test_more_gpus_than_there_are_with_a_patched_count(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--n_gpus 3: this machine has 2 GPUs"), start_runtime(3):
        pass


def test_cpu_says_so_once(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with start_runtime(2) as place:
        assert place.device == CPU
        network = nn.Linear(1, 1)
        assert place.parallelize(network) is network
    assert capsys.readouterr().out == "no GPU found: running on the CPU\n"


def test_data_parallel_wraps_for_several_gpus(monkeypatch):
    monkeypatch.setattr(nn, "DataParallel", lambda module, device_ids: (module.network, device_ids))
    network = nn.Linear(1, 1)
    assert Runtime(torch.device("cuda", 0), gpus=2).parallelize(network) == (network, [0, 1])
    assert Runtime(torch.device("cuda", 0), gpus=1).parallelize(network) is network


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
        place = Runtime(torch.device("cuda", 0), gpus=2, bf16=bf16)
        replicas = [place.parallelize(Probe()) for _ in range(2)]
        with place.autocast():
            apply.parallel_apply(replicas, [torch.zeros(1)] * 2, devices=[0, 0])
        assert [seen.pop(), seen.pop()] == [expected] * 2


def test_shares_are_equal_and_disjoint():
    batch = torch.arange(8)
    shares = [Runtime(CPU, rank=rank, world_size=3).share(batch).tolist() for rank in range(3)]
    assert shares == [[0, 1], [2, 3], [4, 5]]
    assert Runtime(CPU).share(batch).tolist() == list(range(8))
    assert len(Runtime(CPU, rank=1, world_size=3).share(torch.arange(2))) == 0
    Runtime(CPU, world_size=4).check_batch_size(32)
    with pytest.raises(ValueError, match="batch of 32 does not divide among 3 processes"):
        Runtime(CPU, world_size=3).check_batch_size(32)


def test_precision():
    assert wants_bf16("bf16", CPU)
    assert not wants_bf16("fp32", CPU)
    place = Runtime(CPU, bf16=True)
    with place.autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16
    with Runtime(CPU).autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.float32


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_signal_ends_the_batch_loop_with_its_code(number, capsys):
    def work():
        with start_runtime():
            for batch in range(1000):
                raise_if_stopped()
                if batch == 3:
                    os.kill(os.getpid(), number)
                assert batch < 5
    assert exit_code(work) == 128 + number
    assert f"stopped by {number.name}; --resume continues" in capsys.readouterr().err
    assert exit_code(work, hint="") == 128 + number
    assert capsys.readouterr().err.endswith(f"stopped by {number.name}\n")          # a test has no --resume


def test_a_restarted_job_meets_below_a_name_of_its_own(monkeypatch):
    """Whatever an earlier start has left in torchrun's store."""
    monkeypatch.setattr(runtime, "_stop_signal", 0)
    store, names = HashStore(), set()
    for attempt in range(3):
        with ThreadPoolExecutor(3) as pool:
            met = list(pool.map(lambda rank: runtime.meet(store, rank, 3), range(3)))
        met[0].set("address", f"of start {attempt}")
        assert [place.get("address") for place in met] == [f"of start {attempt}".encode()] * 3
        names.add(store.get(f"name for {store.get('hello/2').decode()}"))
    assert len(names) == 3


def test_a_process_that_never_comes_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(runtime, "_stop_signal", 0)
    store = HashStore()
    store.set("hello/1", "of a process that is gone")
    store.set_timeout(timedelta(seconds=0.05))
    for rank, whom in ((0, "the other processes"), (1, "the main process")):
        with pytest.raises(RuntimeError, match=f"Timed out waiting for {whom}"):
            runtime.meet(store, rank, 2)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with start_runtime():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    raise_if_stopped()


def test_exit_codes(capsys):
    def fail(error):
        raise error

    assert exit_code(lambda: None) == 0
    assert exit_code(fail, ValueError("two\nlines")) == 2
    assert exit_code(fail, FileNotFoundError(2, "No such file", "x")) == 2
    assert capsys.readouterr().err.count("\n") == 2
    runtime._stop_signal = 0
    with pytest.raises(RuntimeError, match="a defect of ours"):
        exit_code(fail, RuntimeError("a defect of ours"))
    with pytest.raises(Stopped):
        runtime._stop_signal = signal.SIGTERM
        try:
            raise_if_stopped()
        finally:
            runtime._stop_signal = 0


def test_parser_errors_are_one_line(capsys):
    parser = ArgumentParser("what")
    parser.add_argument("--seed", type=runtime.seed_number)
    parser.add_argument("--epochs", type=runtime.positive_int)
    for flags, match in ((["--seed", "-1"], "from 0 to 4294967295, not '-1'"), (["--epochs", "0"], "at least 1, not '0'"),
                         (["--seed", str(2 ** 32)], "4294967296"), (["--see", "1"], "--see"), (["--epochs", "1.5"], "'1.5'")):
        with pytest.raises(SystemExit) as end:
            parser.parse_args(flags)
        error = capsys.readouterr().err
        assert end.value.code == 2
        assert match in error
        assert error.count("\n") == 1


def test_epoch_seeds_differ_and_do_not_change():
    assert len({epoch_seed(seed, epoch) for seed in range(20) for epoch in range(500)}) == 10_000
    assert epoch_seed(0, 1) == epoch_seed(0, 1) != epoch_seed(1, 0)
    assert 0 <= epoch_seed(2 ** 32 - 1, 10) < 2 ** 32


@pytest.mark.parametrize("processes, action, code, left", [
    (1, "print('done', end='')", 0, "done, torn down"), (2, "print('done', end='')", 0, "done"), (2, "int('x')", 2, "")])
def test_a_process_of_several_ends_without_taking_python_down(processes, action, code, left, shell):
    """Its threads may still need Python: three processes that trained one batch aborted in 2 of 6 jobs."""
    run = shell("-c", f"import atexit, sys; sys.path.insert(0, 'CIFAR-LT'); from runtime import exit_code; "
                      f"atexit.register(print, ', torn down', end=''); sys.exit(exit_code(lambda: {action}))", cwd=ROOT,
                WORLD_SIZE=str(processes))
    assert (run.returncode, run.stdout) == (code, left), run.stderr
