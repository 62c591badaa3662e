"""How stored integers are written: in which container, and by what they become numbers.

Whether the operator that reads a weight has an integer kernel decides. Where it has, runtimes match
it by the DequantizeLinear in front of it. Where it computes with floats, ONNX Runtime would run a
DequantizeLinear at every inference and folds other operators once, when it loads the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tape import Tape

from bitwright.export.onnx_parts import DOMAIN
from bitwright.export.onnx_tape import add, store
from bitwright.graph.target import FOLDED, Target
from bitwright.numerics.affine import QParams
from bitwright.numerics.blocks import block_of, blocks
from bitwright.numerics.grid import Grid
from bitwright.numerics.points import split


@dataclass(frozen=True, eq=False)
class Integers:
    """Stored integers with what turns them back into numbers."""

    q: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    bits: int
    signed: bool

    @property
    def centred(self) -> bool:
        """Whether all zero points are zero."""
        return not np.any(self.zero)

    @property
    def reach(self) -> int:
        """The largest distance of a grid point from a zero point."""
        low = -(1 << (self.bits - 1)) if self.signed else 0
        high = low + (1 << self.bits) - 1
        return max(high - int(self.zero.min()), int(self.zero.max()) - low)


def take_points(whole: Integers, points: int) -> Iterator[Integers]:
    """The points of a sum, the coarsest first."""
    zero = np.broadcast_to(whole.zero, whole.scale.shape).astype(np.int32)
    qparams = QParams(
        Grid(whole.bits, whole.signed), torch.from_numpy(whole.scale), torch.from_numpy(zero)
    )
    for q, own in split(torch.from_numpy(whole.q), qparams, points):
        scale, zero = own.scale.numpy(), own.zero_point.numpy()
        yield Integers(q.numpy(), scale, zero, own.grid.bits, own.grid.signed)


def container(bits: int, signed: bool) -> tuple[ir.DataType, int]:
    """The standard type that holds so many bits, and its width: 2, 4, 8 or 16 bits, or int32."""
    width = next(w for w in (2, 4, 8, 16, 32) if bits <= w)
    kind: ir.DataType = {
        (2, True): ir.DataType.INT2, (2, False): ir.DataType.UINT2,
        (4, True): ir.DataType.INT4, (4, False): ir.DataType.UINT4,
        (8, True): ir.DataType.INT8, (8, False): ir.DataType.UINT8,
        (16, True): ir.DataType.INT16, (16, False): ir.DataType.UINT16,
        (32, True): ir.DataType.INT32,
    }[(width, signed)]  # fmt: skip
    return kind, width


def pack(array: np.ndarray, kind: ir.DataType, name: str) -> ir.Tensor:
    """An integer tensor in its container; types below eight bits are packed when written."""
    return ir.Tensor(array.astype(kind.numpy()), name=name, dtype=kind)


def store_integers(
    graph: ir.Graph, tape: Tape, node: ir.Node, own: Integers, stem: str, target: Target
) -> ir.Value:
    """The numbers of an initialiser in its container: what makes them of it is recorded.

    Args:
        graph: where the initialisers go.
        tape: the record.
        node: the Dequantize that is to be replaced; its readers decide.
        own: the integers.
        stem: of names.
        target: how weights beside floats are written.
    """
    zero = np.broadcast_to(own.zero, own.scale.shape)
    own = replace(own, zero=zero)
    block = block_of(torch.from_numpy(own.scale), torch.from_numpy(zero.astype(np.int32)))
    folds = target.float_weights == FOLDED
    if own.bits == 32:
        if folds and not _joins_integers(node):
            return _folded(graph, tape, own, own.bits, stem)
        return _dequantized(graph, tape, node, own, own.bits, stem)
    beside = _reads_integers(node)
    width = target.stored_bits(own.bits, block is not None, not beside)
    if block is not None and folds and not (beside and _ends_quantized(node)):
        return _folded_blocks(graph, tape, own, width, stem, block)
    if block is not None:
        return _dequantized_blocks(graph, tape, own, width, stem, block)
    if folds and (not _reads_integers(node, whole=True) or _lacks_kernel(node, own)):
        return _folded(graph, tape, own, width, stem)
    if width == 4 and not beside:  # runtimes have kernels for packed weights beside floats
        return _dequantized_packed(graph, tape, own, stem)
    return _dequantized(graph, tape, node, own, width, stem)


def _dequantized(
    graph: ir.Graph, tape: Tape, node: ir.Node, own: Integers, width: int, stem: str
) -> ir.Value:
    """An initialiser and a DequantizeLinear, as runtimes match integer kernels.

    These kernels are for eight bits: what is stored in fewer is widened once, at load. They are
    slow where channels have zero points of their own: where q - z fits in eight bits, that is what
    the Cast and a Sub leave at load. The numbers are the same.
    """
    kind, _ = container(width, own.signed)
    q, zeros = store(graph, pack(own.q, kind, f"{stem}.q")), own.zero
    scale, axis = _flat(own.scale)
    if width <= 8 and not own.centred and own.reach < 128:
        kind = ir.DataType.INT8
        wide = add(tape, "Cast", [q], f"{stem}.wide", to=int(ir.DataType.INT32))
        stored = store(graph, pack(zeros, container(width, own.signed)[0], f"{stem}.zero"))
        middle = add(tape, "Cast", [stored], f"{stem}.zero.wide", to=int(ir.DataType.INT32))
        centred = add(tape, "Sub", [wide, middle], f"{stem}.centred")
        q = add(tape, "Cast", [centred], f"{stem}.narrow", to=int(kind))
        zeros = np.zeros_like(zeros)
    elif width < 8:
        kind = ir.DataType.INT8 if own.signed else ir.DataType.UINT8
        q = add(tape, "Cast", [q], f"{stem}.wide", to=int(kind))
    inputs = [q, store(graph, ir.Tensor(scale.astype(np.float32), name=f"{stem}.scale"))]
    if np.any(zeros) or _feeds_gemm(node):
        leaf = "zero" if own.centred or np.any(zeros) else "zero.centred"
        inputs.append(store(graph, pack(zeros.reshape(scale.shape), kind, f"{stem}.{leaf}")))
    attributes = {} if axis is None else {"axis": axis}
    return add(tape, "DequantizeLinear", inputs, f"{stem}.float", **attributes)


def _dequantized_packed(graph: ir.Graph, tape: Tape, own: Integers, stem: str) -> ir.Value:
    """An initialiser and a DequantizeLinear that reads it as it is stored."""
    kind, _ = container(4, own.signed)
    scale, axis = _flat(own.scale)
    inputs = [store(graph, pack(own.q, kind, f"{stem}.q"))]
    inputs.append(store(graph, ir.Tensor(scale.astype(np.float32), name=f"{stem}.scale")))
    if not own.centred:
        inputs.append(store(graph, pack(own.zero.reshape(scale.shape), kind, f"{stem}.zero")))
    attributes = {} if axis is None else {"axis": axis}
    return add(tape, "DequantizeLinear", inputs, f"{stem}.float", **attributes)


def _dequantized_blocks(
    graph: ir.Graph, tape: Tape, own: Integers, width: int, stem: str, block: tuple[int, int]
) -> ir.Value:
    """A DequantizeLinear with several scales a channel, along an axis."""
    kind, _ = container(width, own.signed)
    axis, size = block
    scale, zero = (
        blocks(torch.from_numpy(np.array(v)), block).numpy() for v in (own.scale, own.zero)
    )
    q = store(graph, pack(own.q, kind, f"{stem}.q"))
    if width == 2:  # ONNX Runtime's optimiser gives 2-bit weights to kernels that have none
        kind = ir.DataType.INT8 if own.signed else ir.DataType.UINT8
        q = add(tape, "Cast", [q], f"{stem}.wide", to=int(kind))
    inputs = [q, store(graph, ir.Tensor(scale.astype(np.float32), name=f"{stem}.scale"))]
    if np.any(zero):
        inputs.append(store(graph, pack(zero, kind, f"{stem}.zero")))
    return add(tape, "DequantizeLinear", inputs, f"{stem}.float", axis=axis, block_size=size)


def _folded_blocks(
    graph: ir.Graph, tape: Tape, own: Integers, width: int, stem: str, block: tuple[int, int]
) -> ir.Value:
    """`_folded` with one scale for each block: the integers are stored with an axis for these."""
    axis, size = block
    shape = (*own.q.shape[:axis], own.q.shape[axis] // size, size, *own.q.shape[axis + 1 :])
    first = [slice(None)] * len(shape)
    first[axis + 1] = slice(0, 1)
    apart = replace(
        own,
        q=own.q.reshape(shape),
        scale=own.scale.reshape(shape)[tuple(first)],
        zero=own.zero.reshape(shape)[tuple(first)],
    )
    parts = _folded(graph, tape, apart, width, stem, ".blocks")
    whole = np.array(own.q.shape, dtype=np.int64)
    inputs = [parts, store(graph, ir.Tensor(whole, name=f"{stem}.shape"))]
    return add(tape, "Reshape", inputs, f"{stem}.float")


def _folded(
    graph: ir.Graph, tape: Tape, own: Integers, width: int, stem: str, leaf: str = ".float"
) -> ir.Value:
    """(q - z) s as Cast, Sub and Mul: the same numbers, made once at load."""
    kind, _ = container(width, own.signed)
    q = store(graph, pack(own.q, kind, f"{stem}.q"))
    value = add(tape, "Cast", [q], f"{stem}.number", to=int(ir.DataType.FLOAT))
    if not own.centred:
        narrow = store(graph, pack(own.zero, kind, f"{stem}.zero"))
        zero = add(tape, "Cast", [narrow], f"{stem}.zero.number", to=int(ir.DataType.FLOAT))
        value = add(tape, "Sub", [value, zero], f"{stem}.centred")
    scale = store(graph, ir.Tensor(own.scale.astype(np.float32), name=f"{stem}.scale"))
    return add(tape, "Mul", [value, scale], f"{stem}{leaf}")


def _flat(scale: np.ndarray) -> tuple[np.ndarray, int | None]:
    """A broadcastable scale as ONNX wants it: flat along one axis, or a scalar."""
    wide = [i for i, size in enumerate(scale.shape) if size > 1]
    if not wide:
        return scale.reshape(()), None
    assert len(wide) == 1, "one quantisation axis"
    return scale.reshape(-1), wide[0]


# What may stand between a weight and its operator.
_ROUNDABOUT = ("Transpose", "Reshape")
_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")
# Whose integer kernels give floats as well.
_ANY_RESULT = ("MatMul", "Gemm")
# Through what a quantiser is moved up to the operator in front of it.
_PASSED = ("Relu", "Clip", "Mark")


def _reads_integers(node: ir.Node, whole: bool = False) -> bool:
    """Whether what a weight is multiplied by is quantised too, so that integers are multiplied.

    With `whole`: by an integer kernel of ONNX Runtime. It has products of integers that give
    floats, but no such convolutions: their results have to be quantised too.
    """
    for user, place in node.outputs[0].uses():
        if user.op_type in _ROUNDABOUT:
            if _reads_integers(user, whole):
                return True
            continue
        if whole and user.op_type not in _ANY_RESULT and not is_quantized(user.outputs[0]):
            continue
        others = (other for i, other in enumerate(user.inputs) if i != place and other is not None)
        makers = (other.producer() for other in others)
        if any(maker is not None and _turns_back(maker) for maker in makers):
            return True
    return False


def _ends_quantized(node: ir.Node) -> bool:
    """Whether a weight's product is quantised: ONNX Runtime would round float weights once more."""
    return any(
        _ends_quantized(user) if user.op_type in _ROUNDABOUT else is_quantized(user.outputs[0])
        for user, _ in node.outputs[0].uses()
    )


