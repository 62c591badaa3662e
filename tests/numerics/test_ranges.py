from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.errors import DataError, RecipeError
from bitwright.numerics.affine import QParams, fake_quantize, from_range
from bitwright.numerics.grid import Grid
from bitwright.numerics.ranges import (
    RANGES,
    KlRange,
    LpRange,
    MinMaxRange,
    MseRange,
    PercentileRange,
    range_rule,
    weight_qparams,
)
from bitwright.numerics.stats import TensorStats

SAMPLES = ("laplace", "gauss", "relu", "relu6", "swish", "outlier", "shifted", "negative")


def sample(name: str, count: int = 5000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    gauss = torch.randn(count, generator=generator)
    laplace = torch.rand(count, generator=generator).log() * gauss.sign()
    return {
        "laplace": laplace,
        "gauss": gauss,
        "relu": laplace.relu(),
        "relu6": (3 * gauss).clamp(0, 6),
        "swish": torch.nn.functional.silu(2 * gauss),
        "outlier": torch.cat([gauss, torch.tensor([60.0])]),
        "shifted": gauss + 2,
        "negative": -laplace.abs() - 1,
    }[name]


def error(x, lo, hi, grid, symmetric, p=2.0):
    return float((fake_quantize(x, from_range(lo, hi, grid, symmetric)) - x).abs().pow(p).mean())


def brute_force(x, grid, symmetric, p, points):
    """The least error over a fine regular mesh of shrunk ranges."""
    lo, hi = x.min().clamp(max=0), x.max().clamp(min=0)
    line = torch.arange(1, points + 1) / points
    if symmetric or lo == 0 or hi == 0:
        line = torch.arange(1, 8 * points + 1) / (8 * points)
        top = torch.maximum(-lo, hi)
        low, high = (-line * top, line * top) if symmetric else (line * lo, line * hi)
    else:
        mesh = torch.cartesian_prod(line, line)
        low, high = mesh[:, 0] * lo, mesh[:, 1] * hi
    qp = from_range(low, high, grid, symmetric)
    pairs = zip(qp.scale, qp.zero_point, strict=True)
    return min(
        float((fake_quantize(x, QParams(grid, scale, zero)) - x).abs().pow(p).mean())
        for scale, zero in pairs
    )


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", SAMPLES)
def test_the_search_is_within_one_percent_of_brute_force(name, bits, symmetric):
    x, grid = sample(name), Grid(bits, symmetric)
    best = brute_force(x, grid, symmetric, 2.0, 40)
    lo, hi = MseRange().of_rows(x[None], grid, symmetric)
    assert error(x, lo[0], hi[0], grid, symmetric) <= 1.01 * best
    lo, hi = MseRange().of_stats(TensorStats.of(x), grid, symmetric)
    assert error(x, lo, hi, grid, symmetric) <= 1.01 * best


@pytest.mark.parametrize("p", [1.0, 2.4, 3.5])
@pytest.mark.parametrize("name", ["laplace", "relu", "relu6"])
def test_the_search_serves_every_norm(name, p):
    x, grid = sample(name), Grid(4)
    best = brute_force(x, grid, False, p, 30)
    lo, hi = LpRange(p).of_rows(x[None], grid, False)
    assert error(x, lo[0], hi[0], grid, False, p) <= 1.01 * best
    lo, hi = LpRange(p).of_stats(TensorStats.of(x), grid, False)
    assert error(x, lo, hi, grid, False, p) <= 1.01 * best


def test_mse_is_the_second_norm():
    x = sample("laplace")[None, :500]
    assert MseRange().of_rows(x, Grid(4), False) == LpRange(2.0).of_rows(x, Grid(4), False)


def test_sixteen_bits_are_not_clipped_for_nothing():
    x = sample("gauss")
    lo, hi = MseRange().of_stats(TensorStats.of(x), Grid(16), False)
    assert error(x, lo, hi, Grid(16), False) <= 1.05 * error(x, x.min(), x.max(), Grid(16), False)


rows_strategy = st.builds(
    lambda seed, rows, columns, kind, size: (
        {
            "gauss": torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)),
            "positive": torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
            + 1,
            "negative": -torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
            - 1,
            "constant": torch.full((rows, columns), 0.3),
            "zero": torch.zeros(rows, columns),
        }[kind]
        * size
    ),
    st.integers(0, 2**31),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([0, 1, 2, 9, 50]),
    st.sampled_from(["gauss", "positive", "negative", "constant", "zero"]),
    st.sampled_from([1.0, 1e-25, 1e-38, 1e25]),
)


