"""Checkpoints that PyTorch loads safely, but that are no model, or not the state of this run."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]


def without(*keys: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key not in keys}


def with_entry(key: str, value: Any) -> Callable[[State], State]:
    return lambda state: {**state, key: value}


def with_first_weight(change: Callable[[Tensor], Any]) -> Callable[[State], State]:
    def changed(state: State) -> State:
        weights = state["state_dict"]
        return {**state, "state_dict": {**weights, "conv1.weight": change(weights["conv1.weight"])}}

    return changed


# What test and resumption refuse alike.
NO_MODEL: dict[str, Callable[[State], Any]] = {
    "an empty dictionary": lambda state: {},
    "a list": lambda state: [1],
    "a tensor": lambda state: torch.zeros(3),
    "no weights": without("state_dict", "trained"),
    "no weight": with_entry("state_dict", {}),
    "a weight of another shape": with_first_weight(lambda weight: torch.zeros(7, 7)),
    "a weight as text": with_first_weight(lambda weight: "weights"),
    "a weight without data": with_first_weight(lambda weight: weight.to("meta")),
    "a sparse weight": with_first_weight(lambda weight: torch.zeros(weight.shape).to_sparse()),
}
NOT_THIS_RUN: dict[str, Callable[[State], Any]] = {
    "no optimizer": without("optimizer"),
    "another optimizer's state": with_entry(
        "optimizer", {"state": {0: {"momentum_buffer": torch.zeros(7)}}, "param_groups": []}
    ),
    "no criterion": without("criterion"),
    "another criterion": with_entry("criterion", {"more": torch.zeros(3)}),
    "no epoch": without("epoch"),
    "another seed": lambda state: {**state, "arguments": {**state["arguments"], "seed": 7}},
}
