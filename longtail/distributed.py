"""Start a Runtime: find the device, join the other processes of the job, catch stop signals."""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from longtail.devices import Runtime, choose_device, keep_large_blocks, wants_bf16
from longtail.signals import raise_if_stopped, stop_signals


@contextlib.contextmanager
def start_runtime(
    n_gpus: int = 1, precision: str = "auto", device: str | None = None, bf16_on_cpu: bool = True
) -> Iterator[Runtime]:
    """Set up device, processes, precision and signals, yield the Runtime, and take all of it down at the end.

    A machine without a GPU says so and computes on the CPU; `device`, as choose_device takes it, overrides;
    `precision` and `bf16_on_cpu` are those of wants_bf16. Raise
    ValueError if `n_gpus` is below 1 or more than this machine has, if torchrun starts more processes than there are
    GPUs, or for a device that is not here.
    """
    keep_large_blocks()
    torch.backends.cudnn.deterministic = True
    rank = int(os.environ.get("RANK", 0))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    chosen, gpus = choose_device(device, n_gpus, local_rank, world_size)
    if gpus:
        torch.accelerator.set_device_index(chosen.index)
    runtime = Runtime(chosen, gpus, rank, world_size, wants_bf16(precision, chosen, bf16_on_cpu))
    with stop_signals():
        if world_size > 1:
            store = rendezvous_store(*next(rendezvous("env://")))
            backend = torch.distributed.get_default_backend_for_device(chosen)  # NCCL for CUDA, gloo for the CPU
            torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size)
        try:
            if not gpus:
                runtime.say("running on the CPU" if device else "no GPU found: running on the CPU")
            yield runtime
        finally:
            if world_size > 1:
                torch.distributed.destroy_process_group()


def rendezvous_store(store: Store, rank: int, world_size: int) -> Store:
    """Return the job's store under a prefix that only this start of the job uses.

    Every process of the job has to call it.

    torchrun keeps its store when it restarts a job (PyTorch 2.14), and with it the addresses of dead processes: a
    process that reads such an address before its successor has written waits forever. So the main process gives each
    start a name, and tells it to the processes that answer.
    """
    token = uuid.uuid4().hex
    patience: timedelta = store.timeout  # type: ignore[attr-defined]  # PyTorch's annotations lack it
    if rank:
        store.set(f"hello/{rank}", token)
        wait_for(lambda: store.check([f"name for {token}"]), patience, "the main process")
        name = store.get(f"name for {token}").decode()
        store.set(f"{name}/{rank} is here", "")
        return PrefixStore(name, store)

    def all_here() -> bool:
        absent = [other for other in range(1, world_size) if not store.check([f"{token}/{other} is here"])]
        for other in absent:
            if store.check([f"hello/{other}"]):  # perhaps of a dead process; its successor will overwrite it
                store.set(f"name for {store.get(f'hello/{other}').decode()}", token)
        return not absent

    wait_for(all_here, patience, "the other processes")
    return PrefixStore(token, store)


def wait_for(condition: Callable[[], bool], most: timedelta, whom: str) -> None:
    """Wait until `condition` holds. Raise Stopped after a stop signal, RuntimeError after the time `most`."""
    end = time.monotonic() + most.total_seconds()
    while not condition():
        raise_if_stopped()
        if time.monotonic() > end:
            raise RuntimeError(f"Timed out waiting for {whom}")
        time.sleep(0.005)
