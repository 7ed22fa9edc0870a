"""The loss on segmentation: every pixel is an element, pixels of 255 are ignored.

    python examples/segmentation.py

Pictures of 32 x 32 noisy pixels show a background, one large square, and sometimes a small one; the frame has no label.
"""

import torch
from torch import Tensor, nn

from cdb_loss import CDBLoss

CLASSES, IGNORED, EPOCHS = 3, 255, 15
SIDE = 32


def make_pictures(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return pictures, (N, 1, 32, 32), and the class of each pixel, (N, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(number, SIDE, SIDE, dtype=torch.long)
    for mask in masks:
        row, column = torch.randint(4, 12, (2,), generator=generator).tolist()
        mask[row : row + 14, column : column + 14] = 1
        row, column = torch.randint(2, 27, (2,), generator=generator).tolist()
        mask[row : row + 3, column : column + 3] = 2
    pictures = masks.float() + 0.5 * torch.randn(masks.shape, generator=generator)
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    return pictures[:, None], masks.where(inside, IGNORED)


def main() -> Tensor:
    pictures, masks = make_pictures(64, seed=0)
    held_out, held_out_masks = make_pictures(16, seed=1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, CLASSES, 3, padding=1))
    criterion = CDBLoss(CLASSES, difficulty="smoothed", ignore_index=IGNORED)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(pictures)).split(8):
            optimizer.zero_grad()
            criterion(model(pictures[part]), masks[part]).backward()  # (N, C, H, W) and (N, H, W)
            optimizer.step()
        with torch.no_grad():
            criterion.count(model(held_out), held_out_masks)
        accuracy = criterion.update()
    weights = ", ".join(f"{weight:.2f}" for weight in criterion.weight)
    print(
        f"recall of background, square and small square: {[round(a, 2) for a in accuracy.tolist()]}; weights {weights}"
    )
    return accuracy


if __name__ == "__main__":
    main()
