"""The quick table: one probe a unit and gradients, beside what was measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import bitwright as bw
from bitwright.errors import RecipeError
from bitwright.graph.choice import parse_menu, parse_scheme
from bitwright.sensitivity.estimate import rank_agreement
from bitwright.sensitivity.measure import Delta, MeasuredLosses
from bitwright.sensitivity.quick import combine_curvatures, estimate_losses, plan_probes
from networks import pictures, small_network

BASE, MIDDLE, COARSE = (parse_scheme(text) for text in ("w8a8", "w4a8", "w2a8"))
ERRORS = {"a": {BASE: 0.0, MIDDLE: 0.1, COARSE: 0.4}, "b": {BASE: 0.0, MIDDLE: 0.2, COARSE: 0.6}}
AT = dict.fromkeys(ERRORS, BASE)


def test_one_probe_a_unit_and_all_where_errors_are_not_known():
    plan = plan_probes({**ERRORS, "table": {BASE: None, MIDDLE: None}}, {**AT, "table": BASE})
    assert {unit: len(of) for unit, of in plan.probes.items()} == {"a": 1, "b": 1, "table": 2}
    assert set(plan.errors) == {"a", "b"}


@pytest.mark.parametrize("stderr", [0.0, 1e-6, 1e6])
def test_probes_count_by_their_certainty(stderr):
    """A probe that is certain is believed; one that says nothing leaves the gradients alone."""
    plan = plan_probes(ERRORS, AT)
    own = {unit: plan.errors[unit][plan.probes[unit][0]] for unit in ERRORS}
    true = {"a": 3.0, "b": 12.0}
    probed = {unit: Delta(true[unit] * own[unit], stderr, None, 8) for unit in ERRORS}
    found = combine_curvatures(plan, {"a": 1.0, "b": 2.0}, probed)
    # Gradients are brought to the probes' scale by the median of 3 / 1 and 12 / 2.
    want = true if stderr < 1 else {"a": 4.5, "b": 9.0}
    assert {unit: k for unit, (k, _) in found.items()} == pytest.approx(want, rel=1e-3)


def test_a_quadratic_loss_is_told_exactly():
    plan = plan_probes(ERRORS, AT)
    base = np.zeros((2, 4))
    true = {"a": 3.0, "b": 12.0}
    values = {
        unit: {c: base + true[unit] * ERRORS[unit][c] for c in of}
        for unit, of in plan.probes.items()
    }
    found = estimate_losses(plan, {"a": 1.0, "b": 1.0}, MeasuredLosses(base, values, False))
    for unit, of in ERRORS.items():
        for choice, error in of.items():
            assert found[unit][choice].loss == pytest.approx(true[unit] * error)
    assert found["a"][BASE].loss == 0.0


def test_a_unit_that_gradients_say_nothing_of():
    plan = plan_probes(ERRORS, AT)
    probed = {unit: Delta(0.3, 0.1, None, 8) for unit in ERRORS}
    found = combine_curvatures(plan, {"a": 0.0, "b": 1.0}, probed)
    assert found["a"][0] > 0 and math.isfinite(found["a"][1])


MENU = "w8a8,w6a8,w4a8,w8a4,w4a4,w3a4"


@pytest.fixture(scope="module")
def tables():
    """The tables of one network, measured and quick."""
    batches = list(torch.split(pictures(64), 16))

    def table(how):
        return bw.quantize(
            small_network(), batches, recipe="fixed",
            menu=MENU, budget="size<=0.6", method="quadratic",
            mode="parallel", table=how, table_samples=32, target="paper",
        ).table  # fmt: skip

    return table("measured"), table("quick")


def test_it_ranks_choices_as_the_measured_table_does(tables):
    measured, quick = tables
    assert [(r.unit, r.choice) for r in quick.rows] == [(r.unit, r.choice) for r in measured.rows]
    pairs = [(a.loss, b.loss) for a, b in zip(measured.rows, quick.rows, strict=True)]
    assert rank_agreement(*zip(*pairs, strict=True)) > 0.85
    assert {r.choice for r in quick.rows} == set(parse_menu(MENU))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "nearest"}, "tells no errors of outputs.*--method quadratic"),
        ({"method": "quadratic", "pairwise": 2}, "Leave out --pairwise"),
        ({"method": "quadratic", "menu": "", "budget": ""}, "no bits are searched for"),
        ({"method": "quadratic", "table": "fast"}, "unknown table 'fast'.*measured"),
    ],
)
def test_what_it_cannot_estimate_is_refused(options, text):
    asked = {"menu": MENU, "budget": "size<=0.6", "table": "quick", **options}
    with pytest.raises(RecipeError, match=text):
        bw.quantize(small_network(), [pictures(8)], **{"recipe": "fixed", **asked})
