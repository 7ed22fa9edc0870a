"""The losses of an epoch's batches, read from the device now and then, and checked."""

import math

import torch
from torch import Tensor


class Losses:
    """The losses and gradient norms of an epoch's batches.

    They stay on the device until `read`, which `add` calls every few batches.

    So a bad gradient may be applied before it is noticed, but never to a checkpoint: the last read comes before
    validation.
    """

    def __init__(self, epoch: int, batches_between_reads: int):
        self.epoch, self.every = epoch, batches_between_reads
        self.unread: list[tuple[Tensor, Tensor, int]] = []
        self.batches, self.images, self.sum, self.last = 0, 0, 0.0, math.nan  # of what has been read

    def add(self, loss: Tensor, gradient: Tensor, images: int) -> None:
        """Record a batch: its mean loss and gradient norm, scalars on the device, and its number of images."""
        self.unread.append((loss, gradient, images))
        if len(self.unread) == self.every:
            self.read()

    def read(self) -> None:
        """Add what is unread to the sum. Raise ValueError for the first batch whose loss or gradient is not finite."""
        unread, self.unread = self.unread, []
        values = (
            torch.stack([value for loss, gradient, _ in unread for value in (loss, gradient)]).tolist()
            if unread
            else []
        )
        for loss, gradient, (_, _, images) in zip(values[::2], values[1::2], unread, strict=True):
            self.batches += 1
            if not (math.isfinite(loss) and math.isfinite(gradient)):
                raise ValueError(
                    f"epoch {self.epoch}, batch {self.batches}: loss {loss:g}, gradient norm {gradient:g}; "
                    f"the last finite loss was {self.last:g}; the last good checkpoint is kept, a smaller learning rate may help"
                )
            self.sum, self.images, self.last = self.sum + loss * images, self.images + images, loss
