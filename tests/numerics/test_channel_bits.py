"""Bits of channels against brute force; quotas exact and never worse than uniform bits."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from bitwright.errors import RecipeError
from bitwright.numerics.channel_bits import QUOTAS, allocate_bits, channel_error, ideal_bits


def total(ranges, bits):
    return sum(channel_error(a, b) for a, b in zip(ranges, bits, strict=True))


def spent(bits, quota):
    return sum(bits) if quota == "bits" else sum(2**b for b in bits)


@pytest.mark.parametrize("quota", QUOTAS)
def test_a_thousand_random_cases(quota):
    random = np.random.default_rng(4)
    for _ in range(1000):
        count, average = int(random.integers(1, 70)), int(random.integers(2, 8))
        ranges = np.exp(random.normal(0, random.uniform(0, 3), count))
        ranges[random.random(count) < 0.1] = 0.0
        bits = allocate_bits(ranges.tolist(), average, quota=quota)
        assert spent(bits, quota) == spent([average] * count, quota)
        assert min(bits) >= 2 and max(bits) <= 8
        assert total(ranges, bits) <= total(ranges, [average] * count) * (1 + 1e-9)


@pytest.mark.parametrize("quota", QUOTAS)
def test_the_allocation_is_the_best_there_is(quota):
    random = np.random.default_rng(5)
    for _ in range(40):
        count, average = int(random.integers(1, 6)), int(random.integers(2, 5))
        ranges = np.exp(random.normal(0, 1.5, count))
        wanted = spent([average] * count, quota)
        every = product(range(2, 7), repeat=count)
        best = min(total(ranges, b) for b in every if spent(b, quota) == wanted)
        found = allocate_bits(ranges.tolist(), average, most=6, quota=quota)
        assert total(ranges, found) == pytest.approx(best, rel=1e-9)


def test_the_formula_of_the_paper_is_where_whole_levels_lie():
    ranges = np.exp(np.random.default_rng(6).normal(0, 1, 200))
    ideal = np.array(ideal_bits(ranges.tolist(), 4))
    assert (2**ideal).sum() == pytest.approx(200 * 16)
    found = np.array(allocate_bits(ranges.tolist(), 4, least=2, most=8, quota="levels"))
    inside = (ideal > 2.5) & (ideal < 7.5)
    assert (np.abs(found - ideal)[inside] <= 1.0).all()


def test_equal_channels_and_none():
    assert allocate_bits([1.0] * 7, 4) == (4,) * 7
    assert allocate_bits([0.0] * 3, 3) == (3,) * 3
    assert allocate_bits([], 4) == () and ideal_bits([], 4) == ()
    assert allocate_bits([1.0, 0.0], 4) == (6, 2)


def test_what_makes_no_sense():
    with pytest.raises(RecipeError, match=r"1 bits on average .* 2 to 8 bits"):
        allocate_bits([1.0], 1)
    with pytest.raises(RecipeError, match="unknown quota 'bytes'"):
        allocate_bits([1.0], 4, quota="bytes")


def test_bits_that_come_in_points():
    random = np.random.default_rng(7)
    for _ in range(40):
        count, points = int(random.integers(1, 6)), int(random.integers(1, 4))
        ranges = np.exp(random.normal(0, 1.5, count))
        every = product((2, 4, 6, 8), repeat=count)
        best = min(total(ranges, b) for b in every if sum(b) == 2 * points * count)
        found = allocate_bits(ranges.tolist(), 2 * points, step=2)
        assert set(found) <= {2, 4, 6, 8} and sum(found) == 2 * points * count
        assert total(ranges, found) == pytest.approx(best, rel=1e-9)
    for given in ({"average": 5, "step": 2}, {"average": 4, "step": 2, "quota": "levels"}):
        with pytest.raises(RecipeError, match="steps of 2 bits in the bits of channels"):
            allocate_bits([1.0, 2.0], **given)
