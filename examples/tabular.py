"""`longtail` on a table: an MLP on four features of five long-tailed classes, with its logs, resuming and compare.py.

python examples/tabular.py runs/CE_seed0 CE 0            # and seeds 1, 2; again: it resumes
python examples/tabular.py runs/CDB_seed0 CDB-CE 0
python longtail/compare.py runs/CDB_seed* --against runs/CE_seed*
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from cdb_loss import CDBLoss
from longtail.distributed import start_runtime
from longtail.losses import build_rival
from longtail.records import Description
from longtail.run import Run
from longtail.seeds import epoch_seed
from longtail.training import Training, fit, start_or_resume

COUNTS, EPOCHS, BATCH = [400, 120, 40, 20, 10], 10, 32


def make_table(counts: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """Return features, (N, 4), around a centre of each class, and labels, (N,)."""
    centres = torch.randn(len(counts), 4, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return centres[labels] + 0.8 * torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed)), labels


def main(folder: str, loss_type: str, seed: int) -> None:
    features, labels = make_table(COUNTS, seed=0)
    held_out = make_table([30] * len(COUNTS), seed=1)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, len(COUNTS)))
    cdb = CDBLoss(len(COUNTS), difficulty="smoothed")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def train_batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:  # the order follows from seed and epoch
        generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
        for part in torch.randperm(len(labels), generator=generator).split(BATCH):
            yield features[part], labels[part]

    training = Training(
        model, model, cdb if loss_type == "CDB-CE" else build_rival(loss_type, COUNTS), optimizer,
        schedule=lambda progress: 1 - progress, train_batches=train_batches, val_batches=lambda: [held_out],
        batches_per_epoch=-(-len(labels) // BATCH), images_per_epoch=len(labels), num_classes=len(COUNTS),
        epochs=EPOCHS, seed=seed,
    )  # fmt: skip
    said = Description(arguments={"loss_type": loss_type, "seed": seed, "max_epochs": EPOCHS}, class_counts=COUNTS)
    with start_runtime(device="cpu", precision="fp32") as runtime:
        run = Run(Path(folder), "table")
        start_or_resume(training, run, said, "resume", runtime)
        fit(training, run, said, runtime)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