@pytest.mark.parametrize("name", sorted(RANGES))
@given(rows_strategy, st.sampled_from([2, 4, 8, 16]), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_no_range_exceeds_what_was_observed(name, rows, bits, signed, symmetric):
    rule, grid = RANGES[name], Grid(bits, signed)
    lo, hi = rule.of_rows(rows, grid, symmetric)
    assert lo.shape == hi.shape == rows.shape[:1] and lo.dtype == hi.dtype == torch.float32
    assert torch.isfinite(from_range(lo, hi, grid, symmetric).scale).all()
    if rows.numel():
        assert (lo >= rows.amin(1)).all() and (hi <= rows.amax(1)).all() and (lo <= hi).all()
    else:
        assert not lo.any() and not hi.any()
    low, high = rule.of_stats(TensorStats.of(rows), grid, symmetric)
    assert low.shape == high.shape == () and low.dtype == high.dtype == torch.float32
    if rows.numel():
        assert rows.min() <= low <= high <= rows.max()
    else:
        assert float(low) == float(high) == 0.0


def test_minmax_is_exact():
    rows = torch.randn(4, 30)
    lo, hi = MinMaxRange().of_rows(rows, Grid(4), False)
    assert torch.equal(lo, rows.amin(1)) and torch.equal(hi, rows.amax(1))
    low, high = MinMaxRange().of_stats(TensorStats.of(rows), Grid(4), False)
    assert (low, high) == (rows.min(), rows.max())


@pytest.mark.parametrize("p", [60.0, 90.0, 99.0, 99.99, 100.0])
@pytest.mark.parametrize("name", ["gauss", "swish", "shifted", "negative", "outlier", "relu6"])
def test_percentiles_equal_numpys(name, p):
    x, grid = sample(name), Grid(8)
    wide = x.numpy()
    top = np.percentile(wide, p, method="inverted_cdf")
    bottom = -np.percentile(-wide, p, method="inverted_cdf")
    size = np.percentile(np.abs(wide), p, method="inverted_cdf")
    stats = TensorStats.of(x)
    for lo, hi, slack in (
        (*(end[0] for end in PercentileRange(p).of_rows(x[None], grid, False)), 0.0),
        (*PercentileRange(p).of_stats(stats, grid, False), stats.histogram.width),
    ):
        assert abs(float(lo) - bottom) <= slack and abs(float(hi) - top) <= slack
    for lo, hi, slack in (
        (*(end[0] for end in PercentileRange(p).of_rows(x[None], grid, True)), 0.0),
        (*PercentileRange(p).of_stats(stats, grid, True), stats.histogram.width),
    ):
        largest = max(abs(float(lo)), abs(float(hi)))
        assert abs(largest - size) <= slack or x.min() > -size > lo


def test_a_percentile_of_mostly_zeros_does_not_erase_the_rest():
    x = torch.zeros(1000)
    x[0] = 3.0
    lo, hi = PercentileRange(99.0).of_stats(TensorStats.of(x), Grid(8), False)
    assert (float(lo), float(hi)) == (0.0, 3.0)


def test_clipping_cuts_off_an_outlier_at_few_bits():
    x, grid = torch.cat([sample("gauss"), torch.tensor([60.0])]), Grid(4)
    for rule in (PercentileRange(99.9), KlRange()):
        _, hi = rule.of_stats(TensorStats.of(x), grid, False)
        assert 1.5 < float(hi) < 30.0
        assert 1.5 < float(rule.of_rows(x[None], grid, False)[1]) < 30.0


def test_kl_keeps_the_range_where_nothing_is_lost():
    """As many levels as occupied values: any clipping would cost, no range is better than all."""
    x = torch.arange(1, 16).float().repeat(20)
    lo, hi = KlRange().of_stats(TensorStats.of(x), Grid(4), False)
    assert (float(lo), float(hi)) == (1.0, 15.0)


def test_the_answer_does_not_depend_on_how_rows_are_grouped(monkeypatch):
    rows = torch.randn(7, 40)
    whole = MseRange().of_rows(rows, Grid(3), False)
    monkeypatch.setattr("bitwright.numerics.ranges.BLOCK", 80)
    parts = MseRange().of_rows(rows, Grid(3), False)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (5, 6), (0, 3), (4, 0), (7,)])
