"""The instant estimate: exact for a quadratic loss, and in good rank agreement with a real one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bitwright.graph.choice import Choice
from bitwright.graph.execute import bind, walk
from bitwright.graph.installed import Installed, install
from bitwright.graph.variants import values_of
from bitwright.graph.work import OperationCount
from bitwright.numerics.losses import kl_rows
from bitwright.sensitivity.curvature import output_curvature
from bitwright.sensitivity.estimate import (
    curvature_from_probes,
    estimate_deltas,
    fit_curvature,
    probe_choices,
    rank_agreement,
)
from bitwright.sensitivity.measure import measure_table
from bitwright.sources.batches import as_batch
from nearest_menu import solve_menu
from networks import Chain, normal, pictures, seeded, small_network

MENU = "w8a8,w6a8,w4a8,w8a4,w4a4,w3a4,w2a4"


def output_errors(solved):
    """Squared error of each unit's output on the float inputs, relative to its energy."""
    errors = {u.name: {} for u in solved.graph.units}
    for choice, assignment in solved.whole.items():
        installed = install(solved.graph, assignment)
        for unit in solved.graph.units:
            errors[unit.name][choice] = _error(solved, unit, installed)
    return errors


def _error(solved, unit, installed):
    calls = set(unit.calls)
    mine = Installed(
        {c: w for c, w in installed.weights.items() if c in calls},
        {c: b for c, b in installed.biases.items() if c in calls},
        {edge: grid for edge, grid in installed.edges.items() if edge[1] in calls},
    )
    return _relative(solved.graph, solved.chunks[0], unit, mine)


def _relative(graph, batch, unit, installed):
    nodes = tuple(n for n in graph.module.graph.nodes if n.name in unit.calls)
    flat = bind(graph, batch.inputs)
    y = values_of(graph, Installed(), flat, nodes, OperationCount())
    yq = values_of(graph, installed, flat, nodes, OperationCount())
    noise = sum(float((yq[n] - y[n]).double().square().sum()) for n in nodes)
    return noise / sum(float(y[n].double().square().sum()) for n in nodes)


@pytest.fixture(scope="module")
def case():
    solved = solve_menu(small_network(), list(torch.split(pictures(32), 16)), menu=MENU)
    measured = measure_table(solved.subject(), solved.changes, solved.chunks)
    return solved, measured, output_errors(solved)


def ranks(measured, estimate):
    pairs = [
        (value, measured.delta(unit, choice).loss)
        for unit, of in estimate.items()
        for choice, value in of.items()
    ]
    return rank_agreement(*zip(*pairs, strict=True))


def test_from_two_probes_a_unit(case):
    solved, measured, errors = case
    base = dict.fromkeys(errors, solved.base_choice)
    probes = {
        unit: {c: measured.delta(unit, c).loss for c in probe_choices(of, solved.base_choice)}
        for unit, of in errors.items()
    }
    assert all(len(of) == 2 for of in probes.values())
    estimate = estimate_deltas(errors, base, curvature_from_probes(errors, base, probes))
    assert ranks(measured, estimate) > 0.9
    assert all(estimate[unit][solved.base_choice] == 0.0 for unit in errors)


def test_from_gradients(case):
    solved, measured, errors = case
    curvature = output_curvature(solved.graph, solved.chunks)
    base = dict.fromkeys(errors, solved.base_choice)
    assert ranks(measured, estimate_deltas(errors, base, curvature)) > 0.85
    assert curvature == output_curvature(solved.graph, solved.chunks)


def test_curvature_of_the_last_layer_is_that_of_the_divergence():
    """At the scores themselves: k e is the divergence that evenly spread noise makes."""
    net = seeded(lambda: Chain(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5)))
    x = normal(4000, 6)
    solved = solve_menu(net.eval(), [x], menu="w8a8")
    curvature = output_curvature(solved.graph, [as_batch(x, "test")])["m2"]
    scores = walk(solved.graph.module, (x,))[0]
    error = 1e-3
    size = (error * scores.double().square().mean()).sqrt()
    noise = size * normal(4000, 5, seed=7).double()
    loss = float(kl_rows(scores.double(), scores.double() + noise).mean())
    assert curvature * error == pytest.approx(loss, rel=0.1)


def test_curvature_for_outputs_that_are_no_scores():
    net = seeded(lambda: Chain(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)))
    x = normal(2000, 6)
    solved = solve_menu(net.eval(), [x], menu="w8a8")
    found = output_curvature(solved.graph, [as_batch(x, "test")])
    y = walk(solved.graph.module, (x,))[0].double()
    # error x energy of y relative to the variance of y: the ratio of the two.
    want = float(y.square().mean() / y.var(unbiased=False))
    assert found["m2"] == pytest.approx(want, rel=0.1) and found["m0"] > 0


def test_the_fit_goes_through_zero_at_the_base():
    errors, deltas = [0.11, 0.31, 0.51], [0.3, 0.9, 1.5]
    assert fit_curvature(errors, deltas, base=0.01) == pytest.approx(3.0)
    assert fit_curvature([0.2], [-1.0]) == 0.0
    assert fit_curvature([0.2], [1.0], base=0.2) == 0.0


def test_estimates_may_be_negative():
    coarse, fine = Choice(4, 4), Choice(8, 8)
    made = estimate_deltas({"u": {coarse: 0.2, fine: 0.1}}, {"u": coarse}, {"u": 2.0})
    assert made == {"u": {coarse: 0.0, fine: pytest.approx(-0.2)}}


def test_probes_are_spread_and_leave_out_the_extremes():
    errors = {Choice(bits, 8): 4.0**-bits for bits in range(2, 9)}
    assert probe_choices(errors, Choice(8, 8)) == [Choice(5, 8), Choice(4, 8)]
    assert probe_choices({Choice(8, 8): 0.1, Choice(4, 4): 0.2}, Choice(8, 8)) == [Choice(4, 4)]


def test_rank_agreement_is_spearmans():
    generator = np.random.default_rng(0)
    for _ in range(20):
        a = generator.integers(0, 6, 15).astype(float)
        b = a + generator.integers(0, 6, 15)
        assert rank_agreement(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert math.isnan(rank_agreement([1.0, 1.0], [1.0, 2.0]))
