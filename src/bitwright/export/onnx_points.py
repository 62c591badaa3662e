"""Sums of low-bit weights as parallel operators: the sum moves behind what is linear in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.tape import Tape

from bitwright.export.onnx_shapes import is_zero_pad
from bitwright.export.onnx_tape import add_up

# In which of its inputs each operator is linear.
_LINEAR = {
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "Gather": (0,),
}
_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
# What only moves values, and so can be done to each of the parts.
_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}


@dataclass(frozen=True, eq=False)
class Sum:
    """A value of the graph and the values that it is the sum of, the coarsest first."""

    total: ir.Value
    parts: tuple[ir.Value, ...]


def spread(graph: ir.Graph, sums: Sequence[Sum]) -> dict[ir.Node, ir.Node]:
    """Let every operator that is linear in a sum take the parts, and add up the results.

    Equation: f(x, sum_i w_i) + b = sum_i f(x, w_i) + b for convolutions, products and look-ups, and
    likewise for sums x. All parts share the operator's other input; the bias, if there is one, goes
    with the finest part, whose scale it may have. Other operators keep the sum.

    Returns:
        For each operator that was taken apart the node that makes its result now.
    """
    replaced: dict[ir.Node, ir.Node] = {}
    todo = list(sums)
    while todo:
        one = todo.pop()
        for node, position in list(one.total.uses()):
            moves = node.op_type in _MOVES or (node.op_type == "Pad" and is_zero_pad(node))
            if moves and position == 0:
                copies = [_copy(graph, node, 0, p, i) for i, p in enumerate(one.parts)]
                todo.append(Sum(node.outputs[0], tuple(c.outputs[0] for c in copies)))
            elif position in _LINEAR.get(node.op_type, ()):
                replaced[node] = _in_parallel(graph, node, position, one.parts)
    return replaced


def _in_parallel(
    graph: ir.Graph, node: ir.Node, position: int, parts: Sequence[ir.Value]
) -> ir.Node:
    copies = [_copy(graph, node, position, part, i) for i, part in enumerate(parts)]
    at_bias = _BIAS.get(node.op_type)
    for copy in copies[:-1]:
        if at_bias is not None and len(copy.inputs) > at_bias:
            copy.replace_input_with(at_bias, None)
    old = node.outputs[0]
    name = old.name
    assert name is not None
    old.name = f"{name}.whole"
    tape = Tape()
    result = add_up(tape, [copy.outputs[0] for copy in copies], name)
    graph.insert_before(node, tape.nodes)
    result.shape, result.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    made: ir.Node = result.producer()
    return made


def _copy(graph: ir.Graph, node: ir.Node, position: int, part: ir.Value, index: int) -> ir.Node:
    """The same operator with another value in one place, before the original."""
    inputs = [part if i == position else value for i, value in enumerate(node.inputs)]
    while inputs and inputs[-1] is None:
        inputs.pop()
    name = f"{node.outputs[0].name}.point{index + 1}"
    made = ir.Node("", node.op_type, inputs, node.attributes, num_outputs=1, name=name)
    made.outputs[0].name = name
    graph.insert_before(node, made)
    return made
