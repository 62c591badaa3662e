"""A solution as tensors and plain values for the store, and back: bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import QParams
from bitwright.numerics.grid import Grid

_CLASSES: Mapping[str, type[Any]] = {c.__name__: c for c in (UnitSolution, QParams, Grid)}
_SOLUTION = "solution"


def to_entry(solution: UnitSolution) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by their place in the solution, and the rest of it as JSON values."""
    tensors: dict[str, Tensor] = {}
    return tensors, {_SOLUTION: _take_apart(solution, _SOLUTION, tensors)}


def from_entry(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> UnitSolution:
    """The solution that `to_entry` took apart."""
    made = _put_together(meta[_SOLUTION], tensors)
    assert isinstance(made, UnitSolution)
    return made


def _take_apart(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        tensors[place] = value
        return {"tensor": place}
    if isinstance(value, tuple):
        return {"tuple": [_take_apart(v, f"{place}.{i}", tensors) for i, v in enumerate(value)]}
    if isinstance(value, Mapping):
        parts = {str(k): _take_apart(v, f"{place}.{k}", tensors) for k, v in value.items()}
        return {"mapping": parts}
    if is_dataclass(value) and type(value).__name__ in _CLASSES:
        parts = {
            f.name: _take_apart(getattr(value, f.name), f"{place}.{f.name}", tensors)
            for f in fields(value)
        }
        return {"class": type(value).__name__, "fields": parts}
    raise TypeError(f"{place} is a {type(value).__name__}, which the store cannot hold.")


def _put_together(part: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(part, dict):
        return part
    if "tensor" in part:
        return tensors[part["tensor"]]
    if "tuple" in part:
        return tuple(_put_together(p, tensors) for p in part["tuple"])
    if "mapping" in part:
        return {k: _put_together(p, tensors) for k, p in part["mapping"].items()}
    made = {k: _put_together(p, tensors) for k, p in part["fields"].items()}
    return _CLASSES[part["class"]](**made)
