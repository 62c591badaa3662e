"""Pairwise terms against plain full passes, and what they are made of."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.errors import DataError
from bitwright.graph.capture import capture
from bitwright.graph.change import with_changes
from bitwright.graph.choice import Choice, parse_scheme
from bitwright.sensitivity.interaction import (
    choose_pairs,
    neighbours,
    pair_deltas,
    pair_groups,
    pair_name,
    pair_term,
    quadratic_terms,
)
from bitwright.sensitivity.measure import Delta, MeasuredLosses, collect, measure, measure_table
from nearest_menu import solve_menu, stitched_losses
from networks import normal, pictures, seeded, small_network

W4A4, W2A4 = parse_scheme("w4a4"), parse_scheme("w2a4")


@pytest.fixture(scope="module")
def solved():
    return solve_menu(small_network(), list(torch.split(pictures(24), 8)))


@pytest.fixture(scope="module")
def single(solved):
    return measure_table(solved.subject(), solved.changes, solved.chunks)


def run(solved, groups, chunks=None):
    return collect(
        groups, measure(solved.subject(), groups, chunks or solved.chunks), solved.subject().loss
    )


def test_a_pair_by_full_passes(solved, single):
    pair, choices = ("stem", "project"), (W2A4, W4A4)
    both = run(solved, pair_groups(solved.changes, {pair: [choices]}))
    losses = {}
    for units in ((), pair[:1], pair[1:], pair):
        changes = [solved.changes[u][dict(zip(pair, choices, strict=True))[u]] for u in units]
        losses[units] = stitched_losses(solved, with_changes(solved.base, changes))[0]
    want = losses[pair] - losses[pair[:1]] - losses[pair[1:]] + losses[()]
    got = pair_term(single, both, pair, choices)
    assert got.loss == pytest.approx(want.mean(), rel=1e-3, abs=1e-8)
    assert got.stderr == pytest.approx(want.std(ddof=1) / len(want) ** 0.5, rel=1e-3)
    assert pair_deltas(single, both, [pair]) == {pair: {choices: got}}


def test_a_unit_at_its_base_choice_does_not_interact(solved, single):
    pair, choices = ("stem", "head"), (solved.base_choice, W4A4)
    both = run(solved, pair_groups(solved.changes, {pair: [choices]}))
    assert pair_term(single, both, pair, choices).loss == pytest.approx(0.0, abs=1e-9)


def test_other_samples_are_refused(solved, single):
    pair, choices = ("stem", "project"), (W2A4, W4A4)
    fewer = run(solved, pair_groups(solved.changes, {pair: [choices]}), solved.chunks[:2])
    with pytest.raises(DataError, match="24 and 16 samples"):
        pair_term(single, fewer, pair, choices)


# ---- which pairs -----------------------------------------------------------------------------


def test_neighbours_of_the_small_network(solved):
    assert set(neighbours(solved.graph)) == {
        ("stem", "depthwise"), ("depthwise", "project"), ("project", "grouped"),
        ("stem", "grouped"), ("stem", "project"), ("grouped", "head"),
    }  # fmt: skip


class Chained(nn.Module):
    """Residual blocks one after the other: their additions connect everything."""

    def __init__(self, count):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(count))

    def forward(self, x):
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return x


def test_neighbours_do_not_reach_along_a_whole_residual_chain():
    graph = capture(seeded(lambda: Chained(9)).eval(), (normal(2, 4),))
    found = neighbours(graph)
    apart = {int(b.split(".")[1]) - int(a.split(".")[1]) for a, b in found}
    assert apart == {1, 2} and len(found) == 8 + 7


def test_pairs_are_ranked_by_their_bound():
    deltas = {"a": 4.0, "b": 0.1, "c": 1.0, "d": -0.5}
    assert choose_pairs([("a", "b")], deltas, 2) == (("a", "c"), ("a", "b"))
    assert choose_pairs([("x", "a")], deltas, 1) == (("a", "c"),)
    assert len(choose_pairs([], deltas, 100)) == 6


# ---- the arithmetic --------------------------------------------------------------------------


def quadratic_measured():
    """A loss that is exactly quadratic: errors of two units in a plane."""
    a = {Choice(4, 4): np.array([1.0, 0.0]), Choice(2, 4): np.array([2.0, 0.0])}
    b = {Choice(4, 4): np.array([0.6, 0.8]), Choice(2, 4): np.array([1.8, 2.4])}

    def values(error):
        return np.array([[0.5 * error @ error] * 3, [0.0] * 3])

    zero = values(np.zeros(2))
    single = MeasuredLosses(
        zero,
        {n: {c: values(e) for c, e in of.items()} for n, of in (("a", a), ("b", b))},
        True,
    )
    every = {(i, j): values(a[i] + b[j]) for i in a for j in b}
    return single, MeasuredLosses(zero, {pair_name(("a", "b")): every}, True)


def predict_loss(single, allocation, terms=None):
    """The sum of single losses and of the pairs' terms."""
    total = sum(single.delta(unit, choice).loss for unit, choice in allocation.items())
    for (a, b), of in (terms or {}).items():
        total += of[allocation[a], allocation[b]]
    return total


