"""Inputs whose scale is taken as the network runs, in an exported file.

Equation: x^ W^T = s_x s_w (q_x - z_x) q_w with s_x, z_x of the tensor at hand. A product is written
as DynamicQuantizeLinear, MatMulInteger, Cast and two Mul, which ONNX Runtime fuses into one kernel
(DynamicQuantizeMatMul or MatMulIntegerToFloat); what has no such kernel reads a DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from bitwright.export.onnx_parts import DOMAIN
from bitwright.export.onnx_tape import add, store, substitute


@dataclass(frozen=True, eq=False)
class _AtRun:
    """A tensor quantised as the network runs: its integers, their scale and their zero point."""

    q: ir.Value
    scale: ir.Value
    zero: ir.Value


def quantize_at_run(graph: ir.Graph) -> None:
    """Rewrite every FakeQuantize that is dynamic, and the products that read it, in place."""
    for node in [n for n in graph if n.domain == DOMAIN and n.op_type == "FakeQuantize"]:
        if "at_run" in node.attributes and node.attributes["at_run"].as_int() == 1:
            _rewrite(graph, node)


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    name = node.attributes["name"].as_string()
    tape = Tape()
    outputs = [ir.Value(name=f"{name}.{leaf}") for leaf in ("q", "scale", "zero")]
    q, scale, zero = tape.op_multi_out(
        "DynamicQuantizeLinear", [node.inputs[0]], name=f"{name}.q", outputs=outputs
    )
    at_run = _AtRun(q, scale, zero)
    graph.insert_before(node, tape.nodes)
    for user, place in list(node.outputs[0].uses()):
        weight = _weight_of(user, place)
        if weight is not None:
            _multiply(graph, user, at_run, *weight)
    tape = Tape()
    substitute(graph, node, tape, add(tape, "DequantizeLinear", [q, scale, zero], f"{name}.float"))


def _weight_of(user: ir.Node, place: int) -> tuple[ir.Node, bool] | None:
    """The stored weight that an integer product can take, and whether it is read transposed.

    It takes one that is whole and has one scale a column and zero points of 0.
    """
    if place != 0 or user.op_type not in ("MatMul", "Gemm") or user.inputs[1] is None:
        return None
    made = user.inputs[1].producer()
    flag = user.attributes.get("transB")
    turned = flag is not None and bool(flag.as_int())
    if made is not None and made.op_type == "Transpose" and made.inputs[0] is not None:
        made, turned = made.inputs[0].producer(), not turned
    if made is None or made.domain != DOMAIN or made.op_type != "Dequantize":
        return None
    scale, zero = (_stored(made, index) for index in (1, 2))
    one_axis = scale.ndim < 2 or scale.shape[0 if turned else -1] == scale.size
    plain = made.attributes["points"].as_int() == 1 and made.attributes["bits"].as_int() <= 8
    return (made, turned) if one_axis and plain and not np.any(zero) else None


def _multiply(graph: ir.Graph, user: ir.Node, at_run: _AtRun, made: ir.Node, turned: bool) -> None:
    """Put a product of integers in the place of a MatMul or a Gemm."""
    stem = f"{made.attributes['name'].as_string()}.weight"
    bits, scale = made.attributes["bits"].as_int(), _stored(made, 1).reshape(-1)
    kind = ir.DataType.INT4 if bits <= 4 else ir.DataType.INT8
    stored = _stored(made, 0)
    table = np.ascontiguousarray(stored.T if turned else stored).astype(kind.numpy())
    own = user.outputs[0].name
    tape = Tape()
    weight = store(graph, ir.Tensor(table, name=f"{stem}.q", dtype=kind))
    if bits <= 4:  # stored packed and widened once, at load
        weight = add(tape, "Cast", [weight], f"{own}.wide", to=int(ir.DataType.INT8))
    scales = store(graph, ir.Tensor(scale.astype(np.float32), name=f"{stem}.scale"))
    product = add(tape, "MatMulInteger", [at_run.q, weight, at_run.zero], f"{own}.sums")
    number = add(tape, "Cast", [product], f"{own}.number", to=int(ir.DataType.FLOAT))
    step = add(tape, "Mul", [at_run.scale, scales], f"{own}.step")
    value = add(tape, "Mul", [number, step], f"{own}.product")
    if len(user.inputs) > 2 and user.inputs[2] is not None:
        value = add(tape, "Add", [value, user.inputs[2]], f"{own}.float")
    substitute(graph, user, tape, value)


def _stored(node: ir.Node, index: int) -> np.ndarray:
    value = node.inputs[index]
    assert value is not None and value.const_value is not None, "weights are stored"
    return np.asarray(value.const_value.numpy())
