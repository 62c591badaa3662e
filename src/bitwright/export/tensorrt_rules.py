"""TensorRT's published rules for quantised ONNX files, checked by reading the file.

TensorRT runs on its own hardware alone. What it accepts is written down: the page "Working with
Quantized Types" of its documentation, the operators Quantize and Dequantize of its reference, and
the operator list of its ONNX parser. `find_breaches` names each node that keeps a rule not, and the
rule. It reads what is stored and how it is wired; whether a graph is fast it cannot tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# Of the standard domain: with per-channel scales, and the newest that the parser reads.
OPSETS = (13, 24)
# What the parser does not import, of what quantisers write.
_NOT_IMPORTED = {
    "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul",
    "BitShift", "BitwiseAnd",
}  # fmt: skip
# Which axis of a weight its output channels are on; of a MatMul the last, of a Gemm it depends.
_CHANNELS = {"Conv": 0, "ConvTranspose": 1}
_LINEAR = ("MatMul", "Gemm")
_MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")
_INTEGERS = {
    getattr(TensorProto, name)
    for name in ("INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16")
    if hasattr(TensorProto, name)
}


@dataclass(frozen=True)
class Breach:
    """A node that keeps a rule not."""

    node: str
    rule: str


@dataclass(frozen=True, eq=False)
class _File:
    """A graph by name: what is stored, who makes a value, who reads it."""

    model: onnx.ModelProto
    stored: dict[str, TensorProto] = field(default_factory=dict)
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    readers: dict[str, list[onnx.NodeProto]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _File:
        made = cls(model)
        made.stored.update({tensor.name: tensor for tensor in model.graph.initializer})
        for node in model.graph.node:
            if node.op_type == "Constant":
                values = [a.t for a in node.attribute if a.name == "value"]
                made.stored.update(zip(node.output, values, strict=False))
            made.makers.update(dict.fromkeys(node.output, node))
            for name in node.input:
                made.readers[name].append(node)
        return made

    def array(self, node: onnx.NodeProto, place: int) -> np.ndarray | None:
        """What is stored for an input; None where nothing is."""
        tensor = self.stored.get(_input(node, place))
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def is_dequantized(self, name: str) -> bool:
        """Whether a value comes out of a DequantizeLinear, perhaps moved about."""
        maker = self.makers.get(name)
        while maker is not None and maker.op_type in _MOVES:
            maker = self.makers.get(maker.input[0])
        return maker is not None and maker.op_type == DEQUANTIZE


def find_breaches(model: onnx.ModelProto) -> list[Breach]:
    """Every node of a file that keeps one of TensorRT's rules not, in order of the file."""
    file = _File.of(model)
    found = [Breach("(the file)", text) for text in _opset(model)]
    for node in model.graph.node:
        rules = _OF_OPERATOR.get(node.op_type, ()) if not node.domain else ()
        for rule in (_imported, _reads_no_integers, *rules):
            found += [Breach(name_of_node(node), text) for text in rule(file, node)]
    return list(dict.fromkeys(found))


def name_of_node(node: onnx.NodeProto) -> str:
    """The name of a node, or of its result where it has none."""
    return node.name or f"the {node.op_type} that makes {node.output[0]}"


def _input(node: onnx.NodeProto, place: int) -> str:
    return node.input[place] if place < len(node.input) else ""


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _opset(model: onnx.ModelProto) -> Iterator[str]:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and not OPSETS[0] <= entry.version <= OPSETS[1]:
            yield f"opset {entry.version} is outside {OPSETS[0]} to {OPSETS[1]}"


def _imported(_: _File, node: onnx.NodeProto) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        yield f"an operator of the domain {node.domain!r} is not imported"
    elif node.op_type in _NOT_IMPORTED:
        yield f"the operator {node.op_type} is not imported"


def _reads_no_integers(file: _File, node: onnx.NodeProto) -> Iterator[str]:
    """Quantised integers are for a DequantizeLinear alone."""
    if node.op_type == DEQUANTIZE:
        return
    for place, name in enumerate(node.input):
        maker, tensor = file.makers.get(name), file.stored.get(name)
        if maker is not None and maker.op_type == QUANTIZE:
            yield f"input {place} is quantised: a DequantizeLinear follows a QuantizeLinear at once"
        elif tensor is not None and tensor.data_type in _INTEGERS and node.op_type != QUANTIZE:
            yield f"input {place} is a stored integer tensor: only a DequantizeLinear reads one"


def _quantizes_to_int8(file: _File, node: onnx.NodeProto) -> Iterator[str]:
    zero = file.stored.get(_input(node, 2))
    stated = _attribute(node, "output_dtype", TensorProto.UINT8)
    kind = stated if zero is None else zero.data_type
    if kind != TensorProto.INT8:
        yield f"it quantises to {_type(kind)}: values that are computed are quantised to INT8"


def _dequantizes_known(file: _File, node: onnx.NodeProto) -> Iterator[str]:
    tensor = file.stored.get(node.input[0])
    if tensor is None:
        maker = file.makers.get(node.input[0])
        if maker is None or maker.op_type != QUANTIZE:
            yield "its input is neither stored nor the result of a QuantizeLinear"
    elif tensor.data_type not in (TensorProto.INT8, TensorProto.INT4):
        yield f"it dequantises {_type(tensor.data_type)}: only INT8 and INT4 can be stored"


