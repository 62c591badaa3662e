"""A file's graph as it is compared: quantisers are seen through, integers have their scales."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import numpy_helper

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
# What has another name in files whose operators take integers: where its operands stand, and its
# result's scale and zero point.
_JOINED = "QLinearConcat"
_OPERANDS = {
    "QLinearConv": (0, 3, 8), "QLinearMatMul": (0, 3), "QLinearAdd": (0, 3),
    "QLinearMul": (0, 3), "QGemm": (0, 3, 6), "ConvInteger": (0, 1), "MatMulInteger": (0, 1),
    "MatMulNBits": (0, 1),
}  # fmt: skip
_RESULT_SCALE = {
    "QLinearConv": 6, "QLinearMatMul": 6, "QLinearAdd": 6, "QLinearMul": 6, "QGemm": 7,
    _JOINED: 0,
}  # fmt: skip
_NAMES = {"QGemm": "MatMul", "Gemm": "MatMul", "MatMulNBits": "MatMul", "Clip": "Relu"}
_NORMALS = ("BatchNormalization", "Add", "Mul", "Sub", "Div", "Cast")
LINEAR = ("Conv", "ConvTranspose", "MatMul")
# Integers pass through these as they are.
_MOVES = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather")


@dataclass(frozen=True, eq=False)
class Tap:
    """A value to look at; integers become numbers by their scale and zero point."""

    value: str
    scale: np.ndarray | None = None
    zero: np.ndarray | None = None

    def numbers(self, array: np.ndarray) -> np.ndarray:
        """The value as floats: s (q - z) of integers."""
        if self.scale is None:
            return array.astype(np.float64)
        zero = 0.0 if self.zero is None else self.zero.astype(np.float64)
        return (array.astype(np.float64) - zero) * self.scale.astype(np.float64)


@dataclass(frozen=True, eq=False)
class Step:
    """An operator as it is compared.

    Attributes:
        index: its place in the file.
        kind: its name, the same for its forms on floats and on integers.
        operands: what it computes with, quantisers seen through; constants among them.
        node: as it stands in the file.
    """

    index: int
    kind: str
    operands: tuple[str, ...]
    node: onnx.NodeProto

    @property
    def result(self) -> str:
        """Its first output."""
        return str(self.node.output[0])


class FileGraph:
    """What computes in a file, without quantisers, copies and casts of floats."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = model.graph
        self.stored = {t.name: t for t in graph.initializer}
        self.inputs = tuple(v.name for v in graph.input if v.name not in self.stored)
        self.outputs = tuple(v.name for v in graph.output)
        self.maker = {name: node for node in graph.node for name in node.output if name}
        self.constants = _find_constants(model.graph)
        self.steps = tuple(self._steps())
        self.by_result = {n: step for step in self.steps for n in step.node.output if n}

    def _steps(self) -> Iterator[Step]:
        for index, node in enumerate(self.model.graph.node):
            if _is_transparent(node) or all(n in self.constants for n in node.output if n):
                continue
            operands = tuple(self.source(node.input[i]) for i in _places(node) if node.input[i])
            yield Step(index, kind_of(node), operands, node)

    def source(self, name: str) -> str:
        """What a value stands for: before quantisers, copies and casts between floats.

        Integers that an operator made itself stand for themselves.
        """
        start, seen = name, set[str]()
        while name in self.maker and name not in seen:  # a file may be of any form
            seen.add(name)
            node = self.maker[name]
            if not _is_transparent(node):
                # A clamp of integers between a quantiser and its way back.
                inner = self.source(node.input[0]) if self._clamps_integers(node) else ""
                return inner or name
            name = node.input[0]
        return start if name in self.constants else name

    def _clamps_integers(self, node: onnx.NodeProto) -> bool:
        maker = self.maker.get(node.input[0]) if node.op_type == "Clip" else None
        return maker is not None and maker.op_type == "QuantizeLinear"

    @cached_property
    def readers(self) -> dict[str, list[Step]]:
        """Who computes with each value."""
        found: dict[str, list[Step]] = defaultdict(list)
        for step in self.steps:
            for name in dict.fromkeys(step.operands):
                found[name].append(step)
        return found

    @cached_property
    def as_read(self) -> dict[str, str]:
        """Of quantised values the first float that stands for them behind their quantiser."""
        found: dict[str, str] = {}
        for node in self.model.graph.node:
            if node.op_type == "DequantizeLinear" and node.output[0] not in self.constants:
                source = self.source(node.output[0])
                if source != node.output[0] and self._scale_of(source) is None:
                    found.setdefault(source, node.output[0])
        return found

    def read_form(self, name: str) -> str:
        """A value as it is read behind a quantiser, or itself where it is integers; else empty."""
        if name in self.as_read:
            return self.as_read[name]
        return name if self._scale_of(name) is not None else ""

    def tap(self, name: str) -> Tap | None:
        """How to look at a value; None where it is no number that can be compared."""
        scale = self._scale_of(name)
        return Tap(name) if scale is None else Tap(name, *scale)

    def _scale_of(self, name: str) -> tuple[np.ndarray, np.ndarray | None] | None:
        """The scale and zero point of integers that an operator made."""
        node = self.maker.get(name)
        while node is not None and node.op_type in _MOVES:
            name = node.input[0]
            node = self.maker.get(name)
        if node is None:
            return None
        if node.op_type == "QuantizeLinear":
            place = 1
        elif node.op_type.startswith("QLinear") or node.op_type == "QGemm":
            place = _RESULT_SCALE.get(node.op_type, 3)
        else:
            return None
        scale = stored_array(self, node.input[place]) if len(node.input) > place else None
        zero = stored_array(self, node.input[place + 1]) if len(node.input) > place + 1 else None
        # Those of a channel each would have to be laid along an axis: of activations nobody has.
        return (scale.reshape(()), zero) if scale is not None and scale.size == 1 else None


