"""Computing single nodes of a graph as the quantised network does, without building that network.

What an `Assignment` stitches into a module, an `Installed` holds as plain tensors by node, so that
the same graph serves for the float network, the base and every change of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.change import Change
from bitwright.graph.execute import channels_last
from bitwright.graph.model_graph import ModelGraph, attribute
from bitwright.graph.operators import WEIGHTED, arguments
from bitwright.graph.placing import device_of
from bitwright.graph.simulate import Assignment, IntegerBias
from bitwright.graph.work import OperationCount
from bitwright.numerics.affine import QParams, dequantize, fake_quantize

Look = Callable[[fx.Node], Any]


@dataclass(frozen=True, eq=False)
class Installed:
    """Weights and biases by call, grids by (source, reader); what is not named is the graph's own.

    By call and not by attribute: a stored tensor may have readers that stay in float.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    biases: Mapping[str, Tensor] = field(default_factory=dict)
    edges: Mapping[tuple[str, str], QParams] = field(default_factory=dict)


def install(graph: ModelGraph, assignment: Assignment) -> Installed:
    """The values that `simulate.stitch` would put into the network."""
    changes = [
        Change(name, weight, assignment.biases.get(name), {})
        for name, weight in assignment.weights.items()
    ]
    return reinstall(graph, Installed(edges=assignment.edges), changes)


def reinstall(graph: ModelGraph, base: Installed, changes: Iterable[Change]) -> Installed:
    """The base with some units' parameters changed; tensors that stay are shared."""
    weights, biases, edges = dict(base.weights), dict(base.biases), dict(base.edges)
    device = device_of(graph)
    for change in changes:
        weight = bias = None
        if change.weight is not None:
            solved = change.weight
            weight = channels_last(dequantize(solved.q.to(device), solved.qparams))
            bias = _as_float(change.bias, device)
        for call in graph.unit(change.unit).calls:
            weights.pop(call, None)
            biases.pop(call, None)
            if weight is not None:
                weights[call] = weight
            if bias is not None:
                biases[call] = bias
        for edge, grid in change.edges.items():
            edges.pop(edge, None)
            if grid is not None:
                edges[edge] = grid
    return Installed(weights, biases, edges)


def find_touched(graph: ModelGraph, changes: Iterable[Change]) -> set[str]:
    """The nodes that compute with something else after the changes: calls, and readers of edges."""
    found: set[str] = set()
    for change in changes:
        found.update(graph.unit(change.unit).calls)
        found.update(reader for _, reader in change.edges)
    return found


def evaluate(
    module: fx.GraphModule, node: fx.Node, look: Look, installed: Installed, work: OperationCount
) -> Any:
    """The value of one operator node; `look` gives the values of its inputs as they were made."""
    seen: dict[fx.Node, Any] = {}
    for source in node.all_input_nodes:
        stored = source.op == "get_attr"
        value: Any = attribute(module, str(source.target)) if stored else look(source)
        grid = installed.edges.get((source.name, node.name))
        seen[source] = value if grid is None else fake_quantize(value, grid)
    args = fx.map_arg(_own_arguments(node, installed), seen.__getitem__)
    kwargs = fx.map_arg(node.kwargs, seen.__getitem__)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target), f"{node.op} is no operator"
    result = node.target(*args, **kwargs)
    work.add(node.target, args, result)
    return result


def _own_arguments(node: fx.Node, installed: Installed) -> Any:
    """The node's arguments with the installed weight and bias in their places."""
    weight = installed.weights.get(node.name)
    if weight is None:
        return node.args
    _, at_weight, at_bias = arguments(WEIGHTED[node.target])
    args: list[Any] = list(node.args)
    args[at_weight] = weight
    bias = installed.biases.get(node.name)
    if bias is not None and at_bias is not None:
        args += [None] * (at_bias + 1 - len(args))
        args[at_bias] = bias
    return tuple(args)


def _as_float(bias: Tensor | IntegerBias | None, device: torch.device) -> Tensor | None:
    if bias is None:
        return None
    return (bias if isinstance(bias, Tensor) else bias.q.float().mul_(bias.scale)).to(device)
