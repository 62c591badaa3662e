"""Rewrites of plain ONNX operators into the forms that runtimes have integer kernels for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def merge_padding(graph: ir.Graph) -> None:
    """Pad (zeros, constant) followed by a Conv alone becomes the Conv's own padding."""
    for node in list(graph):
        if node.op_type != "Conv" or node.inputs[0] is None:
            continue
        pad = node.inputs[0].producer()
        if pad is None or pad.op_type != "Pad" or len(pad.outputs[0].uses()) != 1:
            continue
        amounts = _zero_pads(pad)
        if amounts is None:
            continue
        rank = len(amounts) // 2
        if any(amounts[:2]) or any(amounts[rank : rank + 2]) or min(amounts) < 0:
            continue
        extra = amounts[2:rank] + amounts[rank + 2 :]
        if "pads" in node.attributes:
            own = list(node.attributes["pads"].as_ints())
        else:
            own = [0] * len(extra)
        node.attributes["pads"] = ir.AttrInt64s(
            "pads", [a + b for a, b in zip(own, extra, strict=True)]
        )
        node.replace_input_with(0, pad.inputs[0])


def _zero_pads(pad: ir.Node) -> list[int] | None:
    mode = pad.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return None
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    if value is not None and (value.const_value is None or value.const_value.numpy().any()):
        return None
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        return None
    amounts = pad.inputs[1]
    if amounts is None or amounts.const_value is None:
        return None
    return [int(v) for v in amounts.const_value.numpy()]


def is_zero_pad(pad: ir.Node) -> bool:
    """Whether a Pad surrounds its input with zeros."""
    return _zero_pads(pad) is not None


def redirect(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let all that reads a value read another; a result of the graph keeps its name and type."""
    new.type, new.shape = new.type or old.type, new.shape or old.shape
    for position, output in enumerate(graph.outputs):
        if output is old:
            new.name, old.name = old.name, new.name
            graph.outputs[position] = new
    ir.convenience.replace_all_uses_with(old, new)


def pool_globally(graph: ir.Graph) -> None:
    """A mean over height and width of an image becomes GlobalAveragePool."""
    for node in list(graph):
        if node.op_type != "ReduceMean" or not _averages_image(node):
            continue
        name = node.outputs[0].name
        source = node.inputs[0]
        pooled = ir.node("GlobalAveragePool", [source], num_outputs=1, name=f"{name}.pool")
        pooled.outputs[0].name = f"{name}.pool"
        chain = [pooled]
        if not _keeps_rank(node):
            axes = ir.Value(
                name=f"{name}.axes",
                type=ir.TensorType(ir.DataType.INT64),
                shape=ir.Shape([2]),
                const_value=ir.Tensor(np.array([2, 3], dtype=np.int64), name=f"{name}.axes"),
            )
            graph.register_initializer(axes)
            flat = ir.node("Squeeze", [pooled.outputs[0], axes], num_outputs=1, name=f"{name}.flat")
            chain.append(flat)
        result, old = chain[-1].outputs[0], node.outputs[0]
        graph.insert_before(node, chain)
        redirect(graph, old, result)
        graph.remove(node, safe=True)
        result.name = name


def _averages_image(node: ir.Node) -> bool:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    # The result's rank is known from the exporter; the input may be a node of our own making.
    shape = node.outputs[0].shape
    if shape is None or len(shape) != (4 if _keeps_rank(node) else 2):
        return False
    if axes is None or axes.const_value is None:
        return False
    return sorted(int(a) % 4 for a in axes.const_value.numpy()) == [2, 3]


def _keeps_rank(node: ir.Node) -> bool:
    keep = node.attributes.get("keepdims")
    return keep is None or keep.as_int() != 0
