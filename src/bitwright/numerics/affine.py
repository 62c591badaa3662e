"""The affine quantiser: the one formula and the only rounding of the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import DataError
from bitwright.numerics.grid import Grid

FLOAT32_TINY = torch.finfo(torch.float32).tiny
# As many steps a bias of 32 bits may have: products take the rest.
BIAS_LIMIT = 2.0**30


@dataclass(frozen=True, eq=False)
class QParams:
    """A grid, a scale and a zero point; granularity is the shape of the scale.

    Equation: x^ = (q - zero_point) * scale, q on the grid.
    Shape () is per tensor, [C, 1, 1, 1] per channel, and any shape that broadcasts to the tensor
    is allowed. `scale` is float32 and positive, `zero_point` is int32 and lies on the grid.
    `dynamic`: they are only what calibration saw; whoever quantises a tensor takes those of its own
    range (`range_at_hand`), or, with a `block`, one for so many neighbours of a row (`in_blocks`).
    Reference: Jacob et al., arXiv 1712.05877, section 2.1.
    """

    grid: Grid
    scale: Tensor
    zero_point: Tensor
    dynamic: bool = False
    block: int = 0

    @property
    def at_run(self) -> int:
        """How much of a tensor is quantised by one range of its own: 0 none, 1 all, or a block."""
        return (self.block or 1) if self.dynamic else 0

    @classmethod
    def of(cls, grid: Grid, scale: Tensor, zero_point: Tensor, at_run: int) -> QParams:
        """Parameters from what `at_run` says of them."""
        return cls(grid, scale, zero_point, at_run > 0, at_run if at_run > 1 else 0)

    def __post_init__(self) -> None:
        if self.scale.dtype != torch.float32 or self.zero_point.dtype != torch.int32:
            raise DataError(
                f"scale is {self.scale.dtype} and zero_point is {self.zero_point.dtype} in QParams:"
                " convert them to float32 and int32."
            )
        if self.scale.shape != self.zero_point.shape:
            raise DataError(
                f"scale has shape {tuple(self.scale.shape)} and zero_point has shape"
                f" {tuple(self.zero_point.shape)} in QParams: give both the same shape."
            )


def round_half_even(x: Tensor) -> Tensor:
    """The nearest integer, ties to the even one.

    Equation: round(x) of IEEE 754 roundTiesToEven; the only rounding in the package.
    Reference: ONNX operator QuantizeLinear.
    """
    return torch.round(x)


def range_at_hand(x: Tensor, grid: Grid) -> QParams:
    """Scale and zero point of a whole tensor's own range, bit for bit ONNX Runtime's.

    Equation: lo = min(0, min x), hi = max(0, max x), s = (hi - lo) / (levels - 1), 1 where that is
    zero; z = round(clamp(qmin - lo / s)), all in float32.
    Reference: ONNX operator DynamicQuantizeLinear.
    """
    seen = x.detach().float()
    least, most = seen.aminmax()
    low, high = least.clamp(max=0.0), most.clamp(min=0.0)
    step = (high - low) / (grid.levels - 1)
    scale = torch.where(high == low, torch.ones_like(step), step)
    zero = round_half_even((grid.qmin - low / scale).clamp(grid.qmin, grid.qmax))
    return QParams(grid, scale, zero.to(torch.int32))


def in_blocks(x: Tensor, grid: Grid, block: int) -> tuple[Tensor, Tensor]:
    """Steps and scales of every `block` neighbours along the last axis, by their own largest value.

    Equation: a = max |x|, s = a / qmax, q = round(x (qmax / a)), 0 where a is; all in float32, so
    that the products by the reciprocal round as they do in ONNX Runtime's MatMulNBits of accuracy
    level 4. The grid is signed, its zero point 0. Shapes: [..., N / block, block], [..., 1].
    """
    parts = x.detach().float().reshape(*x.shape[:-1], -1, block)
    peak = parts.abs().amax(-1, keepdim=True)
    finite = torch.where(peak > 0, peak, torch.ones_like(peak))
    inverse = torch.where(peak > 0, grid.qmax / finite, torch.zeros_like(peak))
    return torch.round_(parts * inverse), peak / grid.qmax


def quantize(x: Tensor, qp: QParams) -> Tensor:
    """Integers of the grid, bit for bit those of ONNX Runtime's QuantizeLinear.

    Equation: q = clamp(round(x / s) + z, qmin, qmax)
    The quotient is a true float32 division and is rounded before z is added (the two orders differ
    at ties). Infinities saturate; the result for NaN is unspecified, as it is in ONNX.
    ONNX says saturate; ONNX Runtime 1.31 wraps quotients of 2^31 and more at 2 and 4 bits.
    Reference: ONNX operator QuantizeLinear.
    """
    if qp.dynamic and qp.block:
        return in_blocks(x, qp.grid, qp.block)[0].flatten(-2).to(qp.grid.dtype)
    if qp.dynamic:
        qp = range_at_hand(x, qp.grid)
    # The scale goes to the device of x: CUDA replaces division by a host scalar with
    # multiplication by its reciprocal, which is not the same number.
    levels = round_half_even(x.detach().float() / qp.scale.to(x.device))
    levels.add_(qp.zero_point.to(x.device)).clamp_(qp.grid.qmin, qp.grid.qmax)
    return levels.to(qp.grid.dtype)


def dequantize(q: Tensor, qp: QParams) -> Tensor:
    """Real values of grid integers, bit for bit those of ONNX Runtime's DequantizeLinear.

    Equation: x^ = (q - z) * s
    Reference: ONNX operator DequantizeLinear.
    """
    steps = q.to(torch.int32) - qp.zero_point.to(q.device)
    return steps.float().mul_(qp.scale.to(q.device))


def fake_quantize(x: Tensor, qp: QParams) -> Tensor:
    """Quantise and return to real values: equals dequantize(quantize(x)) exactly.

    Equation: x^ = clamp(round(x / s), qmin - z, qmax - z) * s
    A result of zero may carry a minus sign where the two-step form has a plus; they compare equal.
    NaN stays NaN. The memory format of x (channels last, say) is kept. Not differentiable.
    Reference: ONNX operators QuantizeLinear and DequantizeLinear.
    """
    if qp.dynamic and qp.block:
        steps, scales = in_blocks(x, qp.grid, qp.block)
        return steps.mul_(scales).flatten(-2)
    if qp.dynamic:
        qp = range_at_hand(x, qp.grid)
    # Hot path, bound by memory: four passes (divide, round, clamp, multiply), three of them in
    # place on the one fresh buffer. Moving z into the clamp bounds saves the two passes that add
    # and subtract it; every integer involved is below 2^24, so float32 holds it exactly.
    scale = qp.scale.to(x.device)
    steps = torch.div(x.detach().float(), scale)
    steps = torch.round_(steps)
    _clamp_steps_(steps, qp)
    return steps.mul_(scale)


def _clamp_steps_(steps: Tensor, qp: QParams) -> None:
    """Clamp steps (q - z) in place to the grid."""
    grid, zero = qp.grid, qp.zero_point
    if zero.dim() == 0 and zero.device.type == "cpu":
        # Number bounds take the vector kernel; tensor bounds cost 40 % more on the whole path.
        steps.clamp_(grid.qmin - int(zero), grid.qmax - int(zero))
    else:
        zero = zero.to(steps.device)
        steps.clamp_((grid.qmin - zero).float(), (grid.qmax - zero).float())


class _StraightThrough(torch.autograd.Function):
    """Forward: `fake_quantize`. Backward: see `fake_quantize_ste`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
        zero = round_half_even(zero_point).clamp_(grid.qmin, grid.qmax)
        ctx.save_for_backward(x, scale, zero)
        ctx.grid, ctx.zero_shape = grid, zero_point.shape
        # The bounds are tensors here because scale and zero point may differ in shape.
        steps = torch.round_(x / scale).clamp_(grid.qmin - zero, grid.qmax - zero)
        return steps.mul_(scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero = ctx.saved_tensors
        low, high = ctx.grid.qmin - zero, ctx.grid.qmax - zero
        ratio = x / scale
        steps = round_half_even(ratio)
        inside = (steps >= low) & (steps <= high)
        grad_x = grad_scale = grad_zero = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad * inside).sum_to_size(x.shape)
        if ctx.needs_input_grad[1]:
            slope = torch.where(inside, steps - ratio, steps.clamp(low, high))
            grad_scale = (grad * slope).sum_to_size(scale.shape)
        if ctx.needs_input_grad[2]:
            slope = torch.where(inside, torch.zeros_like(ratio), -scale)
            grad_zero = (grad * slope).sum_to_size(ctx.zero_shape)
        return grad_x, grad_scale, grad_zero, None