def _joins_integers(node: ir.Node) -> bool:
    """Whether a bias is added by operators whose weights are matched as integers."""
    for user, _ in node.outputs[0].uses():
        weight = user.inputs[1] if user.op_type in _WITH_BIAS else None
        while weight is not None and weight.producer() is not None:
            maker = weight.producer()
            if maker.op_type not in _ROUNDABOUT:
                break
            weight = maker.inputs[0]
        maker = None if weight is None else weight.producer()
        if maker is None or maker.op_type != "DequantizeLinear":
            return False
    return True


def _lacks_kernel(node: ir.Node, own: Integers) -> bool:
    """Whether integers are those of a convolution that runtimes have slow kernels for at best.

    ONNX Runtime's convolutions take 13 times as long where output channels have zero points of
    their own. What `_dequantized` can centre within eight bits has none.
    """
    one = (own.zero == own.zero.flat[0]).all()
    users = [user.op_type for user, _ in node.outputs[0].uses()]
    return not bool(one) and own.reach >= 128 and all(user.startswith("Conv") for user in users)


def shield(graph: ir.Graph) -> None:
    """Keep ONNX Runtime from rounding the folded weights of convolutions once more.

    Its pass WeightBiasQuantization takes float weights between quantised inputs and a quantised
    result for forgotten, and rounds them on one grid for the whole tensor. It looks for inputs that
    are dequantised by one scale: here they are given it once for each channel. Equal numbers.
    """
    for node in list(graph):
        maker = node.inputs[0].producer() if node.op_type.startswith("Conv") else None
        if maker is None or maker.op_type != "DequantizeLinear" or len(node.inputs) < 2:
            continue
        weight = node.inputs[1]
        folded = weight is not None and weight.producer() is not None
        if not folded or weight.producer().op_type != "Mul" or not is_quantized(node.outputs[0]):
            continue
        _dequantize_by_channel(graph, node, maker)


