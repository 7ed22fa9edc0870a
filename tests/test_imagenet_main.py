"""Runs from their YAML files: the two commands to the letter, second stages, resume, processes, errors."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

import imagenet_compare
import imagenet_test
import imagenet_training
import main as main_module
from builders import (
    IMAGE_COUNTS,
    assert_same_state,
    last_checkpoint,
    log_rows,
    make_folder,
    train_imagenet,
    write_config,
)
from cdb_loss import CDBLoss
from conftest import ROOT
from imagenet_config import read_config
from imagenet_loader import ImageLoader
from imagenet_model import PARTS, ImageNetModel, split_state
from imagenet_run import BEST, CLASS_TABLES, RESULTS
from imagenet_table import main as table
from imagenet_table import name_of
from imagenet_test import Weights, choose_exponent, class_means, evaluate
from imagenet_training import prepare, sampling_of_epochs
from longtail.calibration import bin_sums, calibration_error
from longtail.checkpoints import load_checkpoint, save_checkpoint
from longtail.devices import Runtime
from longtail.hits import unpack_hits
from longtail.metrics import count_confusion, macro_f1, report
from longtail.posthoc import extract
from longtail.signals import Stopped, raise_if_stopped
from longtail.training import backward
from main import main

CPU = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("small"), IMAGE_COUNTS)


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory, data) -> Path:
    return train_imagenet(tmp_path_factory.mktemp("first"), data, "ce")


@pytest.fixture(scope="module")
def cdb(tmp_path_factory, data) -> Path:
    return train_imagenet(tmp_path_factory.mktemp("cdb"), data, "cdb", loss_type="CDB-CE", tau=1.5, num_epochs=4)


def test_what_a_run_leaves(cdb, data, capsys):
    assert {path.name for path in cdb.iterdir()} == {
        BEST,
        "last_cdb.pth",
        "cdb.csv",
        "cdb.json",
        "cdb.lock",
        "config.yaml",
        "test.json",
    }
    best = load_checkpoint(cdb / BEST)
    assert best["class_counts"] == [12, 6, 3] and best["class_names"] == ["n00000000", "n00000001", "n00000002"]
    assert (
        "optimizer" not in best
        and "fc.weight" in best["classifier"]
        and "layer4.0.downsample.1.running_var" in best["feat_model"]
    )
    assert not any(str(data) in str(value) or str(cdb) in str(value) for value in best["arguments"].values())
    assert str(data) not in (cdb / "cdb.json").read_text() and str(data) not in (cdb / "test.json").read_text()
    assert best["criterion"]["weight"].sum().item() == pytest.approx(3)
    assert [row["lr"] for row in log_rows(cdb)] == [
        "0.05",
        "0.04268",
        "0.025",
        "0.007322",
    ]  # cosine, stepped after each epoch


def test_its_own_configuration_reproduces_a_run_with_any_number_of_workers(cdb, tmp_path, capsys):
    assert main(["--cfg", str(cdb / "config.yaml"), "--model_dir", str(tmp_path / "cdb"), "--workers", "2"]) == 0
    assert_same_state(last_checkpoint(cdb), last_checkpoint(tmp_path / "cdb"))
    assert log_rows(cdb) == log_rows(tmp_path / "cdb")
    first, second = (json.loads((folder / "test.json").read_text()) for folder in (cdb, tmp_path / "cdb"))
    assert (first["arguments"].pop("workers"), second["arguments"].pop("workers")) == (0, 2)
    assert first == second
    hits = unpack_hits(first["hits"], first["images"])
    assert hits.sum() == sum(entry["correct"] for entry in first["classes"])


def test_killed_and_resumed_is_uninterrupted(cdb, data, tmp_path, shell, capsys):
    """Killed at the worst moment: the log has the third epoch's row, no checkpoint has the epoch."""
    file = write_config(tmp_path, data, "cdb", loss_type="CDB-CE", tau=1.5, num_epochs=4)
    code = (
        "import os, signal, sys, main\n"
        "from longtail import run\n"
        "write = run.save_checkpoint\n"
        "def save(path, state):\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if state['epoch'] == 3 else write(path, state)\n"
        "run.save_checkpoint = save\n"
        "main.main(['--cfg', sys.argv[1]])\n"
    )
    killed = shell("-c", code, file, cwd=ROOT / "ImageNet-LT")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(log_rows(tmp_path / "cdb")) == 3 and last_checkpoint(tmp_path / "cdb")["epoch"] == 2
    assert not (tmp_path / "cdb/test.json").exists()
    assert main(["--cfg", str(file), "--resume"]) == 0
    assert_same_state(last_checkpoint(cdb), last_checkpoint(tmp_path / "cdb"))
    assert log_rows(cdb) == log_rows(tmp_path / "cdb")
    assert json.loads((cdb / "test.json").read_text()) == json.loads((tmp_path / "cdb/test.json").read_text())


