"""The pictures of the tables: a bar or dot for every number, the same file from the same logs."""

from longtail.metrics import SHOTS
from reproduction import figures
from reproduction.figures import Line, draw_losses, draw_tau


def line(group: str, name: str, published: float | None, *values: float) -> Line:
    return Line(
        group, name, published, {shot: [value + 10 * place for value in values] for place, shot in enumerate(SHOTS)}
    )


LINES = [
    line("imbalance 200", "CE", None, 30.0),
    line("imbalance 200", "CDB-CE, tau 1.5", 37.4, 35.0, 37.0),
    line("imbalance 100", "CE", 38.21, 36.0),
]
TAUS = [line("", "0", None, 30.0), line("", "0.5", None, 32.0), line("", "dynamic", 42.57, 35.0, 37.0)]


def drawn(function, lines, tmp_path, monkeypatch):
    """The figure that would have been saved."""
    saved = []
    monkeypatch.setattr(figures, "save", lambda figure, path: saved.append(figure))
    function(lines, tmp_path / "picture.png")
    return saved[0]


def points(axes) -> set[tuple[float, float]]:
    return {(float(x), float(y)) for curve in axes.lines for x, y in zip(*curve.get_data(), strict=True)}


def test_losses_have_a_bar_of_the_mean_and_a_dot_a_seed(tmp_path, monkeypatch):
    panels = drawn(draw_losses, LINES, tmp_path, monkeypatch).axes
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["CE", "CDB-CE, tau 1.5", "CE"]
    assert [bar.get_width() for bar in panels[0].patches] == [30, 36, 36]
    assert [bar.get_width() for bar in panels[3].patches] == [60, 66, 66]
    assert {x for x, _ in points(panels[0])} == {30, 35, 37, 37.4, 36, 38.21}
    assert {x for x, _ in points(panels[3])} == {60, 65, 67, 66}
    assert [text.get_text() for text in panels[0].texts] == ["imbalance 200", "imbalance 100"]


def test_tau_has_a_column_a_value_and_a_line_through_the_numbers_alone(tmp_path, monkeypatch):
    axes = drawn(draw_tau, TAUS, tmp_path, monkeypatch).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0 (CE)", "0.5", "dynamic"]
    assert {(0, 30), (1, 32), (2, 35), (2, 37), (2, 42.57), (1, 62)} <= points(axes)
    assert list(axes.lines[0].get_data()[0]) == [0, 1]


def test_the_same_logs_give_the_same_file(tmp_path):
    for name in ("one.png", "two.png"):
        draw_losses(LINES, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
