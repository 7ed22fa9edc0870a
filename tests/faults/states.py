"""Checkpoints that PyTorch loads safely, but that are no model of this experiment, or not the state of this run."""

import random
from collections.abc import Callable
from typing import Any

import torch
from mutations import PICKLE, Bytes

State = dict[str, Any]
READERS = (
    "CIFAR-LT tested",
    "CIFAR-LT resumed",
    "ImageNet-LT tested",
    "ImageNet-LT resumed",
    "ImageNet-LT second stage",
    "EGTEA tested",
    "EGTEA resumed",
    "EGTEA pretrained",
)
FILES: dict[str, Bytes] = PICKLE | {
    "a zip that is cut": lambda content, rng: content[: rng.randint(1, len(content) - 30)],
    "a zip without end": lambda content, rng: content[:-22],
    "a zip that begins late": lambda content, rng: content[100:],
}


def huge() -> torch.Tensor:
    """Of 2 ** 36 elements, one number in the file."""
    return torch.zeros(1).expand(1 << 36)


class Odd:
    """Tensors that are none in memory, or not of usual numbers."""

    VALUES: dict[str, Callable[[torch.Tensor], Any]] = {
        "without data": lambda tensor: tensor.to("meta"),
        "sparse": lambda tensor: torch.zeros(tensor.shape).to_sparse(),
        "complex": lambda tensor: tensor.to(torch.complex64),
        "of another shape": lambda tensor: torch.zeros(7, 7),
        "huge": lambda tensor: huge(),
        "as text": lambda tensor: "weights",
        "as a list": lambda tensor: [0.0],
        "none": lambda tensor: None,
        "quantised": lambda tensor: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
        "nested": lambda tensor: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        "a scalar": lambda tensor: torch.tensor(1.0),
        "empty": lambda tensor: torch.zeros(0),
    }


def weights_of(state: State) -> State:
    return state["state_dict"] if "state_dict" in state else state["feat_model"]


def with_weights(state: State, weights: Any) -> State:
    return {**state, "state_dict" if "state_dict" in state else "feat_model": weights}


def odd_weight(change: Callable[[torch.Tensor], Any]) -> Callable[[State], State]:
    def mutate(state: State) -> State:
        weights = weights_of(state)
        return with_weights(state, {**weights, "conv1.weight": change(weights["conv1.weight"])})

    return mutate


def put(**entries: Any) -> Callable[[State], State]:
    return lambda state: {**state, **{key: value() if callable(value) else value for key, value in entries.items()}}


ANY: dict[str, Callable[[State], Any]] = {
    "an empty dictionary": lambda state: {},
    "a list": lambda state: [state],
    "a tensor": lambda state: torch.zeros(3),
    "None": lambda state: None,
    "numbers for keys": lambda state: {1: torch.zeros(3)},
    "no weights": lambda state: {
        key: value for key, value in state.items() if key not in ("state_dict", "feat_model", "classifier")
    },
    "weights that are a list": lambda state: with_weights(state, [1]),
    "weights that are a tensor": lambda state: with_weights(state, huge()),
    "weights with numbers for keys": lambda state: with_weights(state, {1: torch.zeros(3), 2: torch.zeros(4)}),
    "weights that lack one": lambda state: with_weights(
        state, {key: value for key, value in weights_of(state).items() if key != "conv1.weight"}
    ),
    "weights of more": lambda state: with_weights(state, {**weights_of(state), "more": torch.zeros(3)}),
    "no weight": lambda state: with_weights(state, {}),
    "arguments that are a list": put(arguments=[1]),
    "arguments that are tensors": put(arguments=lambda: {"seed": torch.zeros(2)}),
    "epoch -1": put(epoch=-1),
    "epoch 10 ** 12": put(epoch=10**12),
    "an epoch without end": put(epoch=10**400),
    "a text epoch": put(epoch="1"),
    "a tensor for an epoch": put(epoch=lambda: torch.tensor(1)),
    "a text accuracy": put(accuracy="0.5"),
} | {f"a weight {name}": odd_weight(change) for name, change in Odd.VALUES.items()}
COUNTS: dict[str, Any] = {
    "text": "abc",
    "a number": 3,
    "of text": ["1"] * 3,
    "negative": [-1, 2, 3],
    "too few": [1],
    "too many": [1] * 999,
    "huge": [2**40, 1, 1],
    "fractions": [0.5] * 3,
    "nested": [[1]] * 3,
    "a tensor": lambda: torch.ones(3),
}
CLASSES: dict[str, Callable[[State], Any]] = {
    f"class counts {name}": put(class_counts=value) for name, value in COUNTS.items()
}
TESTED: dict[str, dict[str, Callable[[State], Any]]] = {
    "CIFAR-LT": CLASSES
    | {
        "no head": put(head=None),
        "head 'tail'": put(head="tail"),
        "a data set that is none": put(dataset="svhn"),
        "a list for a data set": put(dataset=["digits"]),
        "no normalization": put(normalization=None),
        "another data set": put(dataset="cifar100"),
        "released, huge": lambda state: {"linear.bias": huge()},
        "released, of 37 classes": lambda state: {"linear.bias": torch.zeros(37)},
        "released, a scalar": lambda state: {"linear.bias": torch.tensor(1.0)},
    },
    "ImageNet-LT": CLASSES
    | {
        "class names too few": put(class_names=["x"]),
        "class names a number": put(class_names=3),
        "class names of tensors": put(class_names=lambda: [torch.zeros(2)] * 3),
        "a tensor for a first stage": put(first_stage=lambda: torch.zeros(2)),
        "a classifier of 4": put(classifier=lambda: {"fc.weight": torch.zeros(4, 512), "fc.bias": torch.zeros(4)}),
        "a huge classifier": put(
            classifier=lambda: {"fc.weight": torch.zeros(1).expand(1 << 27, 512), "fc.bias": huge()}
        ),
        "no classifier": put(classifier=None),
        "a classifier with numbers for keys": put(classifier=lambda: {1: torch.zeros(3)}),
    },
    "EGTEA": CLASSES
    | {
        "class names too few": put(class_names=["x"]),
        "class names of numbers": put(class_names=[1, 2, 3]),
        "-1 frames": put(frames_per_clip=-1),
        "10 ** 9 frames": put(frames_per_clip=10**9),
        "no size": put(sample_size=None),
        "size 10 ** 6": put(sample_size=10**6),
        "size True": put(sample_size=True),
        "head 'tail'": put(head="tail"),
        "a list for a head": put(head=[1]),
        "a huge head": lambda state: {"state_dict": {**state["state_dict"], "fc.bias": huge()}},
        "a head of 10 ** 7": lambda state: {
            "state_dict": {**state["state_dict"], "fc.bias": torch.zeros(1).expand(10**7)}
        },
        "a nested head": lambda state: {
            "state_dict": {
                **state["state_dict"],
                "fc.bias": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
            }
        },
    },
}


