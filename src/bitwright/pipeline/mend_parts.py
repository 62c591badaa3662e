"""What a quantised file of any producer stores of each unit, to be read and to be written again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from bitwright.diagnosis.file_graph import FileGraph, Step, linear_chain
from bitwright.graph.rows import Geometry
from bitwright.numerics.affine import round_half_even

_PRODUCTS = ("MatMul", "Gemm", "QGemm", "QLinearMatMul")
# In operators on integers: where the scale and zero point of the input and of the weight stand.
_PLACES = {
    "QLinearConv": (0, 3, 8), "QLinearMatMul": (0, 3, -1), "QGemm": (0, 3, 6),
}  # fmt: skip


@dataclass(frozen=True)
class StoredBias:
    """A bias: the stored tensor, and the scale that makes a number of it where it is integers.

    `tied`: the scale is that of the input times that of the weight, whatever the file stores.
    """

    name: str
    scale: str = ""
    tied: bool = False


@dataclass(frozen=True, eq=False)
class StoredUnit:
    """A convolution or product of a quantised file.

    Attributes:
        step: the operator.
        result: the value that the float network's is compared with: a bias behind it counts.
        read: the input as the operator reads it.
        weight, scale, zero: stored tensors; no zero point is an empty name. A weight of floats is
            quantised as the file is loaded.
        input_scale: that of the input, empty where that is float.
        axis: along which the scale has channels, -1 for one scale.
        turned: whether the weight stands as [inputs, outputs].
        bias: where there is one.
    """

    step: Step
    result: str
    read: str
    weight: str
    scale: str
    zero: str
    input_scale: str
    axis: int
    turned: bool
    bias: StoredBias | None

    @property
    def name(self) -> str:
        """The node's name, or its result's."""
        return str(self.step.node.name or self.step.result)


class StoredTensors:
    """The stored tensors of a file, which are read as arrays and written in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.places = {t.name: i for i, t in enumerate(model.graph.initializer)}
        self.readers = Counter(n for node in model.graph.node for n in node.input)

    def read(self, name: str) -> np.ndarray:
        """A stored tensor."""
        tensor = self.model.graph.initializer[self.places[name]]
        return np.asarray(numpy_helper.to_array(tensor))

    def write(self, name: str, values: np.ndarray) -> None:
        """Other numbers of the same type and shape."""
        tensor = self.model.graph.initializer[self.places[name]]
        own = self.read(name)
        made = numpy_helper.from_array(values.reshape(own.shape).astype(own.dtype), name)
        made.doc_string = tensor.doc_string
        tensor.CopyFrom(made)

    def keep(self, unit: StoredUnit) -> dict[str, bytes]:
        """What a unit stores, to be put back."""
        names = [unit.weight, unit.scale]
        if unit.bias is not None:
            names += [name for name in (unit.bias.name, unit.bias.scale) if name]
        stored = self.model.graph.initializer
        return {name: stored[self.places[name]].SerializeToString() for name in names}

    def put_back(self, kept: Mapping[str, bytes]) -> None:
        """Store what was kept."""
        for name, tensor in kept.items():
            self.model.graph.initializer[self.places[name]].ParseFromString(tensor)

    def holds(self, *names: str) -> bool:
        """Whether all of these are stored tensors."""
        return all(name in self.places for name in names)

    def is_own(self, name: str) -> bool:
        """Whether one reader alone has this tensor."""
        return self.readers[name] == 1


def find_stored(graph: FileGraph, tensors: StoredTensors) -> Iterator[StoredUnit]:
    """The units of a quantised file whose weights are stored integers, in its order."""
    for step in graph.steps:
        if step.kind not in ("Conv", "MatMul"):
            continue
        made = _integer_unit(tensors, step) if step.node.op_type in _PLACES else (
            _qdq_unit(graph, tensors, step)
        )  # fmt: skip
        if made is not None:
            yield made


