"""The pictures of the tables: a mark for every number, the same file from the same logs."""

import numpy as np
import pytest

from longtail.compare import GROUPS, ComparedSetting
from longtail.metrics import SHOTS
from reproduction import figures
from reproduction.figures import Contrast, Line, draw_differences, draw_overview, draw_tau


def line(group: str, name: str, published: float | None, *values: float) -> Line:
    return Line(
        group, name, published, {shot: [value + 10 * index for value in values] for index, shot in enumerate(SHOTS)}
    )


def setting(label: str, *values: float) -> ComparedSetting:
    """Runs with seeds 0, 1, ...: these accuracies of all classes, 10, 20, 30 and 40 more of the other groups."""
    accuracy = np.array([[value + 10 * column for column in range(len(GROUPS))] for value in values])
    return ComparedSetting(label, tuple(range(len(values))), accuracy)


FIRST, SECOND = ({shot: f"{name}: {shot}" for shot in SHOTS} for name in ("CE", "BS"))
CONTRASTS = [
    Contrast("imbalance 200", FIRST, setting("CDB-CE", 35, 37, 36), setting("CE", 34, 35, 33), None),
    Contrast("imbalance 200", FIRST, setting("FL", 36), setting("CE", 34), 1.5),
    Contrast("imbalance 100", SECOND, setting("CB", 20), setting("BS", 40), None),
]
LINES = [line("imbalance 200", "CE", None, 30.0, 32.0), line("imbalance 200", "CDB-CE", 37.4, 35.0, 37.0)]
TAUS = [line("", "0", None, 30.0), line("", "0.5", None, 32.0), line("", "dynamic", 42.57, 35.0, 37.0)]


def drawn(function, lines, tmp_path, monkeypatch):
    """The figure that would have been saved."""
    saved = []
    monkeypatch.setattr(figures, "save", lambda figure, path: saved.append(figure))
    function(lines, tmp_path / "picture.png")
    return saved[0]


def points(axes) -> set[tuple[float, float]]:
    return {(float(x), float(y)) for curve in axes.lines for x, y in zip(*curve.get_data(), strict=True)}


def test_differences_have_a_mean_their_pairs_and_an_interval_from_three_on(tmp_path, monkeypatch):
    """35, 37, 36 against 34, 35, 33: 1, 2, 3, so 2 with 4.303 / sqrt 3 = 2.484 on either side.

    One pair, 2, has no interval. The paper's 1.5 lies below its row. -20 is an arrow at the edge.
    """
    panels = drawn(draw_differences, CONTRASTS, tmp_path, monkeypatch).axes
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    assert labels == ["imbalance 200", "CDB-CE", "FL", "imbalance 100", "CB"]
    for axes, paper in zip(panels, (True, False), strict=True):
        first, second = 2.4, 3.4
        assert {(1, first), (2, first), (3, first), (2, second)} <= points(axes)
        assert ((1.5, second + 0.35) in points(axes)) == paper
        ((low, high),) = [segment[:, 0] for lines in axes.collections for segment in lines.get_segments()]
        assert (low, high) == (pytest.approx(-0.484, abs=1e-3), pytest.approx(4.484, abs=1e-3))
        assert {"+2.0", "-20.0"} <= {text.get_text() for text in axes.texts}
        assert not any(x == -20 for x, _ in points(axes))
    assert {"CE: few", "BS: few"} <= {text.get_text() for text in panels[1].texts}


def test_the_paper_is_beside_the_seeds(tmp_path, monkeypatch):
    """Bars at 31 and 36; the paper's 37.4 is not over the dot at 37."""
    axes = drawn(draw_overview, LINES, tmp_path, monkeypatch).axes[0]
    assert [bar.get_height() for bar in axes.patches[:: len(SHOTS)]] == [31, 36]
    columns = {y: x for x, y in points(axes)}
    assert abs(columns[37.4] - columns[37.0]) > 0.05


def test_tau_has_a_column_a_value_and_a_line_through_the_numbers_alone(tmp_path, monkeypatch):
    axes = drawn(draw_tau, TAUS, tmp_path, monkeypatch).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0 (CE)", "0.5", "dynamic"]
    assert {(0, 30), (1, 32), (2, 35), (2, 37), (2.18, 42.57), (1, 62)} <= points(axes)
    assert list(axes.lines[0].get_data()[0]) == [0, 1]


def test_the_same_logs_give_the_same_file(tmp_path):
    for name in ("one.png", "two.png"):
        draw_differences(CONTRASTS, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