def _centred(file: _File, node: onnx.NodeProto) -> Iterator[str]:
    if not _input(node, 2):
        return
    zero = file.array(node, 2)
    if zero is None:
        yield "its zero point is not stored in the file"
    elif np.any(zero):
        yield f"its zero point is {int(zero.reshape(-1)[np.flatnonzero(zero)[0]])}, not 0"


def _scaled(file: _File, node: onnx.NodeProto) -> Iterator[str]:
    scale = file.array(node, 1)
    if scale is None:
        yield "its scale is not stored in the file"
        return
    if not np.all(np.isfinite(scale)) or not np.all(scale > 0):
        yield "a scale is not positive"
    if node.input[0] not in file.stored and scale.size != 1:
        yield f"{scale.size} scales for a value that is computed: only weights have several"


def _weight_axis(file: _File, node: onnx.NodeProto) -> Iterator[str]:
    """Scales of a weight lie on the axis of its output channels, or in blocks of two axes."""
    tensor, scale = file.stored.get(node.input[0]), file.array(node, 1)
    if tensor is None or scale is None or scale.size == 1:
        return
    axis, shape = _attribute(node, "axis", 1) % len(tensor.dims), tuple(tensor.dims)
    if _attribute(node, "block_size", 0):
        yield from _blocks(node, shape, scale.shape, axis)
        return
    if scale.shape != (shape[axis],):
        yield f"scales of shape {scale.shape} on axis {axis} of a weight of shape {shape}"
    for wanted in _channel_axes(file, node, len(shape)):
        if axis != wanted:
            yield f"scales on axis {axis}: those of its reader's output channels are on {wanted}"


def _blocks(
    node: onnx.NodeProto, shape: tuple[int, ...], scales: tuple[int, ...], axis: int
) -> Iterator[str]:
    size = _attribute(node, "block_size", 0)
    if len(shape) != 2:
        yield f"blocks in a weight of {len(shape)} axes: only matrices have blocks"
    elif shape[axis] % size:
        yield f"blocks of {size} do not divide the {shape[axis]} weights of axis {axis}"
    elif scales != tuple(n // size if i == axis else n for i, n in enumerate(shape)):
        yield f"scales of shape {scales} for blocks of {size} on axis {axis} of {shape}"


def _channel_axes(file: _File, node: onnx.NodeProto, rank: int) -> Iterator[int]:
    for reader, turned in _readers_of_weight(file, node):
        if reader.op_type in _CHANNELS:
            yield _CHANNELS[reader.op_type]
        elif reader.op_type in _LINEAR:
            turned ^= bool(_attribute(reader, "transB", 0))
            yield rank - 2 if turned else rank - 1


def _readers_of_weight(file: _File, node: onnx.NodeProto) -> Iterator[tuple[onnx.NodeProto, bool]]:
    """Who multiplies by a dequantised weight, and whether it was transposed on its way."""
    for reader in file.readers[node.output[0]]:
        if reader.op_type == "Transpose":
            for further in file.readers[reader.output[0]]:
                yield further, True
        else:
            yield reader, False


def _packed(file: _File, node: onnx.NodeProto) -> Iterator[str]:
    """INT4 is for the weights of linear layers with float inputs, in blocks."""
    tensor = file.stored.get(node.input[0])
    if tensor is None or tensor.data_type != TensorProto.INT4:
        return
    if not _attribute(node, "block_size", 0):
        yield "INT4 without blocks"
    for reader, _ in _readers_of_weight(file, node):
        if reader.op_type not in _LINEAR:
            yield f"INT4 for a {reader.op_type}: only linear layers have INT4 weights"
        elif file.is_dequantized(reader.input[0]):
            yield "INT4 beside a quantised input: it is for weights alone"


def _narrow(file: _File, node: onnx.NodeProto) -> Iterator[str]:
    tensor = file.stored.get(node.input[0])
    if tensor is None or tensor.data_type != TensorProto.INT8:
        return
    if bool((numpy_helper.to_array(tensor) == -128).any()):
        yield "a weight of -128: weights are -127 to 127"


def _float_bias(file: _File, node: onnx.NodeProto) -> Iterator[str]:
    if _input(node, 2) and file.is_dequantized(node.input[2]):
        yield "its bias is dequantised: biases are float"


def _sum_of_both(file: _File, node: onnx.NodeProto) -> Iterator[str]:
    """A sum of two computed values has both quantised, or none."""
    if any(name in file.stored for name in node.input):
        return
    both = [file.is_dequantized(name) for name in node.input]
    if sum(both) == 1:
        yield f"input {both.index(False)} of the sum is float and the other quantised"


def _type(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind))


_Rule = Callable[[_File, onnx.NodeProto], Iterator[Any]]
_OF_OPERATOR: dict[str, tuple[_Rule, ...]] = {
    QUANTIZE: (_quantizes_to_int8, _centred, _scaled),
    DEQUANTIZE: (_dequantizes_known, _centred, _scaled, _weight_axis, _packed, _narrow),
    "Conv": (_float_bias,),
    "ConvTranspose": (_float_bias,),
    "Gemm": (_float_bias,),
    "Add": (_sum_of_both,),
}
