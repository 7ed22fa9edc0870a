"""Many paths in little memory, which forked processes share."""

import os
from collections.abc import Iterable, Sequence

import numpy as np


class PathTable(Sequence[str]):
    """Paths as one block of bytes and the place where each ends.

    A list of a million str grows in every forked worker: reading a str changes its reference count, which copies its
    memory page. Reading from here changes nothing.
    """

    def __init__(self, paths: Iterable[str]):
        encoded = [os.fsencode(path) for path in paths]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        """Return the path at `index`, which may be negative. IndexError past the end, as of a list."""
        place = range(len(self))[index]
        return os.fsdecode(self._bytes[self._ends[place] : self._ends[place + 1]])
