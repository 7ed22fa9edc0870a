"""Figures that need no display and no backend: one way to begin a picture, one way to write it."""

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any

from longtail.files import write_atomically

DPI = 130
COLORS = ("#777777", "#c0392b", "#2471a3", "#239b56", "#b7950b", "#7d3c98", "#d35400", "#17202a")


def import_matplotlib() -> None:
    """Import matplotlib, even where the backend that MPLBACKEND names is not installed.

    Jupyter exports the name of its own to every script that it starts, and with an unknown name the import fails.
    Pyplot still finds a backend that is known.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if backend is not None:
        os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of this size in inches. It needs neither display nor pyplot."""
    import_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path, dpi: int = DPI, **settings: Any) -> None:
    """Write a matplotlib figure as write_atomically does, in the format that the path's ending names."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=dpi, **settings)
    write_atomically(path, buffer.getbuffer())
