"""Running only a part of the graph: from stored values to wanted ones, float or quantised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.execute import NodeValues, compute, interpret
from bitwright.graph.model_graph import ModelGraph
from bitwright.numerics.affine import QParams, fake_quantize

Values = dict[str, Any]


@dataclass
class Overrides:
    """What the quantised side computes with so far: tensors by attribute path, grids by edge.

    `biases` gives a bias to calls whose network has none, by call name.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    edges: dict[tuple[str, str], QParams] = field(default_factory=dict)
    biases: dict[str, tuple[int, Tensor]] = field(default_factory=dict)


def plan(graph: ModelGraph, have: Iterable[str], wanted: Iterable[str]) -> list[fx.Node]:
    """The nodes to compute, in order, to get the wanted values from those that are there."""
    stop = set(have)
    needed: set[str] = set()
    nodes = graph.nodes()
    todo = [name for name in wanted if name not in stop]
    while todo:
        name = todo.pop()
        if name in needed:
            continue
        needed.add(name)
        todo += [i.name for i in nodes[name].all_input_nodes if i.name not in stop]
    return [node for name, node in nodes.items() if name in needed]


def live_after(graph: ModelGraph, name: str) -> tuple[str, ...]:
    """The values that are made up to a node and read after it: what a cut there must keep."""
    order = {node: i for i, node in enumerate(graph.module.graph.nodes)}
    here = next(i for node, i in order.items() if node.name == name)
    return tuple(
        node.name
        for node, i in order.items()
        if i <= here and node.op != "get_attr" and any(order[user] > here for user in node.users)
    )


def replay(
    graph: ModelGraph,
    start: Mapping[str, Any],
    wanted: Iterable[str],
    overrides: Overrides | None = None,
    visit: Callable[[str, Any], None] | None = None,
) -> Values:
    """Compute the wanted values from stored ones; with overrides, as the quantised network does.

    Values are dropped after their last use, so memory is that of the part's widest cut. With
    `visit` the wanted ones are too: each is shown by its name when it is there, none is returned.
    """
    wanted = set(wanted)
    keep = set() if visit else wanted
    nodes = plan(graph, start, wanted)
    if visit:
        for name in wanted & start.keys():
            visit(name, start[name])
    by_name = graph.nodes()
    values: NodeValues = {by_name[name]: value for name, value in start.items()}

    def evaluate(node: fx.Node, seen: NodeValues) -> Any:
        return _value(graph, node, seen, overrides)

    with torch.no_grad():
        for node, value in interpret(nodes, values, evaluate, {by_name[name] for name in keep}):
            if visit and node.name in wanted:
                visit(node.name, value)
    return {node.name: value for node, value in values.items() if node.name in keep}


def _value(
    graph: ModelGraph, node: fx.Node, values: dict[fx.Node, Any], overrides: Overrides | None
) -> Any:
    if overrides is None:
        return compute(graph.module, node, values, iter(()))
    if node.op == "get_attr" and str(node.target) in overrides.tensors:
        return overrides.tensors[str(node.target)]
    seen: Mapping[fx.Node, Any] = values
    quantized = {
        source: fake_quantize(values[source], overrides.edges[source.name, node.name])
        for source in node.all_input_nodes
        if (source.name, node.name) in overrides.edges
    }
    if quantized:
        seen = {**{i: values[i] for i in node.all_input_nodes}, **quantized}
    result = compute(graph.module, node, seen, iter(()))
    if node.name in overrides.biases:
        axis, bias = overrides.biases[node.name]
        shape = [1] * result.dim()
        shape[axis] = -1
        result = result + bias.view(shape)
    return result
