"""The examples run, and what they show is so."""

import importlib
import math
import os
import subprocess
import sys

import pytest
import torch

from conftest import ROOT
from longtail import compare

EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def found(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_they_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert max(lengths.values()) <= 60, lengths


def test_the_plain_loop():
    criterion = importlib.import_module("plain").main()
    assert criterion.total.max() == pytest.approx(20 * (1 - 0.9**20) / 0.1)  # 20 passes over 20 images, each once
    assert criterion.weight[5:].mean() > 1 > criterion.weight[:5].mean()  # the smaller half is the harder one


def test_two_processes_of_the_plain_loop_are_one(processes, tmp_path):
    """Each process trains with half of each batch, and counts half of the held-out points."""
    code = f"""
import os, sys
sys.path[:0] = [{str(EXAMPLES)!r}, {str(ROOT / "CIFAR-LT")!r}]
import torch, plain
plain.EPOCHS = 2
criterion = plain.main()
torch.save(criterion.state_dict(), f"{tmp_path}/{{os.environ.get('RANK', 'one')}}.pt")
"""
    for number in (1, 2):
        run = processes(number, "-c", code)
        assert run.returncode == 0, run.stderr
    one, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "0", "1"))
    assert torch.equal(first["weight"], second["weight"])
    assert one["total"].tolist() == first["total"].tolist() == pytest.approx([20 * 1.9] * 10)
    torch.testing.assert_close(first["weight"], one["weight"], rtol=1e-3, atol=0)


def test_segmentation():
    """The frame of 124 pixels is no part of the counts: 16 pictures of 30 x 30 pixels."""
    accuracy = importlib.import_module("segmentation").main()
    assert accuracy[2] > 0.4 and accuracy[0] > 0.9


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_lightning(precision):
    """At learning rate 0 the model stays as it is: two passes of 20 images a class, and none of the sanity check."""
    pytest.importorskip("lightning")
    example = importlib.import_module("lightning_module")
    module = example.main(precision, epochs=2, lr=0.0)
    assert module.criterion.total.dtype == torch.float32
    assert module.criterion.total.tolist() == pytest.approx([20 * 1.9] * 10)
    points, labels = example.make_points([20] * 10, seed=1)
    predicted = module.model(points.to(next(module.model.parameters()).dtype)).argmax(1)
    right = [float(((predicted == c) & (labels == c)).sum()) for c in range(10)]
    tolerance = 0 if precision == "32-true" else 4  # near a border, rounding to bf16 in training's validation differs
    assert module.criterion.correct.tolist() == pytest.approx([1.9 * n for n in right], abs=1e-4 + tolerance)
    before = module.criterion.weight.clone()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(points, labels), 50)
    module.trainer.validate(module, loader, verbose=False)
    assert torch.equal(module.criterion.weight, before)


@pytest.mark.filterwarnings("ignore")
def test_the_hugging_face_trainer(tmp_path):
    """A batch in two parts has the gradient of the whole batch. The loss's state is saved, with the last weights."""
    pytest.importorskip("transformers")
    example = importlib.import_module("hugging_face")
    losses = []
    for parts in (1, 2):
        settings = {"max_steps": 4, "per_device_train_batch_size": 16 // parts, "gradient_accumulation_steps": parts}
        trainer = example.build_trainer(str(tmp_path / str(parts)), **settings)
        (criterion,) = [c.criterion for c in trainer.callback_handler.callbacks if hasattr(c, "criterion")]
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.train()
        losses.append(trainer.state.log_history[-1]["train_loss"])
        assert criterion.total.tolist() == [10] * 10  # one evaluation: 4 steps are less than an epoch
        (saved,) = (tmp_path / str(parts)).glob("checkpoint-*/criterion.pt")
        state = torch.load(saved, weights_only=True)
        assert torch.equal(state["weight"], criterion.weight)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and math.isfinite(losses[0])


def test_a_table_with_longtail(tmp_path, monkeypatch, capsys):
    """Runs of two losses and seeds are compared. One that ends with an error in epoch 5 resumes to the same weights."""
    example = importlib.import_module("tabular")
    for loss_type in ("CE", "CDB-CE"):
        for seed in range(3):
            example.main(str(tmp_path / f"{loss_type}_seed{seed}"), loss_type, seed)
    real_seed = example.epoch_seed
    monkeypatch.setattr(example, "epoch_seed", lambda seed, epoch: 1 / 0 if epoch == 5 else real_seed(seed, epoch))
    with pytest.raises(ZeroDivisionError):
        example.main(str(tmp_path / "cut"), "CDB-CE", 0)
    monkeypatch.setattr(example, "epoch_seed", real_seed)
    example.main(str(tmp_path / "cut"), "CDB-CE", 0)
    whole, cut = (
        torch.load(tmp_path / run / "last_table.pth", weights_only=True)["state_dict"]
        for run in ("CDB-CE_seed0", "cut")
    )
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    runs = [str(tmp_path / f"{loss_type}_seed{seed}") for loss_type in ("CDB-CE", "CE") for seed in range(3)]
    capsys.readouterr()
    assert compare.main([*runs[:3], "--against", *runs[3:], "--out", str(tmp_path)]) == 0
    assert "pairs of seeds 0, 1, 2" in capsys.readouterr().out and (tmp_path / "compare.png").is_file()


def test_each_runs_as_a_script():
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'CIFAR-LT'}:{ROOT}"}
    run = subprocess.run(
        [sys.executable, EXAMPLES / "segmentation.py"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stdout.startswith("recall of background"), run.stderr
