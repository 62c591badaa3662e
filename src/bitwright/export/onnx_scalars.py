"""Numbers near 0 and near 1 that the translation to ONNX would take for 0 and 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from bitwright.graph.model_graph import get_tensor

_ATEN = torch.ops.aten
_NEUTRAL = {
    _ATEN.add.Tensor: 0.0,
    _ATEN.sub.Tensor: 0.0,
    _ATEN.mul.Tensor: 1.0,
    _ATEN.div.Tensor: 1.0,
}
# onnxscript's rules `x + 0 = x` and `x * 1 = x` take any scalar this near to 0 or 1 for it.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-8
_NAME = "near_neutral"


def protect_small_terms(module: fx.GraphModule) -> None:
    """Write `log(x + 1e-10)` so that its term stays: as a tensor of one entry, not as a scalar.

    The rules look at scalars only, and one entry broadcasts as a scalar does. Without this the
    term that keeps a logarithm or a root of zero finite is lost.
    """
    for node in list(module.graph.nodes):
        neutral = _NEUTRAL.get(node.target)
        if node.op != "call_function" or neutral is None:
            continue
        for place, other in ((0, 1), (1, 0)):
            value, beside = _scalar(module, node.args[place]), _meta(node.args[other])
            near = value is not None and _is_near(value, neutral)
            if near and beside is not None and beside.dim() and beside.is_floating_point():
                _widen(module, node, place, torch.tensor([value], dtype=beside.dtype))
    module.recompile()


def _is_near(value: float, neutral: float) -> bool:
    close = math.isclose(value, neutral, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return close and value != neutral


def _scalar(module: fx.GraphModule, argument: object) -> float | None:
    """The number that an argument is, or that a stored tensor without axes holds."""
    if isinstance(argument, float):
        return argument
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    stored = get_tensor(module, str(argument.target))
    plain = not stored.dim() and stored.is_floating_point()
    return float(stored) if plain else None


def _meta(argument: object) -> Tensor | None:
    found = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return found if isinstance(found, Tensor) else None


def _widen(module: fx.GraphModule, node: fx.Node, place: int, value: Tensor) -> None:
    name = f"{_NAME}_{node.name}_{place}"
    module.register_buffer(name, value)
    with module.graph.inserting_before(node):
        stored = module.graph.get_attr(name)
    stored.meta["val"] = value
    node.update_arg(place, stored)
