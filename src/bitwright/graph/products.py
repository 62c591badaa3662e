"""Products with a stored weight, in whatever form they were written, as linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from bitwright.graph.model_graph import get_tensor

aten = torch.ops.aten
_TRANSPOSES = {aten.t.default, aten.numpy_T.default, aten.mT.default}


def linear_from_product(module: fx.GraphModule, node: fx.Node) -> bool:
    """x @ W.T and bias + x @ W.T are a linear layer with the weight W, by its own name."""
    if node.target not in (aten.matmul.default, aten.mm.default, aten.addmm.default):
        return False
    added = node.target is aten.addmm.default
    if added and node.kwargs:
        return False
    x, turned = node.args[1:3] if added else node.args[:2]
    if not isinstance(turned, fx.Node) or not _is_transpose(turned):
        return False
    weight = turned.args[0]
    assert isinstance(weight, fx.Node)
    if weight.op != "get_attr" or get_tensor(module, str(weight.target)).dim() != 2:
        return False
    bias = node.args[0] if added else None
    if added and not _is_vector(module, bias):
        return False
    node.target = aten.linear.default
    node.args = (x, weight) if bias is None else (x, weight, bias)
    return True


def _is_vector(module: fx.GraphModule, node: object) -> bool:
    return (
        isinstance(node, fx.Node)
        and node.op == "get_attr"
        and get_tensor(module, str(node.target)).dim() == 1
    )


def _is_transpose(node: fx.Node) -> bool:
    if node.target in _TRANSPOSES:
        return True
    if node.target is aten.permute.default:
        return list(node.args[1]) in ([1, 0], [-1, -2])  # type: ignore[arg-type]
    return node.target is aten.transpose.int and {a % 2 for a in node.args[1:]} == {0, 1}  # type: ignore[operator]


def linear_from_einsum(module: fx.GraphModule, node: fx.Node) -> bool:
    """einsum("ibh,hnd->ibnd", x, W) is a linear layer between two changes of shape.

    x is permuted to (its own axes, summed axes), W to (its own axes, summed axes) as a matrix; the
    result's last axis is then split into W's own axes and permuted to the order asked for.
    """
    if node.target is not aten.einsum.default:
        return False
    found = _find_stored_operand(module, node)
    if found is None:
        return False
    x, weight, of_x, of_weight, result = found
    summed = [a for a in of_weight if a in of_x]
    own = [a for a in of_weight if a not in of_x]
    kept = [a for a in of_x if a not in summed]
    plain = len(set(of_x)) == len(of_x) and len(set(of_weight)) == len(of_weight)
    if not (plain and summed and own and sorted(result) == sorted(kept + own)):
        return False
    size = dict(zip(of_weight, get_tensor(module, str(weight.target)).shape, strict=True))
    graph = node.graph

    def call(target: Any, *args: Any) -> fx.Node:
        with graph.inserting_before(node):
            return graph.call_function(target, args)

    matrix = call(aten.permute.default, weight, [of_weight.index(a) for a in own + summed])
    matrix = call(aten.flatten.using_ints, matrix, len(own), -1)
    matrix = call(aten.flatten.using_ints, matrix, 0, len(own) - 1)
    rows = call(aten.permute.default, x, [of_x.index(a) for a in kept + summed])
    if len(summed) > 1:
        rows = call(aten.flatten.using_ints, rows, len(kept), -1)
    value = call(aten.linear.default, rows, matrix)
    if len(own) > 1:
        value = call(aten.unflatten.int, value, -1, [size[a] for a in own])
    node.target = aten.permute.default
    node.args = (value, [(kept + own).index(a) for a in result])
    return True


def _find_stored_operand(
    module: fx.GraphModule, node: fx.Node
) -> tuple[fx.Node, fx.Node, str, str, str] | None:
    """(computed, stored, its axes, the stored one's axes, the result's axes) of an einsum."""
    equation, operands = node.args[:2]
    assert isinstance(equation, str) and isinstance(operands, (list, tuple))
    left, arrow, result = equation.replace(" ", "").partition("->")
    axes = left.split(",")
    if not arrow or "." in equation or len(axes) != 2:
        return None
    (first, second), (a, b) = operands, axes
    assert isinstance(first, fx.Node) and isinstance(second, fx.Node)
    if first.op == "get_attr":
        first, second, a, b = second, first, b, a
    if second.op != "get_attr" or first.op == "get_attr":
        return None
    weight = get_tensor(module, str(second.target))
    return (first, second, a, b, result) if weight.dtype.is_floating_point else None
