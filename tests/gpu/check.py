"""What a check of make gpu gets, and what it returns.

Importing this module makes the experiments' modules importable.
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in (".", "EGTEA", "ImageNet-LT", "CIFAR-LT")]


@dataclass(frozen=True)
class Setup:
    """Where the checks compute, and where they find and leave files."""

    device: str
    gpus: int
    out: Path
    data_root: Path
    minutes: float = 7.0


@dataclass(frozen=True)
class Outcome:
    """What a check found; `wanted` is empty for a measurement. An unfinished one is continued by the next call."""

    found: str
    wanted: str = ""
    passed: bool = True
    finished: bool = True


Checks = dict[str, Callable[[Setup], Outcome]]


def can_compile(device: str) -> bool:
    """Return whether torch.compile has what it needs: a C compiler, and on a GPU of CUDA, ROCm or Intel Triton."""
    from torch.utils._triton import has_triton

    return bool(shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")) and (
        device in ("cpu", "mps") or has_triton()
    )