def _dequantize_by_channel(graph: ir.Graph, node: ir.Node, maker: ir.Node) -> None:
    name = f"{node.outputs[0].name}.input"
    q, *constants = maker.inputs
    channels = _channels(node)
    count = store(graph, ir.Tensor(np.array([channels]), name=f"channels.{channels}"))
    tape = Tape()
    wide = [
        add(tape, "Expand", [value, count], f"{name}.{word}")
        for value, word in zip(constants, ("scales", "zeros"), strict=False)
    ]
    result = add(tape, "DequantizeLinear", [q, *wide], f"{name}.float", axis=1)
    graph.insert_before(node, tape.nodes)
    node.replace_input_with(0, result)


def _channels(node: ir.Node) -> int:
    """The input channels of a convolution with stored weights."""
    value, groups = node.inputs[1], node.attributes.get("group")
    while value is not None and value.const_value is None:
        value = value.producer().inputs[0]
    assert value is not None and value.shape is not None
    if node.op_type == "ConvTranspose":
        return int(value.shape[0])
    return int(value.shape[1]) * (groups.as_int() if groups is not None else 1)


def _turns_back(node: ir.Node) -> bool:
    """Whether a node gives the numbers of quantised values, of inputs or of biases."""
    name = (node.domain, node.op_type)
    return name in (("", "DequantizeLinear"), (DOMAIN, "FakeQuantize"))


def is_quantized(value: ir.Value) -> bool:
    """Whether a value is quantised by its one reader, perhaps behind a clamp."""
    users = [user for user, _ in value.uses()]
    if len(users) != 1:
        return False
    (user,) = users
    if user.op_type in ("QuantizeLinear", "FakeQuantize"):
        return True
    return user.op_type in _PASSED and is_quantized(user.outputs[0])


def _feeds_gemm(node: ir.Node) -> bool:
    """ONNX Runtime has an integer Gemm only for weights whose zero point is written out."""
    return any(user.op_type == "Gemm" for user, _ in node.outputs[0].uses())
