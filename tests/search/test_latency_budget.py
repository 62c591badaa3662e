"""Allocation under a budget of latency with terms between neighbours, checked by brute force."""

from __future__ import annotations

import itertools
import random

import pytest

from bitwright.export.latency import Cell, Conditions, LatencyTable, predict
from bitwright.graph.choice import FLOAT, Choice
from bitwright.search.allocate import INFEASIBLE
from bitwright.search.budget import parse_budgets
from bitwright.search.latency import allocate_in_time, of_whole, with_latencies
from bitwright.search.table import Row, make_table

W8, W4 = Choice(8, 8), Choice(4, 8)
UNITS = ("a", "b", "c", "d", "e", "f")


def random_latency(seed, borders=True):
    r = random.Random(seed)
    cells = {}
    for unit in UNITS:
        slow = r.uniform(0.5, 2)
        for choice, factor in ((W8, 0.5), (W4, 0.6), (FLOAT, 1.0)):
            ends = (r.uniform(0, 0.3) * slow, r.uniform(0, 0.6) * slow) if borders else (0.0, 0.0)
            cells[unit, choice] = Cell(slow * factor, *ends)
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


def best_of_all(table, latency, limit, menu=(W8, W4, FLOAT)):
    losses = {(row.unit, row.choice): row.loss_delta for row in table.rows}
    networks = [
        dict(zip(UNITS, n, strict=True)) for n in itertools.product(menu, repeat=len(UNITS))
    ]
    held = [n for n in networks if predict(latency, n) <= limit]
    return min((sum(losses[item] for item in n.items()) for n in held), default=None)


@pytest.mark.parametrize("seed", range(12))
def test_the_whole_network_holds_the_budget_and_is_nearly_the_best(seed):
    latency, table = random_latency(seed), random_losses(seed)
    found = allocate_in_time(table, latency, parse_budgets("latency<=0.75"))
    best = best_of_all(table, latency, 0.75 * latency.float_ms)
    if found.allocation.rows is None:
        assert best is None
        return
    assert found.predicted_ms == pytest.approx(predict(latency, found.allocation.choices))
    assert found.predicted_ms <= 0.75 * latency.float_ms + 1e-5
    (spent,) = found.allocation.budgets
    assert spent.used == pytest.approx(found.predicted_ms, abs=1e-6)
    assert spent.whole == pytest.approx(latency.float_ms)
    everything_quantized = sum(r.loss_delta for r in table.rows if r.choice == W8)
    assert best <= found.allocation.loss + 1e-12
    assert found.allocation.loss <= everything_quantized


@pytest.mark.parametrize("seed", range(6))
def test_without_borders_the_first_answer_is_the_best(seed):
    latency, table = random_latency(seed, borders=False), random_losses(seed)
    found = allocate_in_time(table, latency, parse_budgets("latency<=0.75"))
    assert found.rounds <= 2
    assert found.allocation.loss == pytest.approx(
        best_of_all(table, latency, 0.75 * latency.float_ms)
    )


def test_other_budgets_hold_as_well():
    latency, table = random_latency(3), random_losses(3)
    found = allocate_in_time(table, latency, parse_budgets("latency<=0.8 and size<=0.2"))
    size = sum(row.weight_bits for row in found.allocation.rows.values())
    assert size <= 0.2 * 32 * 100 * len(UNITS)


def test_latency_is_made_small_under_a_budget_of_the_loss():
    latency, table = random_latency(1), random_losses(1)
    limit = sum(r.loss_delta for r in table.rows if r.choice == W8) / 2
    found = allocate_in_time(table, latency, parse_budgets(f"loss<={limit}"), minimize="latency")
    assert found.allocation.loss <= limit + 1e-9
    assert found.predicted_ms <= latency.float_ms


def test_an_unattainable_budget_is_a_status():
    found = allocate_in_time(random_losses(0), random_latency(0), parse_budgets("latency<=0.01"))
    assert found.allocation.status == INFEASIBLE and found.allocation.rows is None
    assert found.allocation.budgets[0].used is None


def test_a_fraction_of_latency_is_of_the_whole_float_network():
    relative, absolute, size = of_whole(
        parse_budgets("latency<=0.5 and latency<=2ms and size<=0.2"), 9.0
    )
    assert (float(relative.amount), relative.relative) == (4.5, False)
    assert float(absolute.amount) == 2.0 and size.relative


def test_the_table_takes_latencies_to_the_nanosecond():
    table = with_latencies(random_losses(0), {("a", W8): 0.123456789})
    assert table.of("a")[0].latency_ms == 0.123457 and table.of("a")[1].latency_ms is None