def test_a_finished_run_has_nothing_to_resume(cdb, data, capsys):
    before = {path: path.stat().st_mtime_ns for path in cdb.iterdir()}
    assert main(["--cfg", str(cdb / "config.yaml"), "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in cdb.iterdir() if path.suffix != ".csv"} == {
        path: time_of for path, time_of in before.items() if path.suffix != ".csv"
    }


def test_a_run_that_ended_before_its_test_is_tested_when_resumed(cdb, tmp_path, capsys):
    copy = Path(shutil.copytree(cdb, tmp_path / "cdb"))
    (copy / "test.json").unlink()
    assert main(["--cfg", str(copy / "config.yaml"), "--model_dir", str(copy), "--resume"]) == 0
    assert (copy / "test.json").read_text() == (cdb / "test.json").read_text()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_run_is_not_resumed_with_another_list(split, cdb, data, tmp_path, failing):
    """A list of the same name, one line shorter."""
    copy = Path(shutil.copytree(cdb, tmp_path / "cdb"))
    shorter = tmp_path / f"Small_{split}.txt"
    shorter.write_text("".join((data / shorter.name).read_text().splitlines(keepends=True)[1:]))
    file = write_config(tmp_path, data, "cdb", loss_type="CDB-CE", tau=1.5, num_epochs=4, **{f"{split}_list": shorter})
    assert re.search(f"{copy}/last_cdb.pth .*{split}_list {shorter.name} ", failing(main, "--cfg", file, "--resume"))


def test_a_run_is_not_touched_unasked(cdb, failing):
    before = {path: path.read_bytes() for path in cdb.iterdir()}
    error = failing(main, "--cfg", cdb / "config.yaml")
    assert all(flag in error for flag in ("--resume", "--overwrite", "--save_model")) and str(cdb) in error
    assert "seed 0, not 1" in failing(main, "--cfg", cdb / "config.yaml", "--resume", "--seed", "1")
    assert {path: path.read_bytes() for path in cdb.iterdir()} == before


def test_a_users_configuration_is_not_replaced(data, tmp_path, failing):
    (tmp_path / "mine").mkdir()
    other = write_config(tmp_path, data, "x")
    file = Path(shutil.copy(other, tmp_path / "mine/config.yaml"))
    for cfg in (file, other):
        error = failing(main, "--cfg", cfg, "--model_dir", tmp_path / "mine")
        assert re.search(f"{file} .*--model_dir", error)
    assert file.read_text() == other.read_text()


def test_the_home_directory_behind_an_equals_sign(tmp_path, monkeypatch, failing):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path}/none/config.yaml" in failing(main, "--test", "--model_dir=~/none")
    assert f"{tmp_path}/x.yaml cannot be read" in failing(main, "--cfg=~/x.yaml")
    assert "~nosuchuser/x" in failing(main, "--cfg=~nosuchuser/x")


