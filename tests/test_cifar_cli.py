"""The CIFAR command lines as a user types them: the runs, their kill and resume, several processes, every mistake."""

import hashlib
import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cifar_test
import cifar_train
from builders import SIGNAL_AFTER_AN_EPOCH, Gadget, write_cifar, write_python2
from cifar_dataset import normalize, read_split
from conftest import ROOT
from longtail import devices
from longtail.checkpoints import load_checkpoint, save_checkpoint
from longtail.devices import Runtime
from longtail.hits import unpack_hits
from longtail.logs import cells, read_log
from longtail.metrics import report
from resnet32 import ResNet32
from shallow import WHOLE
from teachers import logit_scale

TRAIN, TEST = ROOT / "CIFAR-LT/cifar_train.py", ROOT / "CIFAR-LT/cifar_test.py"
SHORT = ("--dataset", "digits", "--imbalance", 100, "--max_epochs", 2)
NAME = "digits_imbalance100"
SHALLOW = ROOT / "tests/shallow.py"
pytestmark = pytest.mark.usefixtures("shallow_networks")
DIGITS = ("--dataset", "digits")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with an uninterrupted run of two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    command = [sys.executable, SHALLOW, TRAIN, *SHORT, "--save_model", folder]
    output = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=True, cwd="/"
    ).stdout.splitlines()
    assert output[0] == "no GPU found: running on the CPU" or torch.accelerator.is_available()
    assert sum(line.startswith("epoch ") for line in output) == 2  # one plain line an epoch in a pipe
    return folder


def same_weights(one: Path, other: Path) -> bool:
    one, other = (load_checkpoint(folder / f"last_{NAME}.pth") for folder in (one, other))
    return one["state_dict"].keys() == other["state_dict"].keys() and all(
        torch.equal(one["state_dict"][key], other["state_dict"][key]) for key in one["state_dict"]
    )


def test_a_run_leaves_its_files(finished):
    assert sorted(path.name for path in finished.iterdir()) == sorted(
        [f"best_{NAME}.pth", f"last_{NAME}.pth", f"{NAME}.csv", f"{NAME}.json", f"{NAME}.lock"]
    )
    rows = read_log(finished / f"{NAME}.csv")
    columns = cells(rows[0])
    assert len(rows) == 2
    assert {"accuracy_9", "weight_0", "tau", "loss"} <= set(columns)
    description = json.loads((finished / f"{NAME}.json").read_text())
    assert description["arguments"]["tau"] == "dynamic"
    assert description["class_counts"][0] == 114
    assert description["versions"]["torch"] == torch.__version__
    best = load_checkpoint(finished / f"best_{NAME}.pth")
    assert best["class_names"] == list("0123456789")
    assert best["normalization"] == "train"
    assert best["criterion"]["weight"].sum().item() == pytest.approx(10, rel=1e-4)
    assert "optimizer" not in best
    assert not any(key.startswith("module.") for key in best["state_dict"])


def test_deterministic_for_a_seed(finished, tmp_path, capsys):
    assert cifar_train.main([*map(str, SHORT), "--save_model", str(tmp_path)]) == 0
    assert same_weights(finished, tmp_path)
    assert cifar_train.main([*map(str, SHORT), "--seed", "1", "--save_model", str(tmp_path / "1")]) == 0
    assert not same_weights(finished, tmp_path / "1")


