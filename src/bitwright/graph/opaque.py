"""Two torch operators of networks that come from an ONNX file.

`onnx_value` names a value as the file does; capture takes it out again and keeps the name.
`onnx_part` is a piece of the file that ONNX Runtime runs as it stands: an operator that is not
translated, or all that follows one whose result has a size that only the data decide. The piece is
stored beside the weights, as bytes, so that a graph carries all that it computes with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from torch import Tensor

from bitwright.errors import ModelError

# What ONNX Runtime raises for a piece that it does not take.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.Fail, ort_errors.InvalidGraph, ort_errors.InvalidArgument,
    ort_errors.InvalidProtobuf, ort_errors.NotImplemented, ort_errors.RuntimeException,
    ort_errors.NoSuchFile, ort_errors.EPFail, RuntimeError, ValueError, TypeError, IndexError,
)  # fmt: skip
_SIZE = re.compile(r"(\d+)(b?)|\?")
_MOST_SESSIONS = 64
_SESSIONS: dict[str, ort.InferenceSession] = {}
DTYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16,
        torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip


@torch.library.custom_op("bitwright::onnx_value", mutates_args=())
def onnx_value(x: Tensor, name: str) -> Tensor:  # noqa: ARG001 - what it is for
    """The value itself, under the name that the file gives it."""
    return x.clone()


@onnx_value.register_fake
def _(x: Tensor, name: str) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


@torch.library.custom_op("bitwright::onnx_part", mutates_args=())
def onnx_part(
    inputs: Sequence[Tensor],
    model: Tensor,
    key: str,
    name: str,  # noqa: ARG001 - for people
    shapes: str,
) -> list[Tensor]:
    """A piece of a file, run by ONNX Runtime.

    Args:
        inputs: what the piece reads.
        model: the piece as a model of its own, in bytes.
        key: their digest.
        name: the operator and the name of its node, for people.
        shapes: types and sizes of the results, for tracing; see `parse_shapes`.
    """
    session = _session(key, model)
    feeds = {
        given.name: np.ascontiguousarray(value.detach().cpu().contiguous().numpy())
        for given, value in zip(session.get_inputs(), inputs, strict=True)
    }
    kinds = [kind for kind, _ in parse_shapes(shapes)] if shapes else []
    made = [torch.from_numpy(np.array(value)) for value in session.run(None, feeds)]
    return [m.to(kind) for m, kind in zip(made, kinds, strict=True)] if kinds else made


@onnx_part.register_fake
def _(
    inputs: Sequence[Tensor],
    model: Tensor,  # noqa: ARG001
    key: str,  # noqa: ARG001
    name: str,  # noqa: ARG001
    shapes: str,
) -> list[Tensor]:
    batch = free_size(inputs)
    found = []
    for kind, sizes in parse_shapes(shapes):
        full = [
            torch.library.get_ctx().new_dynamic_size() if size is None
            else size[0] * batch if size[1] else size[0]
            for size in sizes
        ]  # fmt: skip
        found.append(torch.empty(full, dtype=kind))
    return found


NAME_VALUE = torch.ops.bitwright.onnx_value.default
PART = torch.ops.bitwright.onnx_part.default

SizeRule = tuple[int, bool] | None


def free_size(tensors: Sequence[Tensor]) -> Any:
    """The first size of the inputs that is free, which is the batch; 1 where none is."""
    sizes = (size for tensor in tensors for size in tensor.shape)
    return next((size for size in sizes if isinstance(size, torch.SymInt)), 1)


def parse_shapes(text: str) -> list[tuple[torch.dtype, list[SizeRule]]]:
    """Types and sizes of a part's results from their text.

    A size is a number, a number times the batch (`4b`), or `?` where the data decide it.

    >>> parse_shapes("float32:1b,84,?;int64:")
    [(torch.float32, [(1, True), (84, False), None]), (torch.int64, [])]
    """
    found = []
    for part in text.split(";"):
        kind, _, sizes = part.partition(":")
        matches = [_SIZE.fullmatch(size) for size in sizes.split(",") if size]
        parsed = [(int(m[1]), bool(m[2])) if m and m[1] else None for m in matches]
        found.append((DTYPES[kind], parsed))
    return found


def key_of(model: bytes) -> str:
    """The digest by which a piece is known."""
    return hashlib.sha256(model).hexdigest()


def start_session(content: bytes, what: str) -> ort.InferenceSession:
    """A session of a piece, on one thread: the same bits whatever the machine.

    Raises:
        ModelError: ONNX Runtime does not take it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"{what} cannot be run by ONNX Runtime, so what the network computes is not known: "
            f"{first[:300]}. Replace that operator by standard ones, or cut the file before it."
        ) from error


def _session(key: str, model: Tensor) -> ort.InferenceSession:
    found = _SESSIONS.get(key)
    if found is None:
        content = model.detach().cpu().numpy().tobytes()
        if key_of(content) != key:
            raise ModelError(
                "a part of the network is not the one that its graph names: the run was changed or "
                "is damaged. Quantise again."
            )
        while len(_SESSIONS) >= _MOST_SESSIONS:
            _SESSIONS.pop(next(iter(_SESSIONS)))
        found = _SESSIONS[key] = start_session(content, "a part of the network")
    return found
