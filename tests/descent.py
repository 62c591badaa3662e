"""Single moves of the coordinate descent, for tests that look at one alone."""

from __future__ import annotations

from bitwright.numerics.coordinate import State


def sweep(problem, steps):
    """Every coordinate once; the steps, and how many integers changed."""
    state = State.of(problem, steps)
    before = state.k.clone()
    state.visit()
    return state.steps(), int((state.k != before).sum())


def best_scale(problem, steps):
    """The scale of each row that is best for its integers."""
    state = State.of(problem, steps)
    state.fit_scale()
    return state.steps().scale
