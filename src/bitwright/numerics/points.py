"""Weights as sums of several low-bit tensors: multi-point quantisation.

Equation: w = sum_{i=1..n} s_i (q_i - z_i) with every q_i and z_i on a grid of b bits, and
s_i = s 2^(b (n - i)).

Rounding to a grid of scale t leaves residuals in [-t/2, t/2]; 2^b levels cover them best with the
scale t / 2^b, which is what least squares gives too where the residuals are spread evenly. With
these scales the points are the digits, to the base 2^b, of one integer of n b bits: the sum is

    w = s (q - z),  q = sum_i 2^(b (n - i)) q_i,  z likewise,

so every combination of the points' integers is one integer of the sum's grid and the other way
about. What solves for that integer solves for all points at once, each coordinate exactly, and
`split` gives the points. The scales differ by powers of two: no bit of a scale is spent twice, and
what multiplies the sum multiplies every point exactly.
Reference: Liu et al., arXiv 2002.09049, where scales are free; free scales fitted one after another
leave larger residuals (docs/measured/multipoint.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bitwright.errors import DataError
from bitwright.numerics.affine import QParams
from bitwright.numerics.grid import Grid

OnePoint = tuple[Tensor, QParams]


def split(q: Tensor, qparams: QParams, points: int) -> tuple[OnePoint, ...]:
    """The points of a sum, the coarsest first: integers and parameters of each.

    Equation: q_i = floor(q / 2^(b (n - i))) mod 2^b, z_i likewise, s_i = s 2^(b (n - i)).
    Of a signed grid the first point is signed and the others are not, as in two's complement; zero
    points that are zero stay so. s_i (q_i - z_i) add up to s (q - z) exactly.
    """
    bits = bits_of_point(qparams.grid, points)
    if points == 1:
        return ((q, qparams),)
    whole, zero = q.to(torch.int32), qparams.zero_point
    found = []
    for index in range(points):
        shift = bits * (points - 1 - index)
        grid = Grid(bits, qparams.grid.signed and index == 0)
        scale = qparams.scale * 2.0**shift
        params = QParams(grid, scale, _digit(zero, shift, grid))
        found.append((_digit(whole, shift, grid).to(grid.dtype), params))
    return tuple(found)


def join(parts: Sequence[OnePoint]) -> OnePoint:
    """The sum that `split` took apart.

    Equation: q = sum_i 2^(b (n - i)) q_i, z likewise, s = s_n.
    """
    first, last = parts[0][1], parts[-1][1]
    grid = Grid(first.grid.bits * len(parts), first.grid.signed)
    q = torch.zeros_like(parts[0][0], dtype=torch.int32)
    zero = torch.zeros_like(first.zero_point)
    for own, params in parts:
        q = q * first.grid.levels + own.to(torch.int32)
        zero = zero * first.grid.levels + params.zero_point
    return q.to(grid.dtype), QParams(grid, last.scale, zero)


def bits_of_point(grid: Grid, points: int) -> int:
    """The bits of each of several points whose sum has this grid."""
    if points < 1 or grid.bits % points:
        raise DataError(
            f"points={points} of a sum of {grid.bits} bits: each point has the same whole number "
            "of bits."
        )
    return grid.bits // points


def _digit(value: Tensor, shift: int, grid: Grid) -> Tensor:
    """One digit to the base 2^bits; of the signed first one the sign goes along."""
    moved = value >> shift
    return moved if grid.signed else moved & (grid.levels - 1)