def test_a_stopped_test_promises_no_resume(first_stage, monkeypatch, capsys):
    def stopped(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        raise_if_stopped()

    monkeypatch.setattr("main.evaluate", stopped)
    assert main(["--test", "--model_dir", str(first_stage)]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.strip().endswith("stopped by SIGTERM")


def test_overwrite_and_resume_of_nothing(data, tmp_path, capsys):
    folder = train_imagenet(tmp_path, data, "x", "--resume", num_epochs=1)
    assert f"nothing to resume in {folder}: starting from epoch 1" in capsys.readouterr().out
    (folder / "test_ncm.json").write_text("{}")
    assert main(["--cfg", str(tmp_path / "x.yaml"), "--overwrite", "--batch_size", "7"]) == 0
    assert not (folder / "test_ncm.json").exists()
    assert read_config(folder / "config.yaml").batch_size == 7


def test_report_is_what_the_model_says(first_stage, data, capsys):
    """Top-1, shots and F1 by scikit-learn on predictions made here."""
    from sklearn.metrics import f1_score

    assert main(["--test", "--model_dir", str(first_stage)]) == 0
    printed = capsys.readouterr().out
    figures = json.loads((first_stage / "test.json").read_text())
    hits = np.array([entry["correct"] for entry in figures["classes"]])
    assert figures["images"] == 15 and [entry["training_images"] for entry in figures["classes"]] == [12, 6, 3]
    assert figures["accuracy"] == pytest.approx(hits.sum() / 15) and figures["shots"]["few"] == figures["accuracy"]
    assert figures["shots"]["many"] is None and f"{figures['accuracy']:.4f}" in printed and "F1" in printed
    rng = np.random.default_rng(0)
    labels, predictions = (
        rng.integers(0, 6, 200),
        rng.integers(2, 8, 200),
    )  # classes 0, 1 never predicted, 6, 7 never true
    confusion = torch.zeros(9, 9, dtype=torch.long)
    np.add.at(confusion.numpy(), (labels, predictions), 1)
    assert macro_f1(confusion) == pytest.approx(f1_score(labels, predictions, average="macro"))


def test_a_report_by_hand():
    """Of each class's four images three, two and one are right; classes 0, 1 and 2 are many, medium and few shot."""
    figures = report(torch.tensor([[3, 1, 0], [2, 2, 0], [0, 3, 1]]), [200, 50, 5], None).entries()
    assert figures["shots"] == {"all": 0.5, "many": 0.75, "medium": 0.5, "few": 0.25} and figures["accuracy"] == 0.5
    assert [(entry["name"], entry["correct"], entry["images"]) for entry in figures["classes"]] == [
        ("0", 3, 4),
        ("1", 2, 4),
        ("2", 1, 4),
    ]
    assert figures["images"] == 12 and figures["f1"] == pytest.approx(
        (6 / 9 + 4 / 10 + 2 / 5) / 3
    )  # 2 hits / (labels + predictions)


@pytest.mark.parametrize(("stage", "frozen"), [("crt", "feat_model"), ("lws", "feat_model")])
def test_second_stages(stage, frozen, first_stage, data, tmp_path, capsys):
    settings = {"first_stage": first_stage, "sampling": "balanced", "num_epochs": 1}
    folder = train_imagenet(tmp_path, data, stage, stage=stage, **settings)
    before, after = load_checkpoint(first_stage / BEST), last_checkpoint(folder)
    assert all(torch.equal(value, after[frozen][key]) for key, value in before[frozen].items())
    same = torch.equal(before["classifier"]["fc.weight"], after["classifier"]["fc.weight"])
    assert same == (stage == "lws") and ("scales" in after["classifier"]) == (stage == "lws")
    assert main(["--test", "--model_dir", str(folder)]) == 0
    assert main(["--cfg", str(folder / "config.yaml"), "--model_dir", str(tmp_path / "again")]) == 0
    again = last_checkpoint(tmp_path / "again")
    assert all(torch.equal(value, again["classifier"][key]) for key, value in after["classifier"].items())
    assert after["first_stage"] == "ce"


def prepared(path: Path, data: Path, **settings):
    return prepare(read_config(write_config(path, data, "x", **settings)), False, CPU)[0]


def drawn(training, epoch: int) -> torch.Tensor:
    """How many of an epoch's 21 images are of each class."""
    return torch.cat([labels for _, labels in training.train_batches(epoch)]).bincount(minlength=3)


def test_each_sampling_draws_its_classes(data, tmp_path):
    """12, 6 and 3 images: their roots are 3.46, 2.45 and 1.73, shares 0.453, 0.321, 0.227."""
    assert drawn(prepared(tmp_path, data), 1).tolist() == [12, 6, 3]
    lonely = prepared(tmp_path, data, batch_size=20, image_size=64, test_resize=64)  # the last batch has one image
    assert [len(labels) for _, labels in lonely.train_batches(1)] == [20, 1]
    for sampling, share in (("balanced", [1 / 3] * 3), ("square_root", [0.453, 0.321, 0.227])):
        training = prepared(tmp_path, data, sampling=sampling)
        counts = sum(drawn(training, epoch) for epoch in range(1, 31))
        assert (counts / counts.sum()).tolist() == pytest.approx(share, abs=0.06)  # 630 draws: 3 standard deviations
    difficulty = prepared(tmp_path, data, sampling="difficulty")
    difficulty.criterion.weight.copy_(torch.tensor([0, 3, 0]))
    assert drawn(difficulty, 2).tolist() == [0, 21, 0]


def test_progressive_sampling_goes_from_the_images_shares_to_even(data, tmp_path):
    config = read_config(write_config(tmp_path, data, "x", sampling="progressive"))
    probabilities = sampling_of_epochs(config, [12, 6, 3], CDBLoss(3))
    assert probabilities(1).tolist() == pytest.approx([12 / 21, 6 / 21, 3 / 21])
    assert probabilities(2).tolist() == pytest.approx([19 / 42, 13 / 42, 10 / 42])  # half way
    assert probabilities(3).tolist() == pytest.approx([1 / 3] * 3)


def test_a_seed_decides_weights_and_order(data, tmp_path):
    def made(seed: int) -> tuple[int, torch.Tensor, list[torch.Tensor]]:
        training = prepared(tmp_path, data, seed=seed)
        orders = [torch.cat([labels for _, labels in training.train_batches(epoch)]) for epoch in (1, 2)]
        return training.seed, training.model.feat_model.conv1.weight, orders

    (seed, weight, orders), (_, same_weight, same_orders), (other_seed, other_weight, other_orders) = (
        made(0),
        made(0),
        made(1),
    )
    assert torch.equal(weight, same_weight) and all(map(torch.equal, orders, same_orders))
    assert (seed, other_seed) == (0, 1) and not torch.equal(weight, other_weight)
    assert not any(torch.equal(first, second) for first, second in combinations(orders + other_orders, 2))


def test_the_loss_has_the_files_settings(data, tmp_path):
    criterion = prepared(tmp_path, data, loss_type="CDB-FL", tau=0.7, gamma=2, reduction="weighted_mean").criterion
    assert (criterion.tau, criterion.focal_gamma, criterion.reduction) == (0.7, 2, "weighted_mean")
    assert prepared(tmp_path, data, sampling="difficulty", tau=0.7).criterion.tau == 0.7


def test_a_batch_must_divide_among_the_processes(data, tmp_path):
    config = read_config(write_config(tmp_path, data, "x"))
    with pytest.raises(ValueError, match="batch of 8 .* 3 processes"):
        prepare(config, False, Runtime(CPU.device, world_size=3))


def test_the_optimizer_has_the_recipe(data, tmp_path):
    group = prepared(tmp_path, data, momentum=0.8).optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.05, 0.8, 2e-4)
    assert prepared(tmp_path, data, weight_decay=0.3).optimizer.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize(
    ("method", "function", "images"), [("tau_norm", "choose_exponent", 9), ("ncm", "class_means", 21)]
)
def test_the_exponent_is_chosen_on_validation_and_means_are_of_training(
    method, function, images, first_stage, monkeypatch, capsys
):
    """The lists have 21, 9 and 15 images; the test list decides nothing."""
    seen, real = [], getattr(imagenet_test, function)

    def spy(first, second, *more):
        parts = second if method == "tau_norm" else first
        seen.append(sum(len(labels) for _, labels in parts))
        return real(first, second, *more)

    monkeypatch.setattr(imagenet_test, function, spy)
    assert main(["--test", "--model_dir", str(first_stage), f"--{method}"]) == 0
    assert seen == [images]


def test_the_views_of_training_are_of_the_configured_size(data, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "imagenet_run.ImageLoader",
        lambda images, *rest, **more: sizes.append(rest[:2]) or ImageLoader(images, *rest, **more),
    )
    training = prepared(tmp_path, data, image_size=20)
    assert sizes == [(20, 36), (20, 36)]  # of the training and of the validation images
    assert next(iter(training.train_batches(1)))[0].shape == (8, 3, 20, 20)


def test_the_views_of_a_test_are_of_the_configured_size(first_stage, monkeypatch, capsys):
    sizes = []
    monkeypatch.setattr(
        "imagenet_run.ImageLoader",
        lambda images, *rest, **more: sizes.append(rest[:2]) or ImageLoader(images, *rest, **more),
    )
    assert main(["--test", "--model_dir", str(first_stage)]) == 0
    assert sizes == [(32, 36)]


def test_the_precision_is_the_configured_one(first_stage, data, tmp_path, capsys):
    folder = train_imagenet(tmp_path, data, "x", num_epochs=1, precision="bf16")
    files = (folder / "x.json", first_stage / "ce.json")
    assert [json.loads(file.read_text())["precision"] for file in files] == ["bf16", "fp32"]


def test_a_stop_signal_ends_a_test_within_a_batch(monkeypatch):
    monkeypatch.setattr("longtail.signals._received", signal.SIGTERM)
    with pytest.raises(Stopped):
        extract(torch.nn.Identity(), [(torch.zeros(1, 2), torch.tensor([0]))], CPU)


def test_a_second_stage_needs_a_finished_first_one_and_later_none(first_stage, data, tmp_path, failing, capsys):
    """Resumed it has all it needs: another first stage is refused, none at all does not matter."""
    copy = tmp_path / "ce"
    shutil.copytree(first_stage, copy)
    second = train_imagenet(tmp_path, data, "crt", stage="crt", first_stage=copy, num_epochs=1)
    other = write_config(tmp_path, data, "crt", stage="crt", first_stage=first_stage.parent / "other", num_epochs=1)
    assert "first_stage ce, not other" in failing(main, "--cfg", other, "--resume")
    state = last_checkpoint(copy)
    state["epoch"] = 1
    save_checkpoint(copy / "last_ce.pth", state)
    file = write_config(tmp_path, data, "crt2", stage="crt", first_stage=copy)
    assert "1 of 3 epochs" in failing(main, "--cfg", file)
    (copy / "last_ce.pth").unlink()
    error = failing(main, "--cfg", file)
    assert f"{copy}/last_ce.pth is missing" in error and BEST in error
    save_checkpoint(
        copy / BEST, {"state_dict_best": {part: state[part] for part in PARTS}}
    )  # as released: a single file
    assert torch.equal(
        prepared(tmp_path, data, stage="crt", first_stage=copy).model.feat_model.conv1.weight,
        state["feat_model"]["conv1.weight"],
    )
    shutil.rmtree(copy)
    assert main(["--cfg", str(second / "config.yaml"), "--resume"]) == 0


def test_tau_norm_is_not_for_lws(first_stage, data, tmp_path, failing):
    folder = train_imagenet(tmp_path, data, "lws", stage="lws", first_stage=first_stage, num_epochs=1)
    assert "stage lws" in failing(main, "--test", "--model_dir", folder, "--tau_norm")


def test_nearest_class_mean_by_hand():
    features = torch.zeros(4, 512)
    features[:, :2] = torch.tensor([[10.0, 0.0], [0.0, 2.0], [0.0, 1.0], [4.0, 4.0]])
    means = class_means([(features[:2], torch.tensor([0, 0])), (features[2:], torch.tensor([1, 1]))], 2, 512, CPU)
    root = 26**0.5, 41**0.5  # means (5, 1) and (2, 2.5), lengths 26 ** .5 and 10.25 ** .5
    assert torch.allclose(means[:, :2], torch.tensor([[5 / root[0], 1 / root[0]], [4 / root[1], 5 / root[1]]]))
    query = torch.zeros(2, 512)
    query[:, :2] = torch.tensor([[7.0, 7.1], [7.0, 3.0]])
    assert Weights(means)(query).argmax(1).tolist() == [1, 0]  # angles 45.4 and 23.2 of 11.3 and 51.3 degrees


def test_exponent_is_the_best_on_validation():
    """Weights (2, 0) and (0, 1), feature (1, 1.7): class 1 wins once 2 ** (1 - e) < 1.7, from e = 0.3 on."""
    weight, features = torch.zeros(2, 512), torch.zeros(1, 512)
    weight[0, 0], weight[1, 1] = 2, 1
    features[0, :2] = torch.tensor([1.0, 1.7])
    assert choose_exponent(weight, [(features, torch.tensor([1]))], CPU) == 0.3
    assert choose_exponent(weight, [(features, torch.tensor([0]))], CPU) == 0.0


@pytest.mark.parametrize(("method", "feature", "exponent"), [("classifier", 2.002, None), ("tau_norm", 1.6255, 0.3)])
def test_near_scores_differ_whatever_the_precision(
    method, feature, exponent, first_stage, tmp_path, monkeypatch, capsys
):
    """Weights (2, 0) and (0, 1), feature (1, x): class 1 wins by 0.1 %, at exponent 0.3 as 2 ** 0.7 = 1.6245; in bf16
    they are even.
    """
    checkpoint, features = load_checkpoint(first_stage / BEST), torch.zeros(1, 512)
    weight = torch.zeros(3, 512)
    weight[0, 0], weight[1, 1], weight[2, 2] = 2, 1, 1
    features[0, :2] = torch.tensor([1, feature])
    save_checkpoint(tmp_path / BEST, checkpoint | {"classifier": {"fc.weight": weight, "fc.bias": torch.zeros(3)}})
    monkeypatch.setattr(imagenet_test, "extract", lambda *_: [(features, torch.tensor([1]))])
    evaluate(read_config(first_stage / "config.yaml"), tmp_path, method, Runtime(CPU.device, bf16=True))
    figures = json.loads((tmp_path / RESULTS[method]).read_text())
    assert figures["accuracy"] == 1 and figures["exponent"] == exponent


@pytest.mark.parametrize("method", ["tau_norm", "ncm", "logit_adjustment"])
def test_classifiers_without_training(method, first_stage, capsys):
    assert main(["--test", "--model_dir", str(first_stage), f"--{method}"]) == 0
    figures = json.loads((first_stage / f"test_{method}.json").read_text())
    assert figures["method"] == method and figures["images"] == 15
    assert (figures["exponent"] is not None) == (method == "tau_norm")
    assert ("strength" in figures) == (method == "logit_adjustment")
    chosen = capsys.readouterr().out
    assert method == "ncm" or f"{figures.get('strength', figures['exponent']):g} (chosen on validation)" in chosen


def test_difficulty_decides_what_is_drawn(data, tmp_path, capsys):
    folder = train_imagenet(tmp_path, data, "drawn", sampling="difficulty", tau=1, num_epochs=3)
    for row in log_rows(folder):
        difficulty = [1 - float(row[f"accuracy_{c}"]) for c in range(3)]
        assert [float(row[f"weight_{c}"]) for c in range(3)] == pytest.approx(
            [3 * d / sum(difficulty) for d in difficulty], abs=2e-3
        )
    assert last_checkpoint(folder)["criterion"]["weight"].sum().item() == pytest.approx(3)
    training = prepared(tmp_path, data, sampling="difficulty", tau=1)
    training.criterion.update(torch.tensor([1, 3, 0]), torch.tensor([4, 4, 1]))
    assert training.criterion.weight.tolist() == pytest.approx([1.125, 0.375, 1.5])
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 1, 0, 2, 1])
    training.parallel_model = torch.nn.Identity()
    loss = backward(training, logits.clone().requires_grad_(), labels, CPU)
    assert loss == torch.nn.functional.cross_entropy(logits, labels)  # the loss itself is unweighted


