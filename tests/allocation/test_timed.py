"""A budget of latency beside what a file takes: when it is broken, and how it is tightened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.allocation.budget import parse_budgets
from bitwright.allocation.timed import FileTime, check_time, tighten

SHARES = st.floats(0.05, 0.95)


def check(budget, predicted, measured, noise=0.0):
    told, took = FileTime(10 * predicted, predicted, 0.0), FileTime(10 * measured, measured, noise)
    return check_time(parse_budgets(budget), told, took, 0, "f")


def test_a_budget_is_broken_beyond_the_noise_only():
    assert check("latency<=0.6", 0.599, 0.605).held
    assert not check("latency<=0.6", 0.599, 0.632).held
    assert check("latency<=0.6", 0.599, 0.632, noise=0.06).held
    assert not check("latency<=6ms", 0.599, 0.632).held
    assert check("size<=0.5 and latency[pi]<=0.5", 0.4, 0.9) is None


def test_of_several_the_one_broken_most_is_told():
    found = check("latency<=0.6 and latency<=5ms", 0.4, 0.62)
    assert (found.asked, found.limit, found.relative) == ("latency<=5ms", 5.0, False)
    assert (found.predicted, found.measured) == (4.0, 6.2)


@given(SHARES, SHARES, st.floats(1.05, 3.0))
def test_what_is_predicted_within_the_tightened_budget_holds_with_the_same_error(limit, part, off):
    predicted = limit * part
    budgets = parse_budgets(f"latency<={limit!r} and size<=0.5")
    took = FileTime(1.0, limit * off, 0.0)
    found = check_time(budgets, FileTime(1.0, predicted, 0.0), took, 0, "f")
    assert not found.held
    latency, size = tighten(budgets, found)
    assert size == budgets[1] and latency.text == budgets[0].text
    # The error of the table, measured over predicted, stays as it was.
    assert float(latency.amount) * took.share / predicted == pytest.approx(limit)
    assert float(latency.amount) < predicted
