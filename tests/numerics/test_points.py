"""Sums of low-bit tensors: digits that add up exactly, and any sum taken apart."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.errors import DataError
from bitwright.numerics.affine import QParams, dequantize, quantize
from bitwright.numerics.exact import exact_range, snap
from bitwright.numerics.grid import Grid
from bitwright.numerics.points import bits_of_point, join, split

SUMS = [(b, n) for b in range(2, 9) for n in range(1, 9) if b * n <= 16]


def stored(bits: int, points: int, signed: bool, seed: int = 0) -> tuple[torch.Tensor, QParams]:
    """Integers of every kind with a scale for each row."""
    generator = torch.Generator().manual_seed(seed)
    grid = Grid(bits * points, signed)
    q = torch.randint(grid.qmin, grid.qmax + 1, (5, 4, 3), generator=generator)
    q[0, 0] = torch.tensor([grid.qmin, 0, grid.qmax])
    zero = torch.randint(grid.qmin, grid.qmax + 1, (5, 1, 1), generator=generator)
    scale = snap(torch.rand(5, 1, 1, generator=generator) + 0.01, 8)
    return q.to(grid.dtype), QParams(grid, scale, zero.to(torch.int32))


@pytest.mark.parametrize(("bits", "points"), SUMS)
@pytest.mark.parametrize("signed", [False, True])
def test_the_points_add_up_exactly(bits, points, signed):
    q, qparams = stored(bits, points, signed)
    parts = split(q, qparams, points)
    assert len(parts) == points
    total = torch.zeros(q.shape, dtype=torch.float64)
    for index, (own, params) in enumerate(parts):
        assert params.grid == Grid(bits, signed and index == 0)
        assert own.dtype == params.grid.dtype and own.shape == q.shape
        for value in (own, params.zero_point):
            assert int(value.min()) >= params.grid.qmin and int(value.max()) <= params.grid.qmax
        ratio = params.scale / qparams.scale
        assert torch.equal(ratio, torch.full_like(ratio, 2.0 ** (bits * (points - 1 - index))))
        total += (own.double() - params.zero_point) * params.scale.double()
    assert torch.equal(total, (q.double() - qparams.zero_point) * qparams.scale.double())
    back, params = join(parts)
    assert back.dtype == q.dtype and torch.equal(back.int(), q.int())
    assert params.grid == qparams.grid and torch.equal(params.scale, qparams.scale)
    assert torch.equal(params.zero_point, qparams.zero_point)


@given(st.sampled_from([(2, 2), (3, 2), (4, 2), (2, 4), (4, 3), (4, 4)]), st.integers(0, 10**6))
def test_no_other_points_come_closer(sizes, seed):
    """Brute force over all combinations of the points' integers: the sum's rounding is the best."""
    bits, points = sizes
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(6, generator=generator)
    qparams = exact_range(w.min(), w.max(), Grid(bits * points))
    parts = split(torch.zeros(1, dtype=qparams.grid.dtype), qparams, points)
    reach = torch.zeros(1, dtype=torch.float64)
    for _, own in parts:
        levels = torch.arange(own.grid.levels).double() - own.zero_point
        reach = (reach[:, None] + levels * own.scale.double()).reshape(-1)
    best = (w.double()[:, None] - reach).abs().amin(1)
    error = (w.double() - dequantize(quantize(w, qparams), qparams).double()).abs()
    # What is dequantised is a float32: its last bit is worth 2^-23 of the value.
    assert torch.allclose(error, best, rtol=1e-5, atol=1e-6)


def test_zero_points_of_symmetric_grids_stay_zero():
    q, qparams = stored(4, 3, True)
    qparams = QParams(qparams.grid, qparams.scale, torch.zeros_like(qparams.zero_point))
    assert not any(own.zero_point.any() for _, own in split(q, qparams, 3))


@pytest.mark.parametrize("points", [0, 3, 5])
def test_points_that_do_not_share_the_bits(points):
    with pytest.raises(DataError, match=rf"points={points} of a sum of 8 bits"):
        bits_of_point(Grid(8), points)
