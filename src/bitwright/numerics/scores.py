"""How good a clipping range is: what `search_range` minimises."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.numerics.affine import QParams, fake_quantize, from_range, round_half_even
from bitwright.numerics.grid import Grid
from bitwright.numerics.search import ErrorOf
from bitwright.numerics.stats import TensorStats

ROW_BINS = 512
# Columns of a row worked on at a time, so that all passes over them stay in the cache.
COLUMNS = 1 << 17
# A point mass (a clipped activation's top, say) counts as this part of a bin wide.
POINT = 1e-3
LEAST_PROBABILITY = 1e-12


def row_score(rows: Tensor, grid: Grid, symmetric: bool, p: float) -> ErrorOf:
    """Scores by the error of the values themselves.

    Equation: sum_k |x_ck - Q(x_ck)|^p for each row c.
    Reference: Nahshan et al., arXiv 1911.07190, section 3.
    """
    pieces = torch.split(rows, COLUMNS, dim=1)

    def score(lo: Tensor, hi: Tensor) -> Tensor:
        all_qp = from_range(lo, hi, grid, symmetric)
        pairs = zip(all_qp.scale, all_qp.zero_point, strict=True)
        out = torch.zeros_like(lo)
        # One candidate at a time: memory stays that of one copy of the rows.
        for index, (scale, zero) in enumerate(pairs):
            qp = QParams(grid, scale[:, None], zero[:, None])
            for piece in pieces:
                error = fake_quantize(piece, qp).sub_(piece)
                error = error.square_() if p == 2.0 else error.abs_().pow_(p)
                out[index] += error.sum(dim=1)
        return out

    return score


def histogram_score(stats: TensorStats, grid: Grid, symmetric: bool, p: float) -> ErrorOf:
    """Scores by the error of a histogram whose bins are filled evenly, for one channel.

    Equation: sum over bins of count / width * integral over the bin of |x - Q(x)|^p dx. With
    G(t) = r c + sign(d) |d|^(p+1) / (p+1), r = clamp(round(t)), d = t - r and
    c = 2^-p / (p+1), an antiderivative of |t - r|^p, the integral is
    s^(p+1) (G(right / s) - G(left / s)), and bins that touch share the value at their edge.
    The integral stays right where a bin is wider than a step, which one sample a bin would not.
    Reference: none, written for this library.
    """
    nodes, jumps = _density(stats)

    def score(lo: Tensor, hi: Tensor) -> Tensor:
        return _error(nodes, jumps, from_range(lo, hi, grid, symmetric), p)  # [candidates, 1]

    return score


def noise_of_stats(stats: TensorStats, qp: QParams) -> float:
    """Energy of the rounding and clipping error of a tensor relative to its own energy.

    Equation: sum |x - Q(x)|^2 / sum x^2, the first sum as in `histogram_score`; 0 where all is 0.
    Reference: none, written for this library.
    """
    energy = stats.moments.m2 + stats.moments.count * stats.moments.mean**2
    nodes, jumps = _density(stats)
    if not energy or not nodes.numel():
        return 0.0
    one = QParams(qp.grid, qp.scale.reshape(1, 1), qp.zero_point.reshape(1, 1))
    return float(_error(nodes, jumps, one, 2.0)) / energy


def _error(nodes: Tensor, jumps: Tensor, qp: QParams, p: float) -> Tensor:
    """The integral of |x - Q(x)|^p over a density that jumps at `nodes`; see `histogram_score`."""
    exponent = p + 1.0
    per_step = 2.0**-p / exponent
    scale, grid = qp.scale.double(), qp.grid
    ratio = nodes / scale
    steps = round_half_even(ratio)
    steps = steps.clamp_(grid.qmin - qp.zero_point, grid.qmax - qp.zero_point)
    gap = ratio.sub_(steps)
    power = gap**3 if p == 2.0 else gap.abs().pow_(exponent).copysign_(gap)
    total = power.div_(exponent).add_(steps, alpha=per_step) @ jumps
    return total[:, None] * scale**exponent


def _density(stats: TensorStats) -> tuple[Tensor, Tensor]:
    """The points at which the density of the histogram jumps, and by how much it drops there."""
    histogram = stats.histogram
    used = torch.nonzero(histogram.counts)[:, 0]
    edges, width = histogram.edges, histogram.width
    left, right = edges[used], edges[used + 1]
    if used.numel():
        # The outermost bins reach only to the observed extremes: the mass that a ReLU6 piles up
        # at 6 lies at 6, not half a bin beyond it.
        right[-1] = torch.clamp(
            right[-1], max=max(stats.minmax.hi, float(left[-1]) + POINT * width)
        )
        left[0] = torch.clamp(left[0], min=min(stats.minmax.lo, float(right[0]) - POINT * width))
    density = histogram.counts[used] / (right - left)
    nodes, place = torch.unique(torch.cat([right, left]), return_inverse=True)
    jumps = torch.zeros_like(nodes).index_add_(0, place, torch.cat([density, -density]))
    return nodes, jumps


def divergence_score(centres: Tensor, counts: Tensor, grid: Grid, symmetric: bool) -> ErrorOf:
    """Scores by the divergence of the quantised histogram from the observed one.

    Equation: KL(P || Q) for each row of [C, B] bin centres and counts; see `KlRange`.
    Reference: Migacz 2017, "8-bit inference with TensorRT", GTC.
    """

    def score(lo: Tensor, hi: Tensor) -> Tensor:
        qp = from_range(lo, hi, grid, symmetric)
        pairs = zip(qp.scale[..., None], qp.zero_point[..., None], strict=True)
        return torch.stack([_divergence(centres, counts, grid, *pair) for pair in pairs]).float()

    return score


def _divergence(centres: Tensor, counts: Tensor, grid: Grid, scale: Tensor, zero: Tensor) -> Tensor:
    integer = round_half_even(centres / scale) + zero
    below, above = integer < grid.qmin, integer > grid.qmax
    inside = ~(below | above)
    level = integer.clamp(grid.qmin, grid.qmax).sub_(grid.qmin).long()
    kept = counts * inside
    flags = inside.to(torch.int8)
    first = flags.argmax(dim=1, keepdim=True)
    last = flags.shape[1] - 1 - flags.flip(1).argmax(dim=1, keepdim=True)
    observed = kept.scatter_add(1, first, (counts * below).sum(dim=1, keepdim=True))
    observed.scatter_add_(1, last, (counts * above).sum(dim=1, keepdim=True))
    occupied = observed > 0
    empty = counts.new_zeros(counts.shape[0], grid.levels)
    mass = empty.scatter_add(1, level, kept)
    share = mass / empty.scatter_add(1, level, occupied.to(counts.dtype)).clamp_(min=1.0)
    model = share.gather(1, level) * occupied
    # No bin inside the range: 0 / 0 makes NaN, which the search reads as the worst score.
    p = observed / observed.sum(dim=1, keepdim=True)
    q = model / model.sum(dim=1, keepdim=True)
    terms = p * (p.clamp(min=LEAST_PROBABILITY) / q.clamp(min=LEAST_PROBABILITY)).log()
    hopeless = ~inside.any(dim=1)
    return torch.where(hopeless, torch.inf, torch.where(occupied, terms, 0.0).sum(dim=1))


def row_histograms(rows: Tensor, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Bin centres and counts [C, B] of the non-zero values of each row.

    Equation: B even bins over [min(lo, 0), max(hi, 0)].
    Reference: none, written for this library.
    """
    low, high = lo.clamp(max=0.0)[:, None], hi.clamp(min=0.0)[:, None]
    width = (high / ROW_BINS - low / ROW_BINS).clamp(min=torch.finfo(torch.float32).tiny)
    place = ((rows - low) / width).long().clamp_(0, ROW_BINS - 1)
    counts = torch.zeros(rows.shape[0], ROW_BINS, dtype=torch.float64, device=rows.device)
    counts.scatter_add_(1, place, (rows != 0.0).double())
    index = torch.arange(ROW_BINS, device=rows.device)
    return low + (index + 0.5) * width, counts
