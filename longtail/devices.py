"""Where a run computes: CPU, one GPU, several through DataParallel, or one process for each GPU; and in which
precision.

"GPU" stands for whatever accelerator torch.accelerator finds: CUDA, ROCm (which PyTorch calls cuda), Apple's MPS,
Intel's XPU.

All of it is decided once, into a Runtime (distributed.py makes it). A script keeps two views of its model: `model`,
bare, for the optimizer and the checkpoint; and `parallel_model = runtime.parallelize(model)`, which is only called.
"""

import contextlib
import ctypes
import inspect
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from longtail.records import EXECUTION

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc malloc.h
LARGEST_BLOCK_KEPT = 1 << 25  # bytes; the most that glibc accepts
MEMORY_KEPT = 1 << 28  # bytes at the top of the heap that are not returned to the system
# The argument of DistributedDataParallel that, set to False, leaves each process its own buffers (running statistics).
# PyTorch 2.14 renamed it and warns of the old name.
OWN_BUFFERS = "broadcast_buffers"
if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters:
    OWN_BUFFERS = "forward_sync_buffers"
BATCHES_BETWEEN_READS = 50  # on a GPU: reading a result waits until the GPU has worked off its queue


@dataclass(frozen=True)
class Runtime:
    """One process's place in the run: its device, its rank among world_size, the number of its GPUs, its precision."""

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
        cpu = f"CPU, {count_of(torch.get_num_threads(), 'thread')}"
        devices = count_of(self.gpus, "GPU") if self.gpus else cpu
        processes = f", {self.world_size} processes" if self.world_size > 1 else ""
        return f"{devices}{processes}, {self.precision}"

    @property
    def batches_between_reads(self) -> int:
        """After how many batches the losses are read.

        A CPU has computed them already, so there each batch is checked at once.
        """
        return 1 if self.device.type == "cpu" else BATCHES_BETWEEN_READS

    @property
    def pins_memory(self) -> bool:
        """Whether a loader should put batches into pinned memory, from which they are copied while the GPU computes."""
        return self.device.type not in ("cpu", "mps")  # MPS shares the CPU's memory

    @property
    def precision(self) -> str:
        """The type that the forward pass computes in."""
        return "bf16" if self.bf16 else "fp32"

    def parallelize(self, model: nn.Module, trains: bool = True) -> nn.Module:
        """Return the view of `model` to call.

        Batch statistics are per replica; `synchronize` makes the running ones equal.

        With several processes, a model that only evaluates is returned as it is: it has no gradients to exchange.
        """
        if self.world_size > 1:
            if not trains:
                return model
            options: dict[str, Any] = {OWN_BUFFERS: False}
            return nn.parallel.DistributedDataParallel(model, **options)
        if self.gpus > 1:
            return nn.DataParallel(InPrecision(model, self), device_ids=list(range(self.gpus)))
        return model

    def autocast(self) -> torch.autocast:
        """Return the context for the forward pass. Compute the loss outside of it, on `.float()`."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def move(self, tensor: Tensor) -> Tensor:
        """Return a batch's images or labels on this process's device.

        Loaders call it; the training loop gets what is there already.
        """
        return send(tensor, self.device)

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ValueError unless every process can take an equal part of a batch of `batch_size`."""
        if batch_size % self.world_size:
            raise ValueError(
                f"a batch of {batch_size} does not divide among {self.world_size} processes; "
                "--batch_size must be a multiple of their number"
            )

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's part of a whole batch, equally long in every process; a smaller rest is left out."""
        size = len(batch) // self.world_size
        return batch[self.rank * size : (self.rank + 1) * size]

    def sum(self, values: Tensor) -> Tensor:
        """Sum `values` over the processes, in place, and return them."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def mean(self, value: float) -> float:
        """Return the mean of a number over the processes, through float32: not every GPU has float64."""
        if self.world_size == 1:
            return value
        return self.sum(torch.tensor(value, dtype=torch.float, device=self.device)).item() / self.world_size

    def broadcast(self, value: Any) -> Any:
        """Return the main process's value on every process."""
        values = [value]
        if self.world_size > 1:
            torch.distributed.broadcast_object_list(values)
        return values[0]

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Raise ValueError, with a key and two values, unless every process was started with the same settings.

        What says only how a process computes may differ. The other processes end without a line of their own.
        """
        if self.world_size == 1:
            return
        compared = {key: value for key, value in settings.items() if key not in EXECUTION}
        compared["precision"] = self.precision
        everywhere: list[dict[str, Any]] = [{} for _ in range(self.world_size)]
        torch.distributed.all_gather_object(everywhere, compared)
        for rank, others in enumerate(everywhere):
            for key, value in everywhere[0].items():
                if others.get(key) != value:
                    if not self.is_main:
                        raise SystemExit(2)
                    raise ValueError(
                        f"process {rank} of this job was started with {key} {others.get(key)}, process 0 with {value}: "
                        "start all of them with the same settings"
                    )

    def synchronize(self, model: nn.Module) -> None:
        """Give every process the main one's buffers (BatchNorm's running statistics), as DataParallel does."""
        if self.world_size > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def say(self, *words: object) -> None:
        """Print from the main process, at once."""
        if self.is_main:
            print(*words, flush=True)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on a device, without waiting for a CUDA GPU to work off its queue.

    CUDA copies pageable memory before the call returns. MPS may read it later, when it holds something else (pytorch
    issue 139550).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


class InPrecision(nn.Module):
    """Turn autocast on in the threads of DataParallel, which do not inherit its type and would compute in fp16
    (PyTorch 2.14)."""

    def __init__(self, model: nn.Module, runtime: Runtime):
        super().__init__()
        self.model, self.runtime = model, runtime

    def forward(self, inputs: Tensor) -> Tensor:
        with self.runtime.autocast():
            outputs: Tensor = self.model(inputs)
        return outputs


def count_of(number: int, name: str) -> str:
    """Return '1 GPU' or '2 GPUs'."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def find_gpus() -> tuple[str, int]:
    """Return how PyTorch calls this machine's GPUs, such as "cuda", and how many there are; ("cpu", 0) for none."""
    accelerator = torch.accelerator.current_accelerator()
    # Without a GPU, it is the one that PyTorch was built for.
    if accelerator is None or not torch.accelerator.is_available():
        return "cpu", 0
    return accelerator.type, torch.accelerator.device_count()


