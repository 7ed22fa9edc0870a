"""torch.compile sees whole training batches and nothing else. A backend that counts replaces the compiler."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from longtail import compiling
from longtail.compiling import compile_for_training
from longtail.devices import Runtime

CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_the_last_batch_and_validation_do_not_compile_again(model, monkeypatch):
    """Two epochs of batches of 4, 4 and 3 with a validation of 5 after each: one graph, called four times."""
    counter, compiler = CompileCounter(), torch.compile
    monkeypatch.setattr(compiling.torch, "compile", lambda model, mode: compiler(model, backend=counter, mode=None))
    view, outputs = compile_for_training(model, 4, CPU), []
    calls = []
    view.compiled.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        view.train()
        outputs += [view(torch.ones(size, 3)) for size in (4, 4, 3)]
        view.eval()
        outputs.append(view(torch.ones(5, 3)))
    assert counter.frame_count == 1 and len(calls) == 4
    assert [len(output) for output in outputs] == [4, 4, 3, 5] * 2
    assert torch.equal(outputs[-1], model(torch.ones(5, 3)))


@pytest.mark.parametrize(
    ("runtime", "size", "mode"),
    [
        (CPU, 8, None),
        (Runtime(torch.device("cuda"), gpus=1), 8, "reduce-overhead"),
        (Runtime(torch.device("cuda"), gpus=1, world_size=2), 4, None),
        (Runtime(torch.device("mps"), gpus=1), 8, None),
    ],
    ids=["CPU", "one GPU", "two processes", "MPS"],
)
def test_graphs_are_for_one_gpu_of_cuda(model, monkeypatch, runtime, size, mode):
    """Each of several processes gets its share of the batch."""
    modes = []
    monkeypatch.setattr(compiling.torch, "compile", lambda model, mode: modes.append(mode) or model)
    assert compile_for_training(model, 8, runtime).batch_size == size
    assert modes == [mode]


def test_data_parallel_is_refused(model):
    with pytest.raises(ValueError, match=r"--compile.*--n_gpus 3.*torchrun --nproc-per-node 3"):
        compile_for_training(model, 8, Runtime(torch.device("cuda"), gpus=3))