def test_a_run_with_another_sampling(data, tmp_path, capsys):
    """Of all samplings, test_each_sampling_draws_its_classes looks at the images drawn."""
    assert len(log_rows(train_imagenet(tmp_path, data, "x", sampling="progressive", num_epochs=1))) == 1


@pytest.mark.parametrize(
    "settings", [{"loss_type": "CDB-FL", "gamma": 2, "reduction": "weighted_mean"}, {"loss_type": "Balanced_Softmax"}]
)
def test_other_losses_run(settings, data, tmp_path, capsys):
    assert len(log_rows(train_imagenet(tmp_path, data, "x", num_epochs=1, **settings))) == 1


def test_a_released_checkpoint_is_tested(data, tmp_path, capsys):
    torch.manual_seed(0)
    parts = split_state(ImageNetModel(3).state_dict())
    (tmp_path / "released").mkdir()
    torch.save(
        {
            "epoch": 90,
            "best_acc": 0.4,
            "state_dict_best": {
                part: {f"module.{key}": value for key, value in state.items()} for part, state in parts.items()
            },
        },
        tmp_path / "released" / BEST,
    )
    file = write_config(tmp_path, data, "released")
    assert main(["--cfg", str(file), "--test", "--model_dir", str(tmp_path / "released")]) == 0
    figures = json.loads((tmp_path / "released/test.json").read_text())
    assert figures["classes"][0]["training_images"] == 12 and figures["images"] == 15