def test_one_measured_term_gives_all_of_a_quadratic_loss():
    single, both = quadratic_measured()
    every = pair_deltas(single, both, [("a", "b")])
    truth = {choices: delta.loss for choices, delta in every["a", "b"].items()}
    for choices, delta in every["a", "b"].items():
        found = quadratic_terms(single, {("a", "b"): {choices: delta}})
        assert found["a", "b"] == pytest.approx(truth)
    allocation = {"a": Choice(2, 4), "b": Choice(4, 4)}
    assert predict_loss(single, allocation) == pytest.approx(2.0 + 0.5)
    # 0.5 |(2, 0) + (0.6, 0.8)|^2
    terms = quadratic_terms(single, every)
    assert predict_loss(single, allocation, terms) == pytest.approx(0.5 * (2.6**2 + 0.8**2))


def test_terms_of_units_that_lose_nothing_are_zero():
    single, _ = quadratic_measured()
    for values in single.values["a"].values():
        values[:] = 0.0
    told = {("a", "b"): {(W4A4, W4A4): Delta(0.1, 0.01, None, 3)}}
    assert set(quadratic_terms(single, told)["a", "b"].values()) == {0.0}


def test_terms_that_are_all_noise_are_drawn_to_nothing_and_clear_ones_stay():
    single, both = quadratic_measured()
    clear = pair_deltas(single, both, [("a", "b")])["a", "b"]
    noisy = {key: replace(delta, stderr=10.0) for key, delta in clear.items()}
    assert set(quadratic_terms(single, {("a", "b"): noisy})["a", "b"].values()) == {0.0}
    sure = {key: replace(delta, stderr=1e-6) for key, delta in clear.items()}
    found = quadratic_terms(single, {("a", "b"): sure})["a", "b"]
    assert found == pytest.approx({key: delta.loss for key, delta in clear.items()}, rel=1e-4)


def test_no_allocation_is_predicted_to_lose_less_than_nothing():
    """Three units that each cancel the others cannot be: all ratios shrink until it is possible."""
    units = ("a", "b", "c")
    one = np.array([[1.0] * 3, [0.0] * 3])
    single = MeasuredLosses(0 * one, {u: {W4A4: one, W2A4: 4 * one} for u in units}, True)
    told = {
        pair: {(W4A4, W4A4): Delta(-1.9, 0.0, None, 3)} for pair in itertools.combinations(units, 2)
    }
    terms = quadratic_terms(single, told)
    losses = [
        predict_loss(single, dict(zip(units, choices, strict=True)), terms)
        for choices in itertools.product((W4A4, W2A4), repeat=3)
    ]
    assert min(losses) == pytest.approx(0.0, abs=1e-9)
    two = quadratic_terms(single, dict(list(told.items())[:1]))
    assert two["a", "b"][W4A4, W4A4] == pytest.approx(-1.9)  # two alone may all but cancel
