"""torch.compile for training, and only for batches of the size that it was compiled for."""

import torch
from torch import Tensor, nn

from longtail.devices import Runtime


class CompiledForTraining(nn.Module):
    """Calls the compiled model on whole training batches and the bare one on all others.

    A smaller last batch, or a batch in evaluation mode, would be compiled again, which takes longer than it saves.
    """

    def __init__(self, model: nn.Module, batch_size: int, mode: str | None):
        super().__init__()
        self.model, self.batch_size = model, batch_size
        self.compiled = torch.compile(model, mode=mode)

    def forward(self, inputs: Tensor) -> Tensor:
        whole = self.training and len(inputs) == self.batch_size
        outputs: Tensor = self.compiled(inputs) if whole else self.model(inputs)
        return outputs


def compile_for_training(model: nn.Module, batch_size: int, runtime: Runtime) -> nn.Module:
    """Return the view of a parallel model to train with. `batch_size` is that of all processes together.

    On one GPU a step is a CUDA graph ("reduce-overhead"), which the host starts at once. With several processes
    gradients are exchanged in between. Raise ValueError for DataParallel, which copies the model in every step.
    """
    if runtime.gpus > 1:
        raise ValueError(
            f"--compile does not work with --n_gpus {runtime.gpus} in one process; "
            f"start one process for each GPU: torchrun --nproc-per-node {runtime.gpus}"
        )
    graphs = runtime.device.type == "cuda" and runtime.world_size == 1
    return CompiledForTraining(model, batch_size // runtime.world_size, "reduce-overhead" if graphs else None)
