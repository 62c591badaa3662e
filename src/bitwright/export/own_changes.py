"""What a solution changes in a user's graph: integers for weights, biases, marks, folded norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from bitwright.export.onnx_parts import DOMAIN
from bitwright.export.own_values import OwnGraphRefusal, OwnValues


def dequantize(
    own: OwnValues, before: ir.Node, parts: Sequence[np.ndarray], grid: Sequence[Any]
) -> ir.Value:
    """Stored integers as numbers; `grid`: bits, signed, name, points."""
    bits, signed, name, points = grid
    q, scale, zero = parts
    stored = [
        own.store(np.ascontiguousarray(q), f"{name}.q~"),
        own.store(np.ascontiguousarray(scale.astype(np.float32)), f"{name}.scale~"),
        own.store(np.ascontiguousarray(zero.astype(np.int32)), f"{name}.zero~"),
    ]
    return own.insert(
        before, "Dequantize", stored, f"{name}~", bits=bits, signed=int(signed), name=name,
        points=points,
    )  # fmt: skip


def look_up(
    own: OwnValues, made: ir.Node, parts: Sequence[tuple[np.ndarray, bool]], grid: Sequence[Any]
) -> ir.Value:
    """Rows of a stored table of integers, as numbers, in the place of rows of floats."""
    bits, signed, name, points = grid
    inputs = []
    for (array, looked_up), leaf in zip(parts, ("q", "scale", "zero"), strict=True):
        value = own.store(np.ascontiguousarray(array), f"{name}.table.{leaf}~")
        if looked_up:
            rows = ir.node("Gather", [value, made.inputs[1]], num_outputs=1)
            rows.name = rows.outputs[0].name = own.fresh(f"{name}.{leaf}.rows~")
            own.graph.insert_before(made, rows)
            value = rows.outputs[0]
        inputs.append(value)
    own.renamed[f"{made.outputs[0].name}.rows"] = made.name
    result = own.insert(
        made, "Dequantize", inputs, f"{name}.rows~", bits=bits, signed=int(signed), name=name,
        points=points,
    )  # fmt: skip
    old = made.outputs[0]
    _take_place(own, old, result)
    own.graph.remove(made, safe=True)
    return result


def _take_place(own: OwnValues, old: ir.Value, new: ir.Value) -> None:
    """All that reads a value reads another, which has its name from now on."""
    new.shape, new.type = old.shape, old.type
    name = str(old.name)
    old.name = own.fresh(f"{name}.before")
    new.name = name
    own.known[name] = new
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def skip(own: OwnValues, node: ir.Node, value: ir.Value) -> ir.Value:
    """Take a node out: what it computes from is its result, under the result's name."""
    old = node.outputs[0]
    name = str(old.name)
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    own.graph.remove(node, safe=True)
    value.shape, value.type = old.shape or value.shape, old.type or value.type
    old.name = None
    value.name = name
    own.known[name] = value
    return value


def mark(own: OwnValues, value: ir.Value, name: str) -> None:
    """Name a unit's result: a node that all its readers read until it is taken out again."""
    maker = value.producer()
    assert maker is not None
    called = own.fresh(f"{value.name}.mark~")
    made = ir.node("Mark", [], {"name": name}, domain=DOMAIN, name=called, num_outputs=1)
    made.outputs[0].name = called
    made.outputs[0].shape, made.outputs[0].type = value.shape, value.type
    own.graph.insert_after(maker, made)
    outputs = value.is_graph_output()
    ir.convenience.replace_all_uses_with(value, made.outputs[0], replace_graph_outputs=outputs)
    if outputs:
        made.outputs[0].name, value.name = value.name, called
    made.resize_inputs(1)
    made.replace_input_with(0, value)


def readable(own: OwnValues, name: str) -> ir.Value:
    """What readers of a value read: the mark behind it where there is one."""
    value = own.value(name)
    for user, _ in value.uses():
        if user.domain == DOMAIN and user.op_type == "Mark":
            return user.outputs[0]
    return value


def add_bias(own: OwnValues, result: ir.Value, bias: ir.Value, known: str, name: str) -> ir.Value:
    """Another bias behind a product: in the Add that has one, or in a new one."""
    maker = result.producer()
    assert maker is not None
    if known:
        at = next(
            (i for i, v in enumerate(maker.inputs) if v is not None and v.name == known), None
        )
        if at is None:
            raise OwnGraphRefusal(f"nothing adds {known} behind its product")
        maker.replace_input_with(at, bias)
        return result
    called = own.fresh(name)
    made = ir.node("Add", [], name=called, num_outputs=1)
    own.graph.insert_after(maker, made)
    _take_place(own, result, made.outputs[0])
    made.resize_inputs(2)
    made.replace_input_with(0, result)
    made.replace_input_with(1, bias)
    return made.outputs[0]


def give_names_back(own: OwnValues) -> None:
    """A look-up that was written anew has the name of the user's."""
    for node in own.graph:
        if node.op_type == "Gather" and node.name in own.renamed:
            node.name = own.renamed[node.name]


def lost_names(own: OwnValues, before: Sequence[str | None]) -> list[str]:
    """Nodes of the user's that are no more, batch norms aside, which are told one by one."""
    left = {node.name for node in own.graph}
    return [name for name in before if name and name not in left]


def drop_stored_inputs(own: OwnValues) -> None:
    """Weights that old files list among their inputs too: gone ones are no inputs either."""
    kept = [
        value for value in own.graph.inputs
        if value.const_value is None or str(value.name) in own.graph.initializers
    ]  # fmt: skip
    if len(kept) < len(own.graph.inputs):
        own.graph.inputs[:] = kept
