"""Tables of results: their form, and files that hold no result."""

import json

import pytest

from longtail.tables import interval, markdown, percent, write_table

MARKS = ("<!-- first -->", "<!-- last -->")


def call(*argv: object) -> None:
    def row(figures: dict) -> dict[str, str]:
        return {"name": figures["name"], "share": percent(figures["share"])}

    write_table(
        "what",
        [str(word) for word in argv],
        "a test",
        row,
        lambda figures: f"of {figures['images']} images",
        ("name",),
        MARKS,
    )


def test_markdown_aligns_numbers_to_the_right():
    rows = [{"loss": "CE", "all": "38.2"}, {"loss": "CDB-CE", "all": "42.57"}]
    assert markdown(rows, left=("loss",)) == "| loss | all |\n|---|--:|\n| CE | 38.2 |\n| CDB-CE | 42.57 |\n"
    assert (percent(0.38214), percent(None)) == ("38.21", "-")


@pytest.mark.parametrize(
    ("share", "images", "expected"), [(0.5, 100, "40.4 to 59.6"), (1.0, 10, "72.2 to 100.0"), (0.0, 10, "0.0 to 27.8")]
)
def test_the_interval_of_a_share(share, images, expected):
    """Wilson's formula by hand: 50 ± 9.617; and 10 of 10, whose lower end is 10 / (10 + 1.96 ** 2) = 0.7225."""
    assert interval(share, images) == expected


def test_a_table_of_results_with_one_note_for_all_that_share_it(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("\n".join(MARKS))
    for name, share in (("a", 0.5), ("b", None)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "share": share, "images": 7}))
    call(tmp_path / "a.json", tmp_path / "b.json", "--page", page, "--out", tmp_path / "out.md")
    table = "| name | share |\n|---|--:|\n| a | 50.00 |\n| b | - |\n\nof 7 images\n"
    assert capsys.readouterr().out == (tmp_path / "out.md").read_text() == table
    assert page.read_text() == f"{MARKS[0]}\n{table}{MARKS[1]}"
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="bad.json .*KeyError"):
        call(tmp_path / "bad.json")
