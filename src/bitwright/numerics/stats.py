"""Statistics of a tensor that merge: no activation is ever stored.

Every class is a commutative monoid: `of(x)` reads one tensor, `merge` joins two readings, and the
reading of an empty tensor is the neutral element. Counts, extremes and histograms merge exactly;
means and second moments merge up to the rounding of float64.

Two kinds of entries are set aside and only counted: NaN and infinities ("nonfinite"), and finite
values of magnitude 1e30 or more ("masked"), which attention masks put there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.errors import DataError, RecipeError

MASK_MAGNITUDE = 1e30
DEFAULT_BINS = 4096
# Below the exponent at which the least float32 denormal fills all bins; a floor for all-zero data.
LEAST_EXPONENT = -160
# Elements worked on at a time: a float64 copy of them stays in the cache.
CHUNK = 1 << 17


@dataclass(frozen=True)
class MinMax:
    """The least and the greatest value; (inf, -inf) when there is none.

    Equation: lo = min x, hi = max x.
    Reference: the min and max monoids.
    """

    lo: float
    hi: float

    @classmethod
    def of(cls, x: Tensor) -> MinMax:
        """Read one tensor."""
        return _read_minmax(_admit(x)[0])

    def merge(self, other: MinMax) -> MinMax:
        """Join two readings."""
        return MinMax(min(self.lo, other.lo), max(self.hi, other.hi))


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations and sum of magnitudes, in float64.

    Equation: mean = sum x / n, m2 = sum (x - mean)^2, abs_sum = sum |x|.
    Reference: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance".
    """

    count: int
    mean: float
    m2: float
    abs_sum: float

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Read one tensor."""
        values = _admit(x)[0]
        return _read_moments(values, _read_minmax(values))

    def merge(self, other: Moments) -> Moments:
        """Join two readings."""
        if not self.count or not other.count:
            return other if not self.count else self
        count = self.count + other.count
        gap = other.mean - self.mean
        # Written symmetrically, so that merging commutes bit for bit.
        mean = (self.count * self.mean + other.count * other.mean) / count
        m2 = (self.m2 + other.m2) + gap * gap * (self.count * other.count / count)
        return Moments(count, mean, m2, self.abs_sum + other.abs_sum)

    @property
    def var(self) -> float:
        """The population variance; 0 when there is no value."""
        return self.m2 / self.count if self.count else 0.0


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of the non-zero values in bins whose width is a power of two, and of exact zeros.

    Equation: bin i covers [i 2^k, (i + 1) 2^k); counts[j] belongs to bin start + j; k is the least
    exponent at which [min(lo, 0), max(hi, 0)] touches at most `bins` bins.
    k, start and the length follow from the total range alone, and doubling a width joins pairs of
    bins, so merging equals reading everything at once, in any order: no count is lost or moved.
    Reference: none, written for this library; powers of two keep every step exact.
    """

    exponent: int
    start: int
    counts: Tensor
    zeros: int
    bins: int = DEFAULT_BINS

    @classmethod
    def of(cls, x: Tensor, bins: int = DEFAULT_BINS) -> Histogram:
        """Read one tensor, keeping at most `bins` bins."""
        values = _admit(x)[0]
        return _read_histogram(values, _read_minmax(values), bins, 1)

    def merge(self, other: Histogram) -> Histogram:
        """Join two readings; the smaller limit on the number of bins holds."""
        bins = min(self.bins, other.bins)
        exponent = max(self.exponent, other.exponent)
        while True:
            start = min(h.start >> (exponent - h.exponent) for h in (self, other))
            last = max(h._last >> (exponent - h.exponent) for h in (self, other))
            if last - start < bins:
                break
            exponent += 1
        counts = torch.zeros(last - start + 1, dtype=torch.int64)
        for part in (self, other):
            place = torch.arange(part.start, part._last + 1) >> (exponent - part.exponent)
            counts.index_add_(0, place - start, part.counts)
        return Histogram(exponent, start, counts, self.zeros + other.zeros, bins)

    @property
    def _last(self) -> int:
        return self.start + self.counts.numel() - 1

    @property
    def total(self) -> int:
        """How many values were counted, zeros included."""
        return int(self.counts.sum()) + self.zeros

    @property
    def width(self) -> float:
        """The width of a bin, 2^k."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> Tensor:
        """The left edges of the bins and the right edge of the last one, exact in float64."""
        indices = torch.arange(self.start, self._last + 2, dtype=torch.float64)
        return indices * self.width


@dataclass(frozen=True, eq=False)
class TensorStats:
    """All that a range rule asks of an activation, from one reading.

    Equation: the product of the monoids MinMax, Moments, Histogram and two counters.
    Reference: see the parts.
    """

    minmax: MinMax
    moments: Moments
    histogram: Histogram
    nonfinite: int = 0
    masked: int = 0

    @classmethod
    def of(
        cls, x: Tensor, bins: int = DEFAULT_BINS, max_histogram_elements: int | None = None
    ) -> TensorStats:
        """Read one tensor.

        With `max_histogram_elements` the histogram takes every s-th element in memory order, s
        without a common divisor with the size so that no axis is skipped. Each taken element
        stands for itself and those up to the next one, so the total is still the number of
        elements. Extremes and moments stay exact.
        """
        values, nonfinite, masked = _admit(x)
        minmax = _read_minmax(values)
        stride = _stride(values.numel(), max_histogram_elements)
        histogram = _read_histogram(values, minmax, bins, stride)
        return cls(minmax, _read_moments(values, minmax), histogram, nonfinite, masked)

    def merge(self, other: TensorStats) -> TensorStats:
        """Join two readings."""
        return TensorStats(
            self.minmax.merge(other.minmax),
            self.moments.merge(other.moments),
            self.histogram.merge(other.histogram),
            self.nonfinite + other.nonfinite,
            self.masked + other.masked,
        )


@dataclass(frozen=True, eq=False)
class ChannelStats:
    """Count, mean, sum of squared deviations and extremes of each channel.

    Equation: `Moments` and `MinMax`, channel by channel; mean and m2 in float64.
    Reference: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance".
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    lo: Tensor
    hi: Tensor

    @classmethod
    def of(cls, x: Tensor, axis: int = 1) -> ChannelStats:
        """Read one tensor whose channels lie along `axis`: 1 or -1."""
        if axis not in (1, -1) or x.dim() < 2:
            raise DataError(
                f"axis {axis} of a tensor of shape {tuple(x.shape)} in ChannelStats: give a tensor"
                " of two or more axes and axis 1 or -1."
            )
        channels = x.shape[axis]
        zeros = torch.zeros(channels, dtype=torch.float64)
        far = torch.full_like(zeros, math.inf).float()
        total = cls(zeros.long(), zeros, zeros, far, -far)
        rows = max(1, CHUNK * x.shape[0] // x.numel()) if x.numel() else 1
        for part in torch.split(x.detach(), rows) if x.numel() else ():
            total = total.merge(_read_channels(part.float(), axis))
        return total

    def merge(self, other: ChannelStats) -> ChannelStats:
        """Join two readings of the same channels."""
        if self.count.shape != other.count.shape:
            raise DataError(
                f"{self.count.numel()} and {other.count.numel()} channels in ChannelStats.merge:"
                " merge readings of the same tensor only."
            )
        count = self.count + other.count
        # As float64: a quotient of integer tensors would be float32.
        safe = count.clamp(min=1).double()
        gap = other.mean - self.mean
        mean = (self.count * self.mean + other.count * other.mean) / safe
        m2 = (self.m2 + other.m2) + gap * gap * (self.count * other.count / safe)
        lo, hi = torch.minimum(self.lo, other.lo), torch.maximum(self.hi, other.hi)
        return ChannelStats(count, mean, m2, lo, hi)

    @property
    def var(self) -> Tensor:
        """The population variance of each channel; 0 where there is no value."""
        return self.m2 / self.count.clamp(min=1)


def _admit(x: Tensor) -> tuple[Tensor, int, int]:
    """The entries that count, as a flat float32 tensor, and how many were set aside."""
    flat = _flat(x.detach()).float()
    if not flat.numel():
        return flat, 0, 0
    # NaN and infinities reach the extremes, so one fast pass settles the common case.
    lo, hi = (float(end) for end in torch.aminmax(flat))
    if lo > -MASK_MAGNITUDE and hi < MASK_MAGNITUDE:
        return flat, 0, 0
    nonfinite = int((~torch.isfinite(flat)).sum())
    kept = flat[flat.abs() < MASK_MAGNITUDE]
    return kept, nonfinite, flat.numel() - nonfinite - kept.numel()


def _flat(x: Tensor) -> Tensor:
    """All entries in memory order, which spares the copy of a channels-last tensor."""
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    return x.permute(order).reshape(-1)


def _chunks(values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Cache-sized pieces, each with a float64 copy in a reused buffer."""
    size = _chunk(values)
    buffer = torch.empty(size, dtype=torch.float64, device=values.device)
    for piece in torch.split(values, size):
        yield piece, buffer[: piece.numel()].copy_(piece)


def _chunk(values: Tensor) -> int:
    """Cache-sized on the host; elsewhere as large as float32 can count ones exactly."""
    return max(1, min(CHUNK if values.device.type == "cpu" else 1 << 24, values.numel()))


def _read_minmax(values: Tensor) -> MinMax:
    if not values.numel():
        return MinMax(math.inf, -math.inf)
    lo, hi = torch.aminmax(values)
    return MinMax(float(lo), float(hi))


def _read_moments(values: Tensor, minmax: MinMax) -> Moments:
    count = values.numel()
    if not count:
        return Moments(0, 0.0, 0.0, 0.0)
    # Deviations from the middle of a one-sided range lose no digits to a large mean, and give a
    # constant tensor exactly its value and a variance of exactly zero. A range that straddles
    # zero needs no shift: float64 has digits to spare, and magnitudes come from the same copy.
    straddles = minmax.lo < 0.0 < minmax.hi
    shift = 0.0 if straddles else 0.5 * (minmax.lo + minmax.hi)
    first = second = absolute = 0.0
    for _, wide in _chunks(values):
        if not straddles:
            wide.sub_(shift)
        first += float(wide.sum())
        second += float(torch.dot(wide, wide))
        if straddles:
            absolute += float(wide.abs_().sum())
    mean = shift + first / count
    if not straddles:
        absolute = abs(mean * count)
    return Moments(count, mean, max(0.0, second - first * first / count), absolute)


def _read_histogram(values: Tensor, minmax: MinMax, bins: int, stride: int) -> Histogram:
    """Bin every `stride`-th value with weight `stride`; the last one weighs what is left."""
    if bins < 2:
        raise RecipeError(f"bins={bins} in Histogram: use 2 or more.")
    lo, hi = min(minmax.lo, 0.0), max(minmax.hi, 0.0)
    exponent = _exponent(lo, hi, bins)
    scale = math.ldexp(1.0, -exponent)
    start, length = _bin(lo, exponent), _bin(hi, exponent) - _bin(lo, exponent) + 1
    counts, zeros = torch.zeros(length, dtype=torch.int64, device=values.device), 0
    narrow = torch.int16 if length < 1 << 15 else torch.int64
    taken = values[::stride]
    flags = torch.empty(_chunk(taken), device=values.device)
    # float64 because a float32 product could underflow, which would move a tiny negative value
    # from bin -1 to bin 0; in float64 the scaling is exact for every float32.
    for piece, wide in _chunks(taken):
        # Ten times faster than count_nonzero, which branches on each of a ReLU's random zeros.
        zeros += int(torch.eq(piece, 0.0, out=flags[: piece.numel()]).sum())
        wide.mul_(scale).floor_().sub_(start)
        counts += torch.bincount(wide.to(narrow), minlength=length)
    counts[-start] -= zeros  # exact zeros fell into bin 0, which the range always includes
    if stride > 1:
        counts, zeros = counts * stride, zeros * stride
        excess = taken.numel() * stride - values.numel()
        final = float(taken[-1])
        if final == 0.0:
            zeros -= excess
        else:
            counts[_bin(final, exponent) - start] -= excess
    return Histogram(exponent, start, counts.cpu(), zeros, bins)


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def _exponent(lo: float, hi: float, bins: int) -> int:
    """The least exponent at which [lo, hi], which includes zero, touches at most `bins` bins."""
    span = hi - lo
    # 2^e > span / bins would do up to one bin; start below that and step up.
    guess = math.frexp(span / bins)[1] - 2 if span > 0.0 else LEAST_EXPONENT
    exponent = max(LEAST_EXPONENT, guess)
    while _bin(hi, exponent) - _bin(lo, exponent) >= bins:
        exponent += 1
    return exponent


def _stride(count: int, limit: int | None) -> int:
    if limit is None or count <= limit:
        return 1
    if limit < 1:
        raise RecipeError(f"max_histogram_elements={limit} in TensorStats: use 1 or more, or None.")
    stride = -(-count // limit)
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


def _read_channels(x: Tensor, axis: int) -> ChannelStats:
    dims = [d for d in range(x.dim()) if d != axis % x.dim()]
    shape = [1] * x.dim()
    shape[axis] = -1
    lo, hi = (float(end) for end in torch.aminmax(x))
    wide = x.double()
    if lo > -MASK_MAGNITUDE and hi < MASK_MAGNITUDE:  # false when there is a NaN
        count = torch.full((x.shape[axis],), x.numel() // x.shape[axis])
        mean = wide.mean(dim=dims)
        m2 = wide.sub_(mean.reshape(shape)).square_().sum(dim=dims)
        return _on_host(count, mean, m2, x.amin(dim=dims), x.amax(dim=dims))
    keep = x.abs() < MASK_MAGNITUDE
    count = keep.sum(dim=dims)
    wide = torch.where(keep, wide, 0.0)
    mean = wide.sum(dim=dims) / count.clamp(min=1)
    m2 = wide.sub_(mean.reshape(shape)).mul_(keep).square_().sum(dim=dims)
    least = torch.where(keep, x, math.inf).amin(dim=dims)
    return _on_host(count, mean, m2, least, torch.where(keep, x, -math.inf).amax(dim=dims))


def _on_host(count: Tensor, mean: Tensor, m2: Tensor, lo: Tensor, hi: Tensor) -> ChannelStats:
    return ChannelStats(count.cpu(), mean.cpu(), m2.cpu(), lo.cpu(), hi.cpu())
