"""Quantised tables in an exported file: integers are looked up, and only those become numbers.

A DequantizeLinear before the Gather would turn the whole table into numbers at every run, and a
vocabulary of 30,000 words is half of a small sentence encoder.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from bitwright.export.onnx_tape import add, store, substitute

# Gather takes no type below eight bits. ONNX Runtime widens the stored table when it loads it.
_WIDE = {
    ir.DataType.INT2: ir.DataType.INT8, ir.DataType.UINT2: ir.DataType.UINT8,
    ir.DataType.INT4: ir.DataType.INT8, ir.DataType.UINT4: ir.DataType.UINT8,
}  # fmt: skip


def rows_of_table(graph: ir.Graph, node: ir.Node, kind: ir.DataType, unit: str) -> None:
    """Rewrite Dequantize(Gather(q, i), Gather(s, i), Gather(z, i)) into standard operators.

    Equation: (q_i - z_i) s_i as Gather, Cast to float, Sub and Mul: the same numbers as those of a
    DequantizeLinear of the whole table. Sub is left out where all zero points are zero. Where the
    unit's layer has stored the integers already (tied weights), they are read there.
    """
    stem = f"{unit}.table"
    rows, scale, zero = node.inputs[:3]
    assert rows is not None and scale is not None and zero is not None
    gather = rows.producer()
    assert gather is not None and gather.op_type == "Gather", "a table is read by Gather"
    tape = Tape()

    def call(op: str, inputs: list[ir.Value | None], name: str, **attributes: int) -> ir.Value:
        # Named after the result: a table may be read more than once.
        return add(tape, op, inputs, f"{node.outputs[0].name}.{name}", **attributes)

    layer = graph.initializers.get(f"{unit}.weight.q")
    table = layer or _store_as(graph, gather.inputs[0], kind, f"{stem}.q")
    if kind in _WIDE:
        table = call("Cast", [table], "wide", to=int(_WIDE[kind]))
    found = call("Gather", [table, gather.inputs[1]], "rows", axis=0)
    value = call("Cast", [found], "number", to=int(ir.DataType.FLOAT))
    if np.any(_constant(zero)):
        value = call("Sub", [value, _look_up(graph, zero, f"{stem}.zero", call)], "centred")
    value = call("Mul", [value, _look_up(graph, scale, f"{stem}.scale", call)], "float")
    substitute(graph, node, tape, value)


def _look_up(graph: ir.Graph, value: ir.Value, stem: str, call: object) -> ir.Value:
    """The scales or zero points of the rows: looked up like them where each row has its own."""
    assert callable(call)
    stored = ir.DataType.FLOAT
    gather = value.producer()
    if gather is None or gather.op_type != "Gather":
        return _store_as(graph, value, stored, stem)
    table = _store_as(graph, gather.inputs[0], stored, stem)
    leaf = stem.rpartition(".")[2]
    made: ir.Value = call("Gather", [table, gather.inputs[1]], f"{leaf}.rows", axis=0)
    return made


def _constant(value: ir.Value) -> np.ndarray:
    """The stored tensor behind a look-up, or the stored tensor itself."""
    gather = value.producer()
    source = value if gather is None else gather.inputs[0]
    assert source is not None and source.const_value is not None, "tables are stored"
    return np.asarray(source.const_value.numpy())


def _store_as(graph: ir.Graph, value: ir.Value | None, kind: ir.DataType, name: str) -> ir.Value:
    """The tensor in its container, stored once under its name."""
    assert value is not None and value.const_value is not None, "tables are stored"
    array = value.const_value.numpy().astype(kind.numpy())
    return store(graph, ir.Tensor(array, name=name, dtype=kind))
