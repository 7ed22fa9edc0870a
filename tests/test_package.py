"""What others take from this repository: the wheel, torch.hub's entries, the workflow file."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import hubconf
from cdb_loss import __version__
from cifar_dataset import ImageSet, evaluation_batches
from conftest import ROOT
from longtail.checkpoints import save_checkpoint
from longtail.devices import Runtime
from longtail.heads import build_head


def hub(name: str, **settings):
    return torch.hub.load(str(ROOT), name, source="local", **settings)


CLIENT = """
import torch
from cdb_loss import CDBLoss, dynamic_tau

criterion = CDBLoss(3, tau=1.5, difficulty="smoothed", weight=[1.0, 2.0, 1.0])
loss = criterion(torch.zeros(2, 3), torch.tensor([0, 1]))
criterion.count(torch.zeros(2, 3), torch.tensor([0, 1]))
accuracy = criterion.update()
criterion.update([1, 1, 1], [2, 2, 2])
reveal_type(loss)
reveal_type(accuracy)
reveal_type(criterion.weight)
reveal_type(dynamic_tau(accuracy))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built and installed into an empty folder."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"  # a build leaves files beside the source
    shutil.copytree(ROOT / "longtail", source / "longtail")
    (source / "CIFAR-LT").mkdir()
    for name in ("pyproject.toml", "setup.py", "LICENSE", "CIFAR-LT/cdb_loss.py"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)], check=True
    )
    (wheel,) = folder.glob("cdb_loss-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def test_the_wheel_gives_the_loss_and_longtail(installed, tmp_path):
    """Imported from another folder; torch alone is required."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import longtail, cdb_loss, longtail.losses\n"
        "from importlib.metadata import requires, version\n"
        "print(cdb_loss.__file__, cdb_loss.CDBLoss(3), version('cdb-loss') == cdb_loss.__version__)\n"
        "print([line for line in requires('cdb-loss') if 'extra' not in line])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, str(installed)], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    first, second = output.stdout.splitlines()
    assert first.startswith(f"{installed}/cdb_loss/__init__.py CDBLoss(3") and first.endswith("True")
    assert second == "['torch<3,>=2.10']"
    assert (installed / "cdb_loss/__init__.py").read_bytes() == (ROOT / "CIFAR-LT/cdb_loss.py").read_bytes()
    assert not (installed / "cdb_loss.py").exists()
    assert (installed / "cdb_loss/py.typed").is_file() and (installed / "longtail/py.typed").is_file()


def test_one_version():
    """What is cited, what the changelog's newest section says and what is installed are one version."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.groups() == (citation["version"], str(citation["date-released"])) == (__version__, "2026-12-01")


def test_a_client_of_the_wheel_sees_types(installed, tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "client.py").write_text(CLIENT)
    check = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "client.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "MYPYPATH": ""} | {"PYTHONPATH": str(installed)},
    )
    assert check.stdout.count('Revealed type is "torch._tensor.Tensor"') == 4, check.stdout
    assert check.returncode == 0, check.stdout


def test_longtail_without_its_requirements_says_which_extra():
    code = (
        "import sys, importlib.util as util; found = util.find_spec\n"
        "util.find_spec = lambda name: None if name == 'tqdm' else found(name)\n"
        "import longtail"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stderr.splitlines()[-1] == "ModuleNotFoundError: longtail needs tqdm: pip install 'cdb-loss[training]'"


def test_the_trained_network_of_the_hub():
    """Its transform is the test script's normalisation; it knows its classes and is in evaluation mode."""
    model = hub("resnet32_cifar100_lt", imbalance=200)
    assert len(model.class_names) == 100 and model.class_names[0] == "apple" and not model.training
    picture = torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ((inputs, _),) = evaluation_batches(
        ImageSet(picture[None], torch.tensor([0])), "train", Runtime(torch.device("cpu"))
    )
    torch.testing.assert_close(model.transform(picture), inputs[0])
    torch.testing.assert_close(model.transform(picture.permute(1, 2, 0).numpy()), inputs[0])
    assert model(model.transform(picture)[None]).shape == (1, 100)
    assert torch.equal(
        pickle.loads(pickle.dumps(model.transform))(picture), model.transform(picture)
    )  # for a loader's workers
    assert not [module for module in model.modules() if module is model.transform]  # it stays on the CPU


def test_the_hub_lists_networks_alone():
    """torch.hub.list shows every callable without an underscore."""
    assert [name for name in dir(hubconf) if callable(getattr(hubconf, name)) and name[0] != "_"] == [
        "resnet10",
        "resnet32_cifar100_lt",
        "resnext3d101",
        "trained",
    ]


def test_the_head_comes_from_a_run_of_as_many_verbs(tmp_path, monkeypatch):
    """With a small network instead of the large one, whose weights take 190 MB."""

    class Small(torch.nn.Module):
        def __init__(self, num_classes: int, head: str = "linear"):
            super().__init__()
            self.conv1, self.fc = torch.nn.Linear(2, 3), build_head(head, 3, num_classes)

    monkeypatch.setattr("resnext3d.ResNeXt3D", Small)
    for head in ("linear", "cosine"):
        trained = Small(4, head)
        save_checkpoint(
            tmp_path / "run.pth", {"state_dict": trained.state_dict(), "class_names": list("abcd"), "head": head}
        )
        loaded = hub("resnext3d101", num_classes=4, weights=str(tmp_path / "run.pth"))
        assert torch.equal(loaded.fc.weight, trained.fc.weight) and torch.equal(
            loaded.conv1.weight, trained.conv1.weight
        )
    loaded = hub("resnext3d101", num_classes=5, weights=str(tmp_path / "run.pth"))
    assert len(loaded.fc.weight) == 5 and torch.equal(loaded.conv1.weight, trained.conv1.weight)


def test_the_hub_names_what_it_has():
    fast, strong = (
        hub("resnet32_cifar100_lt", imbalance=100, **recipe).linear.bias for recipe in ({}, {"recipe": "strong"})
    )
    assert torch.equal(fast, hub("resnet32_cifar100_lt", imbalance=100, recipe="fast").linear.bias) and not torch.equal(
        fast, strong
    )
    assert not torch.equal(
        hub("resnet32_cifar100_lt", imbalance=100).linear.bias, hub("resnet32_cifar100_lt").linear.bias
    )
    with pytest.raises(ValueError, match="imbalance=50, .*imbalance=100, recipe='fast'"):
        hub("resnet32_cifar100_lt", imbalance=50)
    with pytest.raises(ValueError, match="recipe='strong'"):
        hub("resnet32_cifar100_lt", imbalance=200, recipe="strong")


def test_untrained_networks_and_files_of_the_hub(tmp_path):
    model = hub("resnet10", num_classes=7)
    state = model.state_dict()
    save_checkpoint(
        tmp_path / "a.pth",
        {
            part: {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(part)}
            for part in ("feat_model", "classifier")
        },
    )
    again = hub("resnet10", num_classes=7, weights=str(tmp_path / "a.pth"))
    assert all(torch.equal(state[key], value) for key, value in again.state_dict().items())
    assert sum(parameter.numel() for parameter in hub("resnext3d101").parameters()) == 47_560_147


def test_the_workflow_runs_the_readmes_command():
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    assert any(step.get("run", "").startswith("make test") for step in jobs["test"]["steps"])
    pins = (ROOT / "constraints.txt").read_text()
    newest = jobs["test"]["strategy"]["matrix"]["include"][-1]
    assert f"torch=={newest['torch']}\n" in pins and f"torchvision=={newest['torchvision']}\n" in pins
