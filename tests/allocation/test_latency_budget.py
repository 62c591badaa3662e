"""Allocation under a budget of latency with terms between neighbours, checked by brute force."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from bitwright.allocation.allocate import INFEASIBLE, OPTIMAL, allocate
from bitwright.allocation.latencies import in_nanoseconds, with_latencies
from bitwright.allocation.latency_table import Conditions, LatencyCell, LatencyTable, predict
from bitwright.allocation.table import Row, make_table
from bitwright.errors import RunDirectoryError
from bitwright.graph.choice import FLOAT, Choice

W8, W4 = Choice(8, 8), Choice(4, 8)
UNITS = ("a", "b", "c", "d", "e", "f")


def random_latency(seed, borders=True):
    r = random.Random(seed)
    cells = {}
    for unit in UNITS:
        slow = r.uniform(0.5, 2)
        for choice, factor in ((W8, 0.5), (W4, 0.6), (FLOAT, 1.0)):
            ends = (r.uniform(0, 0.3) * slow, r.uniform(0, 0.6) * slow) if borders else (0.0, 0.0)
            cells[unit, choice] = LatencyCell(slow * factor, *ends)
    rest = {W8: 0.2, W4: 0.2, FLOAT: 0.3}
    return LatencyTable(UNITS, cells, rest, Conditions("t", 1, 1, "p", "o"))


def random_losses(seed, menu=(W8, W4, FLOAT)):
    r = random.Random(seed)
    rows = []
    for unit in UNITS:
        scale = r.lognormvariate(-4, 1)
        for choice in menu:
            loss = {8: scale, 4: 10 * scale, 0: 0.0}[choice.w_bits]
            rows.append(Row(unit, choice, loss, 100, 100 * (choice.w_bits or 32), 10, 10))
    return make_table(rows)


def allocate_in_time(table, latency, budgets, **options):
    return allocate(with_latencies(table, latency), budgets, **options)


def everything(menu=(W8, W4, FLOAT)):
    return [dict(zip(UNITS, n, strict=True)) for n in itertools.product(menu, repeat=len(UNITS))]


def loss_in(table):
    losses = {(row.unit, row.choice): row.loss_delta for row in table.rows}
    return lambda network: sum(losses[item] for item in network.items())


@pytest.mark.parametrize("borders", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_equal_to_brute_force_with_what_borders_add(seed, borders):
    latency, table = random_latency(seed, borders), random_losses(seed)
    found = allocate_in_time(table, latency, "latency<=0.75")
    held = [n for n in everything() if predict(latency, n) <= 0.75 * latency.float_ms]
    best = min(map(loss_in(table), held), default=None)
    if best is None:
        assert found.status == INFEASIBLE
        return
    assert found.status == OPTIMAL
    assert found.loss == pytest.approx(best)
    (spent,) = found.budgets
    assert spent.used <= spent.limit == pytest.approx(0.75 * latency.float_ms, abs=1e-5)
    # Every figure is rounded to a nanosecond, a few of them to a unit.
    assert spent.used == pytest.approx(predict(latency, found.choices), abs=1e-5)
    assert spent.whole == pytest.approx(latency.float_ms, abs=1e-5)
    uniform = found.uniform
    if uniform is not None:
        same = dict.fromkeys(UNITS, uniform.choice)
        assert uniform.used["latency"] == pytest.approx(predict(latency, same), abs=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_latency_made_small_equals_brute_force(seed):
    latency, table = random_latency(seed), random_losses(seed)
    limit = sum(r.loss_delta for r in table.rows if r.choice == W8) / 2
    found = allocate_in_time(table, latency, f"loss<={limit}", minimize="latency")
    of = loss_in(table)
    best = min(predict(latency, n) for n in everything() if of(n) <= limit)
    assert found.loss <= limit + 1e-9
    assert predict(latency, found.choices) == pytest.approx(best, abs=1e-5)


def test_other_budgets_hold_as_well():
    latency, table = random_latency(3), random_losses(3)
    found = allocate_in_time(table, latency, "latency<=0.8 and size<=0.2")
    size = sum(row.weight_bits for row in found.rows.values())
    assert size <= 0.2 * 32 * 100 * len(UNITS)
    assert predict(latency, found.choices) <= 0.8 * latency.float_ms + 1e-5


@pytest.mark.parametrize("solver", ["greedy-accuracy", "greedy-compression"])
def test_greedy_rules_hold_the_network_to_the_budget(solver):
    for seed in range(12):
        latency, table = random_latency(seed), random_losses(seed)
        found = allocate_in_time(table, latency, "latency<=0.8", solver=solver)
        if found.rows is not None:
            assert predict(latency, found.choices) <= 0.8 * latency.float_ms + 1e-5


def test_an_unattainable_budget_tells_the_least_network():
    latency = random_latency(0)
    found = allocate_in_time(random_losses(0), latency, "latency<=0.01")
    assert found.status == INFEASIBLE and found.rows is None
    assert found.budgets[0].used is None
    least = min(predict(latency, n) for n in everything())
    assert found.infeasible[0].least == pytest.approx(least, abs=1e-5)


def test_units_that_cannot_stay_in_float_have_lines_that_tell_what_float_costs():
    latency = random_latency(0)
    table = with_latencies(random_losses(0, menu=(W8, W4)), latency)
    assert {row.unit for row in table.references} == set(UNITS)
    total = sum(row.latency_ms for row in table.references)
    assert total == pytest.approx(latency.float_ms, abs=1e-5)
    found = allocate_in_time(table, latency, "latency<=0.9")
    assert all(choice.a_bits for choice in found.choices.values())


def test_the_table_takes_latencies_to_the_nanosecond():
    table = with_latencies(random_losses(0), random_latency(0))
    assert all(row.latency_ms == in_nanoseconds(row.latency_ms) > 0 for row in table.rows)


def test_a_choice_that_was_not_timed():
    table = random_losses(0, menu=(W8, W4))
    latency = random_latency(0)
    cells = {key: cell for key, cell in latency.cells.items() if key != ("c", W4)}
    with pytest.raises(RunDirectoryError, match=r"none of unit 'c' at w4a8.*bitwright measure"):
        allocate_in_time(table, replace(latency, cells=cells), "latency<=0.9")
