"""Where a run executes: CPU, one GPU, several through DataParallel, or one process a GPU under torchrun; and in which precision.

All of it is decided once, into a Runtime. A script keeps two views of its model: `network`, bare, for the optimizer and the
checkpoint; and `model = runtime.parallelize(network)`, wrapped, only ever called.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

PRECISIONS = ("auto", "fp32", "bf16")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3   # glibc malloc.h
LARGEST_BLOCK_KEPT = 1 << 25                  # bytes; the most that glibc accepts
MEMORY_KEPT = 1 << 28                         # bytes at the top of the heap that are not returned to the system

# What gloo and NCCL say when a partner is gone; both raise a plain RuntimeError or a subclass.
PARTNER_LOST = ("remote worker", "onnection closed by peer", "onnection reset by peer", "roken pipe", "remote process exited",
                "Timed out waiting")
RESUME_HINT = "; --resume continues after the last finished epoch"

_stop_signal = 0


class Stopped(Exception):
    """SIGINT or SIGTERM arrived; the number is the signal's."""


@dataclass(frozen=True)
class Runtime:
    """One process's place in the run: its device, its rank among world_size, the GPUs that it feeds, its precision."""

    device: torch.device
    gpus: int = 0
    rank: int = 0
    world_size: int = 1
    bf16: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def __str__(self) -> str:
        threads = torch.get_num_threads()
        cpu = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
        place = f"{self.gpus} GPUs" if self.gpus > 1 else "1 GPU" if self.gpus else cpu
        processes = f", {self.world_size} processes" if self.world_size > 1 else ""
        return f"{place}{processes}, {self.precision}"

    @property
    def precision(self) -> str:
        """What the forward pass computes in."""
        return "bf16" if self.bf16 else "fp32"

    def parallelize(self, network: nn.Module, trains: bool = True) -> nn.Module:
        """The view of `network` that is called. Batch statistics are per replica; `synchronize` evens out the running ones.

        A process of several that only evaluates calls the bare network: there are no gradients to exchange.
        """
        if self.world_size > 1:
            return nn.parallel.DistributedDataParallel(network, forward_sync_buffers=False) if trains else network
        return nn.DataParallel(InPrecision(network, self), device_ids=list(range(self.gpus))) if self.gpus > 1 else network

    def autocast(self) -> torch.autocast:
        """The forward pass runs in bf16 inside; take the loss outside, on `.float()`."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def check_batch_size(self, batch_size: int) -> None:
        """The batch is the whole batch: under torchrun every process takes an equal part of it."""
        if batch_size % self.world_size:
            raise ValueError(f"a batch of {batch_size} does not divide among {self.world_size} processes; "
                             "--batch_size must be a multiple of their number")

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a whole batch: as many of the first axis for every process; a smaller rest is left out."""
        size = len(batch) // self.world_size
        return batch[self.rank * size:(self.rank + 1) * size]

    def sum(self, values: Tensor) -> Tensor:
        """Summed over the processes, in place."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def broadcast(self, value: Any) -> Any:
        """The main process's value, on every process."""
        values = [value]
        if self.world_size > 1:
            torch.distributed.broadcast_object_list(values)
        return values[0]

    def synchronize(self, network: nn.Module) -> None:
        """Give every process the main one's buffers (BatchNorm's running statistics), as DataParallel does."""
        if self.world_size > 1:
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def say(self, *words: object) -> None:
        """Print from the main process, at once."""
        if self.is_main:
            print(*words, flush=True)


class InPrecision(nn.Module):
    """What DataParallel replicates: its threads do not inherit autocast's type, and would compute in fp16 (PyTorch 2.14)."""

    def __init__(self, network: nn.Module, runtime: Runtime):
        super().__init__()
        self.network, self.runtime = network, runtime

    def forward(self, inputs: Tensor) -> Tensor:
        with self.runtime.autocast():
            return self.network(inputs)


