"""make gpu without a GPU: its one line, and its checks on a CPU instead of the GPU, as small as they go."""

import json
import re
import sys
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks import step_operators
from conftest import ROOT
from gpu import agreement, check, run, small_data, speed, ways, whole
from gpu.check import Outcome, Setup
from longtail import devices
from longtail.signals import Stopped
from resnet32 import ResNet32
from shallow import SHALLOW


@pytest.fixture
def setup(tmp_path) -> Setup:
    return Setup("cpu", 0, tmp_path, tmp_path / "data", minutes=10.0)  # enough on a busy machine


@pytest.fixture
def report(tmp_path):
    return lambda: json.loads((tmp_path / "acceptance.json").read_text())["checks"]


def test_without_a_gpu_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(run, "find_gpus", lambda: ("cpu", 0))
    assert run.main(["--out", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == "no GPU found: nothing to accept here\n"
    assert not (tmp_path / "none").exists()


def test_the_script_as_make_calls_it(shell):
    if devices.find_gpus()[1]:
        pytest.skip("this machine has a GPU")
    done = shell(ROOT / "tests/gpu/run.py", "--part", "run")
    assert (done.returncode, done.stdout, done.stderr) == (0, "no GPU found: nothing to accept here\n", "")


def test_a_call_does_what_is_missing(setup, report, capsys):
    """Of four checks one fails, one raises, one is a measurement, one is never finished.

    A second call leaves out what is done.
    """
    calls = []

    def note(name: str, outcome: Outcome | Exception, _: Setup) -> Outcome:
        calls.append(name)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    outcomes = {
        "wrong": Outcome("3", "2", passed=False),
        "broken": OSError("no\nspace"),
        "measured": Outcome("5 images/s"),
        "long": Outcome("epoch 7", finished=False),
    }
    checks = {"speed": {name: partial(note, name, outcome) for name, outcome in outcomes.items()}}
    assert run.accept(setup, checks, again=False, seconds=60) == 1
    assert {row["check"]: (row["passed"], row["found"]) for row in report()} == {
        "wrong": (False, "3"),
        "broken": (False, "OSError: no space"),
        "measured": (True, "5 images/s"),
        "long": (True, "epoch 7"),
    }
    assert run.accept(setup, checks, again=False, seconds=60) == 1
    assert calls == [*outcomes, "wrong", "broken", "long"]
    table = (setup.out / "acceptance.md").read_text()
    assert "| speed | wrong | 3 | 2 | FAILED |" in table and "| speed | measured | 5 images/s |  |  |" in table
    assert "4 checks, 2 failed" in capsys.readouterr().out
    assert run.accept(setup, checks, again=True, seconds=-1) == 1 and len(calls) == 7
    assert "4 left for the next call" in capsys.readouterr().out


def test_another_machines_results_are_not_mixed_in(setup, report):
    run.accept(setup, {"speed": {"one": lambda _: Outcome("1")}}, again=False, seconds=60)
    with pytest.raises(ValueError, match="another machine"):
        run.accept(
            Setup("cpu", 3, setup.out, setup.data_root),
            {"speed": {"two": lambda _: Outcome("2")}},
            again=False,
            seconds=60,
        )
    assert len(report()) == 1


def test_a_signal_stops_and_too_little_memory_does_not_fail(setup):
    def stopped(_: Setup) -> Outcome:
        raise Stopped(15)

    def full(_: Setup) -> Outcome:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert run.attempt(full, setup) == Outcome("not tried: too little memory")
    with pytest.raises(Stopped):
        run.attempt(stopped, setup)


def test_every_part_has_checks():
    assert {part: len(checks) for part, checks in run.parts().items()} == {
        "numbers": 7,
        "ways": 6,
        "speed": 19,
        "run": 1,
    }


def test_equal_devices_agree_and_others_do_not(setup, monkeypatch):
    """Gradients of 1, 1 and 1.1 instead of 1 are 0.1 / sqrt(3) = 0.058 away; the CPU's are exact here."""
    small = partial(agreement.network, lambda: ResNet32(10), (4, 3, 16, 16))
    assert small(setup).passed
    right, wrong = ([torch.ones(2), torch.tensor(1.0), torch.tensor([1.0, 1.0, last])] for last in (1.0, 1.1))
    steps = iter([right, wrong, right])  # float64, the device, the CPU
    monkeypatch.setattr(agreement, "one_step", lambda *_: next(steps))
    outcome = small(setup)
    assert not outcome.passed and "gradients 5.8e-02" in outcome.found


def test_a_convolution_that_is_wrong_in_bf16_is_named(setup, monkeypatch):
    """Of ResNet-32: the first, then 16, 32 and 64 channels, and two from one width to the next.

    bf16 keeps 8 bits: half of the last is 2 ** -9, 0.2 %, in each output. One that is 10 % too large is found.
    """
    small = partial(agreement.convolutions_in_bf16, lambda: ResNet32(10), (2, 3, 16, 16))
    outcome = small(setup)
    assert outcome.passed and outcome.found.startswith("6 convolutions")
    right = agreement.convolve

    def wrong(weight, module, inputs, dtype):
        factor = 1.1 if dtype == torch.bfloat16 and module.stride == (2, 2) else 1
        return [factor * value for value in right(weight, module, inputs, dtype)]

    monkeypatch.setattr(agreement, "convolve", wrong)
    outcome = small(setup)
    assert not outcome.passed and "at most 10 %: Conv2d(" in outcome.found and "stride=(2, 2)" in outcome.found


@pytest.mark.parametrize(
    ("prepare", "steps"), [(agreement.prepare_cifar, 3), (agreement.prepare_imagenet, 3), (agreement.prepare_egtea, 1)]
)
def test_a_recipe_agrees_with_itself(prepare, steps, setup, monkeypatch):
    for network, make_layer in SHALLOW.items():
        monkeypatch.setattr(network, "_make_layer", make_layer)
    monkeypatch.setattr(small_data, "cifar", partial(small_data.cifar, per_class=36))
    monkeypatch.setattr(small_data, "images", partial(small_data.images, training=10))
    monkeypatch.setattr(small_data, "clips", partial(small_data.clips, training=2))
    outcome = agreement.recipe(prepare, steps, setup)
    assert outcome.passed and outcome.found == f"first 10 losses at most 0 % from the CPU's, mean of {steps} 0 %"


def test_losses_that_differ_are_found(setup, monkeypatch):
    both = [torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1])]
    monkeypatch.setattr(agreement, "losses", lambda *_: both.pop())
    outcome = agreement.recipe(agreement.prepare_cifar, 2, setup)  # 0.1 / 2 and 0.05 / 1.5
    assert not outcome.passed and outcome.found == "first 10 losses at most 5 % from the CPU's, mean of 2 3.3 %"


