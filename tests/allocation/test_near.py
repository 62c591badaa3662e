"""Large programs: gone through near the bound instead of handed to a solver; the same answers."""

from __future__ import annotations

import random
import time

import pytest
from allocation_cases import BITS, LOSSES, budget, least, random_table, row, some_limits, value

from bitwright.allocation import near
from bitwright.allocation.allocate import allocate
from bitwright.allocation.cost import bops, weight_bits
from bitwright.allocation.explain import explain
from bitwright.allocation.frontier import trace
from bitwright.allocation.question import ask
from bitwright.allocation.solver import dual, solver
from bitwright.allocation.solver.bounds import relax_prices
from bitwright.allocation.solver.program import INFEASIBLE, OPTIMAL
from bitwright.allocation.solver.scaled import scale
from bitwright.allocation.table import Row, make_table
from bitwright.graph.choice import Choice

MENU = [Choice(w, a) for w in range(2, 9) for a in (4, 8)]


def network(units, seed=0):
    """A table like those of real networks: losses fall fourfold a bit, units differ widely."""
    r = random.Random(seed)
    rows = []
    for index in range(units):
        params, macs = int(10 ** r.uniform(2, 6.5)), int(10 ** r.uniform(5, 8))
        sensitivity = 10 ** r.uniform(-4, 0)
        for choice in MENU:
            noise = 4.0**-choice.w_bits + 0.7 * 4.0**-choice.a_bits
            loss = sensitivity * noise * r.uniform(0.7, 1.3) - 1e-5 * r.random()
            bits = weight_bits(params, 64, choice)
            rows.append(Row(f"unit{index}", choice, loss, params, bits, macs, bops(macs, choice)))
    return make_table(rows)


@pytest.fixture
def all_large(monkeypatch):
    monkeypatch.setattr(solver, "_LARGE", 0)


@pytest.fixture
def no_solver(monkeypatch):
    def called(*_, **__):
        raise AssertionError("a linear or integer program was handed to the solver")

    monkeypatch.setattr(solver, "milp", called)
    monkeypatch.setattr(dual, "linprog", called)


@pytest.mark.parametrize("start", range(0, 240, 40))
def test_one_budget_equals_brute_force(start, all_large, no_solver):
    """Ties, kept units, losses over ten magnitudes or in hundredths, budgets at the very edge."""
    for seed in range(start, start + 40):
        table = random_table(seed)
        name = random.Random(seed).choice(["size", "bops", "latency"])
        limits = some_limits(table, [name], seed)
        found = allocate(table, budget(name, limits[name]), advise=False)
        truth = least(table, "loss", limits)
        if truth is None:
            assert found.status == INFEASIBLE, seed
            continue
        assert found.status == OPTIMAL and value(found.rows, "loss") == truth, seed
        assert value(found.rows, name) <= limits[name], seed
        assert found.gap == 0 and found.bound <= found.objective, seed


@pytest.mark.parametrize("seed", range(20))
def test_several_budgets_and_either_direction_equal_brute_force(seed, all_large):
    table = random_table(seed + 1000)
    for goal, names in (("loss", ["size", "bops"]), ("size", ["loss"]), ("bops", ["loss", "size"])):
        limits = some_limits(table, names, seed)
        asked = [budget(name, limit) for name, limit in limits.items()]
        found = allocate(table, asked, minimize="" if goal == "loss" else goal, advise=False)
        truth = least(table, goal, limits)
        assert (found.rows is None) == (truth is None)
        if truth is not None:
            assert found.status == OPTIMAL and value(found.rows, goal) == truth


def test_numbers_that_fit_into_no_word_are_told_apart_to_the_last_digit(all_large, no_solver):
    """Losses whose sums have 40 digits: what is rounded on the way is counted again in the end."""
    r = random.Random(5)
    for seed in range(20):
        rows = [
            row(f"u{i}", Choice(w, a), r.choice(LOSSES)(r) * 1e-9 + r.random(), 10**6 + i, 10**6)
            for i in range(5)
            for w, a in r.sample(BITS, 4)
        ]
        table = make_table([*rows[:-1], row("u4", Choice(7, 7), 1e-25, 10**6 + 4, 10**6)])
        limits = some_limits(table, ["size"], seed)
        found = allocate(table, budget("size", limits["size"]), advise=False)
        truth = least(table, "loss", limits)
        assert (None if found.rows is None else value(found.rows, "loss")) == truth


def test_the_solver_and_the_walk_agree_on_real_sizes(monkeypatch):
    """300 units: HiGHS with its second proof, and the walk near the bound, choose the same."""
    table = network(300, seed=3)
    walked = allocate(table, "size<=0.14", advise=False)
    monkeypatch.setattr(solver, "_LARGE", 10**9)
    solved = allocate(table, "size<=0.14", advise=False)
    assert walked.choices == solved.choices and walked.status == solved.status == OPTIMAL
    assert walked.budgets[0].price == pytest.approx(solved.budgets[0].price, rel=1e-6)


def test_too_much_near_the_bound_is_left_to_the_solver(monkeypatch):
    table = network(80, seed=1)
    right = allocate(table, "size<=0.12", advise=False)
    monkeypatch.setattr(near, "_STEPS", 50)
    assert near.solve_near(ask(table, "size<=0.12").program) is None
    again = allocate(table, "size<=0.12", advise=False)
    assert again.choices == right.choices and again.status == OPTIMAL


def test_prices_by_cutting_planes_bound_as_high_as_the_linear_program():
    program = ask(network(100, seed=2), "size<=0.13 and bops<=0.02").program
    own = dual.Dual.of(program)
    prices = own.prices()
    scaled = scale(program)
    other = dual.Dual(program.menu, scaled.goal, scaled.uses, scaled.limits, own.kept)
    known = relax_prices(program, scaled, own.kept.nonzero()[0])
    assert other.gaps(other.prices()).floor == pytest.approx(other.gaps(known).floor, rel=1e-7)
    assert (prices >= 0).all()


def test_two_thousand_units_are_answered_without_a_solver(no_solver):
    """The guard on time that no other work on the machine can upset."""
    table = network(2000)
    assert allocate(table, "size<=0.13").status == OPTIMAL
    assert allocate(table, "loss<=0.02", minimize="size").status == OPTIMAL
    found = explain(ask(table, "size<=0.13"), "unit100")
    assert all(a.forced is not None for a in found.alternatives)
    assert trace(network(300)).proven


def test_time_grows_about_as_the_table_does():
    def seconds(units):
        table = network(units)
        started = time.process_time()
        allocate(table, "size<=0.13")
        return time.process_time() - started

    small = min(seconds(250) for _ in range(3))
    assert min(seconds(2000) for _ in range(2)) < 8 * 4 * small
