"""The table's operators that move values, and those that compute shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.sources.onnx_in.entry import (
    CHAIN,
    FLOAT,
    MOVES,
    SHAPES,
    Call,
    Operator,
    Results,
    is_static,
    on_host,
    positive,
)
from bitwright.sources.onnx_in.values import (
    FEW,
    Host,
    OnnxValue,
    OpaqueError,
    as_host,
    as_tensor,
    host,
    needed,
    numbers,
)

_BIGGEST = 1 << 62


def _shape(call: Call, x: OnnxValue) -> Results:
    sizes = list(as_tensor(x).shape)
    return host(sizes[slice(call["start"], call["end"])])


def _size(_: Call, x: OnnxValue) -> Results:
    made = np.empty((), dtype=object)
    made[()] = math.prod(as_tensor(x).shape)
    return Host(made)


def _reshape(call: Call, x: OnnxValue, shape: OnnxValue = None) -> Results:
    wanted = needed(shape) if shape is not None else list(call["shape"])
    known = x if isinstance(x, Host) else None
    own = list(known.array.shape) if known else list(as_tensor(x).shape)
    if not call["allowzero"]:
        wanted = [own[i] if _is(size, 0) else size for i, size in enumerate(wanted)]
    if known is not None:
        return Host(known.array.reshape([int(s) for s in wanted]), known.dtype)
    return as_tensor(x).reshape(_free_batch(call, wanted, own))


def _is(size: Any, number: int) -> bool:
    return isinstance(size, int) and not isinstance(size, torch.SymInt) and size == number


def _free_batch(call: Call, wanted: list[Any], own: list[Any]) -> list[Any]:
    """A shape that was written for one batch, for the batch that there is.

    The batch is taken for the outermost part of the first axis; `agree` tries whether that is so.
    """
    declared = call.declared
    if not call.batch or declared is None or len(declared) != len(wanted):
        return wanted
    if not all(isinstance(s, int) and not isinstance(s, torch.SymInt) for s in wanted):
        return wanted
    count = math.prod(own)
    if is_static(own) and count == math.prod(declared):
        return wanted
    rest = math.prod(declared[1:])
    # As many as there are: the first axis takes what the others leave.
    return [count // rest if rest else declared[0], *declared[1:]]


def _flatten(call: Call, x: OnnxValue) -> Results:
    value = as_tensor(x)
    axis = call["axis"] + value.dim() if call["axis"] < 0 else call["axis"]
    if axis == 1 and value.dim() >= 2:
        return torch.flatten(value, 1)
    shape = list(value.shape)
    return value.reshape(math.prod(shape[:axis]), math.prod(shape[axis:]))


def _squeeze(call: Call, x: OnnxValue, axes: OnnxValue = None) -> Results:
    given = call.axes(axes)
    if isinstance(x, Host):
        return Host(np.squeeze(x.array, None if given is None else tuple(given)), x.dtype)
    value = as_tensor(x)
    if given is None:
        given = [axis for axis, size in enumerate(value.shape) if _is(size, 1)]
    for axis in sorted((positive(a, value.dim()) for a in given), reverse=True):
        value = value.squeeze(axis)
    return value


def _unsqueeze(call: Call, x: OnnxValue, axes: OnnxValue = None) -> Results:
    given = call.axes(axes)
    assert given is not None
    if isinstance(x, Host):
        return Host(np.expand_dims(x.array, tuple(given)), x.dtype)
    value = as_tensor(x)
    rank = value.dim() + len(given)
    for axis in sorted(positive(a, rank) for a in given):
        value = value.unsqueeze(axis)
    return value


def _transpose(call: Call, x: OnnxValue) -> Results:
    value = as_tensor(x)
    order = call["perm"]
    return value.permute(list(order) if order else list(range(value.dim()))[::-1])


def _concat(call: Call, *values: OnnxValue) -> Results:
    known = on_host(*values)
    if known is not None:
        return Host(np.concatenate([v.array for v in known], call["axis"]), known[0].dtype)
    tensors = [as_tensor(v) for v in values]
    axis = positive(call["axis"], max(t.dim() for t in tensors))
    if call.batch and axis:
        tensors = _repeat_stored(call, values, tensors)
    return torch.cat(tensors, axis)


def _repeat_stored(
    call: Call, values: tuple[OnnxValue, ...], tensors: list[Tensor]
) -> list[Tensor]:
    """Stored parts (a class token) that were written for one sample, for each of the batch."""
    batches = [t.shape[0] for v, t in zip(values, tensors, strict=True) if isinstance(v, Tensor)]
    if not batches:
        return tensors
    return [
        t.expand(batches[0], *t.shape[1:])
        if not isinstance(v, Tensor) and t.shape[0] == call.batch == 1
        else t
        for v, t in zip(values, tensors, strict=True)
    ]


def _split(call: Call, x: OnnxValue, sizes: OnnxValue = None) -> Results:
    given = numbers(sizes) if sizes is not None else call["split"]
    if isinstance(x, Host):
        count = call.outputs
        ends = np.cumsum(given)[:-1] if given else count
        parts = np.array_split(x.array, ends, call["axis"])
        return tuple(Host(part, x.dtype) for part in parts)
    value = as_tensor(x)
    axis = positive(call["axis"], value.dim())
    if not given:
        count = call["num_outputs"] or call.outputs
        each = -(-value.shape[axis] // count)
        given = [each] * (count - 1)
        given.append(value.shape[axis] - each * (count - 1))
    if any(isinstance(g, torch.SymInt) for g in given):
        raise OpaqueError("a split at places that depend on the batch")
    return tuple(torch.split(value, [int(g) for g in given], axis))


def _slice(
    call: Call, x: OnnxValue, starts: OnnxValue = None, ends: OnnxValue = None,
    axes: OnnxValue = None, steps: OnnxValue = None,
) -> Results:  # fmt: skip
    first = needed(starts) if starts is not None else list(call["starts"])
    last = needed(ends) if ends is not None else list(call["ends"])
    rank = x.array.ndim if isinstance(x, Host) else as_tensor(x).dim()
    where = call.axes(axes) or list(range(len(first)))
    by = numbers(steps) if steps is not None else None
    parts: list[Any] = [slice(None)] * rank
    for axis, start, end, step in zip(where, first, last, by or [1] * len(first), strict=True):
        parts[positive(int(axis), rank)] = slice(start, end, step)
    if isinstance(x, Host):
        return Host(x.array[tuple(_bounded(p) for p in parts)], x.dtype)
    value = as_tensor(x)
    for axis, part in enumerate(parts):
        if part != slice(None):
            value = _cut(value, axis, part)
    return value


def _bounded(part: slice) -> slice:
    """Ends that mean as far as there is, as Python writes them."""
    end = part.stop
    if part.step is not None and part.step < 0 and isinstance(end, int) and end < -_BIGGEST:
        end = None
    return slice(part.start, end, part.step)


def _cut(value: Tensor, axis: int, part: slice) -> Tensor:
    start, end, step = part.start, part.stop, part.step
    size = value.shape[axis]
    if step > 0:
        whole = (slice(None),) * axis
        end = None if isinstance(end, int) and end > _BIGGEST >> 8 else end
        cut: Tensor = value[(*whole, slice(start, end, step))]
        return cut
    if not is_static([size, start, end]):
        raise OpaqueError("a backward slice of a free axis")
    places = list(range(int(size)))[_bounded(part)]
    if places == list(range(int(size)))[::-1]:
        return value.flip(axis)
    return value.index_select(axis, torch.tensor(places, dtype=torch.int64))


def _expand(call: Call, x: OnnxValue, shape: OnnxValue) -> Results:
    wanted = needed(shape)
    if isinstance(x, Host):
        full = np.broadcast_shapes(x.array.shape, tuple(int(s) for s in wanted))
        return Host(np.broadcast_to(x.array, full), x.dtype)
    value = as_tensor(x)
    missing = len(wanted) - value.dim()
    own = [1] * max(missing, 0) + list(value.shape)
    wanted = [1] * max(-missing, 0) + wanted
    sizes = [o if _is(w, 1) else w for o, w in zip(own, wanted, strict=True)]
    if call.batch and call.declared and isinstance(x, Tensor) and len(sizes) == len(own):
        free = own[0] != call.declared[0] and _is(sizes[0], call.declared[0])
        sizes[0] = own[0] if free else sizes[0]
    return value.expand(sizes)


def _tile(_: Call, x: OnnxValue, repeats: OnnxValue) -> Results:
    times = needed(repeats)
    if isinstance(x, Host):
        return Host(np.tile(x.array, [int(t) for t in times]), x.dtype)
    return as_tensor(x).repeat(times)


def _full(call: Call, shape: OnnxValue) -> Results:
    sizes = needed(shape)
    value = call["value"]
    fill = 0.0 if value is None else value.reshape(-1)[0].item()
    kind = torch.float32 if value is None else torch.from_numpy(value.reshape(-1)[:1].copy()).dtype
    small = not kind.is_floating_point and is_static(sizes) and math.prod(sizes) <= FEW
    if small and len(sizes) <= 1:
        made = np.empty([int(s) for s in sizes], dtype=object)
        made[...] = fill
        return Host(made, kind)
    return torch.full([int(s) if is_static([s]) else s for s in sizes], fill, dtype=kind)


def _range(_: Call, start: OnnxValue, limit: OnnxValue, delta: OnnxValue) -> Results:
    known = [k for k in (as_host(v) for v in (start, limit, delta)) if k is not None]
    if len(known) < 3:
        raise OpaqueError("a range whose ends are computed from the data")
    first, last, step = (k.array.reshape(-1)[0] for k in known)
    kind = known[0].dtype
    static = is_static([first, last, step])
    if static and not kind.is_floating_point and abs(last - first) <= FEW * abs(step):
        return host(list(range(int(first), int(last), int(step))), kind)
    return torch.arange(first, last, step, dtype=kind)


def _pad(
    call: Call,
    x: OnnxValue,
    pads: OnnxValue = None,
    value: OnnxValue = None,
    axes: OnnxValue = None,
) -> Results:
    tensor = as_tensor(x)
    amounts = needed(pads) if pads is not None else list(call["pads"] or call["paddings"])
    where = call.axes(axes) if axes is not None else None
    where = (
        list(range(tensor.dim())) if where is None else [positive(a, tensor.dim()) for a in where]
    )
    count = len(where)
    each = {axis: (amounts[i], amounts[i + count]) for i, axis in enumerate(where)}
    flat = [p for axis in reversed(range(tensor.dim())) for p in each.get(axis, (0, 0))]
    if not any(flat):
        return tensor
    mode = call["mode"]
    if mode == "constant":
        stated = call["value"] if value is None else needed(value)[0]
        number = stated if tensor.is_floating_point() else int(stated)
        return F.pad(tensor, flat, value=number)
    return _pad_inner(tensor, flat, mode)


def _pad_inner(tensor: Tensor, flat: list[int], mode: str) -> Tensor:
    """Reflected or repeated edges, which torch pads on the inner axes of batches alone."""
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    used = max(i // 2 + 1 for i, amount in enumerate(flat) if amount)
    if mode not in modes or used > 3 or min(flat) < 0:
        raise OpaqueError(f"a padding of mode {mode!r}")
    lead = tensor.dim() - used
    if lead < 1:
        tensor = tensor.unsqueeze(0)
    rows = tensor if lead <= 2 else tensor.flatten(0, lead - 2)
    made = F.pad(rows, flat[: 2 * used], mode=modes[mode])
    if lead > 2:
        made = made.reshape(*tensor.shape[: lead - 1], *made.shape[1:])
    return made.squeeze(0) if lead < 1 else made


def _trilu(call: Call, x: OnnxValue, diagonal: OnnxValue = None) -> Results:
    k = int(needed(diagonal)[0]) if diagonal is not None else 0
    value = as_tensor(x)
    return torch.triu(value, k) if call["upper"] else torch.tril(value, k)


def _depth_to_space(call: Call, x: OnnxValue) -> Results:
    value, block = as_tensor(x), call["blocksize"]
    n, c, h, w = value.shape
    if call["mode"] == "CRD":
        return F.pixel_shuffle(value, block)
    parts = value.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(call: Call, x: OnnxValue) -> Results:
    value, block = as_tensor(x), call["blocksize"]
    n, c, h, w = value.shape
    parts = value.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


_SPLIT = {"axis": 0, "split": None, "num_outputs": None}
SHAPING: dict[str, Operator] = {
    "Shape": Operator(_shape, {"start": 0, "end": None}, (1, 13, 15), SHAPES),
    "Size": Operator(_size, {}, (1, 13), SHAPES),
    "Reshape": Operator(_reshape, {"allowzero": 0, "shape": None}, (5, 13, 14), MOVES),
    "Flatten": Operator(_flatten, {"axis": 1}, (1, 9, 11, 13), MOVES),
    "Squeeze": Operator(_squeeze, {"axes": None}, (1, 11, 13), MOVES),
    "Unsqueeze": Operator(_unsqueeze, {"axes": None}, (1, 11, 13), MOVES),
    "Transpose": Operator(_transpose, {"perm": None}, (1, 13), MOVES),
    "Concat": Operator(_concat, {"axis": 1}, (4, 11, 13), CHAIN),
    "Split": Operator(_split, _SPLIT, (2, 11, 13, 18), MOVES),
    "Slice": Operator(_slice, {"starts": None, "ends": None, "axes": None}, (1, 10, 11, 13), MOVES),
    "Expand": Operator(_expand, {}, (8, 13), MOVES),
    "Tile": Operator(_tile, {}, (6, 13), MOVES),
    "ConstantOfShape": Operator(_full, {"value": None}, (9, 20), SHAPES),
    "Range": Operator(_range, {}, (11,), SHAPES),
    "Pad": Operator(
        _pad, {"mode": "constant", "pads": None, "paddings": None, "value": 0.0},
        (2, 11, 13, 18, 19), MOVES,
    ),
    "Trilu": Operator(_trilu, {"upper": 1}, (14,), FLOAT),
    "DepthToSpace": Operator(_depth_to_space, {"blocksize": 1, "mode": "DCR"}, (1, 11, 13), MOVES),
    "SpaceToDepth": Operator(_space_to_depth, {"blocksize": 1}, (1, 13), MOVES),
}  # fmt: skip
