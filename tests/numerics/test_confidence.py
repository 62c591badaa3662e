"""Bounds hold as often as they say, and equal what others compute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from bitwright.numerics import confidence as c


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0.001, 0.3))
def test_the_bound_of_a_rate_is_scipys(count, share, alpha):
    hits = round(share * count)
    other = binomtest(hits, count, alternative="greater").proportion_ci(1 - alpha, "exact")
    assert c.bound_rate_below(hits, count, alpha) == pytest.approx(other.low, abs=1e-9)


def test_three_hundred_faultless_samples_show_99_per_cent():
    assert c.count_for_rate(1.0, 0.99, 0.05) == 299
    assert c.bound_rate_below(299, 299, 0.05) >= 0.99 > c.bound_rate_below(298, 298, 0.05)


@given(st.floats(0.5, 0.999), st.floats(0.001, 0.2))
def test_the_count_of_samples_is_one_that_shows_it(rate, below):
    limit = rate - below
    found = c.count_for_rate(rate, limit, 0.05)
    assert found is not None
    assert c.bound_rate_below(int(rate * found + 1e-9), found, 0.05) >= limit


def test_no_count_shows_a_rate_that_is_not_there():
    assert c.count_for_rate(0.98, 0.99, 0.05) is None
    assert c.count_for_mean(0.02, 0.03, 0.01, 100) is None
    assert c.count_for_mean(0.01, 0.03, 0.02, 100) == 400


def score_statistic(worse, better, count, drop):
    """Tango's z by maximising the likelihood over a fine grid of shares, not by its root."""
    shares = np.linspace(0, (1 - drop) / 2, 400_001)[1:-1]
    rest = 1 - 2 * shares - drop
    with np.errstate(divide="ignore", invalid="ignore"):
        likely = (
            worse * np.log(shares + drop)
            + better * np.log(shares)
            + (count - worse - better) * np.log(rest)
        )
    share = shares[np.nanargmax(likely)]
    return (worse - better - count * drop) / np.sqrt(count * (2 * share + drop * (1 - drop)))


@pytest.mark.parametrize(("worse", "better", "count"), [(5, 2, 200), (12, 9, 150), (3, 1, 60)])
def test_the_bound_of_a_drop_solves_the_score_equation(worse, better, count):
    bound = c.bound_drop_above(worse, better, count, 0.05)
    assert score_statistic(worse, better, count, bound) == pytest.approx(-1.6449, abs=2e-3)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(60, 500))
def test_a_drop_is_never_bounded_under_its_estimate_and_more_samples_tell_more(worse, better, n):
    bound = c.bound_drop_above(worse, better, n, 0.05)
    assert (worse - better) / n <= bound <= 1
    assert c.bound_drop_above(worse, better, n, 0.01) >= bound
    assert c.bound_drop_above(10 * worse, 10 * better, 10 * n, 0.05) <= bound + 1e-9


def test_bounds_of_drops_hold_as_often_as_they_say():
    draw = np.random.default_rng(0)
    true = 0.02 - 0.01
    pairs = draw.multinomial(300, (0.02, 0.01, 0.97), 2000)
    held = np.mean([c.bound_drop_above(b, w, 300, 0.05) >= true for b, w, _ in pairs])
    assert 0.935 <= held <= 0.99


def test_bounds_of_skewed_means_hold_nearly_as_often_as_they_say():
    draw = np.random.default_rng(1)
    held = np.mean(
        [c.bound_mean_above(draw.exponential(1.0, 300), 0.05, i) >= 1.0 for i in range(150)]
    )
    assert 0.89 <= held <= 1.0


def test_equal_values_have_themselves_as_bound_and_a_seed_repeats():
    assert c.bound_mean_above(np.full(20, 0.25), 0.05) == 0.25
    values = np.random.default_rng(2).normal(size=50)
    assert c.bound_mean_above(values, 0.05, 3) == c.bound_mean_above(values, 0.05, 3)
    assert c.bound_mean_above(values, 0.05) > values.mean()


def test_a_figure_that_is_no_mean_is_bounded_by_resampling():
    draw = np.random.default_rng(3)
    x = draw.normal(size=200)
    y = x + 0.5 * draw.normal(size=200)

    def correlation(places):
        return float(np.corrcoef(x[places], y[places])[0, 1])

    bound = c.bound_statistic_below(correlation, 200, 0.05)
    # Fisher's z for a correlation: atanh(r) has a standard error of 1 / sqrt(n - 3).
    fisher = np.tanh(np.arctanh(correlation(np.arange(200))) - 1.645 / np.sqrt(197))
    assert bound == pytest.approx(fisher, abs=0.01)
