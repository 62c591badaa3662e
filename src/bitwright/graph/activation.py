"""The activation fused behind a unit, as a value that methods can apply and workers can carry."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.operators import ACTIVATIONS

FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "relu": torch.relu,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "clamp": torch.clamp,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "mish": F.mish,
    "softplus": F.softplus,
}


# Functions that only clamp: their ends where they are called with none, and the ends' names.
_CLAMPS: Mapping[str, tuple[float, float]] = {
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "hardtanh": (-1.0, 1.0),
    "clamp": (-math.inf, math.inf),
}
_ENDS = {"min": "low", "max": "high", "min_val": "low", "max_val": "high"}


@dataclass(frozen=True)
class Activation:
    """An elementwise function by its name, with the numbers that it is called with."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __call__(self, value: Tensor) -> Tensor:
        """The function of a tensor; differentiable."""
        return FUNCTIONS[self.name](value, *self.args, **dict(self.kwargs))


def clamps_to(activation: Activation | None) -> tuple[float, float] | None:
    """The ends of an activation that only clamps, infinite for none at all; None for others."""
    if activation is None:
        return (-math.inf, math.inf)
    given = dict(zip(("low", "high"), activation.args, strict=False))
    given |= {_ENDS.get(name, name): value for name, value in activation.kwargs}
    default = _CLAMPS.get(activation.name)
    if default is None or len(activation.args) > 2 or not set(given) <= {"low", "high"}:
        return None
    low, high = (given.get(name, end) for name, end in zip(("low", "high"), default, strict=True))
    return (
        -math.inf if low is None else float(low),
        math.inf if high is None else float(high),
    )


def activation_of(graph: ModelGraph, unit: Unit) -> Activation | None:
    """What follows every call of a unit at once, if it is one function of numbers alone."""
    if unit.activation is None:
        return None
    nodes = graph.nodes()
    found = set()
    for name in unit.outputs:
        node = nodes[name]
        known = ACTIVATIONS.get(node.target)
        args, kwargs = tuple(node.args[1:]), tuple(sorted(node.kwargs.items()))
        numbers = all(_plain(v) for v in (*args, *(v for _, v in kwargs)))
        if known not in FUNCTIONS or not numbers:
            return None
        found.add(Activation(str(known), args, kwargs))
    return found.pop() if len(found) == 1 else None


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (int, float, str, bool))
