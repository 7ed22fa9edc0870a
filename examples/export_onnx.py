"""Export the network of a run to ONNX, for programs without PyTorch.

    pip install onnx onnxscript
    python examples/export_onnx.py RUN model.onnx

It takes batches of what the network's `.transform` returns, and returns logits.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where longtail/ is

import longtail


def export(run: str, file: str) -> None:
    """Write the network of a run to `file`."""
    model = longtail.load_run(run)
    batch = torch.zeros(2, *model.input_shape)
    any_size = {0: torch.export.Dim("batch")}
    torch.onnx.export(
        model, (batch,), file, input_names=["images"], output_names=["logits"], dynamic_shapes=(any_size,), dynamo=True
    )


if __name__ == "__main__":
    export(*sys.argv[1:])
