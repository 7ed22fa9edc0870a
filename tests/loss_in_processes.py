"""Losses in each process of a job that has a part of the batch; test_losses.py runs it and reads FOLDER/RANK.pt.

torchrun --nproc-per-node 2 tests/loss_in_processes.py FOLDER
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "CIFAR-LT"), str(ROOT)]

import torch  # noqa: E402
from torch import distributed, nn  # noqa: E402

from cdb_loss import CDBLoss  # noqa: E402
from longtail.losses import build_rival  # noqa: E402

LOGITS = torch.tensor([[0.3, 0.1], [0.2, 0.4], [0.5, 0.0], [0.1, 0.6]])
LABELS = torch.tensor([0, 1, 0, 0])
PARTS = (slice(0, 1), slice(1, 4))  # one image in the first process, three in the second


def losses(part: slice) -> dict[str, float]:
    """The weighted means of a part of the batch."""
    cdb = CDBLoss(2, tau=1, reduction="weighted_mean")
    cdb.update_from_accuracy([0.75, 0.25])
    ldam = build_rival("LDAM-DRW", [16, 1], beta=0.9)
    ldam.start_epoch(1)
    return {"CDB": cdb(LOGITS[part], LABELS[part]).item(), "LDAM-DRW": ldam(LOGITS[part], LABELS[part]).item()}


class Classifier(nn.Module):
    """A model that holds its criterion, as a Lightning module does: DDP sends its buffers before each forward."""

    def __init__(self):
        super().__init__()
        self.linear, self.criterion = nn.Linear(2, 2), CDBLoss(2, tau=1, difficulty="smoothed")
        self.linear.weight.data, self.linear.bias.data = torch.eye(2), torch.zeros(2)

    def forward(self, inputs, target):
        logits = self.linear(inputs)
        self.criterion.count(logits, target)
        return logits


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    found = losses(PARTS[rank])
    model = nn.parallel.DistributedDataParallel(Classifier())
    for _ in range(2):  # the second forward would overwrite counts in a buffer with the first process's
        model(LOGITS[PARTS[rank]], LABELS[PARTS[rank]])
    accuracy = model.module.criterion.update()
    alone = build_rival("CE", [3, 1])
    if rank == 1:  # the first process has no image of the set
        alone.count(LOGITS, LABELS)
    by_hand = CDBLoss(2, tau=1)
    by_hand.update([3, 1], [4, 4])  # gathered already: each process passes the whole, and nothing is summed again
    found |= {
        "accuracy": accuracy.tolist(),
        "weight": model.module.criterion.weight.tolist(),
        "total": model.module.criterion.total.tolist(),
        "alone": alone.update().tolist(),
        "by hand": by_hand.weight.tolist(),
    }
    torch.save(found, Path(sys.argv[1]) / f"{rank}.pt")
    distributed.destroy_process_group()