def test_two_processes_count_what_one_counts(first_stage, processes, capsys):
    """15 test images, 9 for validation, 21 for training: two divides none of them."""
    for method in ([], ["--tau_norm"], ["--ncm"], ["--logit_adjustment"]):
        assert main(["--test", "--model_dir", str(first_stage), *method]) == 0
    alone = {name: json.loads((first_stage / name).read_text()) for name in RESULTS.values()}
    for name in alone:
        (first_stage / name).unlink()
    script = first_stage / "all.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        "from longtail.cli import exit_code; from longtail.distributed import start_runtime\n"
        "from imagenet_config import read_config; from imagenet_run import RESULTS\n"
        "from imagenet_test import evaluate\n"
        "def test_all(folder):\n"
        "    with start_runtime(precision='fp32') as runtime:\n"
        "        for method in RESULTS:\n"
        "            evaluate(read_config(folder / 'config.yaml'), folder, method, runtime)\n"
        "sys.exit(exit_code(lambda: test_all(Path(sys.argv[1]))))\n"
    )
    result = processes(2, script, first_stage, PYTHONPATH=f"{ROOT}:{ROOT / 'ImageNet-LT'}")
    script.unlink()
    assert result.returncode == 0, result.stderr
    assert {name: json.loads((first_stage / name).read_text()) for name in alone} == alone


