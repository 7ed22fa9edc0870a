"""The code that the README shows: run as it stands there, between the sentences around it."""

import textwrap

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cdb_loss import CDBLoss
from conftest import ROOT

CLASSES = 3
INPUTS = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % CLASSES


def block(after: str) -> str:
    """The README's indented block after a paragraph that says so."""
    lines = (ROOT / "README.md").read_text().split(after, 1)[1].split("\n\n", 1)[1].splitlines()
    code = []
    for line in lines:
        if line and not line.startswith("    "):
            break
        code.append(line)
    return textwrap.dedent("\n".join(code))


def expected(model: nn.Module) -> torch.Tensor:
    """Weights after one pass over everything, counted here."""
    criterion = CDBLoss(CLASSES, difficulty="smoothed")
    right = model(INPUTS).argmax(1) == LABELS
    criterion.update(
        [int(right[c == LABELS].sum()) for c in range(CLASSES)], [int((c == LABELS).sum()) for c in range(CLASSES)]
    )
    return criterion.weight


def test_counts_of_two_processes_give_the_weights_of_one(processes, tmp_path):
    """The first process has two batches, 16 of the 24 images, and the second one batch; the model has buffers, which
    DDP would send.
    """
    (tmp_path / "script.py").write_text(f"""
import sys
sys.path.insert(0, {str(ROOT / "CIFAR-LT")!r})
import torch
from torch import nn
from cdb_loss import CDBLoss
{block("same weights:")}
torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
model, criterion = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, {CLASSES})), CDBLoss({CLASSES}, difficulty="smoothed")
ddp = nn.parallel.DistributedDataParallel(model).eval()
inputs, labels = torch.randn(24, 5, generator=torch.Generator().manual_seed(0)), torch.arange(24) % {CLASSES}
mine = (slice(0, 8), slice(8, 16)) if torch.distributed.get_rank() == 0 else (slice(16, 24),)
validate(ddp.module, criterion, [(inputs[part], labels[part]) for part in mine], {CLASSES}, torch.device("cpu"))
torch.save(criterion.weight, f"{tmp_path}/{{torch.distributed.get_rank()}}.pt")
torch.distributed.destroy_process_group()
""")
    run = processes(2, tmp_path / "script.py")
    assert run.returncode == 0, run.stderr
    torch.manual_seed(0)
    weights = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, CLASSES)).eval()
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], expected(model))


def test_the_trained_network_of_the_page(capsys):
    """The code as it stands in CIFAR-LT/README.md, from this clone, on a grey picture."""
    code = (ROOT / "CIFAR-LT/README.md").read_text().split("\n    import torch\n    model = ", 1)[1].split("\n\n", 1)[0]
    names = {"torch": torch, "picture": torch.full((3, 32, 32), 128, dtype=torch.uint8)}
    exec(textwrap.dedent(f"    model = {code}").replace("path/to/the/clone", str(ROOT)), names)
    assert names["scores"].shape == (1, 100) and capsys.readouterr().out.strip() in names["model"].class_names


@pytest.mark.filterwarnings("ignore")
def test_lightning_updates_the_weights_and_saves_them(tmp_path):
    """Learning rate 0, so that the model stays: one pass over all images; Lightning's own trial before it must not
    count.
    """
    lightning = pytest.importorskip("lightning")
    names = {"lightning": lightning, "torch": torch, "CDBLoss": CDBLoss}
    exec(block("In a Lightning module"), names)
    torch.manual_seed(0)
    model = nn.Linear(5, CLASSES)
    module = names["LongTailed"](model, CLASSES)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    batches = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=10)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, batches, batches)
    assert torch.equal(module.criterion.weight, expected(model)) and not module.counts.any()
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(saved["criterion.weight"], module.criterion.weight) and "counts" not in saved
