"""A captured network on its way to a worker: torch's own GraphModule of an export cannot pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from bitwright.engine.note import Note
from bitwright.graph.answers import Answer
from bitwright.graph.model_graph import (
    FoldedBatchNorm,
    InputSpec,
    ModelGraph,
    Unit,
    attribute,
)


@dataclass(frozen=True)
class _Node:
    """Stands for a node where it is an argument."""

    name: str


@dataclass(frozen=True, eq=False)
class PortableModule:
    """A graph as rows (op, name, target, args, kwargs), its tensors and inner graphs by path.

    What tracing left on the nodes stays behind: it is for capture and export, not for running.
    """

    rows: tuple[tuple[str, str, Any, Any, Any], ...]
    attributes: Mapping[str, Tensor | PortableModule]
    codegen: Any


@dataclass(frozen=True, eq=False)
class PortableGraph:
    """A ModelGraph that `run.wire` can carry."""

    module: PortableModule
    units: tuple[Unit, ...]
    inputs: tuple[InputSpec, ...]
    folded: Mapping[str, FoldedBatchNorm]
    notes: tuple[Note, ...]
    answer: Answer
    outputs: tuple[str, ...]


def portable(graph: ModelGraph) -> PortableGraph:
    """The graph as data; tensors are shared, not copied."""
    folded = dict(graph.folded)
    return PortableGraph(
        _as_rows(graph.module), graph.units, graph.inputs, folded, graph.notes, graph.answer,
        graph.outputs,
    )  # fmt: skip


def restore_graph(carried: PortableGraph) -> ModelGraph:
    """The graph again: the same nodes, names and values."""
    module = _as_module(carried.module)
    return ModelGraph(
        module, carried.units, carried.inputs, carried.folded, carried.notes, carried.answer,
        carried.outputs,
    )  # fmt: skip


def _as_rows(module: fx.GraphModule) -> PortableModule:
    rows = []
    attributes: dict[str, Tensor | PortableModule] = {}
    for node in module.graph.nodes:
        rows.append(
            (node.op, node.name, node.target, _name_nodes(node.args), _name_nodes(node.kwargs))
        )
        if node.op == "get_attr":
            value = attribute(module, str(node.target))
            if isinstance(value, fx.GraphModule):
                attributes[str(node.target)] = _as_rows(value)
            elif isinstance(value, Tensor):
                attributes[str(node.target)] = value.detach()
    return PortableModule(tuple(rows), attributes, module.graph._codegen)


def _name_nodes(value: Any) -> Any:
    stand_in: Any = lambda node: _Node(node.name)  # noqa: E731 - torch's type wants a node back
    return fx.map_arg(value, stand_in)


def _as_module(carried: PortableModule) -> fx.GraphModule:
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}
    for op, name, target, args, kwargs in carried.rows:
        positional, by_name = (_with_nodes(a, made) for a in (args, kwargs))
        made[name] = graph.create_node(op, target, positional, by_name, name=name)
        assert made[name].name == name, f"node {name} came back as {made[name].name}"
    graph.set_codegen(carried.codegen)
    root = {
        path: value if isinstance(value, Tensor) else _as_module(value)
        for path, value in carried.attributes.items()
    }
    return fx.GraphModule(root, graph)


def _with_nodes(value: Any, made: Mapping[str, fx.Node]) -> Any:
    """Arguments with nodes in place of their stand-ins, in lists, tuples, dicts and slices."""
    if isinstance(value, _Node):
        return made[value.name]
    if isinstance(value, (list, tuple)):
        return type(value)(_with_nodes(v, made) for v in value)
    if isinstance(value, dict):
        return {k: _with_nodes(v, made) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(_with_nodes(v, made) for v in (value.start, value.stop, value.step)))
    return value
