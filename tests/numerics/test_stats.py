from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.errors import DataError, RecipeError
from bitwright.numerics import stats as module
from bitwright.numerics.stats import ChannelStats, Histogram, MinMax, Moments, TensorStats

quick = settings(max_examples=150, deadline=None)
# All of float32 below the mask threshold: denormals, both zeros, powers of two (bin edges).
values = st.one_of(
    st.floats(-(2.0**99), 2.0**99, width=32),
    st.floats(-8, 8, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 4096.0, -4096.0, 1e-45, -1e-45, 6.0]),
    st.integers(-130, 99).map(lambda e: math.ldexp(1.0, e)),
    st.integers(-130, 99).map(lambda e: -math.ldexp(1.0, e)),
)
batches = st.lists(st.lists(values, max_size=12), min_size=1, max_size=5)
limits = st.sampled_from([2, 3, 16, 4096])


def same(a: Histogram, b: Histogram) -> bool:
    head = (a.exponent, a.start, a.zeros, a.bins) == (b.exponent, b.start, b.zeros, b.bins)
    return head and torch.equal(a.counts, b.counts)


def joined(parts):
    return torch.tensor([value for part in parts for value in part])


@given(batches, limits, st.randoms())
@quick
def test_histograms_do_not_depend_on_split_or_order(parts, bins, random):
    whole = Histogram.of(joined(parts), bins)
    readings = [Histogram.of(torch.tensor(part), bins) for part in parts]
    assert same(functools.reduce(Histogram.merge, readings), whole)
    random.shuffle(readings)
    assert same(functools.reduce(Histogram.merge, readings), whole)
    nested = functools.reduce(lambda done, one: one.merge(done), readings)
    assert same(nested, whole)
    assert whole.total == sum(len(part) for part in parts)


@given(batches, limits)
@quick
def test_bins_hold_what_they_cover(parts, bins):
    x = joined(parts)
    histogram = Histogram.of(x, bins)
    x, edges = x.double(), histogram.edges
    assert 1 <= histogram.counts.numel() <= bins
    assert histogram.zeros == int((x == 0).sum())
    for count, left, right in zip(histogram.counts, edges, edges[1:], strict=False):
        assert int(count) == int(((x >= left) & (x < right) & (x != 0)).sum())
        assert float(right - left) == histogram.width


@given(batches, limits)
@quick
def test_the_width_is_the_least_that_fits(parts, bins):
    x = joined(parts).double()
    histogram = Histogram.of(x.float(), bins)
    if histogram.exponent == module.LEAST_EXPONENT:
        return
    finer = math.ldexp(1.0, histogram.exponent - 1)
    lo, hi = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    assert math.floor(hi / finer) - math.floor(lo / finer) + 1 > bins


@given(st.lists(values, max_size=20), st.lists(values, max_size=20), st.sampled_from([2, 8, 4096]))
@quick
def test_different_limits_merge_to_the_smaller(a, b, bins):
    one, other = Histogram.of(torch.tensor(a), bins), Histogram.of(torch.tensor(b))
    assert same(one.merge(other), Histogram.of(torch.tensor(a + b), bins))
    assert same(other.merge(one), one.merge(other))


@given(batches)
@quick
def test_extremes_and_moments_merge(parts):
    x = joined(parts)
    extremes = functools.reduce(MinMax.merge, [MinMax.of(torch.tensor(p)) for p in parts])
    assert extremes == MinMax.of(x)
    readings = [Moments.of(torch.tensor(part)) for part in parts]
    left = functools.reduce(Moments.merge, readings)
    right = functools.reduce(lambda done, one: one.merge(done), reversed(readings))
    whole = Moments.of(x)
    size = float(x.double().abs().max()) if len(x) else 0.0
    for got in (left, right):
        assert got.count == whole.count
        assert got.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-12 * size)
        assert got.m2 == pytest.approx(whole.m2, rel=1e-9, abs=1e-12 * size**2)
        assert got.abs_sum == pytest.approx(whole.abs_sum, rel=1e-9)
    if len(readings) > 1:
        a, b = readings[:2]
        assert a.merge(b) == b.merge(a)


@pytest.mark.parametrize("offset", [0.0, 3.0, -1e4, 1e6])
def test_moments_equal_numpys(offset):
    x = torch.randn(300_001) + offset  # more than two chunks
    wide, moments = x.double().numpy(), Moments.of(x)
    assert moments.mean == pytest.approx(wide.mean(), rel=1e-12, abs=1e-12)
    assert moments.var == pytest.approx(wide.var(), rel=1e-9)
    assert moments.abs_sum == pytest.approx(np.abs(wide).sum(), rel=1e-12)
    constant = Moments.of(torch.full((1000,), 0.1) + offset)
    assert constant.m2 == 0.0
    assert Moments.of(torch.zeros(0)).var == 0.0


