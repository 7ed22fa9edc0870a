"""Muon against an SVD, and plain groups against PyTorch's SGD."""

import pytest
import torch

from muon import Muon, orthogonalized


def matrix(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(16, 144), (64, 20)])
def test_orthogonalized_has_the_vectors_of_the_svd_and_values_near_1(shape):
    u, _, v = torch.linalg.svd(matrix(*shape), full_matrices=False)
    core = u.T @ orthogonalized(matrix(*shape)[None])[0] @ v.T
    assert core.diagonal().min() > 0.6 and core.diagonal().max() < 1.3
    assert (core - core.diagonal().diag()).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(2, 5), (5, 2)])
def test_a_singular_value_goes_through_the_polynomial_five_times(shape):
    """Values 3 and 4 start as 3/5 and 4/5 of the Frobenius norm; each goes its own way, by plain numbers."""
    expected = []
    for value in (0.6, 0.8):
        for _ in range(5):
            value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
        expected.append(value)
    values = torch.zeros(shape)
    values[0, 0], values[1, 1] = 3.0, 4.0
    result = orthogonalized(torch.stack([7 * values, values]))[1]
    assert [result[0, 0].item(), result[1, 1].item()] == pytest.approx(expected, rel=1e-5)
    assert result.count_nonzero() == 2


def test_filters_step_along_the_momentum_made_orthogonal():
    """Two steps with momentum 0.5: directions g + 0.5 g, then h + 0.5 (h + 0.5 g).

    The filters have norm sqrt(8) before each.
    """
    filters, first, second = matrix(8, 4, 3, 3), matrix(8, 4, 3, 3).flip(0), matrix(8, 4, 3, 3).flip(3)
    parameter = torch.nn.Parameter(filters.clone().contiguous(memory_format=torch.channels_last))
    plain = torch.nn.Parameter(torch.ones(3))
    optimizer = Muon(
        [{"params": [plain]}, {"params": [parameter], "orthogonal": True, "lr": 0.1}],
        lr=1.0,
        momentum=0.5,
        nesterov=True,
    )
    expected = filters
    for gradient, direction in ((first, 1.5 * first), (second, 1.5 * second + 0.25 * first)):
        parameter.grad, plain.grad = gradient.clone(), torch.zeros(3)
        optimizer.step()
        step = orthogonalized(direction.reshape(1, 8, 36)).view(8, 4, 3, 3)
        expected = expected * (8**0.5 / expected.norm()) - 0.1 * step
        assert torch.allclose(parameter, expected, atol=1e-5)
    assert plain.tolist() == [1, 1, 1]


def test_filters_of_one_shape_and_of_others_step_as_each_would_alone():
    """Five parameters of three shapes, and a state dict with a momentum for each, as versions before had it."""
    shapes = [(8, 4, 3, 3), (4, 9), (8, 4, 3, 3), (6, 2, 3, 3), (8, 4, 3, 3)]
    together = [torch.nn.Parameter(matrix(*shape) * (1 + index)) for index, shape in enumerate(shapes)]
    alone = [torch.nn.Parameter(parameter.detach().clone()) for parameter in together]
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True}
    optimizer = Muon([{"params": together, "orthogonal": True}], **settings)
    single = [Muon([{"params": [parameter], "orthogonal": True}], **settings) for parameter in alone]
    for step in range(3):
        for one, other in zip(together, alone, strict=True):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(step + len(one)))
            other.grad = one.grad.clone()
        for each in (optimizer, *single):
            each.step()
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    state = optimizer.state_dict()["state"]
    assert [list(state[index]) for index in range(5)] == [["momentum_buffer"]] * 5
    assert [state[index]["momentum_buffer"].shape for index in range(5)] == shapes


def test_other_groups_step_as_with_sgd():
    parameters = [torch.nn.Parameter(matrix(5)) for _ in range(2)]
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "fused": True}
    filters = torch.nn.Parameter(matrix(4, 9))
    ours, theirs = (
        Muon([{"params": parameters[:1]}, {"params": [filters], "orthogonal": True}], **settings),
        torch.optim.SGD(parameters[1:], **settings),
    )
    for step in range(3):
        for parameter in (*parameters, filters):
            parameter.grad = torch.full_like(parameter, step + 1.0)
        ours.step()
        theirs.step()
        assert torch.equal(*parameters)
    assert [len(group["params"]) for group in ours.param_groups] == [1, 1]
