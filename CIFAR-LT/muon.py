"""Muon takes steps along the orthogonal matrix nearest to the momentum.

Jordan et al., "Muon: An optimizer for hidden layers", 2024.
"""

from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of x, x^3, x^5: 5 steps bring singular values between 0.01 and 1 close to 1
NEWTON_SCHULZ_STEPS = 5


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return about U V^T of a matrix U S V^T, (m, n): all its singular values are near 1."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is matrix else x.T


class Muon(torch.optim.SGD):
    """SGD, except in groups with `orthogonal`.

    Their parameters, filters (C, ...), take orthogonal steps of relative size lr. Before each step such a parameter
    is scaled to norm sqrt(C). BatchNorm follows it, so its length has no effect, and it needs no decay.
    """

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            if group.get("orthogonal"):
                for parameter in group["params"]:
                    self.orthogonal_step(parameter, group)
                    parameter.grad = None  # SGD leaves it alone then
        super().step()

    def orthogonal_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Take a step of Nesterov's kind, with the momentum that SGD would have."""
        state, gradient = self.state[parameter], parameter.grad
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        direction = (gradient + group["momentum"] * momentum).reshape(len(parameter), -1)
        parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        parameter.sub_(orthogonalized(direction).reshape(parameter.shape), alpha=group["lr"])
