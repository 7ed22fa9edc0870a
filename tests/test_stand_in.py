"""The stand-in tables of the experiments' pages are what the committed results say, through the scripts that a reader
can run.
"""

import json
import shutil
from pathlib import Path

import pytest

import egtea_table
import imagenet_table
from conftest import ROOT
from longtail.tables import loss_label

RUNS = {
    "EGTEA": ("CE", "CDB-CE", "CDB-CE_smoothed", "CDB-BS"),
    "ImageNet-LT": tuple(
        f"resnet10_{name}"
        for name in (
            "uniform",
            "uniform_bf16",
            "balanced_softmax",
            "uniform_cdbce",
            "uniform_cdbce_smoothed",
            "uniform_cdbbs",
            "cdb_sampling",
            "uniform_crt",
            "uniform_lws",
        )
    ),
}
TABLES = {
    script: [
        path for run in RUNS[folder] for path in sorted((ROOT / folder / "results/stand-in" / run).glob("test*.json"))
    ]
    for script, folder in ((egtea_table, "EGTEA"), (imagenet_table, "ImageNet-LT"))
}


@pytest.mark.parametrize("script", TABLES, ids=lambda script: script.__name__)
def test_the_readme_says_what_the_results_say(script, tmp_path, capsys):
    page, published = tmp_path / "README.md", Path(script.__file__).with_name("README.md")
    shutil.copyfile(published, page)
    assert len(TABLES[script]) > 1
    assert script.main([*map(str, TABLES[script]), "--page", str(page)]) == 0
    assert page.read_text() == published.read_text()
    assert capsys.readouterr().out in page.read_text()


@pytest.mark.parametrize("script", TABLES, ids=lambda script: script.__name__)
def test_a_page_without_marks_stays_as_it_is(script, tmp_path, failing):
    page = tmp_path / "page.md"
    page.write_text(script.MARKS[0])
    assert "page.md has no lines <!--" in failing(script.main, *map(str, TABLES[script]), "--page", str(page))
    assert page.read_text() == script.MARKS[0]


@pytest.mark.parametrize("arguments", [{"loss_type": "FL", "gamma": None}, {"loss_type": "EQL", "eql_gamma": "high"}])
def test_an_egtea_result_without_its_loss_s_settings_is_none(arguments, tmp_path, failing):
    figures = json.loads(TABLES[egtea_table][0].read_text())
    result = tmp_path / "test.json"
    result.write_text(json.dumps(figures | {"arguments": figures["arguments"] | arguments}))
    assert "EGTEA_test.py --json" in failing(egtea_table.main, str(result))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "CE"),
        ({"loss_type": "CDB-CE"}, "CDB-CE, tau 1.5"),
        ({"gamma": 2.0, "beta": 0.9}, "CE"),
        ({"loss_type": "CDB-BS", "difficulty": "smoothed"}, "CDB-BS, tau 1.5, smoothed"),
        ({"difficulty": "smoothed"}, "CE"),
        (
            {"loss_type": "CDB-FL", "reduction": "weighted_mean", "gamma": 0.5},
            "CDB-FL, tau 1.5, weighted mean, gamma 0.5",
        ),
        ({"loss_type": "CB_Focal", "gamma": 2.0, "beta": 0.9}, "CB_Focal, gamma 2, beta 0.9"),
        ({"loss_type": "EQL", "eql_lambda": 0.02}, "EQL, eql_lambda 0.02"),
        ({"loss_type": "EQL"}, "EQL"),
    ],
)
def test_an_egtea_row_names_what_sets_it_apart(arguments, name):
    usual = {
        "loss_type": "CE",
        "tau": 1.5,
        "reduction": "mean",
        "gamma": 1.0,
        "beta": 0.9999,
        "eql_gamma": 0.9,
        "eql_lambda": 0.005,
    }
    assert loss_label(usual | arguments) == name


def test_an_egtea_row_without_a_majority(tmp_path, capsys):
    """No class of own data has more than 600 clips: the test leaves the group out, and so does the table."""
    figures = json.loads(TABLES[egtea_table][0].read_text())
    figures.pop("majority")
    (tmp_path / "test.json").write_text(json.dumps(figures))
    assert egtea_table.main([str(tmp_path / "test.json")]) == 0
    output = capsys.readouterr().out
    assert " | - | - | " in output and "(0 of 19 classes)" in output
