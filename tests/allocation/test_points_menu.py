"""Menus of points: allocations stay exact, with certificates, and more choices never do harm."""

from __future__ import annotations

import random

from allocation_cases import budget, least, row, some_limits, value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitwright.allocation.allocate import allocate
from bitwright.allocation.frontier import trace
from bitwright.allocation.table import Table, make_table
from bitwright.graph.choice import parse_menu

MENU = parse_menu("w2a8x{1..4},w4a8x{1..3},w8a8")
QUICK = {"max_examples": 40, "deadline": None, "suppress_health_check": list(HealthCheck)}


def points_table(seed: int) -> Table:
    """Up to three units; sums of equal bits cost the same and, half of the time, lose the same."""
    r = random.Random(seed)
    rows, twins = [], r.random() < 0.5
    for index in range(r.randint(1, 3)):
        params, macs = r.randint(1, 10**6), r.randint(1, 10**9)
        known: dict[int, float] = {}
        for choice in r.sample(MENU, r.randint(2, len(MENU))):
            loss = r.random() * 4.0**-choice.sum_bits - r.choice([0.0, 0.0, 1e-4])
            loss = known.setdefault(choice.sum_bits, loss) if twins else loss
            rows.append(row(f"u{index}", choice, loss, params, macs, latency_ms=choice.points))
    return make_table(rows)


@settings(**QUICK)
@given(st.integers(0, 10**6), st.sampled_from(["size", "bops", "latency"]))
def test_allocations_of_points_equal_brute_force(seed, cost):
    """Proven optimal, budgets held in exact numbers, either direction."""
    table = points_table(seed)
    for goal, name in (("loss", cost), (cost, "loss")):
        limits = some_limits(table, [name], seed)
        asked = [budget(name, limits[name])]
        found = allocate(table, asked, minimize="" if goal == "loss" else goal)
        truth = least(table, goal, limits)
        if truth is None:
            assert found.status == "infeasible" and found.rows is None
            continue
        assert found.status == "optimal" and found.gap <= 1e-6
        assert value(found.rows, goal) == truth and found.bound <= found.objective
        assert value(found.rows, name) <= limits[name]


@settings(**QUICK)
@given(st.integers(0, 10**6), st.sampled_from(["size", "bops"]))
def test_points_in_the_menu_are_nowhere_worse(seed, cost):
    """At every cost of the single-point frontier the menu with points predicts no more loss."""
    table = points_table(seed)
    plain = [r for r in table.rows if r.choice.points == 1]
    if {r.unit for r in plain} != set(table.units):
        return
    every = trace(table, cost).points
    for point in trace(make_table(plain), cost).points:
        assert min(p.loss for p in every if p.steps <= point.steps) <= point.loss