DIES_AT_A_WRITE = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import cifar_train
from longtail import checkpoints
write, states = checkpoints.write_atomically, 0
def dying_write(path, content):
    global states
    states += path.name.startswith("last_")
    if states == int(sys.argv[2]):
        path.with_name(path.name + ".partial").write_bytes(content[:len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)
checkpoints.write_atomically = dying_write
cifar_train.main(sys.argv[3:])
"""


@pytest.mark.parametrize("state", [1, 2])
def test_killed_while_a_state_is_written_and_resumed_ends_bit_for_bit_like_uninterrupted(
    finished, tmp_path, shell, capsys, state
):
    """Half of the first state, or of the second, is written; the log and the best epoch are ahead of it."""
    flags = [*map(str, SHORT), "--save_model", str(tmp_path), "--resume"]
    killed = shell(SHALLOW, "-c", DIES_AT_A_WRITE, ROOT / "CIFAR-LT", state, *flags)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / f"last_{NAME}.pth.partial").exists() and len(read_log(tmp_path / f"{NAME}.csv")) == state
    assert cifar_train.main(flags) == 0
    assert ("starting from epoch 1" in capsys.readouterr().out) == (state == 1)
    assert same_weights(finished, tmp_path)
    rows, expected = ([cells(row) for row in read_log(folder / f"{NAME}.csv")] for folder in (tmp_path, finished))
    timing = ("seconds", "images_per_second")
    assert [{k: v for k, v in row.items() if k not in timing} for row in rows] == [
        {k: v for k, v in row.items() if k not in timing} for row in expected
    ]
    assert not list(tmp_path.glob("*.partial"))


def test_sigterm_stops_within_a_batch_and_a_finished_run_has_nothing_to_do(finished, tmp_path, shell):
    flags = [*map(str, SHORT), "--save_model", str(tmp_path)]
    stopped = shell(SHALLOW, "-c", SIGNAL_AFTER_AN_EPOCH, int(signal.SIGTERM), "cifar_train", *flags)
    assert stopped.returncode == 143
    assert stopped.stderr.count("\n") == 1 and re.search("SIGTERM.*--resume", stopped.stderr)
    assert load_checkpoint(tmp_path / f"last_{NAME}.pth")["epoch"] == 1
    assert cifar_train.main([*flags, "--resume"]) == 0
    assert same_weights(finished, tmp_path)
    before = (tmp_path / f"last_{NAME}.pth").read_bytes()
    assert cifar_train.main([*flags, "--resume"]) == 0
    assert before == (tmp_path / f"last_{NAME}.pth").read_bytes()


def test_test_script_prints_and_writes_its_figures(finished, tmp_path, shell):
    out = tmp_path / "figures.json"
    run = shell(
        SHALLOW,
        TEST,
        "--saved_model_path",
        finished / f"best_{NAME}.pth",
        "--class_num",
        10,
        "--n_gpus",
        1,
        "--json",
        out,
    )
    figures = json.loads(out.read_text())
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == f"Test Accuracy is {figures['accuracy']:.4f}"
    assert figures["accuracy"] == pytest.approx(sum(entry["correct"] for entry in figures["classes"]) / 400)
    hits = unpack_hits(figures["hits"], 400)
    assert hits.sum() == sum(entry["correct"] for entry in figures["classes"])
    few = [entry for entry in figures["classes"] if entry["training_images"] < 20]
    assert figures["shots"]["few"] == pytest.approx(sum(e["correct"] for e in few) / sum(e["images"] for e in few))


def test_a_class_without_test_images_is_not_among_the_hardest(capsys):
    confusion = torch.tensor([[0, 0, 2], [0, 0, 0], [0, 0, 2]])  # true class, predicted class
    cifar_test.print_report(report(confusion, [5, 5, 5], ["lost", "unseen", "easy"]), None)
    hardest = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert hardest == ["lost", "easy"]


def test_figures_that_cannot_be_written_are_printed_all_the_same(finished, tmp_path, capsys, failing, monkeypatch):
    """But a folder that is not there is named before the test."""
    flags = ("--saved_model_path", finished / f"best_{NAME}.pth", "--json")
    assert f"--json {tmp_path}/none/test.json" in failing(cifar_test.main, *flags, tmp_path / "none/test.json")

    def full(path, content):
        raise OSError(f"{path} could not be written: No space left on device")

    monkeypatch.setattr(cifar_test, "write_atomically", full)
    assert cifar_test.main([*map(str, flags), str(tmp_path / "test.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("Test Accuracy is 0.") and "test.json" in captured.err


def test_three_processes_count_what_one_counts(finished, tmp_path, processes):
    """400 images, which three does not divide; test_processes.py has two and four."""
    flags = ["--saved_model_path", finished / f"best_{NAME}.pth", "--precision", "fp32", "--json"]
    assert cifar_test.main([*map(str, flags), str(tmp_path / "1.json")]) == 0
    run = processes(3, SHALLOW, TEST, *flags, tmp_path / "3.json")
    assert run.returncode == 0, run.stderr
    one, three = (
        [(entry["correct"], entry["images"]) for entry in json.loads((tmp_path / name).read_text())["classes"]]
        for name in ("1.json", "3.json")
    )
    assert one == three
    assert sum(images for _, images in one) == 400


def test_two_processes_train_with_the_same_weights_on_every_rank(tmp_path, processes):
    """And with the same average of them, running statistics included."""
    probe = tmp_path / "probe.py"
    probe.write_text(f"""
import json, sys
sys.path.insert(0, {str(ROOT / "CIFAR-LT")!r})
import cifar_train, torch
def fit(training, run, description, runtime, fit=cifar_train.fit):
    fit(training, run, description, runtime)
    models = training.model.state_dict(), training.selected.state_dict()
    sums = [[p.double().sum().item() for p in model.values()] for model in models]
    state = [training.criterion.weight.tolist(), *sums]
    open({str(tmp_path)!r} + f"/rank{{runtime.rank}}.json", "w").write(json.dumps(state))
cifar_train.fit = fit
sys.exit(cifar_train.main())
""")
    flags = (
        "--class_num",
        10,
        "--data_root",
        write_cifar(tmp_path, "cifar10", per_class=35),
        "--imbalance",
        1,
        "--recipe",
        "fast",
    )
    run = processes(2, SHALLOW, probe, *flags, "--max_epochs", 2, "--save_model", tmp_path / "run")
    assert run.returncode == 0, run.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1] and ranks[0][1] != ranks[0][2]
    assert ranks[0][0] != [1.0] * 10
    assert "2 processes" in run.stdout
    assert run.stdout.count("epoch 2/2") == 1


def test_logit_adjustment_is_chosen_on_validation(finished, tmp_path, capsys):
    """Its strength is among the figures; the accuracy is that of the scores minus strength times log prior."""
    checkpoint, file = finished / f"best_{NAME}.pth", tmp_path / "test.json"
    assert (
        cifar_test.main(
            ["--saved_model_path", str(checkpoint), "--logit_adjustment", "--json", str(file), "--precision", "fp32"]
        )
        == 0
    )
    figures = json.loads(file.read_text())
    assert f"of strength {figures['logit_adjustment']:g}, " in capsys.readouterr().out
    state, images = load_checkpoint(checkpoint), read_split("digits", Path(), "test")
    model = ResNet32(10).eval()
    model.load_state_dict(state["state_dict"])
    prior = np.array(state["class_counts"]) / sum(state["class_counts"])
    with torch.no_grad():
        scores = model(normalize(images.images)).numpy() - figures["logit_adjustment"] * np.log(prior)
    assert figures["accuracy"] == pytest.approx((scores.argmax(1) == images.labels.numpy()).mean(), abs=0.003)


def test_logit_adjustment_of_cosines_is_that_of_the_logits_they_stand_for():
    """Priors 0.9 and 0.1, cosines (0.52, 0.5).

    Logits 30 times as large differ by 0.6, and strength 0.3 shifts them by 0.66.
    """
    cosines, labels = torch.tensor([[0.52, 0.5]]), torch.tensor([1])
    for scale, chosen in ((logit_scale("cosine", "LDAM-DRW"), 0.3), (logit_scale("linear", "CE"), 0.1)):
        confusion, hits, strength = cifar_test.count_adjusted(
            torch.nn.Identity(), [(cosines, labels)], [(cosines, labels)], [90, 10], scale, Runtime(torch.device("cpu"))
        )
        assert strength == chosen and confusion.tolist() == [[0, 0], [0, 1]] and hits.tolist() == [True]


def test_flip_takes_the_mean_of_both_probabilities(finished, tmp_path):
    checkpoint, file = finished / f"best_{NAME}.pth", tmp_path / "test.json"
    flags = ["--saved_model_path", str(checkpoint), "--flip", "--precision", "fp32", "--json", str(file)]
    assert cifar_test.main(flags) == 0
    figures = json.loads(file.read_text())
    images = read_split("digits", Path(), "test")
    model = ResNet32(10).eval()
    model.load_state_dict(load_checkpoint(checkpoint)["state_dict"])
    with torch.no_grad():
        pictures = normalize(images.images)
        mean = model(pictures).softmax(1) + model(pictures.flip(3)).softmax(1)
    assert figures["flip"] is True
    assert figures["accuracy"] == pytest.approx((mean.argmax(1) == images.labels).double().mean().item())


def test_the_mirror_counts_by_probability_and_not_by_logit():
    """Cosines of the image (0.5, 0.3), of its mirror (0, 0.1), times 10: (5, 3) and (0, 1).

    Probabilities 0.881 and 0.269, of which the mean is 0.575.
    """
    images = torch.tensor([0.5, 0.3, 0.1, 0.0]).view(1, 1, 1, 4)

    class TwoPixels(torch.nn.Module):
        def forward(self, x):
            return x[:, 0, 0, :2]

    mirrored = cifar_test.WithMirror(TwoPixels(), 10.0)(images)
    mean = (1 / (1 + np.exp(-2)) + 1 / (1 + np.exp(1))) / 2
    assert mirrored.exp()[0].tolist() == pytest.approx([mean, 1 - mean])


def test_logit_adjustment_needs_counts_and_validation(finished, tmp_path, failing):
    state = load_checkpoint(finished / f"best_{NAME}.pth")
    torch.save(state["state_dict"], tmp_path / "bare.pth")
    flags = ["--logit_adjustment", "--dataset", "digits"]
    assert "give --imbalance" in failing(cifar_test.main, "--saved_model_path", str(tmp_path / "bare.pth"), *flags)
    torch.save({**state, "arguments": {**state["arguments"], "protocol": "common"}}, tmp_path / "common.pth")
    assert "needs validation images" in failing(
        cifar_test.main, "--saved_model_path", str(tmp_path / "common.pth"), *flags
    )


@pytest.fixture(scope="module")
def cifar(tmp_path_factory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("cifar"), per_class=12)


def test_cifar100_command_to_the_letter_and_a_released_checkpoint(cifar, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cifar_dataset.HELD_OUT_PER_CLASS", 2)
    monkeypatch.setattr(ResNet32, "_make_layer", staticmethod(WHOLE[ResNet32]))
    start = ["--data_root", str(cifar), "--class_num", "100", "--imbalance", "10", "--n_gpus", "1"]
    assert (
        cifar_train.main(
            [*start, "--loss_type", "CDB-CE", "--tau", "1.5", "--max_epochs", "1", "--save_model", str(tmp_path)]
        )
        == 0
    )
    best = tmp_path / "best_cifar100_imbalance10.pth"
    assert (
        cifar_test.main(
            ["--saved_model_path", str(best), "--data_root", str(cifar), "--class_num", "100", "--n_gpus", "1"]
        )
        == 0
    )
    ours = capsys.readouterr().out.splitlines()[-1]
    released = tmp_path / "released" / best.name
    released.parent.mkdir()
    torch.save({f"module.{key}": value for key, value in load_checkpoint(best)["state_dict"].items()}, released)
    assert cifar_test.main(["--saved_model_path", str(released), "--data_root", str(cifar)]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[-1] == ours
    assert any("few" in line for line in output)  # the file's name says imbalance 10


def red_or_not() -> ResNet32:
    """Class 0 for an image whose red is above the mean that is subtracted, class 1 for one below.

    The shortcuts carry both.
    """
    network = ResNet32(100)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(network.bn1.weight)
    with torch.no_grad():
        network.conv1.weight[:2, 0, 1, 1] = torch.tensor([1.0, -1.0])
        network.linear.weight[[0, 1], [24, 25]] = 1  # 8 channels before, then 16 more
    return network


@pytest.mark.parametrize(("flags", "accuracy"), [((), [1, 0]), (("--normalization", "released-test"), [0, 1])])
def test_a_released_checkpoint_is_tested_as_the_flags_and_its_name_say(tmp_path, flags, accuracy):
    """Pixels of 125 / 255 = 0.490 lie above ImageNet's mean of red, 0.485, and below the released test's, 0.4914."""
    write_cifar(tmp_path, per_class=1)
    write_python2(
        tmp_path / "cifar-100-python/test",
        {b"data": np.full((100, 3072), 125, np.uint8), b"fine_labels": list(range(100))},
    )
    path, out = tmp_path / "cifar100_imbalance10.pth", tmp_path / "figures.json"
    torch.save({f"module.{key}": value for key, value in red_or_not().state_dict().items()}, path)
    assert (
        cifar_test.main(["--saved_model_path", str(path), "--data_root", str(tmp_path), "--json", str(out), *flags])
        == 0
    )
    classes = json.loads(out.read_text())["classes"]
    assert [classes[c]["accuracy"] for c in (0, 1)] == accuracy
    assert [classes[c]["training_images"] for c in (0, 99)] == [475, 47]  # 500 less 25 for validation, and a tenth


def test_schedules():
    """The paper's rate falls at epochs 160 and 210 of 240; the fast one is level from 10 % to 40 % and ends at 0."""
    paper = [cifar_train.step_schedule(epoch / 240) for epoch in (0, 159, 160, 209, 210, 239)]
    assert paper == pytest.approx([1, 1, 0.01, 0.01, 0.0001, 0.0001])
    assert [cifar_train.level_schedule(share) for share in (0, 0.05, 0.1, 0.399, 0.7, 1)] == pytest.approx(
        [0.04, 0.52, 1, 1, 0.5, 0]
    )
    assert [cifar_train.one_cycle_schedule(share) for share in (0, 0.15, 0.3, 0.65, 1)] == pytest.approx(
        [0.04, 0.52, 1, 0.5, 0]
    )


def test_fast_recipe_common_protocol_and_reduction(tmp_path, capsys):
    """The flags reach the run: Nesterov, batch size, averaged weights, Muon; 35 instead of 10 images of class 0."""
    data = write_cifar(tmp_path, "cifar10", per_class=35)
    flags = [
        "--dataset",
        "cifar10",
        "--recipe",
        "fast",
        "--protocol",
        "common",
        "--reduction",
        "weighted_mean",
        "--imbalance",
        "35",
        "--max_epochs",
        "1",
    ]
    assert cifar_train.main([*flags, "--data_root", str(data), "--save_model", str(tmp_path)]) == 0
    last = load_checkpoint(tmp_path / "last_cifar10_imbalance35.pth")
    assert last["class_counts"][0] == 35
    assert all(group["nesterov"] for group in last["optimizer"]["param_groups"])
    assert last["arguments"]["batch_size"] == cifar_train.FAST.batch_size
    assert (last["arguments"]["recipe"], last["arguments"]["reduction"]) == ("fast", "weighted_mean")
    assert not torch.equal(last["trained"]["conv1.weight"], last["state_dict"]["conv1.weight"])
    assert last["trained"]["layer2.0.conv2.weight"].norm() ** 2 == pytest.approx(
        32, rel=0.05
    )  # filters: norm sqrt(32) and a small step
    assert last["trained"]["conv1.weight"].norm() ** 2 != pytest.approx(16, rel=0.05)  # of an image: SGD
    assert (
        cifar_test.main(
            ["--saved_model_path", str(tmp_path / "best_cifar10_imbalance35.pth"), "--data_root", str(data)]
        )
        == 0
    )
    assert "was chosen on the test set" in capsys.readouterr().out


@pytest.fixture(scope="module")
def distilled(finished, tmp_path_factory) -> Path:
    """A folder with a run of one epoch that learned from the finished one and from itself once more."""
    folder = tmp_path_factory.mktemp("distilled")
    teachers = ["--teacher", str(finished), str(finished / f"{NAME}.csv")]
    flags = [*map(str, SHORT[:4]), "--max_epochs", "1", "--save_model", str(folder)]
    assert cifar_train.main([*flags, *teachers]) == 0
    return folder


def test_a_teacher_changes_what_is_learned_and_is_recorded(finished, distilled, tmp_path):
    best = finished / f"best_{NAME}.pth"
    digest = hashlib.sha256(best.read_bytes()).hexdigest()
    arguments = json.loads((distilled / f"{NAME}.json").read_text())["arguments"]
    assert arguments["teacher"].split() == [f"{finished.name}/{best.name}"] * 2
    assert arguments["teacher_sha256"].split() == [digest] * 2
    assert load_checkpoint(distilled / f"last_{NAME}.pth")["arguments"] == arguments
    assert cifar_train.main([*map(str, SHORT[:4]), "--max_epochs", "1", "--save_model", str(tmp_path)]) == 0
    assert not same_weights(distilled, tmp_path)


def test_a_run_goes_on_with_the_same_teacher_only(finished, distilled, tmp_path, failing):
    """Under another name it is the same; its other checkpoint is another one, and so is none."""
    flags = [*SHORT[:4], "--max_epochs", "1", "--save_model", distilled, "--resume"]
    copy = tmp_path / "copy.pth"
    copy.write_bytes((finished / f"best_{NAME}.pth").read_bytes())
    assert cifar_train.main([*map(str, flags), "--teacher", str(copy), str(copy)]) == 0
    last = finished / f"last_{NAME}.pth"
    assert "teacher_sha256" in failing(cifar_train.main, *flags, "--teacher", last, last)
    assert "teacher_sha256" in failing(cifar_train.main, *flags)


def test_a_teacher_of_other_images_is_refused(finished, tmp_path, failing):
    flags = [*DIGITS, "--imbalance", "50", "--max_epochs", "1", "--save_model", tmp_path / "run"]
    assert "class_counts" in failing(cifar_train.main, *flags, "--teacher", finished)
    assert "no run" in failing(cifar_train.main, *flags, "--teacher", tmp_path)
    assert "none.pth" in failing(cifar_train.main, *flags, "--teacher", tmp_path / "none.pth")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / f"{NAME}.json").write_text((finished / f"{NAME}.json").read_text())
    lines = (finished / f"{NAME}.csv").read_text().splitlines(keepends=True)
    (unfinished / f"{NAME}.csv").write_text("".join(lines[:-1]))
    assert "1 of 2 epochs" in failing(cifar_train.main, *flags, "--teacher", unfinished)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loss_type", ["FL", "EQL", "CB_Focal", "LDAM-DRW", "Logit_Adjustment", "DBM-BS", "CDB-DBM"])
