"""Rules that turn observed values into the range that a quantiser covers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bitwright.errors import DataError, RecipeError, unknown
from bitwright.numerics.affine import QParams
from bitwright.numerics.clipping import clip_about, clips, layout
from bitwright.numerics.exact import exact_range
from bitwright.numerics.grid import Grid
from bitwright.numerics.scores import (
    ROW_BINS,
    divergence_score,
    histogram_score,
    row_histograms,
    row_score,
)
from bitwright.numerics.search import search_range
from bitwright.numerics.stats import TensorStats

Range = tuple[Tensor, Tensor]

# Elements of a block of rows: small enough that all passes of a search stay in the cache.
BLOCK = 1 << 17


def _check_candidates(candidates: int, place: str) -> None:
    if candidates < 1:
        raise RecipeError(f"candidates={candidates!r} in {place}: use 1 or more.")


class RangeRule(Protocol):
    """A way to choose a range, from statistics or from the values themselves.

    Equation: (lo, hi) with min x <= lo <= hi <= max x; (0, 0) where there is no value.
    Reference: Nagel et al., arXiv 2106.08295, section 3.1.
    """

    def of_stats(self, stats: TensorStats, grid: Grid, symmetric: bool) -> Range:
        """Two float32 scalars for a tensor known by its statistics."""
        ...

    def of_rows(self, rows: Tensor, grid: Grid, symmetric: bool) -> Range:
        """Two float32 vectors [C] for the rows of a [C, K] matrix."""
        ...


@dataclass(frozen=True)
class MinMaxRange:
    """All that was observed.

    Equation: lo = min x, hi = max x.
    Reference: Jacob et al., arXiv 1712.05877, section 3.
    """

    def of_stats(self, stats: TensorStats, grid: Grid, symmetric: bool) -> Range:  # noqa: ARG002
        """Two float32 scalars for a tensor known by its statistics."""
        return _read_extremes(stats)

    def of_rows(self, rows: Tensor, grid: Grid, symmetric: bool) -> Range:  # noqa: ARG002
        """Two float32 vectors [C] for the rows of a [C, K] matrix."""
        return _extremes(rows)


@dataclass(frozen=True)
class PercentileRange:
    """All but the outermost values on each side.

    Equation: hi = least observed v with at least p % of x <= v, lo the mirror image; symmetric:
    the same of |x|. From a histogram, right to the width of a bin.
    Reference: Wu et al., arXiv 2004.09602, section 3.
    """

    p: float = 99.99

    def __post_init__(self) -> None:
        if not 50.0 < self.p <= 100.0:
            raise RecipeError(f"p={self.p!r} in PercentileRange: use a percentage in (50, 100].")

    def of_stats(self, stats: TensorStats, grid: Grid, symmetric: bool) -> Range:  # noqa: ARG002
        """Two float32 scalars for a tensor known by its statistics."""
        lo, hi = _read_extremes(stats)
        histogram = stats.histogram
        if histogram.total == 0:
            return lo, hi
        below = histogram.counts[: -histogram.start].flip(0)
        above = histogram.counts[-histogram.start :]
        zeros, width, rank = histogram.zeros, histogram.width, _rank(self.p, histogram.total)
        if symmetric:
            both = torch.zeros(max(below.numel(), above.numel()), dtype=torch.int64)
            both[: below.numel()] += below
            both[: above.numel()] += above
            low = high = _value_at(both[:0], zeros, both, rank, width)
        else:
            high = _value_at(below, zeros, above, rank, width)
            low = _value_at(above, zeros, below, rank, width)
        return _within(lo, hi, lo.new_tensor(-low), hi.new_tensor(high))

    def of_rows(self, rows: Tensor, grid: Grid, symmetric: bool) -> Range:  # noqa: ARG002
        """Two float32 vectors [C] for the rows of a [C, K] matrix."""
        lo, hi = _extremes(rows)
        count = rows.shape[1]
        if rows.numel() == 0:
            return lo, hi
        rank = _rank(self.p, count)
        if symmetric:
            bound = rows.abs().kthvalue(rank, dim=1).values
            return _within(lo, hi, -bound, bound)
        low = rows.kthvalue(count + 1 - rank, dim=1).values
        return _within(lo, hi, low, rows.kthvalue(rank, dim=1).values)


@dataclass(frozen=True)
class LpRange:
    """The range of least quantisation error in the p-norm.

    Equation: minimise sum |x - Q(x)|^p over (lo, hi). A histogram counts as spread evenly within
    each bin, and the integral over a bin is exact; zeros are exact on every grid and cost nothing.
    Reference: Nahshan et al., arXiv 1911.07190, section 3 (p = 2.4 is common practice).
    """

    p: float = 2.4
    candidates: int = 100

    def __post_init__(self) -> None:
        if not 0.0 < self.p < math.inf:
            raise RecipeError(f"p={self.p!r} in LpRange: use a positive finite number.")
        _check_candidates(self.candidates, "LpRange")

    def of_stats(self, stats: TensorStats, grid: Grid, symmetric: bool) -> Range:
        """Two float32 scalars for a tensor known by its statistics."""
        return _least_error_of_stats(stats, grid, symmetric, self.p, self.candidates)

    def of_rows(self, rows: Tensor, grid: Grid, symmetric: bool) -> Range:
        """Two float32 vectors [C] for the rows of a [C, K] matrix."""
        return _least_error_of_rows(rows, grid, symmetric, self.p, self.candidates)


@dataclass(frozen=True)
class MseRange:
    """The range of least mean squared quantisation error.

    Equation: `LpRange` with p = 2.
    Reference: Nagel et al., arXiv 2106.08295, section 3.1.
    """

    candidates: int = 100

    def __post_init__(self) -> None:
        _check_candidates(self.candidates, "MseRange")

    def of_stats(self, stats: TensorStats, grid: Grid, symmetric: bool) -> Range:
        """Two float32 scalars for a tensor known by its statistics."""
        return _least_error_of_stats(stats, grid, symmetric, 2.0, self.candidates)

    def of_rows(self, rows: Tensor, grid: Grid, symmetric: bool) -> Range:
        """Two float32 vectors [C] for the rows of a [C, K] matrix."""
        return _least_error_of_rows(rows, grid, symmetric, 2.0, self.candidates)


@dataclass(frozen=True)
class KlRange:
    """The range whose quantised histogram diverges least from the observed one.

    Equation: minimise KL(P || Q); P is the histogram with the clipped mass moved to the outermost
    bins inside the range, Q the unclipped mass of each level spread evenly over the level's
    occupied bins. Exact zeros are left out: they are represented exactly whatever the range.
    Reference: Migacz 2017, "8-bit inference with TensorRT", GTC.
    """

    candidates: int = 100

    def __post_init__(self) -> None:
        _check_candidates(self.candidates, "KlRange")

    def of_stats(self, stats: TensorStats, grid: Grid, symmetric: bool) -> Range:
        """Two float32 scalars for a tensor known by its statistics."""
        lo, hi = (end.reshape(1) for end in _read_extremes(stats))
        edges = stats.histogram.edges
        counts = stats.histogram.counts.double()
        occupied = counts > 0
        if not bool(occupied.any()):
            return lo[0], hi[0]
        centres = (0.5 * (edges[1:] + edges[:-1])).float()[occupied]
        score = divergence_score(centres[None], counts[occupied][None], grid, symmetric)
        lo, hi = search_range(score, lo, hi, self.candidates, symmetric)
        return lo[0], hi[0]

    def of_rows(self, rows: Tensor, grid: Grid, symmetric: bool) -> Range:
        """Two float32 vectors [C] for the rows of a [C, K] matrix."""

        def solve(block: Tensor, lo: Tensor, hi: Tensor) -> Range:
            score = divergence_score(*row_histograms(block, lo, hi), grid, symmetric)
            return search_range(score, lo, hi, self.candidates, symmetric)

        return _by_blocks(rows, max(grid.levels, ROW_BINS), solve)


@dataclass(frozen=True)
class AciqRange:
    """The clip of least expected error, in closed form from moments: no search, no histogram.

    Equation: [m - a, m + a] within the extremes, a of `clipping.clips` for the density that fits
    better, Laplace or Gauss. Values of one sign, as a fused ReLU gives, are a half-density:
    [0, a] from the moments of what is not zero, for zeros are exact on every grid.
    Reference: Banner et al., arXiv 1810.05723, section 2.
    """

    def of_stats(self, stats: TensorStats, grid: Grid, symmetric: bool) -> Range:
        """Two float32 scalars for a tensor known by its statistics."""
        lo, hi = _read_extremes(stats)
        moments, zeros = stats.moments, stats.histogram.zeros
        one_sided = bool(lo >= 0) or bool(hi <= 0)
        lies = layout(grid, symmetric, one_sided)
        if one_sided:
            count = max(moments.count - zeros, 1)
            squares = moments.m2 + moments.count * moments.mean**2
            both = torch.tensor([moments.abs_sum / count, squares / count]).double()
            clip = clips(both[0], both[1], lies).float()
            return _within(lo, hi, -clip, clip)
        mean_abs = moments.abs_sum / max(moments.count, 1)
        width = clip_about(moments.mean, mean_abs, moments.var, lies)
        ends = (lo.new_tensor(moments.mean - width), hi.new_tensor(moments.mean + width))
        return _within(lo, hi, *ends)

    def of_rows(self, rows: Tensor, grid: Grid, symmetric: bool) -> Range:
        """Two float32 vectors [C] for the rows of a [C, K] matrix."""
        lo, hi = _extremes(rows)
        if rows.numel() == 0:
            return lo, hi
        wide = rows.double()
        one_sided = (lo >= 0) | (hi <= 0)
        mean = torch.where(one_sided, 0.0, wide.mean(1))
        count = torch.where(one_sided, (rows != 0).sum(1), rows.shape[1]).clamp_min(1)
        apart = wide - mean[:, None]
        mean_abs, mean_square = apart.abs().sum(1) / count, apart.square().sum(1) / count
        half, whole = (
            clips(mean_abs, mean_square, layout(grid, symmetric, side)) for side in (True, False)
        )
        clip = torch.where(one_sided, half, whole)
        return _within(lo, hi, (mean - clip).float(), (mean + clip).float())


RANGES: dict[str, RangeRule] = {
    "aciq": AciqRange(),
    "kl": KlRange(),
    "lp": LpRange(),
    "minmax": MinMaxRange(),
    "mse": MseRange(),
    "percentile": PercentileRange(),
}


def range_rule(name: str | RangeRule) -> RangeRule:
    """The rule of that name, with its default parameters; a rule itself as it is.

    Equation: RANGES[name].
    Reference: see the rules.
    """
    if not isinstance(name, str):
        return name
    if name not in RANGES:
        raise RecipeError(unknown("range rule", name, RANGES))
    return RANGES[name]


def weight_qparams(
    weight: Tensor, grid: Grid, channel_axis: int | None, rule: RangeRule, symmetric: bool
) -> QParams:
    """Quantisation parameters of a weight, one pair for each channel or one for all (axis None).

    Equation: exact_range(rule(rows of the weight)), shaped to broadcast to the weight.
    Reference: Krishnamoorthi, arXiv 1806.08342, section 3.1.
    """
    weight = weight.detach().float()
    if channel_axis is None:
        lo, hi = rule.of_rows(weight.reshape(1, weight.numel()), grid, symmetric)
        return exact_range(lo[0], hi[0], grid, symmetric)
    if not -weight.dim() <= channel_axis < weight.dim():
        raise DataError(
            f"channel axis {channel_axis} of a weight of shape {tuple(weight.shape)} in"
            " weight_qparams: give an axis of the weight, or None for one scale."
        )
    channels = weight.shape[channel_axis]
    rows = weight.movedim(channel_axis, 0).reshape(channels, weight.numel() // max(channels, 1))
    lo, hi = rule.of_rows(rows, grid, symmetric)
    shape = [1] * weight.dim()
    shape[channel_axis] = channels
    return exact_range(lo.reshape(shape), hi.reshape(shape), grid, symmetric)


def _least_error_of_stats(
    stats: TensorStats, grid: Grid, symmetric: bool, p: float, candidates: int
) -> Range:
    lo, hi = (end.reshape(1) for end in _read_extremes(stats))
    if float(lo) == float(hi):
        return lo[0], hi[0]
    score = histogram_score(stats, grid, symmetric, p)
    lo, hi = search_range(score, lo, hi, candidates, symmetric)
    return lo[0], hi[0]


def _least_error_of_rows(
    rows: Tensor, grid: Grid, symmetric: bool, p: float, candidates: int
) -> Range:
    def solve(block: Tensor, lo: Tensor, hi: Tensor) -> Range:
        return search_range(row_score(block, grid, symmetric, p), lo, hi, candidates, symmetric)

    return _by_blocks(rows, 1, solve)


def _by_blocks(
    rows: Tensor, least_width: int, solve: Callable[[Tensor, Tensor, Tensor], Range]
) -> Range:
    """Solve cache-sized groups of rows; rows without values have the range (0, 0)."""
    lo, hi = _extremes(rows)
    if rows.numel() == 0:
        return lo, hi
    size = max(1, BLOCK // max(rows.shape[1], least_width))
    blocks = zip(*(torch.split(each, size) for each in (rows, lo, hi)), strict=True)
    parts = [solve(*block) for block in blocks]
    return torch.cat([low for low, _ in parts]), torch.cat([high for _, high in parts])


def _read_extremes(stats: TensorStats) -> Range:
    """The extremes as float32 scalars, (0, 0) where there is no value."""
    lo, hi = stats.minmax.lo, stats.minmax.hi
    return (torch.tensor(lo), torch.tensor(hi)) if lo <= hi else (torch.zeros(()), torch.zeros(()))


def _extremes(rows: Tensor) -> Range:
    """The extremes of each row, (0, 0) where there is no value."""
    if rows.dim() != 2:
        raise DataError(f"rows of shape {tuple(rows.shape)} in a range rule: give a matrix [C, K].")
    if rows.numel() == 0:
        return rows.new_zeros(rows.shape[0]), rows.new_zeros(rows.shape[0])
    lo, hi = torch.aminmax(rows, dim=1)
    bad = torch.nonzero(~torch.isfinite(lo) | ~torch.isfinite(hi))
    if bad.numel():
        raise DataError(
            f"row {int(bad[0])} of {rows.shape[0]} in a range rule holds NaN or infinities: repair"
            " the tensor, its range is not defined."
        )
    return lo, hi


def _within(lo: Tensor, hi: Tensor, low: Tensor, high: Tensor) -> Range:
    """[low, high] inside [lo, hi]; all of it where only zero would be left."""
    low, high = torch.clamp(low, lo, hi), torch.clamp(high, lo, hi)
    empty = (low == 0.0) & (high == 0.0)
    return torch.where(empty, lo, low), torch.where(empty, hi, high)


def _rank(p: float, count: int) -> int:
    """How many of `count` values make p percent; the guard undoes the rounding of p / 100."""
    return max(1, math.ceil(count * p / 100.0 - 1e-9 * count))


def _value_at(below: Tensor, zeros: int, above: Tensor, rank: int, width: float) -> float:
    """The value of the given rank (from 1); bins are listed outwards from zero on each side."""
    negatives = int(below.sum())
    if negatives < rank <= negatives + zeros:
        return 0.0
    if rank <= negatives:
        return -_value_at(below[:0], 0, below, negatives + 1 - rank, width)
    rank -= negatives + zeros
    running = above.cumsum(0)
    place = int(torch.searchsorted(running, rank))
    before = int(running[place] - above[place])
    return (place + (rank - before) / int(above[place])) * width
