"""The loss in a Lightning module: counted in validation, updated while fitting, saved with the checkpoint.

python examples/lightning_module.py --precision bf16-mixed --devices 2
"""

import argparse

import lightning
import torch
from plain import CLASSES, make_points
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cdb_loss import CDBLoss


class LongTailed(lightning.LightningModule):
    def __init__(self, model: nn.Module, num_classes: int, lr: float = 0.1):
        super().__init__()
        self.model, self.lr = model, lr
        self.criterion = CDBLoss(num_classes, difficulty="smoothed")  # its state is in Lightning's checkpoints

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return self.criterion(self.model(batch[0]), batch[1])

    def on_validation_epoch_start(self) -> None:
        self.criterion.reset()  # a sanity check, or a validation that was interrupted, does not count

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.criterion.count(self.model(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return  # trainer.validate() measures, and must not change the weights
        self.log("val_accuracy", self.criterion.update().mean().to(self.device), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def main(precision: str = "32-true", devices: int = 1, epochs: int = 5, lr: float = 0.1) -> LongTailed:
    torch.manual_seed(0)
    model = LongTailed(nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, CLASSES)), CLASSES, lr)
    train = TensorDataset(*make_points([int(500 * 50 ** (-c / 9)) for c in range(CLASSES)], seed=0))
    held_out = TensorDataset(*make_points([20] * CLASSES, seed=1))
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=devices, precision=precision, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(train, 64, shuffle=True), DataLoader(held_out, 50))
    if trainer.is_global_zero:
        print(f"{precision}: accuracy {trainer.callback_metrics['val_accuracy']:.3f}")
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--devices", type=int, default=1)
    main(**vars(parser.parse_args()))
