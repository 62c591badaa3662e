"""Rewrites of plain ONNX operators into the forms that runtimes have integer kernels for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from bitwright.export.onnx_tape import add, store, substitute


def is_zero_pad(pad: ir.Node) -> bool:
    """Whether a Pad surrounds its input with zeros, by amounts that are stored."""
    mode, (_, amounts, value, axes) = pad.attributes.get("mode"), (*pad.inputs, None, None)[:4]
    if mode is not None and mode.as_string() != "constant":
        return False
    if value is not None and (value.const_value is None or value.const_value.numpy().any()):
        return False
    return axes is None and amounts is not None and amounts.const_value is not None


def pool_globally(graph: ir.Graph) -> None:
    """A mean over height and width of an image becomes GlobalAveragePool."""
    for node in list(graph):
        if node.op_type != "ReduceMean" or not _averages_image(node):
            continue
        name, tape = node.outputs[0].name, Tape()
        result = add(tape, "GlobalAveragePool", [node.inputs[0]], f"{name}.pool")
        if not _keeps_rank(node):
            axes = ir.Tensor(np.array([2, 3], dtype=np.int64), name=f"{name}.axes")
            result = add(tape, "Squeeze", [result, store(graph, axes)], f"{name}.flat")
        substitute(graph, node, tape, result)
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
