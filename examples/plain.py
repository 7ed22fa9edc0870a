"""The loss in a plain training loop, in one process or, with DistributedDataParallel, in several.

    python examples/plain.py
    torchrun --standalone --nproc-per-node 2 examples/plain.py

10 classes of points in the plane, the largest with 50 times as many as the smallest.
"""

import os

import torch
from torch import Tensor, distributed, nn

from cdb_loss import CDBLoss

CLASSES, EPOCHS, BATCH = 10, 20, 64


def make_points(counts: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """Return points, (N, 2), around ten centres on a circle, and their labels, (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor(counts))
    angles = 2 * torch.pi * labels / CLASSES
    noise = 0.25 * torch.randn(len(labels), 2, generator=generator)
    return torch.stack([angles.cos(), angles.sin()], dim=1) + noise, labels


def main() -> CDBLoss:
    parallel = "RANK" in os.environ  # torchrun sets it
    if parallel:
        distributed.init_process_group("gloo")
    rank = distributed.get_rank() if parallel else 0
    processes = distributed.get_world_size() if parallel else 1
    points, labels = make_points([int(500 * 50 ** (-c / 9)) for c in range(CLASSES)], seed=0)
    held_out, held_out_labels = make_points([20] * CLASSES, seed=1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    trained = nn.parallel.DistributedDataParallel(model) if parallel else model
    criterion = CDBLoss(CLASSES, difficulty="smoothed")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(labels) // BATCH * BATCH, generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(BATCH):
            part = batch[rank::processes]  # each process has an equal part of the batch
            optimizer.zero_grad()
            criterion(trained(points[part]), labels[part]).backward()
            optimizer.step()
        with torch.no_grad():  # the bare model: DDP would wait for the other processes in each batch
            criterion.count(model(held_out[rank::processes]), held_out_labels[rank::processes])
        accuracy = criterion.update()  # in every process: it sums what they have counted
    if rank == 0:
        print(f"accuracy {accuracy.mean():.3f}, weights {criterion.weight.min():.2f} to {criterion.weight.max():.2f}")
    if parallel:
        distributed.destroy_process_group()
    return criterion


if __name__ == "__main__":
    main()
