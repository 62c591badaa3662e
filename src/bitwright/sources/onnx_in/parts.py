"""Pieces of a file that are not translated: models of their own that ONNX Runtime runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bitwright.errors import ModelError
from bitwright.graph.opaque import (
    RUNTIME_ERRORS,
    free_size,
    key_of,
    onnx_part,
    start_session,
)
from bitwright.sources.onnx_in.plain_form import Array, Op, PlainForm
from bitwright.sources.onnx_in.values import OnnxValue, as_tensor

# Operators of which the data decide how large their results are.
SIZED_BY_DATA = frozenset({"NonMaxSuppression", "NonZero", "Unique", "Compress", "Loop", "If",
                           "Scan", "RoiAlign", "StringSplit"})  # fmt: skip
# Operators whose results are no tensors.
NO_TENSORS = ("Sequence", "SplitToSequence", "Optional", "ConcatFromSequence", "ZipMap", "String",
              "Tf", "RegexFullMatch")  # fmt: skip
RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
                    "Multinomial", "Bernoulli"})  # fmt: skip
_KINDS = {
    torch.float32: 1, torch.uint8: 2, torch.int8: 3, torch.int16: 5, torch.int32: 6,
    torch.int64: 7, torch.bool: 9, torch.float64: 11,
}  # fmt: skip


class PartNode(nn.Module):
    """One piece: an operator, or all that follows one, with the constants that it reads."""

    def __init__(self, form: PlainForm, ops: Sequence[Op], file: str) -> None:
        super().__init__()
        self.ops = tuple(ops)
        self.name = ops[0].name
        inside = {v for op in ops for v in op.outputs if v}
        read = [v for op in ops for v in op.reads if v not in inside]
        wanted = dict.fromkeys(read)
        self.inputs = tuple(v for v in wanted if v not in form.constants)
        self.outputs = _results(form, ops)
        constants = {v: form.constants[v] for v in wanted if v in form.constants}
        kinds = {v: form.types.get(v, 1) for v in (*self.inputs, *self.outputs)}
        content = _model_of(form, ops, constants, kinds, (self.inputs, self.outputs))
        self.key = key_of(content)
        what = f"the node {self.name!r} ({ops[0].kind}{_of(ops[0].domain)}) of {file!r}"
        self.session = start_session(content, what)
        self.known = tuple(form.shapes.get(v) for v in self.outputs)
        self.by_data = any(op.kind in SIZED_BY_DATA for op in ops)
        self.register_buffer("part", torch.frombuffer(bytearray(content), dtype=torch.uint8))

    def __deepcopy__(self, memo: object) -> PartNode:
        """Itself: it holds nothing that is ever changed."""
        return self

    def forward(self, *given: OnnxValue) -> Any:
        """The results, as tensors."""
        tensors = [as_tensor(value) for value in given]
        tensors = [_as_expected(t, i.type) for t, i in
                   zip(tensors, self.session.get_inputs(), strict=True)]  # fmt: skip
        shapes = self._shapes(tensors) if _traced(tensors) else ""
        part = self.part
        assert isinstance(part, Tensor)
        made = onnx_part(tensors, part, self.key, f"{self.ops[0].kind} {self.name}", shapes)
        return made[0] if len(made) == 1 else tuple(made)

    def _shapes(self, tensors: Sequence[Tensor]) -> str:
        """Types and sizes of the results as `onnx_part` takes them, found by two runs on zeros."""
        first, second = (self._run_zeros(tensors, extra) for extra in (0, 1))
        batch = _hint(free_size(tensors))
        found = []
        for place, (a, b) in enumerate(zip(first, second, strict=True)):
            known = self.known[place]
            sizes = []
            for axis, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)):
                fixed = known[axis] if known and len(known) == a.ndim else None
                sizes.append(_size(m, n, batch, self.by_data and fixed is None))
            found.append(f"{_kind_of(a)}:{','.join(sizes)}")
        return ";".join(found)

    def _run_zeros(self, tensors: Sequence[Tensor], extra: int) -> list[Array]:
        feeds = {}
        for given, tensor in zip(self.session.get_inputs(), tensors, strict=True):
            sizes = [_hint(s) + (extra if isinstance(s, torch.SymInt) else 0) for s in tensor.shape]
            feeds[given.name] = np.zeros(sizes, dtype=_numpy_of(tensor.dtype))
        try:
            return [np.asarray(v) for v in self.session.run(None, feeds)]
        except RUNTIME_ERRORS as error:
            first = next(iter(str(error).strip().splitlines()), "")
            raise ModelError(
                f"the node {self.name!r} ({self.ops[0].kind}) fails in ONNX Runtime on inputs of "
                f"the shapes that reach it: {first[:200]}. Give --data of the shape that you mean."
            ) from error


def _of(domain: str) -> str:
    return f" of the domain {domain!r}" if domain else ""


def _results(form: PlainForm, ops: Sequence[Op]) -> tuple[str, ...]:
    """What others read of what the operators make; at least the first result."""
    made = [v for op in ops for v in op.outputs if v]
    own = set(map(id, ops))
    outer = {v for op in form.ops if id(op) not in own for v in op.reads} | set(form.outputs)
    found = tuple(v for v in made if v in outer)
    return found or tuple(v for v in ops[-1].outputs if v)[:1]


def _model_of(
    form: PlainForm, ops: Iterable[Op], constants: dict[str, Array], kinds: dict[str, int],
    ends: tuple[tuple[str, ...], tuple[str, ...]],
) -> bytes:  # fmt: skip
    nodes = [proto for op in ops for proto in op.protos]
    stored = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = onnx.GraphProto(name="part", node=nodes, initializer=stored)
    for value in ends[0]:
        graph.input.append(onnx.helper.make_tensor_value_info(value, kinds[value], None))
    for value in ends[1]:
        graph.output.append(onnx.ValueInfoProto(name=value))
    model = onnx.ModelProto(ir_version=form.ir_version, graph=graph)
    for domain, version in form.opsets.items():
        model.opset_import.append(onnx.helper.make_opsetid(domain, version))
    return bytes(model.SerializeToString(deterministic=True))


def _as_expected(tensor: Tensor, kind: str) -> Tensor:
    """Numbers in the type that the piece takes: the file may compute in another float type."""
    wanted = _ORT_KINDS.get(kind)
    return tensor if wanted is None or tensor.dtype == wanted else tensor.to(wanted)


_ORT_KINDS = {
    "tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32, "tensor(bool)": torch.bool, "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
}  # fmt: skip


def _traced(tensors: Iterable[Tensor]) -> bool:
    return any(is_traced(t) for t in tensors)


def is_traced(value: object) -> bool:
    """Whether a tensor stands for others while torch.export looks on."""
    return isinstance(value, torch._subclasses.FakeTensor)


def _hint(size: int | torch.SymInt) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def _size(m: int, n: int, batch: int, by_data: bool) -> str:
    if by_data:
        return "?"
    if m == n:
        return str(m)
    return f"{m // batch}b" if m % batch == 0 and n == m // batch * (batch + 1) else "?"


def _kind_of(array: Array) -> str:
    return str(array.dtype)


def _numpy_of(dtype: torch.dtype) -> Any:
    return np.dtype(str(dtype).removeprefix("torch."))
