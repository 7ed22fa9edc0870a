"""The EGTEA command lines: videos to report, kill and resume, determinism, and every mistake."""

import csv
import json
import math
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

import EGTEA_test
import EGTEA_train
import extract_frames
import longtail
import make_splits
from builders import SIGNAL_AFTER_AN_EPOCH, egtea_flags, random_state, write_video
from clip_model import load_model, read_description
from conftest import ROOT
from egtea_clips import Clip
from egtea_dataset import ClipSet, evaluation_batches
from longtail.checkpoints import load_checkpoint, save_checkpoint
from longtail.devices import Runtime
from longtail.hits import unpack_hits
from longtail.logs import read_log
from longtail.metrics import report
from resnext3d import ResNeXt3D

TRAIN, TEST = ROOT / "EGTEA/EGTEA_train.py", ROOT / "EGTEA/EGTEA_test.py"
SHALLOW = ROOT / "tests/shallow.py"
pytestmark = pytest.mark.usefixtures("shallow_networks")


@pytest.fixture(scope="module")
def data(clips) -> Path:
    return clips


def flags_for_test(data: Path, checkpoint: Path, *flags: object) -> list[str]:
    """Arguments of EGTEA_test.py."""
    return [
        "--data_root",
        str(data / "frames"),
        "--test_file",
        str(data / "splits/test_split.txt"),
        "--trained_model",
        str(checkpoint),
        *map(str, flags),
    ]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    """A folder with an uninterrupted run of two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    assert EGTEA_train.main(egtea_flags(data, folder, "--workers", 2)) == 0
    return folder


def test_a_run_leaves_its_files(finished):
    files = ["best_model.pth", "last_model.pth", "model.csv", "model.json", "model.lock"]
    assert sorted(path.name for path in finished.iterdir()) == files
    rows = read_log(finished / "model.csv")
    assert len(rows) == 2
    description = json.loads((finished / "model.json").read_text())
    assert description["arguments"]["pretrained_model"] == "none"
    assert not any(str(finished.parent) in str(value) for value in description["arguments"].values())
    best = load_checkpoint(finished / "best_model.pth")
    assert (best["class_names"], best["class_counts"]) == (["take", "put", "cut"], [4, 2, 2])
    assert (best["frames_per_clip"], best["sample_size"]) == (3, 40)
    assert (best["head"], best["normalization"]) == ("linear", "kinetics-mean")
    assert best["criterion"]["weight"].sum().item() == pytest.approx(3, rel=1e-4)
    assert best["epoch"] in (1, 2) and 0 <= best["accuracy"] <= 1
    assert "optimizer" not in best and "conv1.weight" in best["state_dict"]


def test_killed_and_resumed_without_workers_ends_bit_for_bit_like_uninterrupted_with_two(
    data, finished, tmp_path, shell
):
    arguments = egtea_flags(data, tmp_path, "--workers", 0, "--resume")
    killed = shell(SHALLOW, "-c", SIGNAL_AFTER_AN_EPOCH, int(signal.SIGKILL), "EGTEA_train", *arguments, cwd=Path("/"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "nothing to resume" in killed.stdout and "starting from epoch 1" in killed.stdout
    assert load_checkpoint(tmp_path / "last_model.pth")["epoch"] == 1
    # another experiment
    assert EGTEA_train.main([flag if flag != "none" else str(tmp_path / "gone.pth") for flag in arguments]) == 2
    assert EGTEA_train.main(arguments) == 0
    one, other = (load_checkpoint(folder / "last_model.pth") for folder in (finished, tmp_path))
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())
    assert torch.equal(one["criterion"]["weight"], other["criterion"]["weight"])
    before = (tmp_path / "last_model.pth").stat().st_mtime_ns
    assert EGTEA_train.main(arguments) == 0  # nothing left to do
    assert (tmp_path / "last_model.pth").stat().st_mtime_ns == before


def test_report_of_two_runs_is_the_same_and_adds_up(data, finished, tmp_path, capsys, shell):
    best = finished / "best_model.pth"
    flags = ("--majority_above", 3, "--figure", tmp_path / "matrix.png")
    run = shell(
        SHALLOW,
        TEST,
        *flags_for_test(data, best, *flags, "--json", tmp_path / "one.json", "--workers", 0),
        cwd=Path("/"),
    )
    assert run.returncode == 0, run.stderr
    assert EGTEA_test.main(flags_for_test(data, best, *flags, "--json", tmp_path / "two.json", "--batch_size", 8)) == 0
    assert capsys.readouterr().out == run.stdout
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    figures = json.loads((tmp_path / "one.json").read_text())
    assert run.stdout.splitlines()[-1] == f"Test Accuracy is {figures['all']['top1']:.4f}"
    assert figures["images"] == 4 and sum(map(sum, figures["confusion"])) == 4
    assert unpack_hits(figures["hits"], 4).sum() == sum(entry["correct"] for entry in figures["classes"])
    assert (figures["majority"]["classes"], figures["minority"]["classes"]) == (1, 2)
    assert [entry["training_images"] for entry in figures["classes"]] == [4, 2, 2]
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")


def test_released_checkpoint_gives_the_same_figures(data, finished, tmp_path):
    weights = load_checkpoint(finished / "best_model.pth")["state_dict"]
    torch.save(
        {"epoch": 7, "state_dict": {f"module.{key}": value for key, value in weights.items()}},
        tmp_path / "released.pth",
    )
    flags = ("--train_file", data / "splits/train_split.txt", "--frames_per_clip", 3, "--sample_size", 40)
    assert (
        EGTEA_test.main(flags_for_test(data, tmp_path / "released.pth", *flags, "--json", tmp_path / "released.json"))
        == 0
    )
    assert (
        EGTEA_test.main(
            flags_for_test(
                data, finished / "best_model.pth", "--json", tmp_path / "ours.json", "--figure", tmp_path / "ours.png"
            )
        )
        == 0
    )
    released, ours = (json.loads((tmp_path / name).read_text()) for name in ("released.json", "ours.json"))
    about = {"checkpoint", "arguments", "epoch", "val_accuracy"}  # what a released file does not say, or otherwise
    assert {key: released[key] for key in released.keys() - about} == {key: ours[key] for key in ours.keys() - about}
    assert (released["epoch"], released["arguments"], released["val_accuracy"]) == (7, {}, None)
    assert (tmp_path / "confusion_matrix.png").exists()


def test_precision_and_recall_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    true, predicted = generator.integers(0, 5, 300), generator.integers(0, 4, 300)  # class 4 is never predicted
    confusion = torch.zeros(5, 5, dtype=torch.long)
    for pair in zip(true, predicted, strict=True):
        confusion[pair] += 1
    precision, recall, _, _ = precision_recall_fscore_support(true, predicted, zero_division=0)
    classes = report(confusion, [900, 700, 601, 600, 5], list("abcde")).classes
    assert [figures.precision for figures in classes] == pytest.approx(precision.tolist())
    assert [figures.accuracy for figures in classes] == pytest.approx(recall.tolist())
    groups = EGTEA_test.group_figures(classes, 600)
    assert groups["all"].top1 == pytest.approx((true == predicted).mean())
    assert (groups["majority"].classes, groups["majority"].recall) == (3, pytest.approx(recall[:3].mean()))
    assert groups["minority"].precision == pytest.approx(precision[3:].mean())
    assert groups["minority"].top1 == pytest.approx((true == predicted)[true >= 3].mean())
    assert EGTEA_test.group_figures(classes, None) == {"all": groups["all"]}


def test_a_class_without_test_clips_is_left_out_of_the_means(capsys):
    """Recall 1, 1/2, none; precision 2/3, 1, 0: over the two that are tested 3/4 and 5/6."""
    figures = report(torch.tensor([[2, 0, 0], [1, 1, 0], [0, 0, 0]]), [9, 9, 9], list("abc"))
    groups = EGTEA_test.group_figures(figures.classes, 600)
    assert (groups["all"].recall, groups["all"].precision) == (pytest.approx(3 / 4), pytest.approx(5 / 6))
    assert (groups["minority"].classes, groups["minority"].tested) == (3, 2)
    assert figures.classes[2].accuracy is None
    assert "majority" not in groups
    EGTEA_test.print_report(figures, groups, 600)
    line = "minority   3 classes, 2 tested  top-1 0.7500  mean precision 0.8333  mean recall 0.7500\n"
    assert line in capsys.readouterr().out


def test_the_checkpoint_says_how_test_clips_are_loaded_unless_a_flag_does(failing, tmp_path, monkeypatch):
    (tmp_path / "test_split.txt").write_text("OP01-R01-Tea-0 1 1 1\n")
    save_checkpoint(
        tmp_path / "best.pth",
        {
            "state_dict": {"fc.bias": torch.zeros(3)},
            "class_names": list("abc"),
            "head": "linear",
            "class_counts": [4, 2, 2],
            "frames_per_clip": 5,
            "sample_size": 48,
        },
    )
    usual = ("--trained_model", tmp_path / "best.pth", "--test_file", tmp_path / "test_split.txt")

    def refuse(root: Path, clips: list, frames: int, size: int) -> None:
        raise ValueError(f"{len(clips)} clip, {frames} frames of {size} pixels")

    monkeypatch.setattr(EGTEA_test, "load_model", lambda *arguments: None)
    monkeypatch.setattr(EGTEA_test, "ClipSet", refuse)
    for flags, loaded in (
        ((), "5 frames of 48"),
        (("--frames_per_clip", 2), "2 frames of 48"),
        (("--sample_size", 64), "5 frames of 64"),
    ):
        assert f"error: 1 clip, {loaded} pixels" in failing(EGTEA_test.main, *usual, *flags)


def test_a_released_checkpoint_follows_the_paper(tmp_path):
    (tmp_path / "train_split.txt").write_text("P01-R01-Tea-1 1 2 1\nP01-R01-Tea-2 1 2 1\nP01-R01-Tea-3 1 1 1\n")
    checkpoint = {"state_dict": {"module.fc.bias": torch.zeros(2)}}
    description = read_description(checkpoint, tmp_path / "x.pth", tmp_path / "train_split.txt")
    assert (description.frames_per_clip, description.sample_size, description.head) == (10, 224, "linear")
    assert (description.class_counts, description.class_names) == ([1, 2], ["class 1", "class 2"])


def test_defaults_of_the_test():
    """Majority classes have more than 600 training clips, as in the paper."""
    args = EGTEA_test.parse_arguments([])
    assert (args.majority_above, EGTEA_test.MAJORITY_ABOVE) == (None, 600)
    assert (args.batch_size, args.n_gpus, args.precision, args.workers) == (8, 1, "auto", 4)
    assert (args.frames_per_clip, args.sample_size, args.json) == (None, None, None)
    assert (args.trained_model, args.figure) == (
        ROOT / "EGTEA/models/best_model.pth",
        ROOT / "EGTEA/models/confusion_matrix.png",
    )
    assert (args.data_root, args.test_file) == (ROOT / "EGTEA/extracted_frames", ROOT / "EGTEA/data/test_split.txt")
    assert args.train_file == ROOT / "EGTEA/data/train_split.txt"


def test_step_schedule():
    assert [EGTEA_train.step_schedule(progress) for progress in (0, 0.59, 0.6, 0.99)] == [1, 1, 0.1, 0.1]


def test_paper_recipe_is_the_default():
    args = EGTEA_train.parse_arguments([])
    assert (args.lr, args.momentum, args.batch_size, args.max_epochs) == (0.001, 0, 8, 100)
    assert (args.frames_per_clip, args.sample_size) == (10, 224)
    assert args.data_root == ROOT / "EGTEA/extracted_frames"
    assert args.train_file == ROOT / "EGTEA/data/train_split.txt"
    assert args.save_model == ROOT / "EGTEA/models"
    assert (
        args.pretrained_model == ROOT / "pretrained_weights/resnext-101-kinetics.pth"
        or (ROOT / "EGTEA/pretrained_weights").is_dir()
    )


def test_flags_arrive_in_the_training(data, tmp_path):
    """Ten epochs of two batches: the learning rate falls at the first batch of epoch 7, 60 % on."""
    torch.save({"state_dict": random_state()}, tmp_path / "kinetics.pth")
    flags = "--lr 0.02 --momentum 0.7 --tau 1.5 --max_epochs 10 --accumulate 2 --validate_after_every 3 --workers 0"
    kinetics = ("--pretrained_model", tmp_path / "kinetics.pth")
    args = EGTEA_train.parse_arguments(egtea_flags(data, tmp_path, *flags.split(), *kinetics))
    prepared, _ = EGTEA_train.prepare(args, False, Runtime(torch.device("cpu")))
    [group] = prepared.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.02, 0.7, 5e-4)
    assert {id(parameter) for parameter in group["params"]} == {
        id(parameter) for parameter in prepared.model.parameters()
    }
    rates = []
    for epoch, batch in ((1, 0), (6, 1), (7, 0), (10, 1)):
        prepared.set_lr(epoch, batch)
        rates.append(group["lr"])
    assert rates == pytest.approx([0.02, 0.02, 0.002, 0.002])
    assert prepared.criterion.exponent.item() == 1.5
    assert (prepared.accumulate, prepared.validate_after_every, prepared.epochs, prepared.seed) == (2, 3, 10, 0)
    given = {key.removeprefix("module."): value for key, value in random_state().items()}
    for key, value in prepared.model.state_dict().items():
        assert key.startswith("fc.") != torch.equal(value, given[key]), key


@pytest.mark.parametrize(("loss_type", "of_head"), [("CE", ["fc.weight", "fc.bias"]), ("LDAM-DRW", ["fc.weight"])])
def test_the_head_may_have_a_learning_rate_of_its_own(data, tmp_path, loss_type, of_head):
    """Both fall to a tenth after 60 %: the first batch of epoch 7 of 10."""
    flags = ("--lr", 0.02, "--head_lr", 0.003, "--max_epochs", 10, "--loss_type", loss_type)
    args = EGTEA_train.parse_arguments(egtea_flags(data, tmp_path, *flags))
    prepared, _ = EGTEA_train.prepare(args, False, Runtime(torch.device("cpu")))
    body, head = prepared.optimizer.param_groups
    names = {parameter: name for name, parameter in prepared.model.named_parameters()}
    assert [names[parameter] for parameter in head["params"]] == of_head
    assert {names[parameter] for parameter in body["params"]} == set(names.values()) - set(of_head)
    rates = []
    for epoch in (1, 7):
        prepared.set_lr(epoch, 0)
        rates += [body["lr"], head["lr"]]
    assert rates == pytest.approx([0.02, 0.003, 0.002, 0.0003])


@pytest.mark.parametrize(("loss_type", "accumulate"), [("LDAM-DRW", 1), ("EQL", 2)])
def test_rival_losses_and_accumulation(data, tmp_path, loss_type, accumulate):
    flags = ("--loss_type", loss_type, "--accumulate", accumulate, "--max_epochs", 1, "--momentum", 0.9)
    assert EGTEA_train.main(egtea_flags(data, tmp_path, *flags)) == 0
    assert EGTEA_test.main(flags_for_test(data, tmp_path / "best_model.pth")) == 0


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--tau", -1), "--tau: .*'-1'"),
        (("--lr", 0), "--lr: must be.*'0'"),
        (("--lr", "nan"), "'nan'"),
        (("--momentum", 1), "--momentum.*'1'"),
        (("--n_gpus", 0), "--n_gpus .*not 0"),
        (("--max_epochs", 0), "'0'"),
        (("--batch_size", -4), "'-4'"),
        (("--frames_per_clip", 0), "--frames_per_clip.*'0'"),
        (("--sample_size", "x"), "--sample_size.*'x'"),
        (("--loss_type", "GAN"), "'GAN'"),
        (("--seed", -1), "'-1'"),
        (("--workers", -1), "'-1'"),
        (("--epochs", 3), "--epochs"),
        (("--accumulate", 9), "--accumulate 9: .* 4 clips"),
        (("--precision", "fp8"), "'fp8'"),
        (("--accumulate", 2, "--reduction", "weighted_mean"), "--accumulate 2 .*--reduction weighted_mean"),
        (("--accumulate", 2, "--loss_type", "LDAM-DRW"), "--accumulate 2 .*--loss_type LDAM-DRW"),
        (("--loss_type", "CE", "--reduction", "weighted_mean"), "--reduction weighted_mean .*--loss_type CE"),
        (("--data_root", "/nowhere"), "/nowhere .*--data_root"),
        (("--train_file", "/none.txt"), "/none.txt.*make_splits.py"),
        (("--val_file", "/none.txt"), "no split file /none.txt"),
        (("--class_names", "/none.txt"), "--class_names /none.txt"),
        (("--class_names", "/"), "--class_names /: "),
        (("--pretrained_model", "/none.pth"), "/none.pth: .*--pretrained_model none"),
    ],
)
def test_wrong_flags(failing, data, tmp_path, flags, match):
    assert re.search(match, failing(EGTEA_train.main, *egtea_flags(data, tmp_path / "run", *flags)))
    assert not (tmp_path / "run").exists()


def rewritten(path: Path, folder: Path, change) -> Path:
    copy = folder / path.name
    copy.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    return copy


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        (
            "train_split.txt",
            lambda lines: [line for line in lines if line.split()[2] != "2"],
            "no clip of class 2",
        ),
        (
            "val_split.txt",
            lambda lines: lines[:2],
            "class 3: .*--difficulty smoothed",
        ),
        (
            "val_split.txt",
            lambda lines: [*lines, "P20-R01-Tea-9 1 4 1\n"],
            "class 4 of P20-R01-Tea-9 .* 3",
        ),
        ("train_split.txt", lambda lines: [*lines, "P01-R01-Tea-77 1 1 1\n"], "P01-R01-Tea-77"),
        ("train_split.txt", lambda lines: ["\x00PNG"], "line 1"),
        ("train_split.txt", lambda lines: [line for line in lines if line.split()[2] == "1"], "clips of one class"),
        ("train_split.txt", lambda lines: [line.rsplit(" ", 1)[0] + "\n" for line in lines], "line 1: .* is neither"),
    ],
)
def test_wrong_splits(failing, data, tmp_path, name, change, match):
    split = rewritten(data / "splits" / name, tmp_path, change)
    flag = "--train_file" if name.startswith("train") else "--val_file"
    error = failing(
        EGTEA_train.main, *egtea_flags(data, tmp_path / "run", flag, split, "--class_names", data / "splits/verbs.txt")
    )
    assert re.search(match, error)
    assert not (tmp_path / "run").exists()


def test_only_cdb_needs_every_verb_in_validation(data, tmp_path):
    """Trained on clips of verbs 1 1 1 2 2 3 3 1; validated on 1 2, without the 3."""
    split = rewritten(data / "splits/val_split.txt", tmp_path, lambda lines: lines[:2])
    args = EGTEA_train.parse_arguments(egtea_flags(data, tmp_path / "run", "--val_file", split, "--loss_type", "CE"))
    read = EGTEA_train.read_data(args, Runtime(torch.device("cpu")))
    assert (read.val.labels.tolist(), read.class_counts) == ([0, 1], [4, 2, 2])


def test_smoothed_difficulty_needs_no_clip_of_a_verb(data, tmp_path, capsys):
    """Verb 3 has no clip: 1 or 2 clips, and it has the overall difficulty, exactly between or at theirs."""
    split = rewritten(data / "splits/val_split.txt", tmp_path, lambda lines: lines[:2])
    args = egtea_flags(
        data, tmp_path / "run", "--val_file", split, "--difficulty", "smoothed", "--tau", "1", "--max_epochs", "1"
    )
    assert EGTEA_train.main([str(arg) for arg in args]) == 0
    assert (
        capsys.readouterr().out.count("val_split.txt has no sample of class 3: CDB gives them the overall difficulty")
        == 1
    )
    row = read_log(tmp_path / "run" / "model.csv")[0]
    assert row.class_weight[2] == pytest.approx((row.class_weight[0] + row.class_weight[1]) / 2, abs=1e-3)
    assert math.isnan(row.class_accuracy[2])


def test_a_truncated_frame_ends_training_in_one_line(data, tmp_path, shell):
    folder = tmp_path / "frames/P01-R01-Tea"
    for path in (data / "frames").glob("*/*/*.jpg"):
        copy = tmp_path / "frames" / path.relative_to(data / "frames")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes() if "P01-R01-Tea-2-" not in str(path) else path.read_bytes()[:-30])
    run = shell(
        SHALLOW, TRAIN, *egtea_flags(data, tmp_path / "run", "--data_root", tmp_path / "frames", "--workers", 2)
    )
    assert run.returncode == 2
    assert re.fullmatch(
        rf"EGTEA_train.py: error: {folder}/P01-R01-Tea-2-\S+/00000\d.jpg is a truncated or damaged JPEG; .*\n",
        run.stderr,
    )


def test_existing_run_is_left_alone(failing, data, finished):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in finished.iterdir()}
    error = failing(EGTEA_train.main, *egtea_flags(data, finished))
    assert all(flag in error for flag in ("--resume", "--overwrite", "--save_model"))
    assert "with seed 0, not 7" in failing(EGTEA_train.main, *egtea_flags(data, finished, "--seed", 7, "--resume"))
    assert "pretrained weights at" in failing(
        EGTEA_train.main, *egtea_flags(data, finished, "--overwrite", "--pretrained_model", "/none.pth")
    )
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in finished.iterdir()}


@pytest.mark.parametrize("flags", [("--sample_size", 32, "--batch_size", 1), ("--lr", 1e30)])
def test_a_run_that_is_to_be_replaced_stays_until_the_new_one_has_an_epoch(failing, data, finished, tmp_path, flags):
    """One clip of 32 pixels is too small for BatchNorm; so large a rate gives no finite loss. Neither ends an epoch."""
    shutil.copytree(finished, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    error = failing(EGTEA_train.main, *egtea_flags(data, tmp_path / "run", "--overwrite", *flags))
    assert "--sample_size" in error or "loss" in error
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert EGTEA_train.main(egtea_flags(data, tmp_path / "run", "--resume")) == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_another_split_is_another_experiment(failing, data, finished, tmp_path, split):
    other = rewritten(data / f"splits/{split}_split.txt", tmp_path, lambda lines: lines[::-1])
    error = failing(EGTEA_train.main, *egtea_flags(data, finished, "--resume", f"--{split}_file", other))
    blobs = [git_blob(path) for path in (data / f"splits/{split}_split.txt", other)]
    assert f"with {split}_file {split}_split.txt {blobs[0]}, not {split}_split.txt {blobs[1]}" in error


def git_blob(path: Path) -> str:
    return subprocess.run(
        ["git", "hash-object", "--no-filters", path], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_split_may_move_and_an_old_checkpoint_knows_none(data, finished, tmp_path):
    for name in ("last_model.pth", "model.csv", "model.json"):
        shutil.copy(finished / name, tmp_path)
    moved = rewritten(data / "splits/train_split.txt", tmp_path, lambda lines: lines)
    assert EGTEA_train.main(egtea_flags(data, tmp_path, "--resume", "--train_file", moved)) == 0
    state = load_checkpoint(tmp_path / "last_model.pth")
    state["arguments"] = {
        key: value for key, value in state["arguments"].items() if key not in ("train_file", "val_file")
    }
    save_checkpoint(tmp_path / "last_model.pth", state)
    assert EGTEA_train.main(egtea_flags(data, tmp_path, "--resume")) == 0


def test_a_run_that_goes_on_needs_no_pretrained_weights(data, finished, tmp_path):
    for name in ("model.csv", "model.json"):
        shutil.copy(finished / name, tmp_path)
    state = load_checkpoint(finished / "last_model.pth")
    state["arguments"]["pretrained_model"] = "kinetics.pth"
    save_checkpoint(tmp_path / "last_model.pth", state)
    assert (
        EGTEA_train.main(egtea_flags(data, tmp_path, "--resume", "--pretrained_model", tmp_path / "kinetics.pth")) == 0
    )


def test_a_folder_that_cannot_be_written(failing, data, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file/run" in failing(EGTEA_train.main, *egtea_flags(data, tmp_path / "file/run"))


def test_torchrun_needs_a_batch_that_divides(data, tmp_path):
    args = EGTEA_train.parse_arguments(egtea_flags(data, tmp_path))
    with pytest.raises(ValueError, match="batch of 4 .* 3 processes"):
        EGTEA_train.prepare(args, False, Runtime(torch.device("cpu"), world_size=3))


def test_before_any_training_the_test_says_to_train(failing, tmp_path):
    missing = tmp_path / "models/best_model.pth"
    error = failing(EGTEA_test.main, "--trained_model", missing)
    assert re.search(f"{missing}: .*EGTEA_train.py.*--trained_model", error)


def test_wrong_checkpoints(failing, data, finished, tmp_path):
    (tmp_path / "damaged.pth").write_bytes(b"PK\3\4 cut")
    assert "damaged.pth" in failing(EGTEA_test.main, *flags_for_test(data, tmp_path / "damaged.pth"))
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "headless.pth")
    torch.save({"fc.bias": torch.zeros(1).expand(10**9)}, tmp_path / "huge.pth")
    assert re.search(
        r"huge.pth .*\(fc\) .* 1000", failing(EGTEA_test.main, *flags_for_test(data, tmp_path / "huge.pth"))
    )
    assert "has no head (fc)" in failing(EGTEA_test.main, *flags_for_test(data, tmp_path / "headless.pth"))
    state = load_checkpoint(finished / "best_model.pth")
    save_checkpoint(tmp_path / "mute.pth", {**state, "frames_per_clip": None})
    assert re.search(
        "mute.pth .*: frames_per_clip", failing(EGTEA_test.main, *flags_for_test(data, tmp_path / "mute.pth"))
    )
    del state["state_dict"]["layer4.0.conv2.weight"]
    save_checkpoint(tmp_path / "cut.pth", state)
    assert re.search(
        "layer4.0.conv2.weight .*1024x32x3x3x3", failing(EGTEA_test.main, *flags_for_test(data, tmp_path / "cut.pth"))
    )


def test_wrong_test_data(failing, data, finished, tmp_path):
    best = finished / "best_model.pth"
    assert "/nowhere not found" in failing(EGTEA_test.main, *flags_for_test(data, best, "--data_root", "/nowhere"))
    assert "make_splits.py" in failing(
        EGTEA_test.main, *flags_for_test(data, best, "--test_file", tmp_path / "none.txt")
    )
    split = rewritten(data / "splits/test_split.txt", tmp_path, lambda lines: [*lines, "OP01-R01-Tea-9 1 19 1\n"])
    assert re.search(
        "class 19 of OP01-R01-Tea-9 .* 3", failing(EGTEA_test.main, *flags_for_test(data, best, "--test_file", split))
    )
    assert "there is no folder" in failing(
        EGTEA_test.main, *flags_for_test(data, best, "--json", tmp_path / "no/such.json")
    )
    assert "--frames_per_clip" in failing(EGTEA_test.main, *flags_for_test(data, best, "--frames_per_clip", 0))


@pytest.mark.parametrize(
    ("flag", "name", "match"),
    [
        ("--figure", "matrix.xyz", "matrix.xyz: .*.png, "),
        ("--figure", "matrix", "a picture's name ends in"),
        ("--figure", "folder.png", "--figure .*folder.png"),
        ("--json", "folder.png", "--json .*folder.png"),
    ],
)
def test_paths_of_results_are_checked_before_the_evaluation(failing, tmp_path, flag, name, match):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "unread.pth").write_bytes(b"")
    assert re.search(match, failing(EGTEA_test.main, "--trained_model", tmp_path / "unread.pth", flag, tmp_path / name))


def test_pictures_of_every_kind_can_be_drawn():
    from matplotlib.figure import Figure

    assert {suffix.removeprefix(".") for suffix in EGTEA_test.FIGURE_SUFFIXES} < set(
        Figure().canvas.get_supported_filetypes()
    )


def test_the_report_is_printed_before_files_that_may_fail(data, finished, tmp_path, capsys, monkeypatch):
    def draw(*arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(EGTEA_test, "draw_confusion", draw)
    assert EGTEA_test.main(flags_for_test(data, finished / "best_model.pth", "--workers", 0)) == 2
    output, error = capsys.readouterr()
    assert re.match(r"Test Accuracy is \d\.\d{4}$", output.splitlines()[-1])
    assert error.endswith("error: no space left\n")


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """Class folders of videos, dark and bright ones, brought to frames and splits, and a run of one epoch."""
    root = tmp_path_factory.mktemp("own")
    for name, level in (("jump", 60), ("long run", 180)):
        for number in range(5):
            write_video(root / f"clips/{name}/clip {number}.mp4", [level + number] * 6)
    folders = ["--folders", str(root / "clips"), "--out"]
    assert extract_frames.main([*folders, str(root / "frames"), "--workers", "1"]) == 0
    assert make_splits.main([*folders, str(root / "splits")]) == 0
    flags = ("--max_epochs", 1, "--loss_type", "CE", "--workers", 0)
    assert EGTEA_train.main(egtea_flags(root, root / "run", *flags)) == 0
    return root


def test_own_clips_are_tested_by_their_classes(own, tmp_path, capsys):
    """No verb, and no majority of 600 clips, unless a number is given."""
    best = load_checkpoint(own / "run/best_model.pth")
    assert (best["class_names"], best["class_counts"]) == (["jump", "long run"], [3, 3])
    flags = ("--figure", tmp_path / "x.png", "--json", tmp_path / "x.json", "--workers", 0)
    assert EGTEA_test.main(flags_for_test(own, own / "run/best_model.pth", *flags)) == 0
    output = capsys.readouterr().out
    assert "long run" in output and re.search(r"few \d\.\d{4}", output)
    assert "verb" not in output and "majority" not in output
    figures = json.loads((tmp_path / "x.json").read_text())
    assert (figures["majority_above"], figures["images"]) == (None, 2)
    assert EGTEA_test.main(flags_for_test(own, own / "run/best_model.pth", *flags, "--majority_above", 2)) == 0
    assert "majority: more than 2" in capsys.readouterr().out


def test_predictions_are_those_of_the_test(own, tmp_path, capsys):
    """A video is seen as its extracted frames are. One that cannot be opened has its error; the exit code is 1."""
    folder = tmp_path / "videos"
    shutil.copytree(own / "clips", folder)
    (folder / "broken.mp4").write_bytes(b"this is no video")
    (folder / "jump/._clip 0.mp4").write_bytes(b"")
    model = ("--trained_model", own / "run/best_model.pth", "--workers", 1)
    arguments = [*model, "--predict", folder, "--out", tmp_path / "x.csv"]
    assert EGTEA_test.main([str(argument) for argument in arguments]) == 1
    assert "1 of 11 videos" in capsys.readouterr().err
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        rows = {row.pop("path"): row for row in csv.DictReader(file)}
    assert len(rows) == 11
    broken = rows.pop(str(folder / "broken.mp4"))
    assert broken["error"] == "cannot be opened as a video" and broken["class_1"] == ""
    best = own / "run/best_model.pth"
    checkpoint = load_checkpoint(best)
    trained = read_description(checkpoint, best, own / "splits/train_split.txt")
    network = load_model(checkpoint, trained, best, Runtime(torch.device("cpu"))).eval()
    clips = [Clip(Path(path).relative_to(folder).with_suffix("").as_posix(), 0) for path in rows]
    batches = evaluation_batches(ClipSet(own / "frames", clips, 3, 40), 10, 0, Runtime(torch.device("cpu")))
    with torch.no_grad():
        expected = network(next(iter(batches))[0]).softmax(1)
    for row, probabilities in zip(rows.values(), expected, strict=True):
        assert row["class_1"] == trained.class_names[probabilities.argmax()]
        assert float(row["probability_1"]) == pytest.approx(probabilities.max().item(), abs=1e-5)
        assert float(row["probability_1"]) + float(row["probability_2"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("loss_type", "scale"), [("LDAM-DRW", 30), ("DBM-BS", 32)])
def test_probabilities_of_a_cosine_head(own, tmp_path, loss_type, scale):
    """Cosines are between -1 and 1: their softmax alone would give two classes 0.88 at most."""
    checkpoint = load_checkpoint(own / "run/best_model.pth")
    network = ResNeXt3D(2, "cosine")
    with torch.no_grad():
        network.fc.weight.copy_(torch.randn(2, network.fc.weight.shape[1], generator=torch.Generator().manual_seed(0)))
    checkpoint |= {"head": "cosine", "state_dict": network.state_dict()}
    checkpoint["arguments"] = checkpoint["arguments"] | {"loss_type": loss_type}
    best = tmp_path / "best_model.pth"
    save_checkpoint(best, checkpoint)
    trained = read_description(checkpoint, best, own / "splits/train_split.txt")
    clip = torch.rand(1, 3, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    for model in (load_model(checkpoint, trained, best, Runtime(torch.device("cpu"))), longtail.load_run(best)):
        with torch.no_grad():
            cosines = network.eval()(clip)[0]
            found = model.eval()(clip)[0].softmax(0)
        gap = scale * float(cosines[0] - cosines[1])
        assert float(found[0]) == pytest.approx(1 / (1 + math.exp(-gap)), abs=1e-5)


def test_a_single_prediction_is_printed_alone(own, capsysbinary):
    video = own / "clips/jump/clip 0.mp4"
    arguments = ["--trained_model", own / "run/best_model.pth", "--predict", video, "--top", 1, "--workers", 0]
    assert EGTEA_test.main([str(argument) for argument in arguments]) == 0
    header, row = capsysbinary.readouterr().out.decode().splitlines()
    assert header == "path,class_1,probability_1,error"
    assert row.startswith(f"{video},")


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--out", "x.csv"), "--out and --top"),
        (("--predict", "/none.mp4"), "--predict /none.mp4"),
        (("--predict", "/none.mp4", "--json", "x.json"), "--json and --figure"),
    ],
)
def test_wrong_flags_of_predictions(failing, own, flags, match):
    assert match in failing(EGTEA_test.main, "--trained_model", own / "run/best_model.pth", *flags)


def test_a_folder_without_videos_has_no_predictions(failing, own, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    error = failing(EGTEA_test.main, "--trained_model", own / "run/best_model.pth", "--predict", tmp_path)
    assert "holds no video" in error and ".mp4" in error
