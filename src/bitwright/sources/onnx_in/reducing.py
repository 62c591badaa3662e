"""The table's operators that reduce or walk along axes, and those that resize."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.sources.onnx_in.entry import (
    CHAIN,
    FLOAT,
    Call,
    Operator,
    Results,
    is_static,
    positive,
)
from bitwright.sources.onnx_in.values import OnnxValue, OpaqueError, as_tensor, numbers

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _reduce(
    function: Reduce, since: tuple[int, ...] = (1, 11, 13, 18), fate: str = FLOAT
) -> Operator:
    def compute(call: Call, x: OnnxValue, axes: OnnxValue = None) -> Results:
        value = as_tensor(x)
        given = call.axes(axes)
        if not given:
            if call["noop_with_empty_axes"]:
                return function(value.unsqueeze(-1), [value.dim()], False)
            given = list(range(value.dim()))
        return function(value, [positive(a, value.dim()) for a in given], bool(call["keepdims"]))

    return Operator(compute, {"axes": None, "keepdims": 1, "noop_with_empty_axes": 0}, since, fate)


def _whole(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise OpaqueError("a mean of whole numbers")
    return x


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(_whole(x), axes, keep)


def _arg(function: Callable[..., Tensor]) -> Operator:
    def compute(call: Call, x: OnnxValue) -> Results:
        value = as_tensor(x)
        axis = positive(call["axis"], value.dim())
        if call["select_last_index"]:
            raise OpaqueError("the last of equal places")
        return function(value, axis, keepdim=bool(call["keepdims"]))

    return Operator(
        compute, {"axis": 0, "keepdims": 1, "select_last_index": 0}, (1, 11, 12, 13), FLOAT
    )


def _softmax(function: Callable[[Tensor, int], Tensor], fate: str) -> Operator:
    def compute(call: Call, x: OnnxValue) -> Results:
        value = as_tensor(x)
        usual = 1 if call.opset < 13 else -1
        axis = positive(usual if call["axis"] is None else call["axis"], value.dim())
        if call.opset >= 13 or axis == value.dim() - 1:
            return function(value, axis)
        # Older opsets take all axes from this one on together.
        return function(value.flatten(axis), axis).reshape(value.shape)

    return Operator(compute, {"axis": None}, (1, 11, 13), fate)


def _cumulate(call: Call, x: OnnxValue, axis: OnnxValue) -> Results:
    value = as_tensor(x)
    given = numbers(axis)
    assert given is not None
    along = positive(int(given[0]), value.dim())
    if call["reverse"]:
        value = value.flip(along)
    made = torch.cumsum(value, along, dtype=value.dtype)
    if call["exclusive"]:
        made = made - value
    return made.flip(along) if call["reverse"] else made


# ---- sizes of images -------------------------------------------------------------------------


def _resize(
    call: Call,
    x: OnnxValue,
    roi: OnnxValue = None,
    scales: OnnxValue = None,
    sizes: OnnxValue = None,
) -> Results:
    value = as_tensor(x)
    # Before opset 11 the second input is what the third is since.
    if call.opset < 11:
        return _resized(call, value, numbers(roi), None, "asymmetric")
    factors, wanted = numbers(scales), numbers(sizes)
    if call["antialias"] or call["exclude_outside"]:
        raise OpaqueError("a resize that smooths")
    if call["keep_aspect_ratio_policy"] != "stretch":
        raise OpaqueError("a resize that keeps the aspect ratio")
    axes = call["axes"]
    if axes is not None:
        rank = value.dim()
        factors = _over(axes, factors, [1.0] * rank)
        wanted = _over(axes, wanted, list(value.shape))
    mode = call["coordinate_transformation_mode"]
    return _resized(call, value, factors or None, wanted or None, mode)


def _over(axes: Sequence[int], given: list[Any] | None, base: list[Any]) -> list[Any] | None:
    if not given:
        return None
    for axis, number in zip(axes, given, strict=True):
        base[axis] = number
    return base


def _upsample(call: Call, x: OnnxValue, scales: OnnxValue = None) -> Results:
    factors = numbers(scales) if scales is not None else list(call["scales"])
    return _resized(call, as_tensor(x), factors, None, "asymmetric")


def _resized(
    call: Call, x: Tensor, factors: list[Any] | None, sizes: list[Any] | None, mode: str
) -> Tensor:
    if factors is None and sizes is None:
        raise OpaqueError("a resize to a size that the data decide")
    inner = x.dim() - 2
    lead = (factors or sizes or [])[:2]
    same = all(f == 1 for f in lead) if factors else _same(lead, x.shape[:2])
    if inner not in (1, 2, 3) or not same:
        raise OpaqueError("a resize of batch or channels")
    scale = [float(f) for f in factors[2:]] if factors else None
    size = None if scale else [int(s) for s in (sizes or [])[2:]]
    kind = call["mode"]
    if kind == "nearest":
        return _nearest(call, x, scale, size, mode)
    if kind == "linear":
        return _interpolate(
            x, scale, size, mode, {1: "linear", 2: "bilinear", 3: "trilinear"}[inner]
        )
    if kind == "cubic" and inner == 2 and call["cubic_coeff_a"] == -0.75:
        return _interpolate(x, scale, size, mode, "bicubic")
    raise OpaqueError(f"a resize of kind {kind!r} over {inner} axes")


_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _same(given: Sequence[Any], own: Sequence[Any]) -> bool:
    # A batch that the file fixes, or that it reads off the input: either way it stays.
    return len(given) == 2 and given[1] == own[1]


def _interpolate(
    x: Tensor, scale: list[float] | None, size: list[int] | None, mode: str, kind: str
) -> Tensor:
    aligned = mode == "align_corners"
    if not aligned and mode not in ("half_pixel", "pytorch_half_pixel"):
        if mode == "asymmetric" and scale and all(f == 1 for f in scale):
            return x
        raise OpaqueError(f"a resize in coordinates {mode!r}")
    if mode == "pytorch_half_pixel" and _ends_at_one(x, scale, size):
        raise OpaqueError("a resize to one pixel")
    if scale is not None:
        return F.interpolate(
            x, scale_factor=scale, mode=kind, align_corners=aligned, recompute_scale_factor=False
        )
    return F.interpolate(x, size=size, mode=kind, align_corners=aligned)


def _ends_at_one(x: Tensor, scale: list[float] | None, size: list[int] | None) -> bool:
    """Whether an axis is one pixel long afterwards, which its mode places elsewhere than torch."""
    if size is not None:
        return 1 in size
    sides = zip(x.shape[2:], scale or [], strict=True)
    return any(is_static([side]) and math.floor(side * f) == 1 for side, f in sides)


def _nearest(
    call: Call, x: Tensor, scale: list[float] | None, size: list[int] | None, mode: str
) -> Tensor:
    rounding = call["nearest_mode"] if call.opset >= 11 else "floor"
    inner = list(x.shape[2:])
    if not is_static(inner):
        if scale and all(f == int(f) for f in scale) and _plain_nearest(mode, rounding):
            return F.interpolate(x, scale_factor=scale, mode="nearest")
        raise OpaqueError("a resize of a free size")
    out = size or [math.floor(s * f) for s, f in zip(inner, scale or [], strict=True)]
    factors = scale or [o / i for o, i in zip(out, inner, strict=True)]
    whole = all(
        o == i * int(f) and f == int(f) for o, i, f in zip(out, inner, factors, strict=True)
    )
    if whole and _plain_nearest(mode, rounding):
        return F.interpolate(x, scale_factor=[float(f) for f in factors], mode="nearest")
    for axis, (old, new, factor) in enumerate(zip(inner, out, factors, strict=True)):
        places = [_place(i, old, new, factor, mode, rounding) for i in range(new)]
        if places != list(range(old)):
            x = x.index_select(axis + 2, torch.tensor(places, dtype=torch.int64))
    return x


def _plain_nearest(mode: str, rounding: str) -> bool:
    """Whether whole factors repeat each entry."""
    return (mode, rounding) in (
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
        ("pytorch_half_pixel", "round_prefer_floor"),
    )


def _place(i: int, old: int, new: int, factor: float, mode: str, rounding: str) -> int:
    """Which old entry the new entry i is, in the float32 numbers in which runtimes compute it."""
    step = np.float32(factor)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and new > 1):
        x = float((np.float32(i) + np.float32(0.5)) / step - np.float32(0.5))
    elif mode == "pytorch_half_pixel":
        x = 0.0
    elif mode == "align_corners":
        x = 0.0 if new == 1 else i * (old - 1) / (new - 1)
    elif mode == "asymmetric":
        x = float(np.float32(i) / step)
    else:
        raise OpaqueError(f"a resize in coordinates {mode!r}")
    found = {
        "floor": math.floor(x),
        "ceil": math.ceil(x),
        "round_prefer_floor": math.ceil(x - 0.5),
        "round_prefer_ceil": math.floor(x + 0.5),
    }[rounding]
    return min(max(found, 0), old - 1)


_RESIZE = {
    "coordinate_transformation_mode": "half_pixel", "mode": "nearest", "cubic_coeff_a": -0.75,
    "nearest_mode": "round_prefer_floor", "exclude_outside": 0, "extrapolation_value": 0.0,
    "antialias": 0, "axes": None, "keep_aspect_ratio_policy": "stretch",
}  # fmt: skip
REDUCING: dict[str, Operator] = {
    "ReduceMean": _reduce(lambda x, axes, keep: _whole(x).mean(axes, keepdim=keep), fate=CHAIN),
    "ReduceSum": _reduce(_sum),
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keepdim=keep), (1, 11, 12, 13, 18, 20)),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keepdim=keep), (1, 11, 12, 13, 18, 20)),
    "ReduceProd": _reduce(_product),
    "ReduceL1": _reduce(lambda x, axes, keep: _sum(x.abs(), axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: _sum(_whole(x).square(), axes, keep).sqrt()),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: _sum(x * x, axes, keep)),
    "ReduceLogSum": _reduce(lambda x, axes, keep: _sum(_whole(x), axes, keep).log()),
    "ReduceLogSumExp": _reduce(_log_sum_exp),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "Softmax": _softmax(lambda x, axis: torch.softmax(x, axis), CHAIN),
    "LogSoftmax": _softmax(lambda x, axis: torch.log_softmax(x, axis), FLOAT),
    "CumSum": Operator(_cumulate, {"exclusive": 0, "reverse": 0}, (11, 14), FLOAT),
    "Resize": Operator(_resize, _RESIZE, (10, 11, 13, 18, 19), FLOAT),
    "Upsample": Operator(_upsample, {"mode": "nearest", "scales": None,
                                     "cubic_coeff_a": -0.75}, (7, 9), FLOAT),
}  # fmt: skip
