"""Exact match and F1 against cases computed by hand from the published definition."""

from __future__ import annotations

import pytest
import torch

from bitwright.evaluation import squad


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The cat", "cat"),
        ("a an the", ""),
        ("An apple, a day!", "apple day"),
        ("  two\t words\n", "two words"),
        ("U.S.", "us"),
        ("theatre and a band", "theatre and band"),  # articles are whole words
        ("rock-'n'-roll", "rocknroll"),
        ("100%", "100"),
        ("Café\u2019s", "café\u2019s"),  # only ASCII punctuation is dropped
    ],
)
def test_normalisation(text, want):
    assert squad.normalise(text) == want


@pytest.mark.parametrize(
    ("said", "true", "match", "f1"),
    [
        ("Denver Broncos", "denver broncos", 1.0, 1.0),
        ("the Denver Broncos.", "Denver Broncos", 1.0, 1.0),
        ("Broncos", "Denver Broncos", 0.0, 2 / 3),  # p = 1, r = 1/2
        ("the Broncos of Denver", "Denver Broncos", 0.0, 0.8),  # p = 2/3, r = 1
        ("New York New York", "New York", 0.0, 2 / 3),  # words count with repetition
        ("cat", "dog", 0.0, 0.0),
        ("", "dog", 0.0, 0.0),
        ("the", "", 1.0, 0.0),  # nothing is left of either: equal, but no word in common
        ("", "", 1.0, 0.0),
    ],
)
def test_hand_computed_cases(said, true, match, f1):
    assert squad.exact_match(said, true) == match
    assert squad.f1(said, true) == pytest.approx(f1)


def test_the_best_of_several_answers_counts():
    truths = ["308", "308 points", "points: 308 in all"]
    assert squad.best_over(squad.exact_match, "308 points", truths) == 1.0
    assert squad.best_over(squad.f1, "only 308", truths) == pytest.approx(2 / 3)
    assert squad.best_over(squad.f1, "308", []) == 0.0


CONTEXT = "one two three"
PLACES = [None, None, (0, 3), (4, 7), (8, 13), None]


def test_the_best_span_lies_in_the_context_and_does_not_end_before_it_begins():
    start = torch.tensor([99.0, 9, 0, 1, 5, 99])
    end = torch.tensor([99.0, 9, 6, 4, 0, 99])
    # 3..3: 1 + 4, 4..4: 5 + 0, 2..2: 0 + 6; the pair 4..2 with 11 runs backwards.
    assert squad.best_span(start, end, PLACES, CONTEXT) == "one"
    assert squad.best_span(start, end.flip(0), PLACES, CONTEXT) == "three"  # 5 + 6
    assert squad.best_span(start, end, [None] * 6, CONTEXT) == ""


def test_spans_are_at_most_thirty_tokens():
    places = [(i, i + 1) for i in range(40)]
    start, end = torch.zeros(40), torch.zeros(40)
    start[0], end[39], end[29] = 5.0, 5.0, 1.0
    assert squad.best_span(start, end, places, "x" * 40) == "x" * 30


def test_brute_force_agrees():
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        start, end = torch.randn(2, 8, generator=generator)
        places = [None, *((i, i + 1) for i in range(6)), None]
        best = max(
            ((i, j) for i in range(1, 7) for j in range(i, 7)),
            key=lambda s: float(start[s[0]] + end[s[1]]),
        )
        want = "abcdef"[best[0] - 1 : best[1]]
        assert squad.best_span(start, end, places, "abcdef") == want