class _OneScale(torch.autograd.Function):
    """`_StraightThrough` of one scale for all, where only the scale has a gradient.

    Four passes over memory instead of ten, to the same bits: with D = clamp(round(x / s)) and r
    the quotient where it rounds into the grid, else 0, dx^/ds is D - r.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        ratio = x / scale
        steps = round_half_even(ratio).clamp_(low, high)
        ctx.save_for_backward(ratio, steps)
        ctx.ends = (half_step(low, -1), half_step(high, 1))
        return steps * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ratio, steps = ctx.saved_tensors
        slope = torch.ops.aten.hardtanh_backward(ratio, ratio, *ctx.ends)
        return None, torch.sub(steps, slope, out=slope).mul_(grad).sum(), None, None


def half_step(end: int, side: int) -> float:
    """What a float32 quotient must stay on this side of, so that it rounds to the grid's end.

    Half a step beyond the end rounds to the end itself where that is even.
    """
    # On the CPU whatever the default device is: these are numbers.
    edge = torch.tensor(end + 0.5 * side, device="cpu")
    beyond = torch.tensor(math.inf * side, device="cpu")
    return float(edge if end % 2 else torch.nextafter(edge, beyond))


def fake_quantize_ste(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """Differentiable quantiser: straight through inside the clamp, nothing outside.

    Equation: x^ = clamp(round(x / s), qmin - z', qmax - z') * s with z' = clamp(round(z));
    dx^/dx = 1 inside, 0 outside; dx^/ds = round(x/s) - x/s inside, the clamp bound outside;
    dx^/dz = 0 inside, -s outside. "Inside" is judged on the rounded integer.
    `scale` and `zero_point` are float tensors that broadcast to x; z is rounded straight through,
    so what is learned is what is deployed. No gradient scaling: that is the optimiser's matter.
    Reference: Esser et al., arXiv 1902.08153, equation 3; Bhalgat et al., arXiv 2004.09576.
    """
    of_one: Callable[..., Tensor] = _OneScale.apply
    if _only_one_scale(x, scale, zero_point):
        zero = int(round_half_even(zero_point.detach()).clamp_(grid.qmin, grid.qmax))
        return of_one(x, scale, grid.qmin - zero, grid.qmax - zero)
    of_any: Callable[..., Tensor] = _StraightThrough.apply
    return of_any(x, scale, zero_point, grid)


def _only_one_scale(x: Tensor, scale: Tensor, zero_point: Tensor) -> bool:
    """Whether one scale on the host serves all of a tensor, and nothing else has a gradient."""
    single = scale.dim() == zero_point.dim() == 0 and x.dtype == scale.dtype == torch.float32
    return single and x.device.type == "cpu" and not (x.requires_grad or zero_point.requires_grad)


def from_range(lo: Tensor, hi: Tensor, grid: Grid, symmetric: bool = False) -> QParams:
    """Scale and zero point that cover [lo, hi] and represent real zero exactly.

    Equation, asymmetric: lo <- min(lo, 0), hi <- max(hi, 0), s = (hi - lo) / (levels - 1),
    z = clamp(round(qmin - lo / s)); symmetric: s = max(|lo|, |hi|) / (qmax - z) with z = 0 on a
    signed grid and z = 2^(bits-1) on an unsigned one. A range too narrow for a normal float32
    scale gets s = 1.
    Reference: Jacob et al., arXiv 1712.05877, section 3.
    """
    lo, hi = lo.float(), hi.float()
    _check_range(lo, hi)
    # float64 inside: hi - lo of two large float32 overflows float32, their scale does not.
    low, high = lo.double().clamp(max=0.0), hi.double().clamp(min=0.0)
    if symmetric:
        zero = torch.full_like(low, 0 if grid.signed else 1 << (grid.bits - 1))
        scale = _usable(torch.maximum(-low, high) / (grid.qmax - zero))
    else:
        step = (high - low) / (grid.levels - 1)
        scale = _usable(step)
        zero = round_half_even(grid.qmin - low / scale.double()).clamp_(grid.qmin, grid.qmax)
        # Exact ends whatever the rounding of the quotient did.
        zero = torch.where((high <= 0) & (low < 0), float(grid.qmax), zero)
        zero = torch.where(low >= 0, float(grid.qmin), zero)
        # One unit in the last place down where the top of the grid would lie above an exact hi:
        # saturation then implies the clamp of, say, a ReLU6.
        top = scale * (grid.levels - 1)
        nudged = torch.nextafter(scale, torch.zeros_like(scale))
        over = (low >= 0) & (top > hi) & (step >= FLOAT32_TINY) & (nudged >= FLOAT32_TINY)
        scale = torch.where(over, nudged, scale)
    return QParams(grid, scale, zero.to(torch.int32))


def _usable(scale: Tensor) -> Tensor:
    """The scale as float32, or 1 where it is zero or denormal."""
    single = scale.float()
    return torch.where(single >= FLOAT32_TINY, single, torch.ones_like(single))


def _check_range(lo: Tensor, hi: Tensor) -> None:
    if lo.shape != hi.shape:
        raise DataError(
            f"lo has shape {tuple(lo.shape)} and hi has shape {tuple(hi.shape)} in from_range:"
            " give both the shape of the scale."
        )
    good = torch.isfinite(lo) & torch.isfinite(hi) & (lo <= hi)
    if not bool(good.all()):
        at = int(torch.nonzero(~good.reshape(-1))[0])
        pair = f"[{float(lo.reshape(-1)[at])}, {float(hi.reshape(-1)[at])}]"
        raise DataError(
            f"range {pair} at position {at} in from_range: both ends must be finite and in order;"
            " look for NaN or infinities in the tensor that the range was taken from."
        )


def quantize_bias(bias: Tensor, scale: Tensor) -> Tensor | None:
    """A bias as int32 on the grid of products, or None where it does not fit.

    Equation: q = round(b / (s_x s_w)), the accumulator's own scale.
    Reference: Jacob et al., arXiv 1712.05877, section 2.4.
    """
    steps = round_half_even(bias.double() / scale.double())
    if not bool((steps.abs() < BIAS_LIMIT).all()):
        return None
    return steps.to(torch.int32)