def test_rival_losses_train_and_test(loss_type, tmp_path):
    flags = [
        "--dataset",
        "digits",
        "--imbalance",
        "100",
        "--max_epochs",
        "1",
        "--loss_type",
        loss_type,
        "--save_model",
        str(tmp_path),
    ]
    assert cifar_train.main(flags) == 0
    assert cifar_test.main(["--saved_model_path", str(tmp_path / f"best_{NAME}.pth")]) == 0


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--class_num", 50), "--class_num 50: .*cifar100.* 100"),
        ((*DIGITS, "--class_num", 100), "digits has 10 classes"),
        ((*DIGITS, "--head", "linear", "--loss_type", "DBM-BS"), "--head linear: --loss_type DBM-BS"),
        ((*DIGITS, "--eql_gamma", 1.5), "--eql_gamma: .*'1.5'"),
        (("--dataset", "svhn"), "'svhn'"),
        ((*DIGITS, "--tau", -1), "--tau: .*'-1'"),
        ((*DIGITS, "--tau", "nan"), "'nan'"),
        ((*DIGITS, "--tau", "fast"), "'fast'"),
        ((*DIGITS, "--imbalance", 0), "--imbalance: .*'0'"),
        ((*DIGITS, "--imbalance", 1000), "between 1 and 114.*not 1000"),
        ((*DIGITS, "--imbalance", "nan"), "nan"),
        ((*DIGITS, "--n_gpus", 0), "--n_gpus .*not 0"),
        ((*DIGITS, "--max_epochs", 0), "'0'"),
        ((*DIGITS, "--batch_size", -4), "'-4'"),
        ((*DIGITS, "--lr", 0), "--lr: .*'0'"),
        ((*DIGITS, "--lr", "inf"), "not 'inf'"),
        ((*DIGITS, "--recipe", "fast"), "--recipe fast"),
        (("--recipe", "slow"), "'slow'"),
        ((*DIGITS, "--loss_type", "GAN"), "'GAN'"),
        ((*DIGITS, "--beta", 1), "'1'"),
        ((*DIGITS, "--gamma", "x"), "'x'"),
        ((*DIGITS, "--seed", -1), "'-1'"),
        ((*DIGITS, "--validate_after_every", 0), "'0'"),
        ((*DIGITS, "--epochs", 3), "--epochs"),
    ],
)
def test_wrong_flags(failing, tmp_path, flags, match):
    error = failing(cifar_train.main, *flags, "--save_model", tmp_path / "run")
    assert re.search(match, error)
    assert not (tmp_path / "run").exists()


