"""The greedy baselines: what the literature says they do."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest
from allocation_cases import budget, configurations, random_table, row, ties_hold, value

from bitwright.allocation.allocate import allocate
from bitwright.allocation.shortfall import require
from bitwright.allocation.table import make_table
from bitwright.errors import BudgetError
from bitwright.graph.choice import Choice

# Losses at 4 bits and parameters; 8 bits lose nothing.
UNITS = {"a": (0.5, 1000), "b": (0.1, 2000), "c": (0.2, 500), "d": (0.05, 4000)}


def table():
    return make_table(
        row(unit, Choice(w, w), loss if w == 4 else 0.0, params, params)
        for unit, (loss, params) in UNITS.items()
        for w in (8, 4)
    )


def four_bit(found):
    return {unit for unit, choice in found.choices.items() if choice.w_bits == 4}


def test_greedy_accuracy_lowers_the_least_sensitive_first_until_the_budget_is_met():
    whole = 8 * 7500 + 4 * 32
    for saved, lowered in ((0, ""), (1, "d"), (16000, "d"), (16001, "db"), (24001, "dbc")):
        found = allocate(table(), f"size<={whole - saved}bit", solver="greedy-accuracy")
        assert four_bit(found) == set(lowered)
        assert (found.status, found.solver) == ("feasible", "greedy-accuracy")


def test_greedy_compression_raises_the_smallest_first_until_the_budget_is_used_up():
    foot = 4 * 7500 + 4 * 32
    for more, raised in ((1999, ""), (2000, "c"), (6000, "ca"), (13999, "ca"), (14000, "cab")):
        found = allocate(table(), f"size<={foot + more}bit", solver="greedy-compression")
        assert four_bit(found) == set("abcd") - set(raised)


def test_under_a_loss_budget_one_stops_before_it_breaks_the_other_when_it_holds():
    found = allocate(table(), "loss<=0.2", minimize="size", solver="greedy-accuracy")
    assert four_bit(found) == {"d", "b"}
    found = allocate(table(), "loss<=0.2", minimize="size", solver="greedy-compression")
    assert four_bit(found) == {"b", "d"}


def test_menus_of_many_choices_go_down_step_by_step():
    rows = [
        row("a", Choice(w, 8), {8: 0.0, 4: 0.1, 3: 0.3, 2: 0.7}[w], 100, 100) for w in (8, 4, 3, 2)
    ] + [row("b", Choice(w, 8), {8: 0.0, 4: 0.2, 2: 0.25}[w], 100, 100) for w in (8, 4, 2)]
    expected = {
        1664: (8, 8),
        1663: (4, 8),
        1263: (3, 8),
        1163: (3, 4),
        763: (3, 2),
        563: (2, 2),
    }
    for size, bits in expected.items():
        found = allocate(make_table(rows), f"size<={size}bit", solver="greedy-accuracy")
        assert tuple(choice.w_bits for choice in found.choices.values()) == bits


@pytest.mark.parametrize("solver", ["greedy-accuracy", "greedy-compression"])
def test_greedy_holds_budgets_and_ties_and_never_beats_the_exact_answer(solver):
    answered = 0
    for seed in range(120):
        found = random_table(seed)
        r = random.Random(seed)
        free = {unit: r.choice(found.of(unit)) for unit in found.units}
        if r.random() < 0.5:
            names, goal = r.sample(["size", "bops"], r.randint(1, 2)), "loss"
        else:
            names, goal = ["loss"], "size"
        limits = {name: value(free, name) for name in names}
        asked = [budget(name, limit) for name, limit in limits.items()]
        minimize = "" if goal == "loss" else goal
        greedy = allocate(found, asked, minimize=minimize, solver=solver)
        exact = allocate(found, asked, minimize=minimize, advise=False)
        if greedy.rows is None:
            assert (greedy.status == "infeasible") == (exact.rows is None)
            assert ("--solver ip" in greedy.note) == (exact.rows is not None)
            assert bool(greedy.infeasible) == (exact.rows is None)
            if exact.rows is not None:
                with pytest.raises(BudgetError, match=r"none, but there is one: take --solver ip"):
                    require(greedy)
            continue
        answered += 1
        assert ties_hold(greedy.rows.values())
        assert all(value(greedy.rows, name) <= limit for name, limit in limits.items())
        assert value(exact.rows, goal) <= value(greedy.rows, goal)
    assert answered > 60


def test_a_greedy_rule_that_finds_nothing_says_so():
    found = table()
    low = min(value(c, "size") for c in configurations(found)) - Decimal(1)
    none = allocate(found, budget("size", low), solver="greedy-accuracy")
    assert none.status == "infeasible" and none.infeasible[0].least == int(low) + 1
