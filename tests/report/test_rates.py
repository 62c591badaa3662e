"""Intervals of rates against scipy's, and numbers with their nouns."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from bitwright.report.rates import about_few, interval, say_count


@pytest.mark.parametrize("samples", [1, 2, 10, 50, 333, 5000])
def test_intervals_are_wilsons(samples):
    for right in sorted({0, 1, samples // 3, samples - 1, samples}):
        found = interval(right / samples, samples)
        want = binomtest(right, samples).proportion_ci(0.95, method="wilson")
        assert (found.low, found.high) == pytest.approx((want.low, want.high), abs=1e-12)
        assert found.low <= right / samples <= found.high


@pytest.mark.parametrize(("rate", "samples"), [(None, 5), (0.5, None), (0.5, 0), (1.5, 9), (-1, 9)])
def test_what_is_no_rate_has_none(rate, samples):
    assert interval(rate, samples) is None


def test_intervals_are_shown_rounded_outwards():
    assert str(interval(0.98, 50)) == "[89.5, 99.7]"
    assert str(interval(1.0, 10_000_000)) == "[99.9, 100.0]"
    assert str(interval(0.0, 5)) == "[0.0, 43.5]"


def test_counted():
    assert say_count(1, "sample") == "1 sample"
    assert say_count(0, "sample") == "0 samples"
    assert say_count(2, "unit is", "units are") == "2 units are"


def test_few_samples():
    assert about_few(1.0, 100) == about_few(1.0, None) == ""
    assert about_few(1.0, 1).endswith("1 sample only: the true agreement may be as low as 20.6 %.")
    assert about_few(0.9, 50, "embedding") == "measured on 50 samples only."