def test_more_gpus_than_there_are(failing, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "find_gpus", lambda: ("cuda", 1))
    assert "--n_gpus 2" in failing(cifar_train.main, *SHORT, "--n_gpus", 2, "--save_model", tmp_path)


def test_missing_data_says_what_to_do(failing, tmp_path):
    error = failing(cifar_train.main, "--data_root", tmp_path, "--save_model", tmp_path / "run")
    for word in (str(tmp_path), "cifar-100-python.tar.gz", "--download", "--dataset digits"):
        assert word in error


@pytest.mark.parametrize("damage", ["truncated", "hostile", "too small"])
def test_damaged_data(failing, cifar, tmp_path, damage):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for path in (cifar / "cifar-100-python").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if damage == "truncated":
        (folder / "train").write_bytes((folder / "train").read_bytes()[:5000])
    elif damage == "hostile":
        import pickle

        (folder / "train").write_bytes(pickle.dumps(Gadget(tmp_path / "owned")))
    else:
        write_python2(folder / "train", {b"data": np.zeros((100, 3072), np.uint8), b"fine_labels": list(range(100))})
    error = failing(cifar_train.main, "--data_root", tmp_path, "--save_model", tmp_path / "run")
    assert str(tmp_path) in error
    assert not (tmp_path / "owned").exists()


