"""Muon takes steps along the orthogonal matrix nearest to the momentum.

Jordan et al., "Muon: An optimizer for hidden layers", 2024.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of x, x^3, x^5: 5 steps bring singular values between 0.01 and 1 close to 1
NEWTON_SCHULZ_STEPS = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return about U V^T of each of several matrices U S V^T, (k, m, n): all singular values are near 1."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b gram + c gram^2
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


def channels_last(filters: Tensor) -> Tensor:
    """Return a view (C, ..., D) of filters (C, D, ...): in this order ours lie in memory."""
    return filters.movedim(1, -1)


class Muon(torch.optim.SGD):
    """SGD, except in groups with `orthogonal`.

    Their parameters, filters (C, ...), take orthogonal steps of relative size lr. Before each step such a parameter is
    scaled to norm sqrt(C). BatchNorm follows it, so its length has no effect, and it needs no decay. All filters of one
    shape take their steps together, because a GPU computes thirty small matrices at once in about the time of one.
    """

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            if group.get("orthogonal"):
                self.orthogonal_step(group)
                for parameter in group["params"]:
                    parameter.grad = None  # SGD leaves it alone then
        super().step()

    def orthogonal_step(self, group: dict[str, Any]) -> None:
        """Take a step of Nesterov's kind with each parameter of a group, with the momentum that SGD would have."""
        parameters = group["params"]
        gradients = [parameter.grad for parameter in parameters]
        momenta = [self.momentum_of(parameter) for parameter in parameters]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        directions = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
        of_one_shape = defaultdict(list)
        for parameter, direction in zip(parameters, directions, strict=True):
            of_one_shape[parameter.shape].append((channels_last(parameter), channels_last(direction)))
        for pairs in of_one_shape.values():
            step_together([filters for filters, _ in pairs], [direction for _, direction in pairs], group["lr"])

    def momentum_of(self, parameter: Tensor) -> Tensor:
        """Return the parameter's momentum buffer; at first it is zero."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def step_together(parameters: list[Tensor], directions: list[Tensor], lr: float) -> None:
    """Scale parameters of one shape (C, ...) to norm sqrt(C), then move each by lr along its orthogonal direction."""
    filters = torch.stack(parameters).flatten(2)  # (k, C, n)
    filters *= filters.shape[1] ** 0.5 / filters.norm(dim=(1, 2), keepdim=True)
    filters.sub_(orthogonalized(torch.stack(directions).flatten(2)), alpha=lr)
    torch._foreach_copy_(parameters, list(filters.view(-1, *parameters[0].shape).unbind()))
