"""Scales of few bits, zero points and grids that every runtime computes alike with."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.numerics.affine import QParams, dequantize
from bitwright.numerics.exact import coarsen, round_alike
from bitwright.numerics.grid import Grid


@given(st.integers(0, 255), st.floats(0.0625, 1, width=32))
def test_an_even_zero_point_rounds_ties_as_integer_kernels_do(zero, scale):
    grid = Grid(8)
    made = round_alike(QParams(grid, torch.tensor(scale), torch.tensor(zero, dtype=torch.int32)))
    own = int(made.zero_point)
    assert abs(own - zero) <= 1 and grid.qmin <= own <= grid.qmax
    ties = torch.arange(-300, 300).double() + 0.5
    if own != grid.qmax:
        assert torch.equal(torch.round(ties + own), torch.round(ties) + own)


@given(st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_coarser_grids_hold_the_nearest_numbers(octaves, seed):
    torch.manual_seed(seed)
    zero = torch.randint(0, 256, (4, 1), dtype=torch.int32)
    own = QParams(Grid(8), torch.rand(4, 1) + 0.01, zero)
    q = torch.randint(0, 256, (4, 9), dtype=torch.uint8)
    moved = torch.tensor([[0], [octaves], [0], [octaves]])
    less, wide = coarsen(q, own, moved)
    assert torch.equal(less[::2], q[::2]) and torch.equal(wide.scale[::2], own.scale[::2])
    step = (dequantize(less, wide) - dequantize(q, own)).abs() / wide.scale
    assert float(step.max()) <= 0.5 + 1e-5