def test_ways_on_the_cpu(setup, monkeypatch):
    """A run that is killed and resumed; a lost epoch, a lost accuracy and an error are found.

    The digits stand in for the data set.
    """
    monkeypatch.setattr(ways, "FLAGS", (str(ways.SCRIPT), "--dataset", "digits", "--imbalance", "100"))
    monkeypatch.setattr(ways, "SCRIPT", ROOT / "tests/shallow.py")
    monkeypatch.setattr(ways, "STEM", "digits_imbalance100")
    monkeypatch.setattr(small_data, "cifar", lambda root: root)
    monkeypatch.setattr(ways, "LEARNT", 0)
    with pytest.raises(FileNotFoundError, match="fp32"):
        ways.killed(setup, epochs=3)
    (setup.out / "ways/killed").rename(setup.out / "ways/fp32")
    assert ways.judge(setup, setup.out / "ways/fp32", 3).passed
    assert not ways.judge(setup, setup.out / "ways/fp32", 4).passed
    monkeypatch.setattr(ways, "TOLERANCE", -1)
    assert not ways.judge(setup, setup.out / "ways/fp32", 3).passed
    with pytest.raises(RuntimeError, match="^exit code 1: .*went wrong$"):
        ways.train([sys.executable, "-c", "raise SystemExit('an error: what went wrong\\nand a hint')"])


def test_speeds_on_the_cpu(setup, monkeypatch):
    monkeypatch.setattr(speed, "WORKERS", (0,))
    assert "ratio" in speed.cifar(8, False, setup, batches=1, rounds=1).found
    counted = speed.operators("paper", setup, batches=1)
    assert counted.passed and re.fullmatch(r"3[0-9]{2} operators and 0.0 waits a step", counted.found)
    monkeypatch.setitem(step_operators.MOST, "paper", 300)
    assert not speed.operators("paper", setup, batches=1).passed
    assert "images/s" in speed.recipe("strong", False, setup, batches=1, rounds=1).found
    small = partial(speed.steps, lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), (2, 3, 4, 4), 4, setup)
    assert "samples/s, fp32" in small(precision="fp32", batches=1).found
    assert re.search(r"with [0-9]+ workers", speed.images_from_files(setup, size=32, batch=4, batches=2, files=2).found)


def test_the_first_command_continues_until_it_is_done(setup, monkeypatch):
    """With the digits in CIFAR's setup: one epoch of two is not all; when nothing is left, the next call tests."""
    monkeypatch.setattr(whole, "COMMAND", ("--dataset", "digits", "--imbalance", "100"))
    monkeypatch.setattr(whole, "STEM", "digits_imbalance100")
    assert whole.first_command(setup).found == f"not tried: no CIFAR-100 in {setup.data_root}"
    (setup.data_root / "cifar-100-python").mkdir(parents=True)
    assert not whole.first_command(setup, 2, ("--max_epochs", "1")).finished
    done = whole.first_command(setup, 1, ("--max_epochs", "1"))
    assert done.finished and not done.passed
    assert re.match(
        r"1 of 1 epochs, [0-9.]+ s an epoch, 0 min for all; best validation accuracy 0\.[0-9]+; test 0\.[0-9]+$",
        done.found,
    )


def test_the_root_is_the_repositorys():
    assert (check.ROOT / "tests/gpu/run.py").samefile(run.__file__)
