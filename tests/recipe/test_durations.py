"""Lengths of time: read as written, refused by name, and said again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.errors import RecipeError
from bitwright.recipe.durations import parse_duration, word_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("2min", 120), ("2m", 120), ("1.5h", 5400), ("1h 30min", 5400), (" 0.5s", 0.5)],
)
def test_what_a_person_writes(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "min", "2 days", "0s", "-3s", "2min3", "1e9h", "nan s"])
def test_what_is_no_length_is_refused_by_name(text):
    with pytest.raises(RecipeError, match=r"--time is no length of time.*2min"):
        parse_duration(text)


@given(st.integers(1, 10**5))
def test_what_is_said_is_at_least_what_was_meant_and_reads_back(seconds):
    said = parse_duration(word_duration(seconds))
    # Beyond an hour seconds are not said.
    assert said == seconds if seconds < 3600 else seconds - 60 < said <= seconds
