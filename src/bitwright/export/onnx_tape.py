"""Nodes and stored tensors with names of our own, recorded before they take a node's place."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.tape import Tape


def add(
    tape: Tape, op: str, inputs: Sequence[ir.Value | None], name: str, **attributes: int | str
) -> ir.Value:
    """Record an operator; the node and its result have one name."""
    result: ir.Value = tape.op(
        op, inputs, attributes or None, name=name, output=ir.Value(name=name)
    )
    return result


def add_up(tape: Tape, parts: Sequence[ir.Value], name: str) -> ir.Value:
    """Record the sum of values, from the last to the first; the result has the name."""
    total = parts[-1]
    for index in range(len(parts) - 2, -1, -1):
        own = name if index == 0 else f"{name}.sum{index + 1}"
        total = add(tape, "Add", [total, parts[index]], own)
    return total


def store(graph: ir.Graph, tensor: ir.Tensor) -> ir.Value:
    """The stored tensor of this name; it is added where there is none."""
    known = graph.initializers.get(tensor.name)
    return Tape(graph).initializer(tensor) if known is None else known


def substitute(graph: ir.Graph, node: ir.Node, tape: Tape, result: ir.Value) -> None:
    """Put recorded nodes in the place of one; their result is read where its result was."""
    graph.insert_before(node, tape.nodes)
    redirect(node.outputs[0], result)
    graph.remove(node, safe=True)


def redirect(old: ir.Value, new: ir.Value) -> None:
    """Let all that reads a value read another; a result of the graph keeps its name and type."""
    new.type, new.shape = new.type or old.type, new.shape or old.shape
    if old.is_graph_output():
        new.name, old.name = old.name, new.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
