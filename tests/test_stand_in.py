"""The stand-in tables of the experiments' pages are what the committed results say, through the scripts that a reader
can run.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import egtea_table
import imagenet_table
from conftest import ROOT
from longtail.logs import load_log
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


def table_rows(page: str) -> dict[str, dict[str, float]]:
    """The columns of the table in a page, by the row's first cell; what is no number is left out."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")
    ]
    titles, rows = next(cells for cells in lines if "95 % interval" in cells), {}
    for cells in lines:
        if len(cells) == len(titles):
            numbers = {title: cell for title, cell in zip(titles, cells, strict=True) if re.fullmatch(r"[0-9.]+", cell)}
            rows.setdefault(cells[0], {title: float(cell) for title, cell in numbers.items()})
    return rows


def said_of(method: str, page: str) -> str:
    """What a page says of a method, in its list of what the runs show."""
    return " ".join(re.search(rf"\n- \*{re.escape(method)}\*(.*?)(?=\n- |\n\n)", page, re.DOTALL)[1].split())


def test_what_egteas_page_says_of_its_runs():
    """Weights are those with which an epoch is trained: the log has them in the row of the epoch before."""
    page = (ROOT / "EGTEA/README.md").read_text()
    folder = ROOT / "EGTEA/results/stand-in"
    ce, paper, smoothed, combined = (json.loads((folder / run / "test.json").read_text()) for run in RUNS["EGTEA"])

    def gain(figures: dict, group: str, measure: str) -> float:
        """In points, over cross-entropy."""
        return 100 * (figures[group][measure] - ce[group][measure])

    logs = {run: load_log(folder / run) for run in RUNS["EGTEA"]}
    trained = {run: log.class_weight[-7:-1] for run, log in logs.items()}
    changes = {run: np.abs(np.diff(log.class_weight, axis=0)).mean() for run, log in logs.items()}
    text = said_of("CDB-CE with the published difficulty", page)
    assert f"{-gain(paper, 'all', 'top1'):.1f} points below CE" in text
    majority, minority = (gain(paper, group, "recall") for group in ("majority", "minority"))
    assert f"(recall {majority:.1f}; minority {minority:.1f})" in text
    assert f"weight 0: {(trained['CDB-CE'] == 0).sum(axis=1).mean():.1f} of the 19 words" in text
    assert f"weighed up to {trained['CDB-CE'].max():.1f}" in text
    text = said_of("Smoothed difficulty", page)
    weights = trained["CDB-CE_smoothed"]
    assert f"from {weights.min():.2f} to {weights.max():.2f}" in text
    assert f"changes by {changes['CDB-CE_smoothed']:.2f} on average ({changes['CDB-CE']:.2f} with" in text
    assert f"{gain(smoothed, 'all', 'top1'):.1f} points above CE" in text
    text = said_of("CDB-BS", page)
    assert f"{gain(combined, 'all', 'top1'):.1f} points above CE" in text
    majority, minority = (gain(combined, group, "recall") for group in ("majority", "minority"))
    assert f"(recall of minority words {minority:+.1f}, of majority words {majority:+.1f})" in text
    large = logs["CDB-BS"].class_counts > 40
    weights = trained["CDB-BS"]
    assert f"{weights[:, large].mean():.2f} for majority and {weights[:, ~large].mean():.2f} for minority" in text


def test_what_imagenets_page_says_of_its_runs():
    page = (ROOT / "ImageNet-LT/README.md").read_text()
    rows = table_rows(page)

    def gain(method: str, group: str) -> float:
        return rows[method][group] - rows["CE"][group]

    text = said_of("CDB-CE", page)
    for group, name in (("many", "many-shot classes ({:.1f} points)"), ("medium", "medium-shot ({:+.1f})")):
        assert name.format(gain("CDB-CE, tau 1.5", group)) in text
    few = gain("CDB-CE, tau 1.5", "few")
    smoothed = ", ".join(f"{gain('CDB-CE, tau dynamic, smoothed', group):+.1f}" for group in ("many", "medium", "few"))
    assert f"few-shot ones ({few:+.1f})" in text and f"({smoothed})" in text
    text = said_of("Balanced Softmax", page)
    assert f"gains {gain('Balanced_Softmax', 'all'):.1f} points over CE" in text
    assert f"few-shot {gain('Balanced_Softmax', 'few'):+.1f}, many-shot {gain('Balanced_Softmax', 'many'):.1f}" in text
    text = said_of("Logit adjustment", page)
    assert f"gains {gain('CE, logit adjustment (strength 0.8)', 'all'):.1f} points" in text
    others = (
        "CE, nearest class mean",
        "CE, tau-normalised (exponent 0.5)",
        "cRT on resnet10_uniform",
        "LWS on resnet10_uniform",
    )
    accuracies = [rows[name]["all"] for name in others]
    assert f"get {min(accuracies):.1f} to {max(accuracies):.1f};" in text
    lost = -gain("CE, difficulty-driven sampling, tau 1.5", "all")
    assert f"loses {lost:.1f} points" in said_of("Difficulty-driven sampling", page)


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