def test_large_tensors_are_counted_like_numpy():
    x = torch.randn(300_001).relu()
    histogram = Histogram.of(x)
    counts, _ = np.histogram(x[x != 0].double().numpy(), bins=histogram.edges.numpy())
    assert histogram.counts.tolist() == counts.tolist()
    assert 2048 <= histogram.counts.numel() <= 4096


def test_entries_set_aside_are_counted():
    x = torch.tensor([1.0, math.nan, math.inf, -math.inf, -1e30, 3.4e38, -2.0, 0.0])
    got, want = TensorStats.of(x), TensorStats.of(torch.tensor([1.0, -2.0, 0.0]))
    assert (got.nonfinite, got.masked) == (3, 2)
    assert got.minmax == want.minmax and got.moments == want.moments
    assert same(got.histogram, want.histogram)
    twice = got.merge(want)
    assert (twice.nonfinite, twice.masked, twice.moments.count) == (3, 2, 6)
    for reading in (MinMax.of(x), Moments.of(x)):
        assert math.nan not in vars(reading).values()
    nothing = TensorStats.of(torch.full((4,), math.nan))
    assert nothing.nonfinite == 4 and nothing.minmax == MinMax(math.inf, -math.inf)


def test_the_reading_of_nothing_is_neutral():
    nothing, x = TensorStats.of(torch.zeros(0, 3)), torch.randn(50)
    for both in (nothing.merge(TensorStats.of(x)), TensorStats.of(x).merge(nothing)):
        want = TensorStats.of(x)
        assert both.minmax == want.minmax and both.moments == want.moments
        assert same(both.histogram, want.histogram)


def test_memory_format_does_not_matter():
    x = torch.randn(2, 3, 4, 5)
    one, other = TensorStats.of(x), TensorStats.of(x.to(memory_format=torch.channels_last))
    assert one.minmax == other.minmax and same(one.histogram, other.histogram)
    part = TensorStats.of(x[:, :, ::2])
    assert same(part.histogram, Histogram.of(x[:, :, ::2].contiguous()))
    assert same(Histogram.of(x.expand(2, 2, 3, 4, 5)), Histogram.of(torch.stack([x, x])))


@given(st.integers(1, 400), st.integers(1, 50), st.booleans())
@quick
def test_a_subsampled_histogram_still_counts_every_element(count, limit, relu):
    x = torch.randn(count)
    x = x.relu() if relu else x
    stats = TensorStats.of(x, max_histogram_elements=limit)
    assert stats.histogram.total == count and int(stats.histogram.counts.min()) >= 0
    assert stats.minmax == MinMax.of(x) and stats.moments == Moments.of(x)
    assert stats.histogram.exponent == Histogram.of(x).exponent


def test_a_subsample_meets_every_channel():
    x = torch.arange(64).repeat(1000).float() + 1.0
    histogram = TensorStats.of(x, max_histogram_elements=1000).histogram
    assert int((histogram.counts > 0).sum()) == 64


@given(st.integers(0, 7), st.integers(0, 7), st.sampled_from([1, -1]), st.booleans())
@quick
def test_channel_statistics(first, second, axis, spoiled):
    x = torch.randn(first + second, 3, 2, 5)
    if spoiled and x.numel():
        x.view(-1)[0], x.view(-1)[-1] = math.nan, 2e30
    merged = ChannelStats.of(x[:first], axis).merge(ChannelStats.of(x[first:], axis))
    whole = ChannelStats.of(x, axis)
    rows = x.movedim(axis, 0).reshape(x.shape[axis], -1)
    for channel, row in enumerate(rows):
        kept = row[row.abs() < 1e30].double().numpy()
        for got in (merged, whole):
            assert int(got.count[channel]) == kept.size
            if kept.size:
                assert float(got.mean[channel]) == pytest.approx(kept.mean(), rel=1e-9, abs=1e-12)
                assert float(got.var[channel]) == pytest.approx(kept.var(), rel=1e-9)
                assert float(got.lo[channel]) == kept.min()
                assert float(got.hi[channel]) == kept.max()
            else:
                assert float(got.var[channel]) == 0.0
                assert (float(got.lo[channel]), float(got.hi[channel])) == (math.inf, -math.inf)


def test_wrong_input_is_refused():
    with pytest.raises(DataError, match=r"axis 1 of a tensor of shape \(3,\) in ChannelStats"):
        ChannelStats.of(torch.zeros(3))
    with pytest.raises(DataError, match=r"axis 2 of a tensor"):
        ChannelStats.of(torch.zeros(3, 3, 3), 2)
    with pytest.raises(DataError, match=r"2 and 3 channels in ChannelStats.merge"):
        ChannelStats.of(torch.zeros(1, 2)).merge(ChannelStats.of(torch.zeros(1, 3)))
    with pytest.raises(RecipeError, match=r"bins=1 in Histogram: use 2 or more"):
        Histogram.of(torch.zeros(3), bins=1)
    with pytest.raises(RecipeError, match=r"max_histogram_elements=0 in TensorStats"):
        TensorStats.of(torch.zeros(3), max_histogram_elements=0)
