"""Powell's method against closed forms and scipy; its value is never above the start's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from bitwright.numerics.powell import parabola_minimum, powell


def axes(count):
    return list(np.eye(count))


@pytest.mark.parametrize("seed", range(5))
def test_quadratics_to_their_minimum(seed):
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(4, 4))
    matrix, goal = half @ half.T + 0.2 * np.eye(4), rng.normal(size=4)

    def bowl(x):
        return float((x - goal) @ matrix @ (x - goal))

    found = powell(bowl, np.zeros(4), axes(4), 0.5, 600, 1e-9)
    theirs = minimize(bowl, np.zeros(4), method="Powell", options={"maxfev": 600})
    assert found.value <= max(10 * theirs.fun, 1e-4 * found.start)
    assert np.allclose(found.x, goal, atol=0.1)


def test_a_curved_valley():
    def valley(x):
        return float((1 - x[0]) ** 2 + 5 * (x[1] - x[0] ** 2) ** 2)

    found = powell(valley, np.array([-1.0, 1.0]), axes(2), 0.5, 600, 1e-9)
    assert found.value < 1e-2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 60))
def test_never_above_the_start_and_never_more_evaluations(seed, size, most):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(size, 8))
    asked = []

    def rough(x):
        asked.append(x.copy())
        value = float(np.sin(x @ noise).sum() + 0.1 * x @ x)
        return value if len(asked) % 7 else np.nan

    found = powell(rough, rng.normal(size=size), axes(size), 0.7, most)
    assert len(asked) == found.evaluations <= most
    assert found.value <= found.start
    assert any(np.allclose(found.x, x, rtol=1e-12, atol=1e-12) for x in asked)


def test_parabolas():
    points = [(x, 3 * (x - 2.6) ** 2 + 1) for x in (2.0, 2.5, 3.0, 3.5)]
    assert parabola_minimum(points) == pytest.approx(2.6)
    assert parabola_minimum([(x, -((x - 2.2) ** 2)) for x in (2.0, 3.0, 4.0)]) == 4.0
    assert parabola_minimum([(x, (x - 9) ** 2) for x in (2.0, 3.0, 4.0)]) == 4.0
    assert parabola_minimum([(2.0, 1.0), (3.0, np.nan), (4.0, np.inf)]) == 2.0
