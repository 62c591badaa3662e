"""The float network that a quantised file was made of, out of the file itself.

Quantisers of activations are taken out, stored weights are written as the floats that they stand
for. What is left has the operators of the float network, and the same speed; to export the network
once more would take seconds. Tables stay as they are: looking rows up takes no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape

from bitwright.export.onnx_nbits import OPERATOR, floats_of
from bitwright.export.onnx_tape import add, store, substitute
from bitwright.export.runtime import run, session

# Beyond this a file in memory cannot be handed to ONNX Runtime.
LIMIT_BYTES = 1 << 30
# What stands between quantising a value and turning it back.
_BETWEEN = ("Clip", "Cast")


def float_twin(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The float network of a quantised file; None where it would be too large."""
    graph = ir.from_proto(model).graph
    constant = _constant(graph)
    if _float_bytes(constant) + model.ByteSize() > LIMIT_BYTES:
        return None
    made = {value for node in constant for value in node.outputs}
    wanted = [v for node in graph if node not in constant for v in node.inputs if v in made]
    wanted += [v for v in graph.outputs if v in made]
    _store(graph, list(dict.fromkeys(wanted)), model.ir_version)
    _take_quantizers_out(graph)
    _multiply_floats(graph)
    graph.name = "float"
    twin = ir.Model(graph, ir_version=model.ir_version)
    RemoveUnusedNodesPass()(twin)
    return ir.to_proto(twin)


def _constant(graph: ir.Graph) -> dict[ir.Node, None]:
    """The nodes, in order, that compute from stored tensors alone."""
    known, found = set(graph.initializers.values()), dict[ir.Node, None]()
    for node in graph:
        if node.inputs and all(value in known for value in node.inputs if value is not None):
            known.update(node.outputs)
            found[node] = None
    return found


def _float_bytes(nodes: Iterable[ir.Node]) -> int:
    read = {value for node in nodes for value in node.inputs if value is not None}
    return sum(4 * int(v.const_value.size) for v in read if v.const_value is not None)


def _store(graph: ir.Graph, wanted: Sequence[ir.Value], ir_version: int) -> None:
    """Put numbers in the place of what constant nodes make, as ONNX Runtime computes it."""
    if not wanted:
        return
    part = ir.Model(ir.convenience.extract(graph, [], wanted), ir_version=ir_version)
    content = ir.to_proto(part).SerializeToString()
    arrays = run(session(content, optimized=False, threads=1), {})
    for value, array in zip(wanted, arrays, strict=True):
        name, value.name = value.name, None
        stored = Tape(graph).initializer(ir.tensor(array, name=name))
        value.replace_all_uses_with(stored, replace_graph_outputs=True)


def _take_quantizers_out(graph: ir.Graph) -> None:
    """Let every quantised value be read as it was before."""
    for node in list(graph):
        quantizer = _quantizer(node) if node.op_type == "DequantizeLinear" else None
        if quantizer is None:
            continue
        result, before = node.outputs[0], quantizer.inputs[0]
        if result.is_graph_output():
            # A name cannot be that of two values: the result is a copy.
            copy = ir.node("Identity", [before])
            graph.insert_before(node, copy)
            before = copy.outputs[0]
            before.name, result.name = result.name, None
            before.type, before.shape = result.type, result.shape
        result.replace_all_uses_with(before, replace_graph_outputs=True)


def _multiply_floats(graph: ir.Graph) -> None:
    """Let products of packed weights be those of floats."""
    for node in [n for n in graph if n.op_type == OPERATOR]:
        weight = ir.tensor(floats_of(node), name=f"{node.outputs[0].name}.weight")
        tape = Tape()
        product = add(tape, "MatMul", [node.inputs[0], store(graph, weight)], f"{weight.name}.x")
        substitute(graph, node, tape, product)


def _quantizer(node: ir.Node) -> ir.Node | None:
    maker = node.inputs[0].producer()
    while maker is not None and maker.op_type in _BETWEEN:
        maker = maker.inputs[0].producer()
    return maker if maker is not None and maker.op_type == "QuantizeLinear" else None
