"""The table's operators with weights, norms and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.sources.onnx_in.entry import (
    ACTIVATION,
    CHAIN,
    FLOAT,
    WEIGHTS,
    Call,
    Operator,
    Results,
)
from bitwright.sources.onnx_in.values import OnnxValue, OpaqueError, as_tensor

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_WINDOW = {
    "auto_pad": "NOTSET", "dilations": None, "kernel_shape": None, "pads": None, "strides": None,
}  # fmt: skip


def _spread(value: Sequence[int] | None, axes: int) -> list[int]:
    return [int(v) for v in value] if value else [1] * axes


def _padding(call: Call, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """(padding before, padding after) of each spatial axis."""
    axes = len(kernel)
    strides, dilations = _spread(call["strides"], axes), _spread(call["dilations"], axes)
    mode = call["auto_pad"]
    if mode in ("NOTSET", ""):
        pads = [int(p) for p in call["pads"] or [0] * 2 * axes]
        return pads[:axes], pads[axes:]
    if mode == "VALID":
        return [0] * axes, [0] * axes
    before, after = [], []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        reach = (k - 1) * dilation + 1
        last = (size - 1) % stride if stride > 1 else 0
        total = reach - 1 - last if stride > 1 else reach - 1
        total = max(total, 0)
        less = total // 2
        before.append(less if mode == "SAME_UPPER" else total - less)
        after.append(total - less if mode == "SAME_UPPER" else less)
    return before, after


def _pad(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    amounts = [p for pair in zip(before[::-1], after[::-1], strict=True) for p in pair]
    return F.pad(x, amounts, value=value) if any(amounts) else x


def _convolve(call: Call, x: OnnxValue, weight: OnnxValue, bias: OnnxValue = None) -> Results:
    value, kernel = as_tensor(x), as_tensor(weight)
    axes = kernel.dim() - 2
    if axes not in _CONVOLVE:
        raise OpaqueError(f"a convolution over {axes} axes")
    before, after = _padding(call, value, kernel.shape[2:])
    strides, dilations = _spread(call["strides"], axes), _spread(call["dilations"], axes)
    if before != after or min(before) < 0:
        value, before = _pad(value, before, after), [0] * axes
    return _CONVOLVE[axes](
        value, kernel, None if bias is None else as_tensor(bias), strides, before, dilations,
        call["group"],
    )  # fmt: skip


def _transpose(call: Call, x: OnnxValue, weight: OnnxValue, bias: OnnxValue = None) -> Results:
    value, kernel = as_tensor(x), as_tensor(weight)
    axes = kernel.dim() - 2
    if axes not in _TRANSPOSE:
        raise OpaqueError(f"a convolution over {axes} axes")
    strides, dilations = _spread(call["strides"], axes), _spread(call["dilations"], axes)
    extra = [int(v) for v in call["output_padding"] or [0] * axes]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel.shape[2:], dilations, strict=True)]
    before, after = _transposed_padding(call, value, reach, strides, extra)
    # The longer side is cut off afterwards; torch takes one padding for both.
    less = [max(min(b, a), 0) for b, a in zip(before, after, strict=True)]
    given = None if bias is None else as_tensor(bias)
    fits = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    if not fits:
        raise OpaqueError("an output padding of a whole stride")
    made: Tensor = _TRANSPOSE[axes](
        value, kernel, given, strides, less, extra, call["group"], dilations
    )
    for axis in range(axes):
        front, back = before[axis] - less[axis], after[axis] - less[axis]
        if front < 0 or back < 0:
            raise OpaqueError("a negative padding")
        if front or back:
            made = made.narrow(axis + 2, front, made.shape[axis + 2] - front - back)
    return made


def _transposed_padding(
    call: Call, x: Tensor, reach: list[int], strides: list[int], extra: list[int]
) -> tuple[list[int], list[int]]:
    axes, mode, shape = len(reach), call["auto_pad"], call["output_shape"]
    if mode == "VALID" or (mode in ("NOTSET", "") and not shape):
        pads = (
            [0] * 2 * axes if mode == "VALID" else [int(p) for p in call["pads"] or [0] * 2 * axes]
        )
        return pads[:axes], pads[axes:]
    before, after = [], []
    for axis in range(axes):
        size = x.shape[axis + 2]
        whole = strides[axis] * (size - 1) + extra[axis] + reach[axis]
        wanted = int(shape[-axes:][axis]) if shape else size * strides[axis]
        total = max(whole - wanted, 0)
        if whole < wanted:
            raise OpaqueError("a transposed convolution that is padded at its output")
        less = total // 2
        upper = mode == "SAME_UPPER"
        before.append(less if upper else total - less)
        after.append(total - less if upper else less)
    return before, after


def _gemm(call: Call, a: OnnxValue, b: OnnxValue, c: OnnxValue = None) -> Results:
    x, weight = as_tensor(a), as_tensor(b)
    if call["transA"]:
        x = x.t()
    if call["alpha"] != 1.0:
        x = x * call["alpha"]
    bias = None if c is None else as_tensor(c)
    if bias is not None and call["beta"] != 1.0:
        bias = bias * call["beta"]
    # A stored weight is held as [outputs, inputs] by now; see `network.hold`.
    rows = weight if call["transB"] else weight.t()
    if bias is None or (bias.dim() == 1 and bias.shape[0] == rows.shape[0]):
        return F.linear(x, rows, bias)
    if bias.dim() == 2 and bias.shape == (1, rows.shape[0]):
        return F.linear(x, rows, bias.reshape(-1))
    return F.linear(x, rows) + bias


def _multiply(call: Call, a: OnnxValue, b: OnnxValue) -> Results:
    x, weight = as_tensor(a), as_tensor(b)
    return F.linear(x, weight) if call["held"] else torch.matmul(x, weight)


def _linear(_: Call, x: OnnxValue, weight: OnnxValue, bias: OnnxValue) -> Results:
    return F.linear(as_tensor(x), as_tensor(weight), as_tensor(bias))


def _batch_norm(
    call: Call,
    x: OnnxValue,
    gain: OnnxValue,
    shift: OnnxValue,
    mean: OnnxValue,
    variance: OnnxValue,
) -> Results:
    if call["training_mode"] or call.outputs > 1 or not call["spatial"]:
        raise OpaqueError("a batch-norm in training mode")
    return F.batch_norm(
        as_tensor(x), as_tensor(mean), as_tensor(variance), as_tensor(gain), as_tensor(shift),
        False, 0.1, call["epsilon"],
    )  # fmt: skip


def _instance_norm(call: Call, x: OnnxValue, gain: OnnxValue, shift: OnnxValue) -> Results:
    value = as_tensor(x)
    return F.instance_norm(
        value, weight=as_tensor(gain), bias=as_tensor(shift), eps=call["epsilon"]
    )


def _layer_norm(call: Call, x: OnnxValue, gain: OnnxValue, shift: OnnxValue = None) -> Results:
    value, weight = as_tensor(x), as_tensor(gain)
    axis = call["axis"] % value.dim()
    shape = [int(size) for size in weight.shape]
    if call.outputs > 1 or len(shape) != value.dim() - axis:
        raise OpaqueError("a layer norm that gives its mean, or whose gain broadcasts")
    bias = None if shift is None else as_tensor(shift)
    return F.layer_norm(value, shape, weight, bias, call["epsilon"])


def _rms_norm(call: Call, x: OnnxValue, gain: OnnxValue) -> Results:
    value = as_tensor(x)
    axes = list(range(call["axis"] % value.dim(), value.dim()))
    scale = torch.rsqrt(value.square().mean(axes, keepdim=True) + call["epsilon"])
    return value * scale * as_tensor(gain)


def _group_norm(call: Call, x: OnnxValue, gain: OnnxValue, shift: OnnxValue) -> Results:
    value, groups = as_tensor(x), call["num_groups"]
    weight, bias = as_tensor(gain), as_tensor(shift)
    if call.opset < 21:  # one gain a group
        each = value.shape[1] // groups
        weight, bias = weight.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(value, groups, weight, bias, call["epsilon"])


def _mean_variance(call: Call, x: OnnxValue) -> Results:
    value = as_tensor(x)
    axes = [int(a) for a in call["axes"]]
    mean = value.mean(axes, keepdim=True)
    square = (value * value).mean(axes, keepdim=True)
    return (value - mean) / (torch.sqrt(square - mean * mean) + 1e-9)


def _local_response(call: Call, x: OnnxValue) -> Results:
    """x / (bias + alpha / size sum of squares over channels from c - (size-1)/2 on)^beta."""
    value, size = as_tensor(x), call["size"]
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    square = F.pad(value.square(), [0, 0] * (value.dim() - 2) + [before, after])
    total = sum(square.narrow(1, place, value.shape[1]) for place in range(size))
    return value / torch.pow(call["bias"] + call["alpha"] / size * total, call["beta"])


def _l2_normalise(call: Call, x: OnnxValue) -> Results:
    value = as_tensor(x)
    power = float(call["p"])
    length = value.norm(power, call["axis"], keepdim=True)
    return value / torch.where(length == 0, torch.ones_like(length), length)


# ---- pooling ---------------------------------------------------------------------------------


def _pool_window(call: Call, x: Tensor) -> tuple[list[int], list[int], list[int], list[int]]:
    """(kernel, stride, padding before, padding after), what ceil_mode adds within the latter."""
    kernel = [int(k) for k in call["kernel_shape"]]
    before, after = _padding(call, x, kernel)
    sides = zip(kernel, _spread(call["strides"], len(kernel)), strict=True)
    if call["auto_pad"].startswith("SAME") and any(k < s for k, s in sides):
        raise OpaqueError("a pooling that is padded by less than nothing")
    strides, dilations = (
        _spread(call["strides"], len(kernel)),
        _spread(call["dilations"], len(kernel)),
    )
    return kernel, strides, before, [
        end + _overhang(call, x.shape[2 + i], (kernel[i] - 1) * dilations[i] + 1, strides[i],
                        (before[i], end))
        for i, end in enumerate(after)
    ]  # fmt: skip


def _overhang(call: Call, size: Any, reach: int, stride: int, pads: tuple[int, int]) -> int:
    """How far the last window of ceil_mode reaches beyond the padded end."""
    if not call["ceil_mode"] or call["auto_pad"] not in ("NOTSET", "", "VALID"):
        return 0
    span = size + pads[0] + pads[1] - reach
    steps = -(-span // stride)
    if steps * stride >= size + pads[0]:  # a window must begin inside of the input
        steps -= 1
    return int(max(steps * stride - span, 0))


def _max_pool(call: Call, x: OnnxValue) -> Results:
    value = as_tensor(x)
    kernel, strides, before, after = _pool_window(call, value)
    if call.outputs > 1 or len(kernel) not in _MAX_POOL or call["storage_order"]:
        raise OpaqueError("a maximum pooling that gives its places")
    if not value.is_floating_point():
        raise OpaqueError("pooling of whole numbers")
    dilations = _spread(call["dilations"], len(kernel))
    # torch pads by half a window at most, on both sides alike.
    plain = before == after and all(2 * b <= k for b, k in zip(before, kernel, strict=True))
    if not plain:
        value, before = _pad(value, before, after, -math.inf), [0] * len(kernel)
    return _MAX_POOL[len(kernel)](value, kernel, strides, before, dilations)


def _average_pool(call: Call, x: OnnxValue) -> Results:
    value = as_tensor(x)
    kernel, strides, before, after = _pool_window(call, value)
    axes = len(kernel)
    if axes not in _AVERAGE or any(d != 1 for d in _spread(call["dilations"], axes)):
        raise OpaqueError("an average pooling with dilation")
    pool = _AVERAGE[axes]
    counted = bool(call["count_include_pad"])
    plain = before == after and all(2 * b <= k for b, k in zip(before, kernel, strict=True))
    if plain:
        return pool(value, kernel, strides, before, False, counted)
    total = pool(_pad(value, before, after), kernel, strides)
    # What counts as an entry: the input, and the file's padding where it says so; never what
    # ceil_mode adds.
    ones = torch.ones([1, 1, *value.shape[2:]])
    if counted:
        stated = _padding(call, value, kernel)
        ones = _pad(ones, *stated, 1.0)
        rest = [a - s for a, s in zip(after, stated[1], strict=True)]
        share = pool(_pad(ones, [0] * axes, rest), kernel, strides)
    else:
        share = pool(_pad(ones, before, after), kernel, strides)
    return total / share


def _global_average(_: Call, x: OnnxValue) -> Results:
    value = as_tensor(x)
    return value.mean(list(range(2, value.dim())), keepdim=True)


def _global_max(_: Call, x: OnnxValue) -> Results:
    value = as_tensor(x)
    return value.amax(list(range(2, value.dim())), keepdim=True)


def _einsum(call: Call, *values: OnnxValue) -> Results:
    equation = call["equation"].replace(" ", "")
    return torch.einsum(equation, *(as_tensor(v) for v in values))


LAYERS: dict[str, Operator] = {
    "Conv": Operator(_convolve, {**_WINDOW, "group": 1}, (1, 11, 22), WEIGHTS),
    "ConvTranspose": Operator(
        _transpose, {**_WINDOW, "group": 1, "output_padding": None, "output_shape": None},
        (1, 11, 22), WEIGHTS,
    ),
    "Gemm": Operator(
        _gemm, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}, (7, 9, 11, 13), WEIGHTS
    ),
    "MatMul": Operator(_multiply, {"held": 0}, (1, 9, 13), WEIGHTS),
    "Einsum": Operator(_einsum, {"equation": ""}, (12,), WEIGHTS),
    "BatchNormalization": Operator(
        _batch_norm, {"epsilon": 1e-5, "momentum": 0.9, "training_mode": 0, "spatial": 1},
        (7, 9, 14, 15), "folded into the unit before it; float otherwise",
    ),
    "InstanceNormalization": Operator(_instance_norm, {"epsilon": 1e-5}, (6, 22), FLOAT),
    "LayerNormalization": Operator(
        _layer_norm, {"axis": -1, "epsilon": 1e-5, "stash_type": 1}, (17,), FLOAT
    ),
    "RMSNormalization": Operator(
        _rms_norm, {"axis": -1, "epsilon": 1e-5, "stash_type": 1}, (23,), FLOAT
    ),
    "GroupNormalization": Operator(
        _group_norm, {"epsilon": 1e-5, "num_groups": 1, "stash_type": 1}, (18, 21), FLOAT
    ),
    "MeanVarianceNormalization": Operator(_mean_variance, {"axes": [0, 2, 3]}, (9, 13), FLOAT),
    "LRN": Operator(
        _local_response, {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, "size": 1}, (1, 13), FLOAT
    ),
    "LpNormalization": Operator(_l2_normalise, {"axis": -1, "p": 2}, (1, 22), FLOAT),
    "MaxPool": Operator(
        _max_pool, {**_WINDOW, "ceil_mode": 0, "storage_order": 0}, (1, 8, 10, 11, 12, 22),
        "moves values: stays on the grid",
    ),
    "AveragePool": Operator(
        _average_pool, {**_WINDOW, "ceil_mode": 0, "count_include_pad": 0}, (1, 7, 10, 11, 19, 22),
        CHAIN,
    ),
    "GlobalAveragePool": Operator(_global_average, {}, (1, 22), CHAIN),
    "GlobalMaxPool": Operator(_global_max, {}, (1, 22), FLOAT),
}  # fmt: skip

# What `fuse` makes of several nodes.
FUSED: dict[str, Operator] = {
    "Linear": Operator(_linear, {}, (1,), WEIGHTS),
    "Gelu": Operator(lambda _, x: F.gelu(as_tensor(x)), {}, (1,), ACTIVATION),
    "Silu": Operator(lambda _, x: F.silu(as_tensor(x)), {}, (1,), ACTIVATION),
    "HardSwish": Operator(lambda _, x: F.hardswish(as_tensor(x)), {}, (1,), ACTIVATION),
    "LayerNorm": Operator(_layer_norm, {"axis": -1, "epsilon": 1e-5}, (1,), FLOAT),
}
