"""Rules that turn observed values into the range that a quantiser covers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bitwright.errors import DataError, RecipeError, unknown
from bitwright.numerics.affine import QParams, fake_quantize, from_range, quantize, round_half_even
from bitwright.numerics.grid import Grid
from bitwright.numerics.search import search_range
from bitwright.numerics.stats import TensorStats

Range = tuple[Tensor, Tensor]

# Elements of a block of rows: small enough that all passes of a search stay in the cache.
BLOCK = 1 << 17
ROW_BINS = 512


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
        return _observed(stats)

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
        lo, hi = _observed(stats)
        histogram = stats.histogram
        first = -histogram.start
        negative, positive = histogram.counts[:first].flip(0), histogram.counts[first:]
        zeros, total, width = histogram.zeros, histogram.total, histogram.width
        if total == 0:
            return lo, hi
        rank = _rank(self.p, total)
        if symmetric:
            both = torch.zeros(max(len(negative), len(positive)), dtype=torch.int64)
            both[: len(negative)] += negative
            both[: len(positive)] += positive
            bound = _quantile(both, rank - zeros, width)
            return torch.clamp(lo, min=-bound), torch.clamp(hi, max=bound)
        below, above = int(negative.sum()), int(positive.sum())
        top, bottom = _signed_quantile(positive, negative, rank - zeros, (above, below), width)
        low, high = _signed_quantile(negative, positive, rank - zeros, (below, above), width)
        del bottom, high
        return torch.clamp(lo, min=-low), torch.clamp(hi, max=top)

    def of_rows(self, rows: Tensor, grid: Grid, symmetric: bool) -> Range:  # noqa: ARG002
        """Two float32 vectors [C] for the rows of a [C, K] matrix."""
        lo, hi = _extremes(rows)
        count = rows.shape[1]
        if rows.numel() == 0:
            return lo, hi
        rank = _rank(self.p, count)
        if symmetric:
            bound = rows.abs().kthvalue(rank, dim=1).values
            return torch.maximum(lo, -bound), torch.minimum(hi, bound)
        low = rows.kthvalue(count + 1 - rank, dim=1).values
        return low, rows.kthvalue(rank, dim=1).values
