"""Training without validation: on all images, and again as a finished run did."""

import json
import math
from pathlib import Path

import pytest
import torch

import cifar_test
import cifar_train
from cifar_train import parse_arguments, prepare
from longtail import compare
from longtail.checkpoints import load_checkpoint
from longtail.devices import Runtime
from longtail.logs import load_log, read_log

NAME = "digits_imbalance50"
FLAGS = ("--dataset", "digits", "--imbalance", "50", "--max_epochs", "3", "--precision", "fp32")
CPU = Runtime(torch.device("cpu"))
pytestmark = pytest.mark.usefixtures("shallow_networks")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a run of three epochs."""
    folder = tmp_path_factory.mktemp("finished")
    assert cifar_train.main([*FLAGS, "--save_model", str(folder)]) == 0
    return folder


def test_an_epoch_has_the_weights_that_the_run_had_after_the_epoch_before(finished):
    training, _ = prepare(parse_arguments([*FLAGS, "--refit", str(finished)]), CPU)
    rows = read_log(finished / f"{NAME}.csv")
    assert rows[0].class_weight != rows[1].class_weight
    training.train_batches(1)
    assert training.criterion.weight.tolist() == [1.0] * 10
    for epoch in (2, 3):
        training.train_batches(epoch)
        assert training.criterion.weight.tolist() == pytest.approx(rows[epoch - 2].class_weight)


def test_a_refit_keeps_the_last_epoch_and_measures_nothing(finished, tmp_path, capsys):
    """114 digits of the largest class and 20 that validation would take: 134 / 50 of the rarest."""
    flags = [*FLAGS, "--refit", str(finished / f"{NAME}.csv"), "--save_model", str(tmp_path)]
    assert cifar_train.main(flags) == 0
    assert "none for validation" in capsys.readouterr().out
    best, last = (load_checkpoint(tmp_path / f"{kind}_{NAME}.pth") for kind in ("best", "last"))
    assert best["epoch"] == last["epoch"] == 3
    assert (best["class_counts"][0], best["class_counts"][-1]) == (134, 2)
    assert all(math.isnan(row.accuracy) for row in read_log(tmp_path / f"{NAME}.csv"))
    assert load_log(tmp_path).best_epoch == 3
    with pytest.raises(ValueError, match="no validated epoch"):
        compare.validated(load_log(tmp_path))
    assert best["arguments"]["protocol"] == "refit" and len(best["arguments"]["refit_sha256"]) == 64
    assert cifar_test.main(["--saved_model_path", str(tmp_path / f"best_{NAME}.pth")]) == 0
    assert "was chosen on the test set" not in capsys.readouterr().out
    assert cifar_train.main([*flags, "--resume"]) == 0


def test_a_refit_has_the_settings_of_a_finished_run(finished, tmp_path, failing):
    refit = ("--refit", finished, "--save_model", tmp_path / "run")
    assert "max_epochs" in failing(cifar_train.main, *FLAGS[:4], "--max_epochs", 4, *refit)
    assert "loss_type" in failing(cifar_train.main, *FLAGS, "--loss_type", "CE", *refit)
    assert "--protocol" in failing(cifar_train.main, *FLAGS, "--protocol", "common", *refit)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / f"{NAME}.json").write_text((finished / f"{NAME}.json").read_text())
    lines = (finished / f"{NAME}.csv").read_text().splitlines(keepends=True)
    (unfinished / f"{NAME}.csv").write_text("".join(lines[:-1]))
    assert "2 of 3 epochs" in failing(cifar_train.main, *FLAGS, "--refit", unfinished, "--save_model", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_images_are_trained_on_where_none_are_held_out(tmp_path, failing, capsys):
    """The paper's 114 digits of the largest class and the 20 that validation takes from each."""
    flags = [*FLAGS[:4], "--max_epochs", "1", "--protocol", "all", "--save_model", tmp_path]
    assert "measures difficulty" in failing(cifar_train.main, *flags)
    assert cifar_train.main([*map(str, flags), "--loss_type", "CE"]) == 0
    best = tmp_path / f"best_{NAME}.pth"
    assert load_checkpoint(best)["class_counts"][0] == 134 and load_checkpoint(best)["class_counts"][-1] == 22
    assert json.loads((tmp_path / f"{NAME}.json").read_text())["arguments"]["protocol"] == "all"
    failed = failing(cifar_test.main, "--saved_model_path", best, "--logit_adjustment")
    assert "none were held out" in failed
