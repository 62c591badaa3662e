"""Budgets as users write them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from bitwright.allocation.budget import cap, parse_budgets
from bitwright.allocation.cost import Measure
from bitwright.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "name", "amount", "relative"),
    [
        ("size<=0.13", "size", Fraction(13, 100), True),
        ("size<=13%", "size", Fraction(13, 100), True),
        (" size <= .13 ", "size", Fraction(13, 100), True),
        ("size≤1", "size", Fraction(1), True),
        ("size<=3MB", "size", Fraction(24_000_000), False),
        ("size<=500kB", "size", Fraction(4_000_000), False),
        ("size <= 1.5 mb", "size", Fraction(12_000_000), False),
        ("size<=1MiB", "size", Fraction(8 << 20), False),
        ("size<=12345bits", "size", Fraction(12345), False),
        ("bops<=1.5GBOPs", "bops", Fraction(1_500_000_000), False),
        ("bops<=2e-2", "bops", Fraction(2, 100), True),
        ("latency<=2ms", "latency", Fraction(2), False),
        ("latency<=0.25us", "latency", Fraction(1, 4000), False),
        ("latency<=1s", "latency", Fraction(1000), False),
        ("energy<=40uJ", "energy", Fraction(40_000_000), False),
        ("energy<=3mJ", "energy", Fraction(3 * 10**9), False),
        ("loss<=0.05", "loss", Fraction(5, 100), False),
        ("loss<=-1e-3", "loss", Fraction(-1, 1000), False),
        ("drop<=1%", "drop", Fraction(1, 100), False),
        ("drop<=0.01", "drop", Fraction(1, 100), False),
        ("dsp.cycles<=120units", "dsp.cycles", Fraction(120), False),
    ],
)
def test_what_can_be_written(text, name, amount, relative):
    (found,) = parse_budgets(text)
    assert (found.name, found.amount, found.relative) == (name, amount, relative)


def test_several_are_joined_or_given_one_by_one():
    joined = parse_budgets("size<=0.13 and bops<=0.05 AND latency<=2ms")
    assert joined == parse_budgets(["size<=0.13", "bops<=0.05 and latency<=2ms"])
    assert parse_budgets(["", "  "]) == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size", "'size' is no budget. Write NAME<=NUMBER"),
        ("size<=", "is no budget"),
        ("0.13", "is no budget"),
        ("size<=0.13,bops<=0.1", "no unit ',bops<=0.1'"),
        ("size<=0.13 and", "no unit 'and'"),
        ("size<0.13", "an upper bound. Write <="),
        ("size>=0.13", "an upper bound"),
        ("size<=3", r"3 times the float network's size.*size<=3MB"),
        ("dsp<=3", r"such as dsp<=3units"),
        ("size<=-0.1", "never negative"),
        ("size<=3ms", r"size has no unit 'ms'. Its units: B, kB, MB"),
        ("latency<=2MB", "latency has no unit 'MB'"),
        ("energy<=3MJ", "energy has no unit 'MJ'"),
        ("loss<=5%", "loss has no unit '%'"),
        ("drop<=1", "write drop<=1%"),
        ("drop<=1ms", "Write drop<=1% or drop<=0.01"),
    ],
)
def test_what_cannot(text, told):
    with pytest.raises(RecipeError, match=told) as error:
        parse_budgets(text)
    assert "--budget" in str(error.value)


def test_a_name_that_is_not_known_is_told_with_the_nearest():
    with pytest.raises(RecipeError, match=r"unknown cost 'sise'.*'size'.*--cost-table"):
        parse_budgets("sise<=3", known=("size", "bops"))


def test_limits_are_rounded_down_to_whole_steps():
    (share, most) = parse_budgets("latency<=0.3 and latency<=0.4999ms")
    measure = Measure("latency", (1, 2), 1000, "ms", 10_001)
    assert cap(share, measure, "t").limit == 3000
    assert cap(most, measure, "t").limit == 499
    (negative,) = parse_budgets("loss<=-0.0015")
    assert cap(negative, Measure("loss", (), 1000), "t").limit == -2
