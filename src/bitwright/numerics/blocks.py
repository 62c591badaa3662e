"""Grids for groups of a channel's weights: scales that repeat along the inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitwright.numerics.affine import QParams
from bitwright.numerics.grid import Grid
from bitwright.numerics.ranges import RangeRule, weight_qparams


def find_grouped_qparams(
    rows: Tensor, grid: Grid, group: int, rule: RangeRule, symmetric: bool
) -> QParams:
    """A grid for every `group` neighbours in a row; scale and zero point have the rows' shape.

    Equation: as for a channel, on w reshaped from [C, N] to [C N / g, g].
    Reference: Shen et al., arXiv 1909.05840 (Q-BERT), section 3.3.
    """
    parts = weight_qparams(rows.reshape(-1, group), grid, 0, rule, symmetric)
    scale, zero = (
        values.reshape(rows.shape[0], -1).repeat_interleave(group, 1)
        for values in (parts.scale, parts.zero_point)
    )
    return QParams(grid, scale, zero)


def turn_to_channels(qparams: QParams) -> QParams:
    """The parameters of the transposed weight."""
    scale, zero = (v.t().contiguous() for v in (qparams.scale, qparams.zero_point))
    return QParams(qparams.grid, scale, zero)


def block_of(scale: Tensor, zero_point: Tensor) -> tuple[int, int] | None:
    """(axis, length) of the blocks that share a grid, for a scale of the weight's own shape.

    The longest blocks that say the same; None where the scale is not one of blocks along one axis.
    """
    if scale.dim() != 2 or min(scale.shape) < 2:
        return None
    sizes = []
    for axis in (0, 1):
        differ = torch.zeros(scale.shape[axis] - 1, dtype=torch.bool)
        for values in (scale, zero_point):
            differ |= (values.diff(dim=axis) != 0).any(1 - axis)
        sizes.append(math.gcd(scale.shape[axis], *(differ.nonzero().flatten() + 1).tolist()))
    axis = 0 if sizes[0] > sizes[1] else 1
    return axis, sizes[axis]


def blocks(values: Tensor, block: tuple[int, int]) -> Tensor:
    """One value for each block."""
    axis, length = block
    places = torch.arange(0, values.shape[axis], length)
    return values.index_select(axis, places)


def repeat_blocks(values: Tensor, block: tuple[int, int]) -> Tensor:
    """The inverse of `blocks`."""
    axis, length = block
    return values.repeat_interleave(length, axis)
