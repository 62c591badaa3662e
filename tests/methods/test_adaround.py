"""AdaRound: each weight goes up or down, by the error of its output."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from unit_problems import with_rows

from bitwright.engine.digest import digest
from bitwright.graph.rows import weight_rows
from bitwright.methods.adaround import AdaRound
from bitwright.methods.nearest import Nearest
from bitwright.methods.training import Start

STEPS = 150


def steps_of(given, found):
    """Weights in steps of the solution's scale, and its integers, both without the zero point."""
    start = Start.of(given, given.unit, found)
    return start.weight / start.scale, start.k, start


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("case", ["linear", "conv with relu", "depthwise", "transposed"])
def test_every_weight_goes_to_its_floor_or_its_ceiling(case, bits):
    given = with_rows(case, bits)
    found = AdaRound(iterations=STEPS, rows=128, rate=0.1, weight_range="minmax").solve(given)
    steps, k, start = steps_of(given, found)
    clip = (start.low, start.high)
    down, up = steps.floor().clamp(*clip), (steps.floor() + 1).clamp(*clip)
    assert bool(((k == down) | (k == up)).all())
    assert sum(found.moves or (given.weight.numel(),)) == given.weight.numel()
    assert len(found.moves) <= 2


def test_scale_bias_and_inputs_stay_those_of_nearest_rounding():
    given = with_rows("conv with relu", 3)
    found = AdaRound(iterations=STEPS, rows=128, rate=0.1).solve(given)
    plain = Nearest().solve(given)
    assert found.fallback is None and found.moves[1] > 0
    assert digest(found.weight) == digest(plain.weight)
    assert torch.equal(found.bias, plain.bias) and found.inputs == given.inputs


@pytest.mark.parametrize("case", ["conv", "conv with relu", "linear in three dimensions"])
def test_lower_error_than_nearest_rounding_on_rows_kept_apart(case):
    given = with_rows(case, 3)
    found = AdaRound(iterations=STEPS, rows=128, rate=0.05).solve(given)
    assert found.fallback is None and found.loss_after < 0.9 * found.loss_before


def test_a_heavy_regulariser_gives_nearest_rounding():
    """1 - |2h - 1|^beta pushes every h to its nearer end; at beta = 2 also those in the middle."""
    given = with_rows("linear", 4)
    heavy = AdaRound(
        iterations=300, rate=0.05, weight=1e6, warm_up=0.0, beta=(2.0, 2.0), weight_range="minmax"
    )
    assert heavy.solve(given).moves == (given.weight.numel(),)


def test_without_the_regulariser_weights_stay_between():
    """It is what makes h whole: without it more of them end far from both ends."""

    def ends(weight):
        given = with_rows("conv", 3)
        method = AdaRound(iterations=300, rows=256, rate=0.05, weight=weight, warm_up=0.0)
        with torch.no_grad():
            return method.solve(given)

    free, pressed = ends(0.0), ends(0.05)
    assert digest(free.q) != digest(pressed.q)
    assert sum(free.moves) == sum(pressed.moves)


def test_dead_outputs_are_left_alone():
    """Behind a ReLU that never opens nothing can be gained: no weight of that channel moves."""
    given = with_rows("conv with relu", 3)
    bias = given.bias.clone()
    bias[2] -= 1e3
    shift = (bias - given.bias).reshape(1, 1, -1)

    def moved(samples):
        return replace(samples, y=samples.y + shift)

    closed = replace(
        given, bias=bias, samples=moved(given.samples), samples_apart=moved(given.samples_apart)
    )
    found = AdaRound(iterations=STEPS, rows=128, rate=0.05, weight=0.0).solve(closed)
    plain = Nearest().solve(closed)
    assert found.fallback is None
    ours, nearest = weight_rows(found.q, given.unit), weight_rows(plain.q, given.unit)
    assert torch.equal(ours[0, 2], nearest[0, 2]) and not torch.equal(ours, nearest)
