"""What an entry of the operator table is, and what its function is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bitwright.sources.onnx_in.values import (
    Constant,
    Host,
    OnnxValue,
    OpaqueError,
    as_host,
    as_tensor,
    numbers,
)

Results = OnnxValue | tuple[OnnxValue, ...]

# What becomes of an operator's input under quantisation, as the guide tells it.
WEIGHTS = "a unit where its weight is stored; float otherwise"
MOVES = "moves values: stays on the grid where the runtime allows it"
CHAIN = "quantised inputs where the target has a kernel for it"
ACTIVATION = "fused behind a unit or float"
FLOAT = "float"
SHAPES = "numbers of shapes: followed as numbers"


@dataclass(frozen=True)
class Call:
    """One operator in use.

    Attributes:
        attributes: all that the table's entry knows, with defaults where the file states none.
        opset: of the operator's domain.
        outputs: how many results are read by somebody.
        declared: the shape of the first result as the file fixes it, where it fixes all of it.
        batch: the batch that the file fixes; 0 where it is free.
    """

    name: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: int = 1
    declared: tuple[int, ...] | None = None
    batch: int = 0

    def __getitem__(self, key: str) -> Any:
        """An attribute."""
        return self.attributes[key]

    def axes(self, value: OnnxValue, key: str = "axes") -> list[int] | None:
        """Axes, which older opsets have as an attribute and newer ones as an input."""
        if value is not None:
            found = numbers(value)
            return None if found is None else [int(axis) for axis in found]
        given = self.attributes.get(key)
        return None if given is None else [int(axis) for axis in given]


Compute = Callable[..., Results]


@dataclass(frozen=True)
class Operator:
    """An entry of the table.

    Attributes:
        compute: from a Call and the operator's inputs to its results.
        attributes: the attributes that are understood, with their defaults; an operator that states
            another one becomes an opaque part.
        since: the opsets in which its meaning or its form changed.
        fate: what becomes of it.
    """

    compute: Compute
    attributes: Mapping[str, Any] = field(default_factory=dict)
    since: tuple[int, ...] = (1,)
    fate: str = FLOAT


def unary(function: Callable[[Tensor], Tensor], fate: str = FLOAT, since: int = 1) -> Operator:
    """An operator that maps each entry."""

    def compute(_: Call, x: OnnxValue) -> Results:
        return function(as_tensor(x))

    return Operator(compute, {}, (since,), fate)


def operand(value: OnnxValue, other: OnnxValue) -> Tensor | float | int | bool:
    """One side of an operation: a number where a constant is one and its shape adds nothing."""
    if isinstance(value, Constant) and isinstance(other, Tensor):
        number = value.single
        if number is not None and value.array.ndim <= other.dim():
            return number
    return as_tensor(value)


def on_host(*values: OnnxValue) -> list[Host] | None:
    """The values as numbers, where one of them is followed as such and all are known."""
    if not any(isinstance(value, Host) for value in values):
        return None
    found = [as_host(value) for value in values]
    return None if any(value is None for value in found) else [v for v in found if v is not None]


def positive(axis: int, rank: int) -> int:
    """The axis counted from the front."""
    if not -rank <= axis < max(rank, 1):
        raise OpaqueError(f"axis {axis} of a tensor of {rank} axes")
    return axis + rank if axis < 0 else axis


def is_static(sizes: Any) -> bool:
    """Whether all sizes are numbers, not symbols."""
    return all(isinstance(size, int) and not isinstance(size, torch.SymInt) for size in sizes)
