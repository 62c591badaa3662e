"""Rewriting the marking operators of an exported model into standard quantisation operators."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape

from bitwright.export.onnx_clamps import drop_clamps
from bitwright.export.onnx_dynamic import quantize_at_run
from bitwright.export.onnx_nbits import CONTRIB, OPERATOR, multiply_in_blocks
from bitwright.export.onnx_parts import DOMAIN, put_parts
from bitwright.export.onnx_points import Sum, spread
from bitwright.export.onnx_shapes import is_zero_pad, pool_globally
from bitwright.export.onnx_tables import rows_of_table
from bitwright.export.onnx_tape import add, add_up, redirect, store, substitute
from bitwright.export.onnx_weights import (
    Integers,
    container,
    pack,
    shield,
    store_integers,
    take_points,
)
from bitwright.graph.target import PARALLEL, Target
from bitwright.numerics.affine import QParams
from bitwright.numerics.grid import Grid
from bitwright.numerics.points import split

UnitEnds = dict[str, tuple[ir.Value, ir.Value]]


def rewrite(model: ir.Model, opset: int, target: Target, pools: bool = True) -> UnitEnds:
    """Turn marks, fake-quantise and dequantise nodes into standard ONNX, in place.

    Args:
        model: as torch.onnx made it.
        opset: of the file.
        target: how sums of points and parts of inputs are written.
        pools: write means over images as runtimes have kernels for.

    Returns:
        For each unit's mark (input value, output value).
    """
    graph = model.graph
    sums: list[Sum] = []
    parts: list[Sum] = []
    put_parts(model, opset)
    if target.blocks and multiply_in_blocks(graph, target):
        model.opset_imports[CONTRIB] = 1
        RemoveUnusedNodesPass()(model)
    quantize_at_run(graph)
    # Inputs before weights before biases: how each is written depends on those beside it.
    for node in sorted((n for n in graph if n.domain == DOMAIN), key=_rank):
        if node.op_type == "FakeQuantize":
            parts += _quantize_dequantize(graph, node, target.input_part_bits)
        elif node.op_type == "Dequantize" and not _looks_up(node):
            sums += _dequantize(graph, node, target)
    # After what multiplies: a table that is a layer's weight too is stored once, as that.
    for node in [n for n in graph if n.domain == DOMAIN and n.op_type == "Dequantize"]:
        width = target.stored_bits(_number(node, "bits"))
        kind, _ = container(width, bool(_number(node, "signed")))
        rows_of_table(graph, node, kind, _text(node, "name"))
    marks = [n for n in graph if n.domain == DOMAIN and n.op_type == "Mark"]
    units = {_text(node, "name"): _remove_mark(graph, node) for node in marks}
    if pools:
        pool_globally(graph)
    moved = spread(graph, sums) if target.points == PARALLEL else {}
    moved = {**spread(graph, parts), **moved}
    drop_clamps(graph)
    shield(graph)
    model.opset_imports.pop(DOMAIN, None)
    model.opset_imports[""] = opset
    RemoveUnusedNodesPass()(model)
    made = {name: node for name, node in units.items() if node is not None}
    return {name: _ends(moved.get(node, node)) for name, node in made.items()}


def _rank(node: ir.Node) -> tuple[bool, bool]:
    """Quantisers of inputs come first, biases last."""
    dequantizes = node.op_type == "Dequantize"
    return dequantizes, dequantizes and _number(node, "bits") == 32


def _looks_up(node: ir.Node) -> bool:
    """Whether rows are dequantised that a look-up took from the stored integers."""
    return node.inputs[0] is not None and node.inputs[0].producer() is not None


def _text(node: ir.Node, name: str) -> str:
    return str(node.attributes[name].as_string())


def _number(node: ir.Node, name: str) -> int:
    return int(node.attributes[name].as_int())


def _array(value: ir.Value | None) -> np.ndarray:
    assert value is not None and value.const_value is not None, "quantisation constants are stored"
    return np.asarray(value.const_value.numpy())


def _grid(bits: int, signed: bool) -> tuple[int, int]:
    low = -(1 << (bits - 1)) if signed else 0
    return low, low + (1 << bits) - 1


def _dequantize(graph: ir.Graph, node: ir.Node, target: Target) -> list[Sum]:
    """Stored integers: an initialiser in its container and what makes numbers of it, each point."""
    name = _text(node, "name")
    bits, signed = _number(node, "bits"), bool(_number(node, "signed"))
    q, scale, zero = (_array(value) for value in node.inputs)
    points, tape = _number(node, "points"), Tape()
    if bits == 32 or points == 1:
        stem = name if bits == 32 else f"{name}.weight"
        own = Integers(q, scale, zero, bits, signed or bits == 32)
        substitute(graph, node, tape, store_integers(graph, tape, node, own, stem, target))
        return []
    parts = tuple(
        store_integers(graph, tape, node, part, f"{name}.weight{index + 1}", target)
        for index, part in enumerate(take_points(Integers(q, scale, zero, bits, signed), points))
    )
    total = add_up(tape, parts, f"{name}.weight.float")
    substitute(graph, node, tape, total)
    return [Sum(total, parts)]


def _quantize_dequantize(graph: ir.Graph, node: ir.Node, part_bits: int) -> list[Sum]:
    """An activation: QuantizeLinear, a Clip where the grid is narrower, and back.

    Activations of fewer than eight bits travel in eight: they are not stored, and ONNX Runtime's
    optimiser (1.31, clip_quantizelinear.cc) refuses a file with a 4-bit one after a clamp.
    Where the target wants parts of fewer bits, the integers are taken apart into digits.
    """
    name = _text(node, "name")
    bits, signed = _number(node, "bits"), bool(_number(node, "signed"))
    width = bits if bits in (8, 16) else 8
    kind, _ = container(width, signed)
    low, high = _grid(bits, signed)
    scale = store(graph, ir.Tensor(_array(node.inputs[1]).reshape(()), name=f"{name}.scale"))
    zero_value = _array(node.inputs[2]).reshape(())
    zero = store(graph, pack(zero_value, kind, f"{name}.zero"))
    tape = Tape()
    q = add(tape, "QuantizeLinear", [node.inputs[0], scale, zero], f"{name}.q")
    if bits != width:
        limits = [
            store(graph, pack(np.array(v), kind, f"{name}.{w}"))
            for v, w in ((low, "low"), (high, "high"))
        ]
        q = add(tape, "Clip", [q, *limits], f"{name}.clip")
    if 0 < part_bits < bits:
        own = Integers(np.zeros(0), _array(node.inputs[1]), zero_value, bits, signed)
        parts = _digits(graph, tape, q, own, name, part_bits)
        total = add_up(tape, parts, f"{name}.float")
        substitute(graph, node, tape, total)
        return [Sum(total, parts)]
    substitute(graph, node, tape, add(tape, "DequantizeLinear", [q, scale, zero], f"{name}.float"))
    return []


def _digits(
    graph: ir.Graph, tape: Tape, q: ir.Value, own: Integers, name: str, part_bits: int
) -> tuple[ir.Value, ...]:
    """Quantised values taken apart into parts of few bits, high ones first, as numbers.

    Equation: q_i = floor(q / 2^(b (n - i))) mod 2^b, by shifts and masks of unsigned integers.
    """
    word = add(tape, "Cast", [q], f"{name}.word", to=int(ir.DataType.UINT32))
    whole = QParams(
        Grid(own.bits), torch.from_numpy(own.scale.reshape(1)),
        torch.from_numpy(own.zero.astype(np.int32).reshape(1)),
    )  # fmt: skip
    count = own.bits // part_bits
    kind = ir.DataType.UINT8
    parts = []
    for index, (_, digit) in enumerate(split(torch.zeros(1, dtype=torch.int32), whole, count)):
        stem = f"{name}.part{index + 1}"
        shift = _number_of(graph, part_bits * (count - 1 - index), f"{stem}.shift")
        mask = _number_of(graph, digit.grid.qmax, f"{stem}.mask")
        high = add(tape, "BitShift", [word, shift], f"{stem}.high", direction="RIGHT")
        masked = add(tape, "BitwiseAnd", [high, mask], f"{stem}.digit")
        cast = add(tape, "Cast", [masked], f"{stem}.q", to=int(kind))
        scale = ir.Tensor(digit.scale.numpy().reshape(()), name=f"{stem}.scale")
        zero = pack(digit.zero_point.numpy().reshape(()), kind, f"{stem}.zero")
        inputs = [cast, store(graph, scale), store(graph, zero)]
        parts.append(add(tape, "DequantizeLinear", inputs, f"{stem}.float"))
    return tuple(parts)


def _number_of(graph: ir.Graph, value: int, name: str) -> ir.Value:
    return store(graph, ir.Tensor(np.array(value, dtype=np.uint32), name=name))


def _remove_mark(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """Drop a mark; return the node that makes the marked value."""
    value = node.inputs[0]
    assert value is not None
    redirect(node.outputs[0], value)
    graph.remove(node, safe=True)
    return value.producer()


def _ends(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    """(input, output) of a unit: back from its result to the float value that feeds it."""
    current = node
    while True:
        source = _data_input(current)
        producer = source.producer()
        if producer is not None and producer.op_type == "Pad" and is_zero_pad(producer):
            source = _data_input(producer)
            producer = source.producer()
        if producer is None:
            break
        if producer.op_type == "DequantizeLinear":
            before = producer.inputs[0]
            quantized = before.producer() if before is not None else None
            while quantized is not None and quantized.op_type in _BETWEEN:
                assert quantized.inputs[0] is not None
                quantized = quantized.inputs[0].producer()
            if quantized is not None and quantized.inputs[0] is not None:
                source = quantized.inputs[0]
            break
        if producer.op_type == "DynamicQuantizeLinear" and producer.inputs[0] is not None:
            source = producer.inputs[0]
            break
        if current.op_type in _WEIGHTED:
            break
        current = producer
    return source, node.outputs[0]


# What lies between quantising an input and dequantising it, or a part of it.
_BETWEEN = {"Clip", "Cast", "BitShift", "BitwiseAnd"}
_WEIGHTED = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Gather", OPERATOR}


def _data_input(node: ir.Node) -> ir.Value:
    """The input that carries the activation, not the weight or a constant."""
    if node.op_type == "Gather":
        assert node.inputs[1] is not None
        return node.inputs[1]
    for value in node.inputs:
        if value is not None and not _is_constant(value):
            return value
    # A unit whose input is a stored table: follow the path that leads to the weighted operator.
    made = [v for v in node.inputs if v is not None and v.producer() is not None]
    value = made[0] if made and node.op_type not in _WEIGHTED else node.inputs[0]
    assert value is not None
    return value


def _is_constant(value: ir.Value) -> bool:
    if value.const_value is not None:
        return True
    producer = value.producer()
    if producer is None or producer.op_type == "QuantizeLinear":  # weights are stored quantised
        return False
    return all(_is_constant(v) for v in producer.inputs if v is not None)