def test_two_processes_train_on_the_whole_batch(data, tmp_path, processes):
    """An epoch of 20 of 21 images in batches of 8, 8, 4 + 1 left over; the validation counts are whole."""
    file = write_config(tmp_path, data, "two", num_epochs=1, loss_type="CDB-CE")
    result = processes(2, ROOT / "ImageNet-LT/main.py", "--cfg", file)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch 1/1") == 1 and "2 processes" in result.stdout
    row = log_rows(tmp_path / "two")[0]
    assert float(row["accuracy"]) == pytest.approx(np.mean([float(row[f"accuracy_{c}"]) for c in range(3)]), abs=1e-3)
    assert all(round(3 * float(row[f"accuracy_{c}"]), 2) in (0, 1, 2, 3) for c in range(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_list": "/none.txt"}, "/none.txt not found"),
        (
            {"data_root": "/none", "train_list": "{train}", "val_list": "{val}", "test_list": "{test}"},
            "data_root /none not found",
        ),
        ({"num_classes": 2}, "label 2 .*0 and 1"),
        ({"num_classes": 4}, "has no image of class 3"),
        ({"stage": "crt", "first_stage": "/none"}, "/none/final_model_checkpoint.pth .*stage crt"),
        ({"model_dir": "{train}/run"}, "cannot hold the run"),
        (
            {"val_list": "{val2}", "loss_type": "CDB-CE"},
            "Small_val2.txt .*class 1, 2: .*`difficulty: smoothed`",
        ),
        ({"model_dir": "./test"}, "test.json"),
        ({"lr": 1e38}, "learning rate"),
    ],
)
def test_errors_of_a_run(settings, message, data, tmp_path, failing):
    (data / "Small_val2.txt").write_text("train/n00000000/n00000000_val0.JPEG 0\n")
    lists = {split: str(data / f"Small_{split}.txt") for split in ("train", "val", "test", "val2")}
    settings = {key: value.format(**lists) if isinstance(value, str) else value for key, value in settings.items()}
    assert re.search(message, failing(main, "--cfg", write_config(tmp_path, data, "x", **settings)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image_is_named(workers, tmp_path, failing):
    data = make_folder(tmp_path / "data", IMAGE_COUNTS)
    bad = data / "train/n00000001/n00000001_train2.JPEG"
    bad.write_bytes(bad.read_bytes()[:400])
    error = failing(main, "--cfg", write_config(tmp_path, data, "x", workers=workers))
    assert f"{bad} " in error
    bad.unlink()
    assert re.search("1 of 45 .*data_root", failing(main, "--cfg", write_config(tmp_path, data, "x")))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"PK damaged", "not a checkpoint"), (None, "no checkpoint at")],
)
def test_a_bad_checkpoint(content, message, first_stage, data, tmp_path, failing):
    (tmp_path / "x").mkdir()
    if content:
        (tmp_path / "x" / BEST).write_bytes(content)
    error = failing(main, "--cfg", write_config(tmp_path, data, "x"), "--test")
    assert message in error and BEST in error
    shutil.copy(first_stage / BEST, tmp_path / "x" / BEST)
    other = write_config(tmp_path, data, "x", num_classes=4)
    assert re.search("classifier.fc.bias 3 .*4", failing(main, "--cfg", other, "--test"))


@pytest.mark.parametrize(("key", "value"), [("image_size", 31), ("test_resize", 40)])
def test_another_view_than_that_of_training_is_refused(key, value, first_stage, data, tmp_path, failing):
    (tmp_path / "x").mkdir()
    shutil.copy(first_stage / BEST, tmp_path / "x" / BEST)
    error = failing(main, "--cfg", write_config(tmp_path, data, "x", **{key: value}), "--test")
    assert f"{BEST} was trained with {key} {32 if key == 'image_size' else 36}, not {value}" in error
    assert not (tmp_path / "x/test.json").exists()


