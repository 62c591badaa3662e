"""Linear layers whose weights stay packed in blocks, in an exported file: MatMulNBits.

Equation: y = sum over the blocks k of a row of s_k (x_k . (q_k - z_k)), and where the input is
quantised s'_k s_k (q'_k . (q_k - z_k)) with the scale s'_k of `affine.in_blocks`.
Reference: ONNX Runtime, contrib operator MatMulNBits; accuracy level 1: products of floats, 4: of
8-bit integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from bitwright.export.onnx_parts import DOMAIN
from bitwright.export.onnx_tape import add, store, substitute
from bitwright.graph.target import Target

OPERATOR, CONTRIB = "MatMulNBits", "com.microsoft"
_OF_FLOATS, _OF_INTEGERS = 1, 4


@dataclass(frozen=True, eq=False)
class _Layer:
    """A product that reads a stored weight: `q`, scales and zero points with a row an output."""

    node: ir.Node
    name: str
    q: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    bits: int


def multiply_in_blocks(graph: ir.Graph, target: Target) -> bool:
    """Put MatMulNBits in the place of products of weights that are in blocks, in place.

    Returns:
        Whether there are any.
    """
    found = False
    for node in [n for n in graph if n.domain == DOMAIN and n.op_type == "Dequantize"]:
        for user, place in list(node.outputs[0].uses()):
            layer = _layer_of(node, user, place, target)
            if layer is None:
                continue
            maker = layer.node.inputs[0].producer()
            at_run = blocks_at_run(maker) if maker is not None else 0
            block = at_run or _block_of(layer, target)
            if block:
                _put(graph, layer, maker if at_run else None, block)
                found = True
    return found


def _layer_of(node: ir.Node, user: ir.Node, place: int, target: Target) -> _Layer | None:
    """The product that reads a weight, perhaps through a Transpose; None where it is no such."""
    turned = False
    if user.op_type == "Transpose" and len(user.outputs[0].uses()) == 1:
        ((user, place),) = user.outputs[0].uses()
        turned = True
    if user.op_type not in ("MatMul", "Gemm") or place != 1 or not target.blocks:
        return None
    flag = user.attributes.get("transB") if user.op_type == "Gemm" else None
    turned ^= bool(flag is not None and flag.as_int())
    bits, signed = (node.attributes[name].as_int() for name in ("bits", "signed"))
    q, scale, zero = (_stored(node, index) for index in range(3))
    if q.ndim != 2 or node.attributes["points"].as_int() != 1 or bits > 8:
        return None
    scale, zero = (np.broadcast_to(value, q.shape) for value in (scale, zero))
    lift = 1 << (bits - 1) if signed else 0
    q, zero = (values.astype(np.int32) + lift for values in (q, zero))
    if not turned:
        q, scale, zero = q.T, scale.T, zero.T
    name = f"{node.attributes['name'].as_string()}.weight"
    return _Layer(user, name, q, scale, zero, target.stored_bits(bits, True))


def blocks_at_run(node: ir.Node) -> int:
    """The blocks in which a node quantises an input as the network runs; 0: in none."""
    if node.domain != DOMAIN or "at_run" not in node.attributes:
        return 0
    at_run = int(node.attributes["at_run"].as_int())
    return at_run if at_run > 1 else 0


def _block_of(layer: _Layer, target: Target) -> int:
    """The length of the blocks of equal grids; 0 where a row has one grid, or no kernel fits."""
    width = layer.q.shape[1]
    differ = (np.diff(layer.scale) != 0) | (np.diff(layer.zero) != 0)
    places = np.flatnonzero(differ.any(0)) + 1
    # A whole channel on one grid is no block: floats that are folded at load are faster.
    return target.block_of(width, int(np.gcd.reduce([width, *places]))) if places.size else 0


def _put(graph: ir.Graph, layer: _Layer, quantizer: ir.Node | None, block: int) -> None:
    tape, own, (outputs, width) = Tape(), layer.node.outputs[0].name, layer.q.shape
    value = layer.node.inputs[0] if quantizer is None else quantizer.inputs[0]
    q = pack_bits(layer.q.reshape(outputs, -1, block), layer.bits)
    zero = layer.zero[:, ::block]
    inputs = [value, store(graph, ir.Tensor(q, name=f"{layer.name}.q"))]
    scale = np.ascontiguousarray(layer.scale[:, ::block], dtype=np.float32)
    inputs.append(store(graph, ir.Tensor(scale, name=f"{layer.name}.scale")))
    if (zero != 1 << (layer.bits - 1)).any():
        packed = pack_bits(zero, layer.bits)
        inputs.append(store(graph, ir.Tensor(packed, name=f"{layer.name}.zero")))
    level = _OF_FLOATS if quantizer is None else _OF_INTEGERS
    settings = {"bits": layer.bits, "block_size": block, "accuracy_level": level}
    bias = layer.node.inputs[2] if len(layer.node.inputs) > 2 else None
    name = own if bias is None else f"{own}.product"
    result = tape.op(
        OPERATOR,
        inputs,
        {"K": width, "N": outputs, **settings},
        domain=CONTRIB,
        name=f"{name}.blocks",
        output=ir.Value(name=f"{name}.blocks"),
    )
    if bias is not None:
        result = add(tape, "Add", [result, bias], f"{own}.float")
    substitute(graph, layer.node, tape, result)


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers below 2^bits in bytes, along the last axis, the first in the lowest bits."""
    per = 8 // bits
    spare = -values.shape[-1] % per
    padded = np.pad(values.astype(np.uint8), [(0, 0)] * (values.ndim - 1) + [(0, spare)])
    parts = padded.reshape(*padded.shape[:-1], -1, per) << (bits * np.arange(per, dtype=np.uint8))
    packed: np.ndarray = np.bitwise_or.reduce(parts, axis=-1).astype(np.uint8)
    return packed


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The inverse of `pack_bits`, of so many integers along the last axis."""
    shifts = bits * np.arange(8 // bits, dtype=np.uint8)
    values = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    whole: np.ndarray = values.reshape(*packed.shape[:-1], -1)[..., :count]
    return whole


def floats_of(node: ir.Node) -> np.ndarray:
    """The weight of a MatMulNBits as floats, [inputs, outputs]."""
    wanted = ("K", "N", "bits", "block_size")
    width, outputs, bits, block = (node.attributes[name].as_int() for name in wanted)
    count = -(-width // block)
    q = unpack_bits(_stored(node, 1).reshape(outputs, count, -1), bits, block).astype(np.int32)
    zero = np.full((outputs, count), 1 << (bits - 1), np.int32)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        zero = unpack_bits(_stored(node, 3).reshape(outputs, -1), bits, count).astype(np.int32)
    scale = _stored(node, 2).reshape(outputs, count, 1)
    numbers = (q - zero[..., None]).astype(np.float32) * scale
    return np.ascontiguousarray(numbers.reshape(outputs, -1)[:, :width].T)


def _stored(node: ir.Node, index: int) -> np.ndarray:
    value = node.inputs[index]
    assert value is not None and value.const_value is not None, "weights are stored"
    return np.asarray(value.const_value.numpy())
