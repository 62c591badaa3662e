"""Strided pointwise convolutions whose weight's gradient can be trusted."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from bitwright.graph.operators import WEIGHTED, aten

# oneDNN copies an input that is read with a stride to a dense buffer sized for whole blocks of
# channels (8 with AVX2, 16 with AVX-512). With fewer channels than a block, in channels_last, the
# weight's gradient reads and writes past it: wrong numbers that change from run to run, or a crash
# (github.com/uxlfoundation/oneDNN/issues/6035; torch 2.13 has it).
BLOCK = 16


def narrow_strides_apart(module: fx.GraphModule) -> None:
    """Have a network's narrow strided pointwise convolutions step over their input first.

    Equation: y_p = W x_{s p} + b: the input at every s-th position, then a stride of one. The same
    sums; only the library's path to the weight's gradient is another.
    """
    for node in module.graph.nodes:
        if WEIGHTED.get(node.target) in ("conv2d", "convolution"):
            node.args = (node.target, *node.args)
            node.target = _convolution


def _convolution(operation: Any, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    """The convolution, its stride taken by a slice where the library's gradient is not safe."""
    stride, padding = _pair(rest, 1, 1), _pair(rest, 2, 0)
    pointwise = weight.dim() == 4 and tuple(weight.shape[2:]) == (1, 1) and padding == (0, 0)
    narrow = x.shape[1] == weight.shape[1] < BLOCK  # one group only
    turned = operation is aten.convolution.default and bool(rest[4])
    if turned or not (pointwise and narrow and max(stride) > 1):
        result: Tensor = operation(x, weight, *rest)
        return result
    bias = rest[0] if rest else None
    return aten.conv2d.default(x[:, :, :: stride[0], :: stride[1]], weight, bias)  # type: ignore[no-any-return]


def _pair(rest: tuple[Any, ...], place: int, default: int) -> tuple[int, int]:
    """Stride or padding as two numbers, from what stands behind the weight; words pad nothing."""
    value = rest[place] if len(rest) > place else default
    if isinstance(value, str):  # "same" forbids strides, "valid" is no padding
        return 0, 0
    values = (value, value) if isinstance(value, int) else tuple(int(v) for v in value)
    return (values[0], values[-1])
