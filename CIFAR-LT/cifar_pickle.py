"""Read CIFAR's pickles without letting them run code.

This follows https://docs.python.org/3/library/pickle.html#restricting-globals: find_class admits only the names that
such a file needs. Here those names are replaced by functions that can build only arrays of bytes, and text.
"""

import pickle
from pathlib import Path

import numpy as np


def empty_bytes(*_: object) -> np.ndarray:
    """Stand for numpy's _reconstruct: the array whose shape and content the pickle sets next."""
    return np.empty(0, np.uint8)


def byte_type(name: object, *_: object) -> np.dtype:
    """Stand for numpy.dtype. Raise UnpicklingError for another type than bytes."""
    if name not in ("u1", b"u1"):
        raise pickle.UnpicklingError("it asks for an array of other values than bytes")
    return np.dtype(np.uint8)


def encoded(text: str, encoding: str) -> bytes:
    """Stand for _codecs.encode, with which Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it asks for an encoding, which no CIFAR file needs")
    return text.encode("latin1")


class DataUnpickler(pickle.Unpickler):
    """Build arrays of bytes and plain values. Raise UnpicklingError for a pickle that asks for anything else."""

    ADMITTED = {
        ("numpy.core.multiarray", "_reconstruct"): empty_bytes,
        ("numpy._core.multiarray", "_reconstruct"): empty_bytes,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): byte_type,
        ("_codecs", "encode"): encoded,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module:.40}.{name:.40}, which no CIFAR file needs")
        return self.ADMITTED[module, name]


def read_pickle(path: Path) -> dict[bytes, object]:
    """Return the dictionary in a file of CIFAR's Python version.

    Raise ValueError if it is damaged or asks for anything but data.
    """
    with open(path, "rb") as file:
        try:
            entry = DataUnpickler(file, encoding="bytes").load()
        except Exception as error:  # a damaged pickle may raise anything
            reason = str(error) or "it is cut off"
            raise ValueError(
                f"{path} is damaged or not a CIFAR file: {reason}; remove it, and --download fetches it again"
            ) from error
    if not isinstance(entry, dict):
        raise ValueError(f"{path} holds a {type(entry).__name__}, not CIFAR's dictionary")
    return entry