def _qdq_unit(graph: FileGraph, tensors: StoredTensors, step: Step) -> StoredUnit | None:
    node = step.node
    if len(node.input) < 2 or node.op_type not in ("Conv", "MatMul", "Gemm"):
        return None
    maker = graph.maker.get(node.input[1])
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    weight, scale, zero = (*maker.input, "")[:3]
    before = graph.maker.get(weight)
    if before is not None and before.op_type == "QuantizeLinear":
        weight = before.input[0]  # floats that are quantised as the file is loaded
        if list(before.input[1:]) != list(maker.input[1:]):
            return None
    if not tensors.holds(weight, scale, *([zero] if zero else [])):
        return None
    turned = node.op_type != "Conv" and not _attribute(node, "transB", 0)
    outer = 1 if turned else 0
    axis = _attribute(maker, "axis", 1) if tensors.read(scale).size > 1 else -1
    if tensors.read(scale).ndim > 1 or axis not in (-1, outer) or not _plain(node):
        return None
    reader = graph.maker.get(node.input[0])
    input_scale = reader.input[1] if reader is not None and (
        reader.op_type == "DequantizeLinear"
    ) else ""  # fmt: skip
    bias, result = _bias_of(graph, tensors, step, input_scale)
    return StoredUnit(
        step, result, node.input[0], weight, scale, zero, input_scale, axis, turned, bias
    )


def _integer_unit(tensors: StoredTensors, step: Step) -> StoredUnit | None:
    node = step.node
    at_input, at_weight, at_bias = _PLACES[node.op_type]
    weight, scale, zero = node.input[at_weight : at_weight + 3]
    if not tensors.holds(weight, scale, zero) or not _plain(node):
        return None
    sizes = tensors.read(scale).size
    turned = node.op_type != "QLinearConv" and not _attribute(node, "transB", 0)
    held = 0 < at_bias < len(node.input) and node.input[at_bias]
    bias = StoredBias(node.input[at_bias], tied=True) if held else None
    if bias is not None and not tensors.holds(bias.name):
        return None
    return StoredUnit(
        step, step.result, node.input[at_input], weight, scale, zero, node.input[at_input + 1],
        (1 if turned else 0) if sizes > 1 else -1, turned, bias,
    )  # fmt: skip


def _plain(node: onnx.NodeProto) -> bool:
    """Whether an operator computes W x + b and nothing else."""
    if _attribute(node, "transA", 0):
        return False
    factors = (a.f for a in node.attribute if a.name in ("alpha", "beta"))
    return all(value == 1.0 for value in factors) and _attribute(node, "auto_pad", b"NOTSET") in (
        b"NOTSET", b"VALID",
    )  # fmt: skip


def _bias_of(
    graph: FileGraph, tensors: StoredTensors, step: Step, input_scale: str
) -> tuple[StoredBias | None, str]:
    """The bias of an operator, its own or of an Add behind it, and the value that has it."""
    if len(step.node.input) > 2 and step.node.input[2]:
        return _stored_bias(graph, tensors, step.node.input[2], bool(input_scale)), step.result
    chain = linear_chain(graph, step)
    if step.node.op_type == "MatMul" and len(chain) > 1 and chain[1][0] == "Add":
        behind = graph.by_result[chain[1][1]]
        constant = next(n for n in behind.node.input if graph.source(n) != step.result)
        if tensors.holds(constant) and tensors.read(constant).ndim <= 1:
            return _stored_bias(graph, tensors, constant, False), behind.result
        return None, behind.result
    return None, step.result


def _stored_bias(
    graph: FileGraph, tensors: StoredTensors, name: str, tied: bool
) -> StoredBias | None:
    maker = graph.maker.get(name)
    if maker is not None and maker.op_type == "DequantizeLinear":
        q, scale = maker.input[:2]
        return StoredBias(q, scale, tied) if tensors.holds(q, scale) else None
    return StoredBias(name) if tensors.holds(name) else None


def _attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


# ---- as rows ---------------------------------------------------------------------------------


def form_of(unit: StoredUnit, shape: Sequence[int]) -> Geometry | None:
    """How a convolution walks over its input; None of products.

    Raises:
        ValueError: it walks in another way than over the height and width of images.
    """
    node = unit.step.node
    if unit.step.kind != "Conv":
        return None
    rank = len(shape) - 2
    pads = list(_numbers(node, "pads", [0] * (2 * rank)))
    if rank not in (1, 2) or pads[:rank] != pads[rank:]:
        raise ValueError("its padding is not the same on both sides")
    ends = {1: (1, 1, 0, 1)}.get(rank)
    made = []
    for place, values in enumerate((
        list(shape[2:]), _numbers(node, "strides", [1] * rank), pads[:rank],
        _numbers(node, "dilations", [1] * rank),
    )):  # fmt: skip
        front = [ends[place]] if ends else []
        made.append(tuple(front + list(values)))
    groups = _numbers(node, "group", [1])[0]
    return Geometry(made[0], made[1], made[2], made[3], groups)