def choose_device(
    name: str | None, n_gpus: int = 1, local_rank: int = 0, world_size: int = 1
) -> tuple[torch.device, int]:
    """Return this process's device and how many GPUs it uses.

    `name` is --device: None takes the GPU if there is one, else the CPU.

    Raise ValueError for a device that is not here, for more GPUs than there are, and for one GPU's number together
    with several.
    """
    kind, found = find_gpus()
    try:
        asked = torch.device(name or kind)
    except RuntimeError:
        raise ValueError(f"--device {name} is not a PyTorch device; use cpu, cuda, cuda:1, mps or xpu") from None
    if asked.type not in ("cpu", kind) or (asked.index or 0) >= max(found, 1):
        here = f"{found} of type {kind}" if found else "none"
        raise ValueError(f"--device {name}: there is no such device here; GPUs of this machine: {here}")
    if asked.type == "cpu":
        found = 0
    check_gpus(n_gpus, found, local_rank)
    if not found:
        return torch.device("cpu"), 0
    if asked.index is not None and (n_gpus > 1 or world_size > 1):
        raise ValueError(
            f"--device {name} names one GPU, and this run would use several: --device {kind} lets it choose"
        )
    index = local_rank if asked.index is None else asked.index
    return torch.device(kind, index), 1 if world_size > 1 else n_gpus


def check_gpus(n_gpus: int, found: int, local_rank: int = 0) -> None:
    """Raise ValueError for a number of GPUs that cannot be: DataParallel without GPUs would go on silently."""
    if n_gpus < 1:
        raise ValueError(
            f"--n_gpus must be at least 1, not {n_gpus} (a machine without a GPU uses its CPU all the same)"
        )
    if found and n_gpus > found:
        raise ValueError(f"--n_gpus {n_gpus}: this machine has {count_of(found, 'GPU')}")
    if found and local_rank >= found:
        raise ValueError(
            f"torchrun started process {local_rank + 1} on a machine with {count_of(found, 'GPU')}; "
            f"--nproc-per-node must be at most {found}"
        )


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the processor's as Linux gives it, else the kind of device or architecture."""
    if device.type != "cpu":
        name = getattr(torch.get_device_module(device), "get_device_name", None)  # MPS has none
        return name(device) if name else device.type
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def wants_bf16(precision: str, device: torch.device, bf16_on_cpu: bool = True) -> bool:
    """Return whether to compute in bf16. 'auto' does where that is faster: AMX, AMD's AVX512-BF16, an Ampere or newer
    GPU; without `bf16_on_cpu`, for a network that bf16 makes wrong there, on no CPU.

    On an Intel processor that offers AVX512-BF16 without AMX, as some virtual machines do, bf16 is slower than fp32
    (tests/benchmarks/README.md).
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cpu":
        is_fast = torch.cpu._is_amx_tile_supported() or (
            torch.cpu._is_avx512_bf16_supported() and "Intel" not in device_name(device)
        )
        return bf16_on_cpu and is_fast
    supported = getattr(torch.get_device_module(device), "is_bf16_supported", None)  # MPS has no such question
    return supported is not None and supported(including_emulation=False)


def keep_large_blocks() -> None:
    """Let glibc reuse large freed blocks.

    Otherwise it returns each to the system and faults its pages in again, in every batch.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, MEMORY_KEPT)