def test_sigterm_stops_within_a_batch_and_resumes(data, tmp_path, capsys):
    file = write_config(tmp_path, data, "x", num_epochs=500)
    with subprocess.Popen(
        [sys.executable, ROOT / "ImageNet-LT/main.py", "--cfg", file, "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        next(line for line in process.stdout if line.startswith("epoch 2/500"))
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert (
        process.returncode == 143
        and error == "main.py: stopped by SIGTERM; --resume continues after the last finished epoch\n"
    )
    assert last_checkpoint(tmp_path / "x")["epoch"] >= 2


def test_table_of_results(first_stage, cdb, tmp_path, capsys, failing):
    assert main(["--test", "--model_dir", str(first_stage), "--ncm"]) == 0
    capsys.readouterr()
    results = [first_stage / "test.json", cdb / "test.json", first_stage / "test_ncm.json"]
    assert table([*map(str, results), "--out", str(tmp_path / "t.md")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (tmp_path / "t.md").read_text().splitlines() == lines
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["CE", "CDB-CE, tau 1.5", "CE, nearest class mean"]
    accuracy = json.loads((cdb / "test.json").read_text())["accuracy"]
    _, _, top1, interval, many, *_ = (cell.strip() for cell in lines[3].split("|"))
    assert (top1, many) == (f"{100 * accuracy:.2f}", "-")
    low, high = map(float, interval.split(" to "))
    assert low < 100 * accuracy < high
    assert "Small_test.txt, 15 images" in lines[-1]
    assert "is not a result" in failing(table, cdb / "cdb.json")


@pytest.mark.parametrize(
    ("arguments", "method", "name"),
    [
        ({}, "classifier", "cRT on ce"),
        ({}, "tau_norm", "cRT on ce, tau-normalised (exponent 0.5)"),
        ({}, "ncm", "cRT on ce, nearest class mean"),
        ({"stage": "lws", "sampling": "square_root"}, "classifier", "LWS on ce, square-root sampling"),
        ({"sampling": "uniform"}, "classifier", "cRT on ce, uniform sampling"),
        (
            {"loss_type": "CDB-CE", "reduction": "weighted_mean"},
            "classifier",
            "cRT on ce, CDB-CE, tau 1.5, weighted mean",
        ),
        ({"loss_type": "CDB-BS", "difficulty": "smoothed"}, "classifier", "cRT on ce, CDB-BS, tau 1.5, smoothed"),
        (
            {"sampling": "difficulty", "difficulty": "smoothed"},
            "classifier",
            "cRT on ce, difficulty-driven sampling, tau 1.5, smoothed",
        ),
        ({"sampling": "difficulty"}, "ncm", "cRT on ce, difficulty-driven sampling, tau 1.5, nearest class mean"),
        ({"stage": "features"}, "classifier", "CE, balanced sampling"),
        ({"stage": "features", "sampling": "uniform"}, "classifier", "CE"),
        ({"stage": "features", "loss_type": "CDB-FL"}, "classifier", "CDB-FL, tau 1.5, balanced sampling"),
        ({"stage": "features", "sampling": "uniform", "loss_type": "FL", "gamma": 2.0}, "classifier", "FL, gamma 2"),
        (
            {"stage": "features", "sampling": "uniform", "loss_type": "EQL", "eql_gamma": 0.5},
            "ncm",
            "EQL, eql_gamma 0.5, nearest class mean",
        ),
        (None, "classifier", ""),
    ],
)
def test_a_row_names_all_that_sets_it_apart(arguments, method, name):
    usual = {"stage": "crt", "loss_type": "CE", "sampling": "balanced", "tau": 1.5, "reduction": "mean", "gamma": 1.0}
    assert (
        name_of(
            {
                "arguments": {} if arguments is None else usual | arguments,
                "method": method,
                "first_stage": "ce",
                "exponent": 0.5 if method == "tau_norm" else None,
            }
        )
        == name
    )


def test_the_two_commands_to_the_letter(tmp_path, started):
    """On a copy of the folder, with 1000 classes laid out like ImageNet; five keys of the YAML are set, so that it is
    short.
    """
    folder = tmp_path / "ImageNet-LT"
    shutil.copytree(ROOT / "longtail", tmp_path / "longtail")
    shutil.copytree(
        ROOT / "ImageNet-LT", folder, ignore=shutil.ignore_patterns("logs", "__pycache__", "tiny-imagenet-lt")
    )
    counts = {"train": [2] * 8 + [1] * 992, "val": [1] * 1000, "test": [1] * 40 + [0] * 960}
    imagenet = make_folder(tmp_path / "ILSVRC", counts, "ImageNet_LT", flat_test=True)
    for split in ("train", "val", "test"):
        shutil.move(imagenet / f"ImageNet_LT_{split}.txt", folder / "data/ImageNet_LT" / f"ImageNet_LT_{split}.txt")
    config = folder / "config/ImageNet_LT/feat_uniform_with_CDBloss.yaml"
    values = {
        "num_epochs": "1",
        "batch_size": "128",
        "image_size": "24",
        "test_resize": "28",
        "data_root": str(imagenet),
    }
    config.write_text(
        "".join(
            f"{key}: {values[key]}\n" if (key := line.split(":")[0]) in values else line
            for line in config.read_text().splitlines(keepends=True)
        )
    )
    trained = started(
        "main.py", "--cfg", "./config/ImageNet_LT/feat_uniform_with_CDBloss.yaml", cwd=folder, timeout=500
    )
    assert trained.returncode == 0, trained.stderr
    tested = started("main.py", "--test", "--model_dir", "./logs/ImageNet_LT/models/resnet10_uniform_cdbce", cwd=folder)
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.splitlines()[-3:] == trained.stdout.splitlines()[-3:]
    run = folder / "logs/ImageNet_LT/models/resnet10_uniform_cdbce"
    best = load_checkpoint(run / "final_model_checkpoint.pth")
    assert (
        sum(
            value.numel()
            for part in ("feat_model", "classifier")
            for key, value in best[part].items()
            if "running" not in key and "num_batches" not in key
        )
        == 5_418_792
    )
    assert json.loads((run / "test.json").read_text())["images"] == 40


def test_an_error_of_the_script_is_one_line(shell):
    result = shell(ROOT / "ImageNet-LT/main.py", "--cfg", "none.yaml")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("main.py: error: none.yaml cannot be read")
    result = shell(ROOT / "ImageNet-LT/imagenet_table.py", "none.json")
    assert (
        result.returncode == 2
        and result.stderr == "imagenet_table.py: error: none.json cannot be read: No such file or directory\n"
    )


def test_confusion_of_a_classifier_on_features():
    weights = Weights(torch.eye(512)[:2])
    assert count_confusion(weights, [(torch.eye(512)[:2], torch.tensor([1, 1]))], 2, CPU).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"class_counts": [4, 5]}, "class_counts"),
        ({"classifier": {1: torch.ones(2)}}, "no weights by name"),
    ],
)
def test_a_checkpoint_of_another_model(entries, reason, first_stage, data, tmp_path, failing):
    (tmp_path / "x").mkdir()
    torch.save({**load_checkpoint(first_stage / BEST), **entries}, tmp_path / "x" / BEST)
    error = failing(main, "--cfg", write_config(tmp_path, data, "x"), "--test")
    assert str(tmp_path / "x" / BEST) in error and reason in error


def test_a_test_writes_a_table_of_the_classes_and_the_calibration_error(first_stage, capsys):
    """From the probabilities of `--predict`'s own path: bins of a fifteenth, worked out here."""
    assert main(["--test", "--model_dir", str(first_stage)]) == 0
    figures = json.loads((first_stage / "test.json").read_text())
    assert f"calibration error {figures['calibration_error']:.4f}" in capsys.readouterr().out
    table = list(csv.DictReader((first_stage / CLASS_TABLES["classifier"]).open()))
    assert [int(row["training_images"]) for row in table] == [12, 6, 3]
    for row, entry in zip(table, figures["classes"], strict=True):
        assert row["name"] == entry["name"] and row["taken_for"] == (entry["taken_for"] or "")
        assert (int(row["correct"]), int(row["images"])) == (entry["correct"], 5)
        assert float(row["accuracy"]) == pytest.approx(entry["correct"] / 5)


def test_the_calibration_error_by_hand():
    """Confidences 0.9 and 0.9, of which one is right, and 0.6, right: (|1 - 1.8| + |1 - 0.6|) / 3."""
    logits = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]]).log()
    sums = bin_sums(torch.nn.Identity(), [(logits, torch.tensor([0, 0, 0]))], CPU.device)
    assert calibration_error(sums) == pytest.approx(1.2 / 3)
    sure = torch.tensor([[100.0, 0.0], [100.0, 0.0]])
    assert calibration_error(bin_sums(torch.nn.Identity(), [(sure, torch.tensor([0, 1]))], CPU.device)) == 0.5


