"""Allocation under a budget of latency, which is no sum of single units where inputs may be float.

The whole network's latency (`export.latency.predict`) has terms between neighbours. Allocation
knows sums alone, so it is given the first-order expansion around a network, solved, and expanded
again around its answer, until the answer stays. Each expansion is exact for the network that it is
made around, so a last answer that stays is exact. Where no inputs are float among the choices the
first answer is the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from bitwright.export.latency import LatencyTable, additive, finest, predict
from bitwright.graph.choice import Choice
from bitwright.search.allocate import Allocation, allocate
from bitwright.search.budget import Budget
from bitwright.search.table import Row, Table

LATENCY = "latency"
# Answers change less from round to round; some swing between two of nearly the same worth.
ROUNDS = 10
# Nanoseconds: finer digits of a latency mean nothing.
_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Timed:
    """An allocation with the latency of its whole network.

    Attributes:
        allocation: used and limit of a latency budget are of the whole network, rest included.
        table: with the latencies that the allocation was found with.
        predicted_ms, float_ms: of the allocation's network and of the float one.
        rounds: expansions that were solved.
    """

    allocation: Allocation
    table: Table
    predicted_ms: float
    float_ms: float
    rounds: int


def in_nanoseconds(ms: float) -> float:
    """Milliseconds to six decimals.

    >>> in_nanoseconds(1.23456789)
    1.234568
    """
    return float(f"{ms:.{_DIGITS}f}")


def with_latencies(table: Table, ms: Mapping[tuple[str, Choice], float]) -> Table:
    """The table with the latency of every choice filled in."""

    def filled(row: Row) -> Row:
        known = ms.get((row.unit, row.choice))
        return row if known is None else replace(row, latency_ms=in_nanoseconds(known))

    return replace(
        table,
        rows=tuple(map(filled, table.rows)),
        references=tuple(map(filled, table.references)),
    )


def of_whole(budgets: Iterable[Budget], float_ms: float) -> tuple[Budget, ...]:
    """Budgets with a fraction of float's latency in milliseconds of a whole network.

    >>> from bitwright.search.budget import parse_budgets
    >>> [float(b.amount) for b in of_whole(parse_budgets("latency<=0.5 and size<=0.2"), 9.0)]
    [4.5, 0.2]
    """
    return tuple(
        replace(budget, amount=budget.amount * Fraction(float_ms), relative=False)
        if budget.name == LATENCY and budget.relative
        else budget
        for budget in budgets
    )


def allocate_in_time(
    table: Table,
    latency: LatencyTable,
    budgets: Iterable[Budget],
    minimize: str = "",
    **options: Any,
) -> Timed:
    """Choose bits for every unit where latency is bounded, or made small.

    Args:
        table: measured losses.
        latency: of every choice of the table, measured on the machine that the budget is for.
        budgets: a fraction of float's latency means the whole float network's, rest included.
        minimize: as for `allocate`.
        options: of `allocate`: solver, tables, seconds.

    Returns:
        The best allocation met whose whole network holds the latency budget; where none was met,
        its status says so.
    """
    asked = of_whole(budgets, latency.float_ms)
    limits = [float(budget.amount) for budget in asked if budget.name == LATENCY]
    around = {unit: finest([row.choice for row in table.of(unit)]) for unit in table.units}
    tried: list[_Tried] = []
    for _ in range(ROUNDS):
        filled = with_latencies(table, additive(latency, around))
        found = allocate(filled, asked, minimize=minimize, advise=False, **options)
        if found.rows is None:
            break
        ms = predict(latency, found.choices)
        late = any(ms > limit + 10**-_DIGITS * len(table.units) for limit in limits)
        goal = ms if minimize == LATENCY else float(found.objective or 0)
        tried.append(_Tried(late, goal, filled, found.choices))
        if found.choices == around or found.choices in [t.choices for t in tried[:-1]]:
            break
        around = found.choices
    best = min(tried, key=lambda t: (t.late, t.goal), default=None)
    final = filled if best is None else best.table
    found = allocate(final, asked, minimize=minimize, **options)
    return _timed(found, final, latency, len(tried))


@dataclass(frozen=True, eq=False)
class _Tried:
    """The answer of one round."""

    late: bool
    goal: float
    table: Table
    choices: Mapping[str, Choice]


def _timed(found: Allocation, table: Table, latency: LatencyTable, rounds: int) -> Timed:
    """An allocation whose latency is that of its whole network."""
    ms = predict(latency, found.choices) if found.rows is not None else math.nan
    budgets = tuple(
        replace(
            spent,
            used=in_nanoseconds(ms) if found.rows is not None else None,
            whole=latency.float_ms,
        )
        if spent.name == LATENCY
        else spent
        for spent in found.budgets
    )
    return Timed(replace(found, budgets=budgets), table, ms, latency.float_ms, rounds)