def test_existing_run_is_left_alone(failing, finished):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    error = failing(cifar_train.main, *SHORT, "--save_model", finished)
    assert all(flag in error for flag in ("--resume", "--overwrite", "--save_model"))
    assert "not allowed with" in failing(cifar_train.main, *SHORT, "--resume", "--overwrite", "--save_model", finished)
    assert "with seed 0, not 7" in failing(cifar_train.main, *SHORT, "--seed", 7, "--resume", "--save_model", finished)
    assert before == {path: path.read_bytes() for path in finished.iterdir()}


def test_damaged_run_is_not_resumed(failing, finished, tmp_path):
    for path in finished.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / f"last_{NAME}.pth").write_bytes(b"PK\3\4 cut")
    assert f"last_{NAME}.pth" in failing(cifar_train.main, *SHORT, "--resume", "--save_model", tmp_path)
    (tmp_path / f"last_{NAME}.pth").write_bytes((finished / f"last_{NAME}.pth").read_bytes())
    (tmp_path / f"{NAME}.csv").write_text("epoch,loss\n1\n")
    assert f"{NAME}.csv" in failing(cifar_train.main, *SHORT, "--resume", "--save_model", tmp_path)


def test_a_folder_that_cannot_be_written(failing, tmp_path):
    (tmp_path / "file").write_text("")
    error = failing(cifar_train.main, *SHORT, "--save_model", tmp_path / "file" / "run")
    assert "file/run" in error


