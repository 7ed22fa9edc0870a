"""The benchmarks still start.

Each calls the experiments' own functions, and a renamed argument would show only when somebody measures.
"""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import (
    cifar_step,
    clip_loading,
    imagenet_input,
    list_memory,
    many_classes,
    mnist5k,
    resnet10_step,
    resnext3d_step,
    step_operators,
    time_to_accuracy,
)
from conftest import ROOT
from longtail.devices import Runtime

CPU = Runtime(torch.device("cpu"))
RUNS = [
    ROOT / f"CIFAR-LT/results/cifar100_imbalance200_CDB-CE_1.5{recipe}_seed0/cifar100_imbalance200.csv.gz"
    for recipe in ("", "_fast")
]


def test_a_step_of_either_side():
    images, labels = (
        cifar_step.noise(sum(cifar_step.COUNTS)),
        torch.arange(100).repeat_interleave(torch.tensor(cifar_step.COUNTS)),
    )
    assert cifar_step.ours(images, labels, False, CPU)[0](1) > 0
    assert cifar_step.conventional(images[:64], labels[:64], 0)(1) > 0


@pytest.mark.parametrize(
    ("benchmark", "flags"),
    [
        (clip_loading, "--rounds 1 --clips 1"),
        (imagenet_input, "--rounds 1 --images 2"),
        (resnet10_step, "--rounds 1 --size 32 --batch 2"),
        (resnext3d_step, "--rounds 1 --sample_size 48 --batch_size 1"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_smallest_measurement(benchmark, flags, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", *flags.split()])
    benchmark.main()
    assert re.search("ratio|times as fast", capsys.readouterr().out)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads memory from /proc")
def test_memory_of_a_small_list(monkeypatch, capsys):
    """2,000 images are four batches: measured at each."""
    monkeypatch.setattr(sys, "argv", ["", "--images", "2000", "--folders", "3", "--workers", "2"])
    list_memory.main()
    output = capsys.readouterr().out
    assert "2000 paths, 2 workers" in output and "ratio of USS" in output
    assert len(re.search(r"USS ([\d ]+);", output)[1].split()) == 4


@pytest.mark.parametrize(("recipe", "most"), step_operators.MOST.items())
def test_a_step_needs_few_operators_and_waits_for_none(recipe, most):
    """A GPU's host needs microseconds for each. The mean of 20 batches; the network itself needs 334 of them."""
    operators = step_operators.count_step(recipe, 20, Runtime(CPU.device, bf16=True), side=8)
    assert 334 < operators.counts.total() / 20 <= most
    assert not operators.waits


def test_operators_are_counted_and_views_are_not():
    values = torch.arange(6.0)
    with step_operators.Operators() as operators:
        operators.during("forward", lambda: values.view(2, 3).T.mul(2))()
        torch.empty(3)
        values[values > 1].sum().item()
    assert operators.counts == {"forward": 1, "loss, norm": 4}
    assert operators.waits == {"loss, norm": 2}


def test_every_part_of_a_run_with_many_classes(tmp_path):
    """Each part of the benchmark in this process, with 30 classes: 600 epochs are read, resumed and drawn."""
    for part in many_classes.PARTS.values():
        part(tmp_path, 30)
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_epochs_until_an_accuracy():
    """Read off the committed logs by eye."""
    assert [time_to_accuracy.first_epoch(log, 0.374) for log in RUNS] == [180, 29]
    with pytest.raises(ValueError, match="0.3784, below 0.38"):
        time_to_accuracy.first_epoch(RUNS[1], 0.38)


def test_seconds_of_all_epochs(monkeypatch):
    """29 epochs, each with 5 s of training and 1 s of validation."""
    clock = [0.0]

    def spend(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(time_to_accuracy.cifar_train, "prepare", lambda args, runtime: (None, {}))
    monkeypatch.setattr(time_to_accuracy, "train_epoch", lambda training, epoch, runtime: spend(5))
    monkeypatch.setattr(time_to_accuracy, "validate", lambda training, runtime: spend(1))
    monkeypatch.setattr(time_to_accuracy.time, "perf_counter", lambda: clock[0])
    assert time_to_accuracy.goal_timer(RUNS[1], 29, Path(), CPU)() == 29 * 6


def test_safety_on_easy_data_from_logs_to_table(tmp_path, monkeypatch, capsys):
    """One epoch of two losses on four images of noise a digit, instead of MNIST's; a second call trains nothing."""
    images = torch.randint(256, (40, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    noise = mnist5k.ImageSet(images, torch.arange(10).repeat(4))
    monkeypatch.setattr(mnist5k, "read_mnist", lambda: (noise, noise, noise))
    monkeypatch.setattr(mnist5k, "RECIPE", dataclasses.replace(mnist5k.RECIPE, epochs=1))
    monkeypatch.setattr(mnist5k, "LOSSES", {"CE": "CE", "CDB-BS, smoothed": "CDB-BS --difficulty smoothed"})
    flags = ["--seeds", "3", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert mnist5k.main(flags) == 0
    first = capsys.readouterr().out
    figures = json.loads((tmp_path / "results/CDB-BS_smoothed_seed3/test.json").read_text())
    share = sum(entry["correct"] for entry in figures["classes"]) / 40
    assert f"| CDB-BS, smoothed | 1 | {100 * share:.2f} |" in first and "epoch 1/1" in first
    assert mnist5k.main(flags) == 0
    assert "epoch 1/1" not in capsys.readouterr().out