def _numbers(node: onnx.NodeProto, name: str, default: Sequence[int]) -> Sequence[int]:
    found = _attribute(node, name, default)
    return [found] if isinstance(found, int) else [int(v) for v in found]  # type: ignore[attr-defined]


def as_rows(array: np.ndarray, turned: bool, groups: int) -> Tensor:
    """A weight as rows [G, C, N]."""
    tensor = torch.from_numpy(np.ascontiguousarray(array.T if turned else array).astype(np.float32))
    return tensor.reshape(groups, tensor.shape[0] // groups, -1)


def of_rows(rows: Tensor, like: np.ndarray, turned: bool) -> np.ndarray:
    """The inverse of `as_rows`."""
    shape = like.T.shape if turned else like.shape
    flat = rows.reshape(shape).numpy()
    return np.ascontiguousarray(flat.T if turned else flat)


def by_channel(array: np.ndarray, groups: int, outputs: int) -> Tensor:
    """One number or one a channel, as [G, C, 1]."""
    flat = np.broadcast_to(np.asarray(array, np.float32).reshape(-1), (outputs,))
    return torch.from_numpy(flat.copy()).reshape(groups, outputs // groups, 1)


def bounds_of(kind: np.dtype, far: float, centre: int) -> tuple[int, int]:
    """The integers that a stored type may hold; those of 7 bits where a producer kept to these.

    Args:
        kind: the type.
        far: the largest distance of a stored integer from its zero point.
        centre: a zero point.
    """
    name = str(kind)
    bits = int("".join(c for c in name if c.isdigit()))
    low = 0 if name.startswith("u") else -(1 << (bits - 1))
    high = low + (1 << bits) - 1
    if bits == 8 and far <= 64:
        return max(low, centre - 64), min(high, centre + 64)
    return low, high


def is_quantised(model: onnx.ModelProto) -> bool:
    """Whether a file has quantisers or operators on integers."""
    ops: Mapping[str, int] = Counter(node.op_type for node in model.graph.node)
    return any(op in ops for op in ("DequantizeLinear", *_PLACES))


# ---- biases -----------------------------------------------------------------------------------


def _bias_scale(tensors: StoredTensors, unit: StoredUnit, outputs: int) -> np.ndarray:
    """What an integer of a bias stands for, channel by channel."""
    assert unit.bias is not None
    if unit.bias.scale:
        own = tensors.read(unit.bias.scale)
    else:
        own = tensors.read(unit.input_scale) * tensors.read(unit.scale)
    return np.broadcast_to(own.astype(np.float32).reshape(-1), (outputs,))


def bias_numbers(tensors: StoredTensors, unit: StoredUnit, outputs: int) -> np.ndarray:
    """A unit's bias as floats; zeros where there is none."""
    if unit.bias is None:
        return np.zeros(outputs, np.float32)
    own = tensors.read(unit.bias.name).reshape(-1)
    if own.dtype.kind in "iu":
        return np.asarray(own.astype(np.float32) * _bias_scale(tensors, unit, outputs))
    return np.broadcast_to(own.astype(np.float32), (outputs,)).copy()


def store_bias(tensors: StoredTensors, unit: StoredUnit, numbers: np.ndarray, outputs: int) -> None:
    """A bias as floats, or as integers of a scale that follows the weight's where it is its own."""
    assert unit.bias is not None
    if tensors.read(unit.bias.name).dtype.kind == "f":
        if tensors.read(unit.bias.name).size == outputs:
            tensors.write(unit.bias.name, numbers)
        return
    if unit.bias.scale and unit.bias.tied and tensors.is_own(unit.bias.scale):
        tied = tensors.read(unit.input_scale) * tensors.read(unit.scale)
        tensors.write(unit.bias.scale, np.broadcast_to(
            tied.reshape(-1), tensors.read(unit.bias.scale).reshape(-1).shape
        ))  # fmt: skip
    steps = numbers.astype(np.float64) / _bias_scale(tensors, unit, outputs)
    limit = float(1 << 31) - 1
    whole = round_half_even(torch.from_numpy(steps)).clamp(-limit, limit).numpy()
    tensors.write(unit.bias.name, whole)