def optimizer(change: Callable[[dict], Any]) -> Callable[[State], State]:
    return lambda state: {**state, "optimizer": change(state["optimizer"])}


def momentum(value: Callable[[torch.Tensor], Any]) -> Callable[[State], State]:
    """Another momentum of the first parameter, where it has one."""

    def change(saved: dict) -> dict:
        first = saved["state"].get(0, {"momentum_buffer": torch.zeros(64, 3, 7, 7, 7)})
        return {**saved, "state": {**saved["state"], 0: {"momentum_buffer": value(first["momentum_buffer"])}}}

    return optimizer(change)


RESUMED: dict[str, Callable[[State], Any]] = {
    "no optimizer": lambda state: {key: value for key, value in state.items() if key != "optimizer"},
    "a number for an optimizer": put(optimizer=5),
    "a list for an optimizer": put(optimizer=[1]),
    "an empty optimizer": put(optimizer={}),
    "an optimizer of a list": optimizer(lambda saved: {**saved, "state": [1]}),
    "states of lists": optimizer(lambda saved: {**saved, "state": {0: [1]}}),
    "a state of a parameter too many": optimizer(
        lambda saved: {**saved, "state": {**saved["state"], 9999: {"momentum_buffer": torch.zeros(3)}}}
    ),
    "no criterion": lambda state: {key: value for key, value in state.items() if key != "criterion"},
    "a list for a criterion": put(criterion=[1]),
    "a criterion with numbers for keys": put(criterion=lambda: {1: torch.zeros(3)}),
    "a criterion of more": put(criterion=lambda: {"more": torch.zeros(3)}),
    "a huge criterion": put(criterion=lambda: {"weight": huge()}),
    "no best accuracy": lambda state: {key: value for key, value in state.items() if key != "best_accuracy"},
    "a text for the best accuracy": put(best_accuracy="x"),
    "a best accuracy without end": put(best_accuracy=10**400),
    "another seed": lambda state: {**state, "arguments": {**state["arguments"], "seed": 7}},
    "an epoch that the log lacks": put(epoch=2),
    "no arguments": lambda state: {key: value for key, value in state.items() if key != "arguments"},
    "no epoch": lambda state: {key: value for key, value in state.items() if key != "epoch"},
} | {f"a momentum {name}": momentum(change) for name, change in Odd.VALUES.items() if name not in ("none", "complex")}


def table(place: str) -> dict[str, Callable[[State], Any]]:
    """What is certainly bad at a place of READERS."""
    experiment, _, use = place.partition(" ")
    described = ("arguments that are a list", "arguments that are tensors")
    if use == "resumed":
        return {
            name: change
            for name, change in (ANY | RESUMED).items()
            if not (experiment == "EGTEA" and name.startswith("no best"))
        }
    if use == "tested":
        return ANY | TESTED[experiment]
    return {name: change for name, change in ANY.items() if name in described or "weight" in name or " " in name}


__all__ = ["FILES", "READERS", "random", "table"]