def test_in_a_folder_that_cannot_be_written_the_table_is_shown_all_the_same(first_stage, monkeypatch, capsys):
    def full(path, content):
        raise OSError(f"{path} could not be written: Read-only file system")

    monkeypatch.setattr(imagenet_test, "write_atomically", full)
    figures = json.loads((first_stage / "test.json").read_text())
    assert main(["--test", "--model_dir", str(first_stage)]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].split()[0] == f"{figures['accuracy']:.4f}"
    assert captured.err.count("\n") == 1 and "test.json" in captured.err


def test_flags_override_the_file_in_a_folder_of_their_own(data, tmp_path, failing, capsys):
    file = write_config(tmp_path, data, "x", loss_type="CDB-CE", tau=1.5)
    assert re.search("--lr .*--model_dir", failing(main, "--cfg", file, "--lr", "0.1"))
    other = ["--cfg", file, "--model_dir", tmp_path / "y", "--num_epochs", 1, "--lr", "1e-2"]
    assert main([*map(str, other), "--loss_type", "Balanced_Softmax"]) == 0
    assert re.search("tau 1.5 .*loss_type Balanced_Softmax", capsys.readouterr().out)
    arguments = last_checkpoint(tmp_path / "y")["arguments"]
    assert (arguments["loss_type"], arguments["lr"], arguments["num_epochs"]) == ("Balanced_Softmax", 0.01, 1)
    assert re.search("--tau: tau 2.0 .*loss_type CE", failing(main, *other, "--loss_type", "CE", "--tau", 2))
    assert "--num_epochs should be" in failing(main, "--cfg", file, "--model_dir", tmp_path / "z", "--num_epochs", 0)


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory) -> Path:
    """Two losses with two seeds each; the first call is broken off in its third run."""
    folder = tmp_path_factory.mktemp("compared")
    file = write_config(folder, data, "runs", loss_type="CDB-CE", difficulty="smoothed", num_epochs=1)
    command = ["--cfg", str(file), "--compare", "CE", "CDB-CE", "--seeds", "2"]
    with pytest.MonkeyPatch.context() as patched:
        real, calls = imagenet_training.build_training, []

        def broken(*arguments):
            calls.append(arguments)
            if len(calls) == 3:
                raise OSError("the power is gone")
            return real(*arguments)

        patched.setattr(imagenet_training, "build_training", broken)
        assert main(command) == 2
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.pth")}
    assert {path.parent.name for path in before} == {"CE_seed0", "CDB-CE_seed0"}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    return folder / "runs"


def test_losses_are_compared(compared, capsys):
    """Mean and difference against sums over the four test.json."""
    assert {path.name for path in compared.iterdir() if path.is_dir()} == {
        f"{loss}_seed{seed}" for loss in ("CE", "CDB-CE") for seed in (0, 1)
    }
    settings = {path.name: last_checkpoint(path)["arguments"] for path in compared.iterdir() if path.is_dir()}
    assert settings["CE_seed1"]["difficulty"] == "paper" and settings["CDB-CE_seed1"]["difficulty"] == "smoothed"
    assert [settings[f"CE_seed{seed}"]["seed"] for seed in (0, 1)] == [0, 1]
    means = []
    for loss, result in (("CE", "test.json"), ("CE", "test_logit_adjustment.json"), ("CDB-CE", "test.json")):
        figures = [json.loads((compared / f"{loss}_seed{seed}" / result).read_text()) for seed in (0, 1)]
        means.append(100 * np.mean([one["accuracy"] for one in figures]))
    table = (compared / "compare.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| all")]
    assert [f"{mean:.2f} ±" in line for mean, line in zip(means, rows, strict=True)] == [True] * 3
    assert "logit adjustment" in rows[1] and f"{means[2] - means[0]:+.2f}" in rows[2]
    assert (compared / "compare.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("flags", "taus"),
    [([], ["dynamic", "dynamic", 0.5]), (["--tau", "2"], ["dynamic", 2.0, 2.0])],
)
def test_the_files_tau_belongs_to_the_files_loss(flags, taus, data, tmp_path, capsys):
    file = write_config(tmp_path, data, "runs", loss_type="CDB-BS", difficulty="smoothed", tau=0.5)
    args = main_module.parse_arguments(["--cfg", str(file), "--compare", "CE", "CDB-CE", "CDB-BS", *flags])
    configs = imagenet_compare.configurations(args, args.compare, tmp_path, main_module.resolve)
    assert [config.tau for config in configs.values()] == taus
    assert [config.difficulty for config in configs.values()] == ["paper", "smoothed", "smoothed"]
    assert ("CDB-CE has tau dynamic" in capsys.readouterr().out) == (not flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--compare", "CE"], "name two losses or more"),
        (["--compare", "CE", "CE"], "name two losses or more"),
        (["--compare", "CE", "CDBCE"], "loss_type must be one of"),
        (["--compare", "CE", "CDB-CE", "--resume"], "single run"),
        (["--compare", "CE", "CDB-CE", "--seed", "1"], "--loss_type and --seed"),
        (["--compare", "CE", "Balanced_Softmax", "--tau", "1"], "--tau: tau 1.0 .*loss_type CE"),
        (["--seeds", "2"], "--seeds .*--compare"),
    ],
)
def test_comparisons_that_cannot_be(flags, message, data, tmp_path, failing):
    assert re.search(message, failing(main, "--cfg", write_config(tmp_path, data, "x"), *flags))
    assert not (tmp_path / "x").exists()
