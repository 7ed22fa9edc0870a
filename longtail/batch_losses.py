"""The losses of an epoch's batches, read from the device now and then, and checked."""

import math

import torch
from torch import Tensor


class LossMeter:
    """The losses and gradient norms of an epoch's batches.

    They stay on the device until `read`, which `add` calls every few batches. So a bad gradient may be applied before
    it is noticed, but never to a checkpoint: the last read comes before validation.
    """

    def __init__(self, epoch: int, batches_between_reads: int):
        self.epoch, self.every = epoch, batches_between_reads
        self.unread: list[tuple[Tensor, Tensor, int]] = []
        # Of what has been read:
        self.batches = 0
        self.images = 0
        self.sum = 0.0
        self.last = math.nan

    def add(self, loss: Tensor, gradient: Tensor, images: int) -> None:
        """Record a batch: its mean loss and gradient norm, scalars on the device, and its number of images."""
        self.unread.append((loss, gradient, images))
        if len(self.unread) == self.every:
            self.read()

    def read(self) -> None:
        """Add what is unread to the sum. Raise ValueError for the first batch whose loss or gradient is not finite."""
        if not self.unread:
            return
        losses = torch.stack([loss for loss, _, _ in self.unread])
        gradients = torch.stack([gradient for _, gradient, _ in self.unread])
        values = torch.stack([losses, gradients], dim=1).tolist()  # one transfer for both
        for (loss, gradient), (_, _, images) in zip(values, self.unread, strict=True):
            self.batches += 1
            if not (math.isfinite(loss) and math.isfinite(gradient)):
                raise ValueError(
                    f"epoch {self.epoch}, batch {self.batches}: loss {loss:g}, gradient norm {gradient:g}; "
                    f"the last finite loss was {self.last:g}; the last good checkpoint is kept, "
                    "a smaller learning rate may help"
                )
            self.sum += loss * images
            self.images += images
            self.last = loss
        self.unread = []
