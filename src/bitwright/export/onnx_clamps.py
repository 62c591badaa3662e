"""Clamps of floats that the integers of the next quantiser imply: they are left out.

ONNX Runtime drops a clamp in front of QuantizeLinear where the eight bits of the integers imply it.
Of a coarser grid, which a Clip of the integers holds, it knows nothing: the clamp of the floats
would stay, and keep the operator before it from its integer kernel.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def drop_clamps(graph: ir.Graph) -> None:
    """Let integers be made of unclamped values where that gives the same integers.

    Equation: clip(round(clip(x, a, b) / s) + z, l, h) = clip(round(x / s) + z, l, h) for all x if
    and only if round(a / s) + z <= l and round(b / s) + z >= h: rounding keeps the order.
    """
    for node in list(graph):
        limits = _limits(node)
        readers = [user for user, _ in node.outputs[0].uses()] if limits else []
        if not readers or node.outputs[0].is_graph_output():
            continue
        if all(_implies(reader, *limits) for reader in readers):
            for reader in readers:
                reader.replace_input_with(0, node.inputs[0])


def _limits(node: ir.Node) -> tuple[np.float32, np.float32] | tuple[()]:
    """Between what a clamp of floats by stored numbers lets values through; () for other nodes."""
    if node.op_type == "Relu":
        return np.float32(0), np.float32(np.inf)
    if node.op_type != "Clip" or len(node.inputs) != 3:
        return ()
    found = [_stored(value) for value in node.inputs[1:]]
    if any(value is None or value.dtype != np.float32 or value.size != 1 for value in found):
        return ()
    low, high = (np.float32(value.reshape(())) for value in found if value is not None)
    return low, high


def _implies(quantizer: ir.Node, low: np.float32, high: np.float32) -> bool:
    """Whether a quantiser with a Clip of its integers, and nothing else, implies a clamp."""
    if quantizer.op_type != "QuantizeLinear":
        return False
    readers = [user for user, _ in quantizer.outputs[0].uses()]
    if len(readers) != 1 or readers[0].op_type != "Clip":
        return False
    values = (*quantizer.inputs[1:], *readers[0].inputs[1:])
    found = [_stored(value) for value in values]
    if len(found) != 4 or any(value is None or value.size != 1 for value in found):
        return False
    scale, zero, least, most = (value.reshape(()) for value in found if value is not None)
    ends = np.rint(np.array([low, high]) / scale) + float(zero)
    return bool(ends[0] <= float(least) and ends[1] >= float(most))


def _stored(value: ir.Value | None) -> np.ndarray | None:
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())