def test_weight_parameters_broadcast(axis, shape):
    if axis == 1 and len(shape) == 1:
        return
    weight, grid = torch.randn(shape), Grid(4, True)
    qp = weight_qparams(weight, grid, axis, MseRange(), True)
    want = [1] * len(shape)
    if axis is not None:
        want[axis] = shape[axis]
    assert qp.scale.shape == (() if axis is None else tuple(want))
    assert fake_quantize(weight, qp).shape == weight.shape and not qp.zero_point.any()


def test_channels_are_solved_one_by_one():
    weight = torch.randn(3, 2, 3, 3) * torch.tensor([1.0, 10.0, 100.0])[:, None, None, None]
    qp = weight_qparams(weight, Grid(4, True), 0, MseRange(), False)
    for channel in range(3):
        one = weight_qparams(weight[channel], Grid(4, True), None, MseRange(), False)
        assert torch.equal(qp.scale[channel].reshape(()), one.scale)
        assert torch.equal(qp.zero_point[channel].reshape(()), one.zero_point)


def test_names_are_looked_up():
    assert set(RANGES) == {"aciq", "minmax", "percentile", "mse", "lp", "kl"}
    assert range_rule("mse") == MseRange() and range_rule("lp") == LpRange(2.4)
    with pytest.raises(RecipeError, match=r"unknown range rule 'mes'\. Did you mean 'mse'\?"):
        range_rule("mes")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PercentileRange(50.0), r"p=50.0 in PercentileRange: use a percentage"),
        (lambda: PercentileRange(101), r"p=101 in PercentileRange"),
        (lambda: LpRange(p=0.0), r"p=0.0 in LpRange: use a positive"),
        (lambda: LpRange(p=math.nan), r"p=nan in LpRange"),
        (lambda: LpRange(candidates=0), r"candidates=0 in LpRange: use 1 or more"),
        (lambda: MseRange(0), r"candidates=0 in MseRange"),
        (lambda: KlRange(-1), r"candidates=-1 in KlRange"),
    ],
)
def test_ill_valued_rules_are_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


@pytest.mark.parametrize("name", sorted(RANGES))
def test_wrong_input_is_refused(name):
    rows = torch.tensor([[1.0, 2.0], [math.nan, 1.0]])
    with pytest.raises(DataError, match=r"row 1 of 2 in a range rule holds NaN or infinities"):
        RANGES[name].of_rows(rows, Grid(4), False)
    with pytest.raises(DataError, match=r"rows of shape \(3,\) in a range rule: give a matrix"):
        RANGES[name].of_rows(torch.zeros(3), Grid(4), False)


def test_a_missing_axis_is_refused():
    with pytest.raises(DataError, match=r"channel axis 2 of a weight of shape \(2, 2\)"):
        weight_qparams(torch.zeros(2, 2), Grid(4), 2, MseRange(), True)
