"""The table's operators that look entries up by their places, and put them there."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.sources.onnx_in.entry import (
    FLOAT,
    MOVES,
    Call,
    Operator,
    Results,
    is_static,
    on_host,
    positive,
)
from bitwright.sources.onnx_in.values import (
    Constant,
    Host,
    OnnxValue,
    OpaqueError,
    as_host,
    as_tensor,
    needed,
)


def _gather(call: Call, x: OnnxValue, places: OnnxValue) -> Results:
    axis = call["axis"]
    known = on_host(x, places) if isinstance(x, Host) else None
    if known is not None:
        where = known[1].array.astype(np.int64)
        return Host(np.asarray(np.take(known[0].array, where, axis), dtype=object), known[0].dtype)
    value, index = as_tensor(x), as_host(places)
    axis = positive(axis, value.dim())
    if index is not None and is_static(index.array.reshape(-1).tolist()):
        return _take(value, axis, index)
    table = isinstance(x, Constant) and axis == 0 and value.dim() == 2
    rows = as_tensor(places).long()
    if table and value.is_floating_point():
        return F.embedding(rows, value)
    rows = torch.where(rows < 0, rows + value.shape[axis], rows)
    flat = value.index_select(axis, rows.reshape(-1))
    return flat.reshape(*value.shape[:axis], *rows.shape, *value.shape[axis + 1 :])


def _take(value: Tensor, axis: int, index: Host) -> Tensor:
    places = [int(i) for i in index.array.reshape(-1)]
    if index.array.ndim == 0:
        return value.select(axis, places[0])
    size = value.shape[axis]
    if any(p < 0 for p in places) and not is_static([size]):
        raise OpaqueError("places counted from the end of a free axis")
    places = [p + size if p < 0 else p for p in places]
    one = len(places) > 0 and places == list(range(places[0], places[0] + len(places)))
    if one:
        made = value.narrow(axis, places[0], len(places))
    else:
        made = value.index_select(axis, torch.tensor(places, dtype=torch.int64))
    if index.array.ndim == 1:
        return made
    return made.reshape(*value.shape[:axis], *index.array.shape, *value.shape[axis + 1 :])


def _gather_elements(call: Call, x: OnnxValue, places: OnnxValue) -> Results:
    value, index = as_tensor(x), as_tensor(places).long()
    axis = positive(call["axis"], value.dim())
    return torch.gather(value, axis, torch.where(index < 0, index + value.shape[axis], index))


def _gather_nd(call: Call, x: OnnxValue, places: OnnxValue) -> Results:
    value, index = as_tensor(x), as_tensor(places).long()
    if call["batch_dims"]:
        raise OpaqueError("a gather of several axes within batches")
    depth = index.shape[-1]
    parts = [index[..., i] for i in range(depth)]
    parts = [torch.where(p < 0, p + value.shape[i], p) for i, p in enumerate(parts)]
    return value[tuple(parts)]


def _one_hot(call: Call, places: OnnxValue, depth: OnnxValue, values: OnnxValue) -> Results:
    count = int(needed(depth)[0])
    index, both = as_tensor(places).long(), as_tensor(values)
    index = torch.where(index < 0, index + count, index)
    axis = call["axis"]
    rank = index.dim() + 1
    axis = axis + rank if axis < 0 else axis
    grid = torch.arange(count).reshape([count if i == axis else 1 for i in range(rank)])
    return torch.where(index.unsqueeze(axis) == grid, both[1], both[0])


def _scatter_elements(call: Call, x: OnnxValue, places: OnnxValue, updates: OnnxValue) -> Results:
    if call["reduction"] != "none":
        raise OpaqueError("a scatter that reduces")
    value, index = as_tensor(x), as_tensor(places).long()
    axis = positive(call["axis"], value.dim())
    index = torch.where(index < 0, index + value.shape[axis], index)
    return torch.scatter(value, axis, index, as_tensor(updates))


def _scatter_nd(call: Call, x: OnnxValue, places: OnnxValue, updates: OnnxValue) -> Results:
    if call["reduction"] != "none":
        raise OpaqueError("a scatter that reduces")
    value, index = as_tensor(x), as_tensor(places).long()
    parts = [index[..., i] for i in range(index.shape[-1])]
    parts = [torch.where(p < 0, p + value.shape[i], p) for i, p in enumerate(parts)]
    return torch.index_put(value, tuple(parts), as_tensor(updates))


INDEXING: dict[str, Operator] = {
    "Gather": Operator(
        _gather, {"axis": 0}, (1, 11, 13), "a unit where its table is stored; moves values"
    ),
    "GatherElements": Operator(_gather_elements, {"axis": 0}, (11, 13), MOVES),
    "GatherND": Operator(_gather_nd, {"batch_dims": 0}, (11, 12, 13), MOVES),
    "ScatterElements": Operator(
        _scatter_elements, {"axis": 0, "reduction": "none"}, (11, 13, 16, 18), FLOAT
    ),
    "ScatterND": Operator(_scatter_nd, {"reduction": "none"}, (11, 13, 16, 18), FLOAT),
    "OneHot": Operator(_one_hot, {"axis": -1}, (9, 11), FLOAT),
}
