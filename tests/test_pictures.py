"""Pictures where matplotlib is set to a backend that is missing."""

import os

import pytest

from conftest import ROOT

BACKEND = "module://matplotlib_inline.backend_inline"  # as Jupyter exports it
DRAW = """
import os
from pathlib import Path
from longtail.pictures import new_figure, save_figure

figure = new_figure(2, 1)
figure.subplots().plot([0, 1], [1, 0])
save_figure(figure, Path("line.png"))

import matplotlib
from matplotlib import pyplot

print(os.environ["MPLBACKEND"], matplotlib.get_backend())
"""


@pytest.mark.parametrize(("backend", "used"), [(BACKEND, "agg"), ("svg", "svg")], ids=["missing", "present"])
def test_a_picture_needs_no_backend(backend, used, started, tmp_path):
    """The environment stays as it was, and pyplot still gets the backend if it is there."""
    result = started("-c", DRAW, cwd=tmp_path, MPLBACKEND=backend, PYTHONPATH=str(ROOT), DISPLAY="")
    assert result.stdout.lower().split() == [backend, used], result.stderr
    assert (tmp_path / "line.png").read_bytes().startswith(b"\x89PNG")


def test_a_script_draws_without_the_backend_of_a_notebook(started, tmp_path):
    run = ROOT / "CIFAR-LT/results/digits_imbalance50_CE_fp32_1threads_seed0"
    result = started(ROOT / "longtail/plot.py", run, "--out", tmp_path, MPLBACKEND=BACKEND)
    assert result.returncode == 0, result.stderr
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"} and "MPLBACKEND" not in os.environ