def _find_constants(graph: onnx.GraphProto) -> set[str]:
    """Values that depend on stored tensors alone, and scales that are taken at run time."""
    found = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        if not inner and all(not name or name in found for name in node.input):
            found.update(node.output)
        elif node.op_type == "DynamicQuantizeLinear":
            found.update(node.output[1:])
    return found


def stored_array(graph: FileGraph, name: str) -> np.ndarray | None:
    """A stored tensor, dequantised where a DequantizeLinear reads it; None of other values."""
    if name in graph.stored:
        return np.asarray(numpy_helper.to_array(graph.stored[name]))
    node = graph.maker.get(name)
    if node is None or name not in graph.constants:
        return None
    if node.op_type == "Constant":
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        return None if value is None else np.asarray(numpy_helper.to_array(value))
    if node.op_type != "DequantizeLinear":
        return stored_array(graph, node.input[0]) if _is_transparent(node) else None
    return _dequantized(graph, node)


def _dequantized(graph: FileGraph, node: onnx.NodeProto) -> np.ndarray | None:
    parts = [stored_array(graph, n) for n in node.input if n]
    if any(part is None for part in parts):
        return None
    q, scale = (np.asarray(part) for part in parts[:2])
    zero = np.asarray(parts[2]) if len(parts) > 2 else np.zeros_like(scale)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if scale.ndim > 1:
        return None  # blocks of a channel: nobody needs them here
    if scale.size > 1:
        shape = [1] * q.ndim
        shape[axis % q.ndim] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return np.asarray((q.astype(np.float32) - zero.astype(np.float32)) * scale)


def linear_chain(graph: FileGraph, step: Step) -> list[tuple[str, str]]:
    """A linear operator and what is joined to it by constants: (kind, result) of each."""
    found = [(step.kind, step.result)]
    while found[-1][1] not in graph.outputs:
        readers = graph.readers.get(found[-1][1], ())
        if len(readers) != 1 or readers[0].kind not in _NORMALS:
            break
        others = [n for n in readers[0].operands if n != found[-1][1]]
        if not all(n in graph.constants for n in others):
            break
        found.append((readers[0].kind, readers[0].result))
    return found


def kind_of(node: onnx.NodeProto) -> str:
    """An operator's name, the same for its forms on floats and on integers.

    >>> kind_of(onnx.helper.make_node("QLinearConv", ["x"], ["y"]))
    'Conv'
    """
    name = str(node.op_type).removeprefix("QLinear").removeprefix("Fused").removesuffix("Integer")
    name = _NAMES.get(name, name)
    own = node.domain in ("", "ai.onnx", "com.microsoft")
    return name if own else f"{node.domain}:{name}"


def _is_transparent(node: onnx.NodeProto) -> bool:
    """Whether a value goes through as it is, but for rounding."""
    if not node.input:
        return False
    if node.op_type == "Cast":
        return any(a.name == "to" and a.i in _FLOATS for a in node.attribute)
    return node.op_type in (
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Identity", "Dropout",
    )  # fmt: skip


def _places(node: onnx.NodeProto) -> Sequence[int]:
    """Where an operator's own operands stand among its inputs, scales and zero points left out."""
    count = len(node.input)
    if node.op_type == _JOINED:
        return range(2, count, 3)
    usual = (0,) if node.op_type.startswith("QLinear") else range(count)
    return [i for i in _OPERANDS.get(node.op_type, usual) if i < count]
