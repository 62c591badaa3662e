"""Scales of few significant bits: quantised arithmetic that every runtime computes alike."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bitwright.numerics.affine import QParams, dequantize, from_range, quantize, round_half_even
from bitwright.numerics.grid import Grid

FLOAT32_BITS = 24


def significant_bits(grid: Grid) -> int:
    """How many significant bits the scale of a grid gets: 4 at eight bits, more below.

    A sum over products of two quantised tensors is k m_x m_w 2^e with an integer k; float32 holds
    it exactly, in whatever order it is summed, while k m_x m_w < 2^24. Narrow grids make k small
    and leave room for finer scales. Sixteen bits fill float32 by themselves: nothing is gained.
    """
    return FLOAT32_BITS if grid.bits > 8 else 12 - grid.bits


def snap(scale: Tensor, bits: int | Tensor, down: bool = False) -> Tensor:
    """The nearest scale of so many significant bits that is not below (or not above) the given.

    Equation: s' = ceil(m 2^bits) / 2^bits 2^e for s = m 2^e, 1/2 <= m < 1; floor when `down`.
    """
    mantissa, exponent = torch.frexp(scale.double())
    steps = mantissa * 2.0**bits
    whole = torch.floor(steps) if down else torch.ceil(steps)
    return torch.ldexp(whole / 2.0**bits, exponent).float()


def exact_range(
    lo: Tensor, hi: Tensor, grid: Grid, symmetric: bool = False, hard_top: bool = False
) -> QParams:
    """As `affine.from_range`, with a scale of few significant bits.

    Products of two such tensors add up without rounding in float32, so the simulation, ONNX Runtime
    with and without optimisations, and integer kernels give the same bits. Otherwise a float
    rounding in the last place tips some activation over a grid boundary, and the difference grows
    from layer to layer to a sizeable part of the quantisation noise (docs/exactness.md).
    The scale is widened, never narrowed, so nothing more is clipped; except `hard_top`, where the
    values stop at `hi` by an upper clamp: a grid that ends just below lets runtimes drop the clamp.
    """
    base = from_range(lo, hi, grid, symmetric)
    scale = snap(base.scale, significant_bits(grid), down=hard_top and not symmetric)
    if symmetric:
        return QParams(grid, scale, base.zero_point)
    low = lo.double().clamp(max=0.0)
    zero = round_half_even(grid.qmin - low / scale.double()).clamp_(grid.qmin, grid.qmax)
    edge = (base.zero_point == grid.qmin) | (base.zero_point == grid.qmax)
    return QParams(grid, scale, torch.where(edge, base.zero_point, zero.to(torch.int32)))


def round_alike(qparams: QParams) -> QParams:
    """The same grid with an even zero point, at most one step away; of eight bits, else as it is.

    Equation: round(x / s + z) = round(x / s) + z for all x if z is even; if it is odd, ties, which
    go to the even neighbour, fall to the other side. ONNX says the latter, and integer kernels of
    sums (ONNX Runtime's QLinearAdd) compute the former. Sums of values on such grids are ties as
    often as not: of MiniLM's first sum every ninth value was another.
    """
    grid, zero = qparams.grid, qparams.zero_point
    if grid.bits != 8:
        return qparams
    inwards = torch.where(zero < (grid.qmin + grid.qmax + 1) // 2, zero + 1, zero - 1)
    inner = (zero > grid.qmin) & (zero < grid.qmax)
    return replace(qparams, zero_point=torch.where(inner & (zero % 2 != 0), inwards, zero))


def exact_bias(bias: Tensor, scale: Tensor, spare_bits: int = 0) -> Tensor:
    """A bias moved to a nearby multiple of the products' scale, where float32 holds that.

    Equation: b' = round(b / t) t with t = s_x s_w / 2^spare; the sums of narrow grids leave spare
    bits for a finer bias: 16 less the bits of the two factors.
    """
    step = scale.double() / 2.0**spare_bits
    count = round_half_even(bias.double() / step)
    return torch.where(count.abs() < 2.0**20, (count * step).float(), bias)


def coarsen(q: Tensor, qparams: QParams, octaves: Tensor) -> tuple[Tensor, QParams]:
    """Integers on a grid of scales wider by powers of two, as near as it has them.

    Equation: s' = 2^k s, q' = clamp(round((q - z) / 2^k) + z); where k is 0, nothing changes.

    Args:
        q, qparams: as they are.
        octaves: k, of the scale's shape.
    """
    wider = QParams(qparams.grid, torch.ldexp(qparams.scale, octaves), qparams.zero_point)
    return quantize(dequantize(q, qparams), wider), wider
