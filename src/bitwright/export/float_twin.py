"""The float network that a quantised file was made of, out of the file itself.

Quantisers of activations are taken out, stored weights are written as the floats that they stand
for. What is left has the operators of the float network, and the same speed; to export the network
once more would take seconds. Tables stay as they are: looking rows up takes no time.
"""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from bitwright.export.runtime import run, session

# Beyond this a file in memory cannot be handed to ONNX Runtime.
LIMIT_BYTES = 1 << 30
# What stands between quantising a value and turning it back.
_BETWEEN = ("Clip", "Cast")


def float_twin(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The float network of a quantised file; None where it would be too large."""
    nodes = list(model.graph.node)
    stored = {t.name: t for t in model.graph.initializer}
    constant = _constant(nodes, set(stored))
    made = {name for node in constant for name in node.output}
    rest = [node for node in nodes if node not in constant]
    wanted = [n for n in dict.fromkeys(i for node in rest for i in node.input) if n in made]
    wanted += [v.name for v in model.graph.output if v.name in made]
    if _float_bytes(model, constant) > LIMIT_BYTES:
        return None
    values = _evaluated(model, constant, wanted)
    kept = _without_quantizers(rest, [v.name for v in model.graph.output])
    read = {name for node in kept for name in node.input}
    weights = [t for name, t in stored.items() if name in read] + list(values)
    graph = onnx.helper.make_graph(
        kept, "float", list(model.graph.input), list(model.graph.output), weights
    )
    return onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )


def _constant(nodes: list[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """The nodes, in order, that compute from stored tensors alone."""
    known, found = set(known), []
    for node in nodes:
        if node.input and all(name in known for name in node.input if name):
            known.update(node.output)
            found.append(node)
    return found


def _float_bytes(model: onnx.ModelProto, constant: list[onnx.NodeProto]) -> int:
    read = {name for node in constant for name in node.input}
    sizes = [4 * _count(t) for t in model.graph.initializer if t.name in read]
    return sum(sizes) + int(model.ByteSize())


def _count(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _evaluated(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], wanted: list[str]
) -> list[onnx.TensorProto]:
    """What constant nodes give, as ONNX Runtime computes it."""
    if not wanted:
        return []
    read = {name for node in nodes for name in node.input}
    weights = [t for t in model.graph.initializer if t.name in read]
    outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
    graph = onnx.helper.make_graph(nodes, "constants", [], outputs, weights)
    made = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    arrays = run(session(made.SerializeToString(), optimized=False, threads=1), {})
    return [numpy_helper.from_array(a, name) for a, name in zip(arrays, wanted, strict=True)]


def _without_quantizers(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    """The nodes that are left when every quantised value is read as it was before."""
    makers = {name: node for node in nodes for name in node.output}
    before: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "DequantizeLinear":
            source = _quantizer(node, makers)
            if source is not None:
                name = source.input[0]
                before[node.output[0]] = before.get(name, name)
    kept = []
    for node in nodes:
        if node.output[0] in before and node.output[0] in outputs:
            kept.append(onnx.helper.make_node("Identity", [before[node.output[0]]], node.output))
        elif node.output[0] not in before:
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            for index, name in enumerate(copied.input):
                copied.input[index] = before.get(name, name)
            kept.append(copied)
    return _used(kept, outputs)


def _quantizer(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    maker = makers.get(node.input[0])
    while maker is not None and maker.op_type in _BETWEEN:
        maker = makers.get(maker.input[0])
    return maker if maker is not None and maker.op_type == "QuantizeLinear" else None


def _used(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    read, found = set(outputs), []
    for node in reversed(nodes):
        if any(name in read for name in node.output):
            read.update(node.input, *(_read_inside(a) for a in node.attribute))
            found.append(node)
    return found[::-1]


def _read_inside(attribute: onnx.AttributeProto) -> set[str]:
    """What the branches of an operator read, of the graph around them too."""
    inner = [attribute.g, *attribute.graphs]
    names = {name for graph in inner for node in graph.node for name in node.input}
    return names.union(*(_read_inside(a) for g in inner for n in g.node for a in n.attribute))
