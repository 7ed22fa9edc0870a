"""Starting a Runtime, and how the processes of a job find each other."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch import nn
from torch.distributed import HashStore

from longtail import devices
from longtail.distributed import rendezvous_store, start_runtime

CPU = torch.device("cpu")


def test_more_gpus_than_there_are_with_a_patched_count(monkeypatch):
    monkeypatch.setattr(devices, "find_gpus", lambda: ("cuda", 2))
    with pytest.raises(ValueError, match="--n_gpus 3: .* 2 GPUs"), start_runtime(3):
        pass


def test_cpu_says_so_once(capsys, monkeypatch):
    monkeypatch.setattr(devices, "find_gpus", lambda: ("cpu", 0))
    with start_runtime(2) as runtime:
        assert runtime.device == CPU
        network = nn.Linear(1, 1)
        assert runtime.parallelize(network) is network
    assert capsys.readouterr().out == "no GPU found: running on the CPU\n"


def test_the_cpu_of_a_machine_with_gpus(capsys, monkeypatch):
    monkeypatch.setattr(devices, "find_gpus", lambda: ("cuda", 2))
    with start_runtime(2, device="cpu") as runtime:
        assert (runtime.device, runtime.gpus) == (CPU, 0)
    assert capsys.readouterr().out == "running on the CPU\n"


def test_a_restarted_job_meets_below_a_name_of_its_own():
    """Whatever an earlier start has left in torchrun's store."""
    store, names = HashStore(), set()
    for attempt in range(3):
        with ThreadPoolExecutor(3) as pool:
            met = list(pool.map(lambda rank: rendezvous_store(store, rank, 3), range(3)))
        met[0].set("address", f"of start {attempt}")
        assert [own.get("address") for own in met] == [f"of start {attempt}".encode()] * 3
        names.add(store.get(f"name for {store.get('hello/2').decode()}"))
    assert len(names) == 3


def test_a_process_that_never_comes_is_not_waited_for_forever():
    store = HashStore()
    store.set("hello/1", "of a process that is gone")
    store.set_timeout(timedelta(seconds=0.05))
    for rank, whom in ((0, "the other processes"), (1, "the main process")):
        with pytest.raises(RuntimeError, match=f"Timed out waiting for {whom}"):
            rendezvous_store(store, rank, 2)