@contextlib.contextmanager
def start_runtime(n_gpus: int = 1, precision: str = "auto") -> Iterator[Runtime]:
    """Set up devices, processes, precision and signals; take them down at the end.

    Raises ValueError if n_gpus is below 1 or more than this machine has, or if torchrun starts more processes than GPUs.
    A machine without any GPU says so and computes on the CPU.
    """
    keep_large_blocks()
    torch.backends.cudnn.deterministic = True
    found = torch.cuda.device_count()
    rank, local_rank, world_size = (int(os.environ.get(name, default)) for name, default in
                                    (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    check_gpus(n_gpus, found, local_rank)
    device = torch.device("cuda", local_rank) if found else torch.device("cpu")
    if found:
        torch.cuda.set_device(device)
    gpus = 0 if not found else 1 if world_size > 1 else n_gpus
    runtime = Runtime(device, gpus, rank, world_size, wants_bf16(precision, device))
    with stop_signals():
        if world_size > 1:
            torch.distributed.init_process_group("nccl" if found else "gloo", store=meet(*next(torch.distributed.rendezvous("env://"))),
                                                 rank=rank, world_size=world_size)
        try:
            if not found:
                runtime.say("no GPU found: running on the CPU")
            yield runtime
        finally:
            if world_size > 1:
                torch.distributed.destroy_process_group()


def meet(store: torch.distributed.Store, rank: int, world_size: int) -> torch.distributed.Store:
    """The job's store, below a prefix that this start of the job has for itself; every process of the job has to call it.

    torchrun keeps its store when it restarts a job (seen in PyTorch 2.14), and in it the addresses of processes that are gone:
    whoever reads one before its successor has written waits for ever. So the main process names each start, and tells the name to
    those that are alive.
    """
    token = uuid.uuid4().hex
    if rank:
        store.set(f"hello/{rank}", token)
        wait_for(lambda: store.check([f"name for {token}"]), store.timeout, "the main process")
        name = store.get(f"name for {token}").decode()
        store.set(f"{name}/{rank} is here", "")
        return torch.distributed.PrefixStore(name, store)

    def all_here() -> bool:
        absent = [other for other in range(1, world_size) if not store.check([f"{token}/{other} is here"])]
        for other in absent:
            if store.check([f"hello/{other}"]):                       # a dead process's, perhaps: then it is overwritten soon
                store.set(f"name for {store.get(f'hello/{other}').decode()}", token)
        return not absent

    wait_for(all_here, store.timeout, "the other processes")
    return torch.distributed.PrefixStore(token, store)


def wait_for(condition: Callable[[], bool], most: timedelta, whom: str) -> None:
    """Look every few milliseconds; Stopped after a stop signal, RuntimeError when the time is over."""
    end = time.monotonic() + most.total_seconds()
    while not condition():
        raise_if_stopped()
        if time.monotonic() > end:
            raise RuntimeError(f"Timed out waiting for {whom}")
        time.sleep(0.005)


def check_gpus(n_gpus: int, found: int, local_rank: int = 0) -> None:
    """DataParallel falls through silently without GPUs, so the number is checked here."""
    if n_gpus < 1:
        raise ValueError(f"--n_gpus must be at least 1, not {n_gpus} (a machine without a GPU uses its CPU all the same)")
    if found and n_gpus > found:
        raise ValueError(f"--n_gpus {n_gpus}: this machine has {found} GPU{'s' if found > 1 else ''}")
    if found and local_rank >= found:
        raise ValueError(f"torchrun started process {local_rank + 1} on a machine with {found} GPU{'s' if found > 1 else ''}; "
                         f"--nproc-per-node must be at most {found}")


def wants_bf16(precision: str, device: torch.device) -> bool:
    """'auto' takes bf16 where the hardware accelerates it: AMX or AVX512-BF16 on a CPU, an Ampere or newer GPU."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def keep_large_blocks() -> None:
    """Have glibc reuse large freed blocks: it would return each to the system and fault its pages in again, every batch."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, MEMORY_KEPT)


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Within it, SIGINT and SIGTERM only set a flag, which `raise_if_stopped` reads once a batch; a second one ends at once."""

    def remember(number: int, frame: object) -> None:
        global _stop_signal
        if _stop_signal:
            os._exit(128 + number)
        _stop_signal = number

    global _stop_signal
    _stop_signal = 0
    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_if_stopped() -> None:
    """Raises Stopped if a stop signal has arrived."""
    if _stop_signal:
        raise Stopped(_stop_signal)


def epoch_seed(seed: int, *parts: int) -> int:
    """A 32-bit seed for one part of a run (its epoch, its rank, ...), so that a resumed run needs no generator's history."""
    return int(np.random.SeedSequence([seed, *parts]).generate_state(1)[0])


class ArgumentParser(argparse.ArgumentParser):
    """Errors in one line, exit code 2; the description keeps its line breaks."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help explains)\n")


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1, and below 2**32."""
    if not text.isdecimal() or not 1 <= int(text) < 2 ** 32:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def seed_number(text: str) -> int:
    """An argparse type: a whole number from 0 to 2**32 - 1."""
    if not text.isdecimal() or int(text) >= 2 ** 32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2 ** 32 - 1}, not {text!r}")
    return int(text)


def told_stop(program: str, hint: str) -> int:
    """Say which signal stopped the run; the exit code."""
    print(f"{program}: stopped by {signal.Signals(_stop_signal).name}{hint}", file=sys.stderr, flush=True)
    return 128 + _stop_signal


def outcome(action: Callable[..., None], *arguments: object, hint: str) -> int:
    """What `exit_code` returns."""
    program = os.path.basename(sys.argv[0])
    try:
        action(*arguments)
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2
    except Stopped:
        return told_stop(program, hint)
    except RuntimeError as error:
        if _stop_signal:          # the partners were stopped too, and an earlier end of theirs is no news
            return told_stop(program, hint)
        if not (several_processes() and any(words in str(error) for words in PARTNER_LOST)):
            raise
        print(f"{program}: error: another process of this job ended or cannot be reached{hint}", file=sys.stderr, flush=True)
        return 1
    return 0


def several_processes() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def exit_code(action: Callable[..., None], *arguments: object, hint: str = RESUME_HINT) -> int:
    """Run a script's action: 0; told in one line: a user's mistake or a failing disk: 2; a lost partner: 1; a signal: 128 + its number.

    `hint` ends the line of the last two: what to do about it.

    A process of several ends here. While Python takes itself down, a thread of gloo that still lets go of its last gradient
    would abort the process (PyTorch 2.14; pytorch/pytorch pull request 179291), and torchrun would fail a job that is finished.
    """
    code = outcome(action, *arguments, hint=hint)
    if several_processes():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