def test_full_disk_while_saving_keeps_the_last_checkpoint(failing, finished, tmp_path):
    """The limit on a file's size lets the log through, not a checkpoint."""
    for path in finished.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_checkpoint(tmp_path / f"last_{NAME}.pth")
    save_checkpoint(tmp_path / f"last_{NAME}.pth", {**state, "epoch": 1})
    before = (tmp_path / f"last_{NAME}.pth").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        error = failing(cifar_train.main, *SHORT, "--resume", "--save_model", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "could not be written" in error and "untouched" in error
    assert before == (tmp_path / f"last_{NAME}.pth").read_bytes()
    assert not list(tmp_path.glob("*.partial"))
    assert cifar_train.main([*map(str, SHORT), "--resume", "--save_model", str(tmp_path)]) == 0


def test_wrong_checkpoints(failing, finished, tmp_path):
    best = finished / f"best_{NAME}.pth"
    assert "--class_num 100" in failing(cifar_test.main, "--saved_model_path", best, "--class_num", 100)
    assert "--dataset cifar10" in failing(cifar_test.main, "--saved_model_path", best, "--dataset", "cifar10")
    assert "no checkpoint at" in failing(cifar_test.main, "--saved_model_path", tmp_path / "none.pth")
    state = load_checkpoint(best)
    del state["state_dict"]["conv1.weight"]
    save_checkpoint(tmp_path / "cut.pth", state)
    assert re.search("conv1.weight .*16x3x3x3", failing(cifar_test.main, "--saved_model_path", tmp_path / "cut.pth"))
    torch.save({"module.linear.bias": torch.zeros(37)}, tmp_path / "other.pth")
    assert "37 classes" in failing(cifar_test.main, "--saved_model_path", tmp_path / "other.pth")
    assert "--jsn x" in failing(cifar_test.main, "--saved_model_path", best, "--jsn", "x")


def test_torchrun_needs_a_batch_that_divides():
    args = cifar_train.parse_arguments([*map(str, SHORT), "--batch_size", "32"])
    with pytest.raises(ValueError, match="batch of 32 .* 3 processes"):
        cifar_train.prepare(args, Runtime(torch.device("cpu"), world_size=3))


def test_compile_is_for_what_trains_not_for_what_is_kept(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, mode: torch.nn.Sequential(model))  # the real one takes a minute
    args = cifar_train.parse_arguments([*map(str, SHORT), "--compile"])
    training, _ = cifar_train.prepare(args, Runtime(torch.device("cpu")))
    assert training.parallel_model.model is training.parallel_model.compiled[0] is training.model
    assert "conv1.weight" in training.state()["state_dict"]


def test_a_flag_of_several_lines_is_named_in_one_and_a_huge_number_is_refused(failing):
    assert "--a b" in failing(cifar_train.main, "--a\nb")
    assert "--batch_size" in failing(cifar_train.main, *SHORT, "--batch_size", 10**20)
