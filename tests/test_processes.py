"""The number of processes is not part of the experiment: 1, 2 and 4 (EGTEA: 1 and 2) count the same and take the same
steps."""

from pathlib import Path

import pytest
import torch

from builders import egtea_flags, make_folder, write_config
from cifar_dataset import long_tailed
from conftest import ROOT
from longtail.devices import Runtime

DIGITS = ("--dataset", "digits", "--imbalance", "25", "--max_epochs", "2", "--lr", "0.02")


def flags_of(experiment: str, folder: Path, request: pytest.FixtureRequest) -> list[str]:
    """A short run.

    Every batch divides by 4: what a process count leaves over would be left out. The validation sets do not.
    """
    if experiment == "CIFAR-LT":
        return [*DIGITS, "--save_model", str(folder)]
    if experiment == "EGTEA":
        return egtea_flags(request.getfixturevalue("clips"), folder, "--workers", 0)
    images = make_folder(folder / "images", {"train": [10, 4, 2], "val": [3, 3, 3], "test": [1, 1, 1]})
    return ["--cfg", str(write_config(folder, images, "run", loss_type="CDB-CE", num_epochs=2))]


def test_the_digits_divide_by_four():
    assert len(long_tailed("digits", Path("nowhere"), 25)[0]) % 4 == 0


@pytest.mark.parametrize(
    ("experiment", "counts"), [("CIFAR-LT", (1, 2, 4)), ("ImageNet-LT", (1, 2, 4)), ("EGTEA", (1, 2))]
)
def test_processes_take_the_same_steps(experiment, counts, tmp_path, shell, request):
    """With networks of one block a layer. EGTEA in four processes takes long, and shares its loop with the others."""
    run = shell(
        ROOT / "tests/steps.py",
        experiment,
        ",".join(map(str, counts)),
        tmp_path,
        *flags_of(experiment, tmp_path, request),
    )
    assert run.returncode == 0, run.stderr
    one, *others = (torch.load(tmp_path / f"{count}.pth", weights_only=True) for count in counts)
    assert one["counts"].sum() == {"CIFAR-LT": 200, "ImageNet-LT": 9, "EGTEA": 3}[experiment]
    assert one["steps"].isfinite().all() and one["steps"].norm() > 0
    for other in others:
        assert torch.equal(other["counts"], one["counts"])
        assert torch.equal(other["weight"], one["weight"])
        assert (other["steps"] - one["steps"]).norm() < 1e-3 * one["steps"].norm()


DIFFERENT = """
import os, sys
import cifar_train
flags, other = sys.argv[1:-2], sys.argv[-2:]
sys.exit(cifar_train.main(flags + [word for word in other if os.environ["RANK"] == "1"]))
"""


@pytest.mark.parametrize(
    ("key", "flags", "values"),
    [
        ("lr", ("--lr", "0.3"), ("0.3", "0.02")),
        ("seed", ("--seed", "4"), ("4", "0")),
        ("loss_type", ("--loss_type", "LDAM-DRW"), ("LDAM-DRW", "CDB-CE")),
        ("precision", ("--precision", "bf16"), ("bf16", "fp32")),
        ("resume", ("--resume", ""), ("True", "False")),
        ("batch_size", ("--batch_size", "8"), ("8", "16")),
        ("imbalance", ("--imbalance", "50"), ("50.0", "25.0")),
    ],
)
def test_processes_with_different_settings_stop_before_training(key, flags, values, tmp_path, processes):
    folders = ":".join(str(ROOT / folder) for folder in ("", "CIFAR-LT"))
    shared = (*DIGITS, "--batch_size", "16", "--precision", "fp32", "--save_model", str(tmp_path / "run"))
    run = processes(2, "-c", DIFFERENT, *shared, *(flag or "--device=cpu" for flag in flags), PYTHONPATH=folders)
    assert run.returncode == 2
    [line] = run.stderr.splitlines()
    words = line.split()
    assert key in words and all(value in line for value in values), line
    assert not (tmp_path / "run").exists()


def test_how_a_process_computes_may_differ(monkeypatch):
    for other, differ in (({"workers": 4, "device": "cuda"}, False), ({"lr": 0.2}, True)):
        answers = {"lr": 0.1, "precision": "fp32", **other}

        def gather(everywhere, compared, answers=answers):
            everywhere[:] = [compared, {key: answers[key] for key in compared}]

        monkeypatch.setattr("torch.distributed.all_gather_object", gather)
        settings = {"lr": 0.1, "workers": 1, "device": "cpu"}
        if not differ:
            Runtime(torch.device("cpu"), world_size=2).check_settings(settings)
            continue
        with pytest.raises(ValueError, match=r"process 1 .*lr 0\.2, process 0 with 0\.1"):
            Runtime(torch.device("cpu"), world_size=2).check_settings(settings)
        with pytest.raises(SystemExit, match="2"):
            Runtime(torch.device("cpu"), rank=1, world_size=2).check_settings(settings)
