"""What a run writes down of its choices: the table without losses, allocation.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitwright.allocation.record import as_record
from bitwright.allocation.table import Table
from bitwright.graph.choice import Choice
from bitwright.methods.problem import UnitSolution
from bitwright.pipeline.choose_bits import Searched
from bitwright.pipeline.job import Prepared
from bitwright.sensitivity.prices import Prices, table_of


def table_of_costs(
    prepared: Prepared,
    choices: Mapping[str, Choice],
    solved: Mapping[str, UnitSolution],
    seconds: float,
) -> Table:
    """The table of a run with one choice a unit: what it costs, no losses."""
    by_task = {(name, choices[name]): solution for name, solution in solved.items()}
    prices = Prices(prepared.graph, prepared.target)
    return table_of(prices, prepared.menu, by_task, None, seconds)


def _bits(choices: Mapping[str, Choice]) -> dict[str, dict[str, int]]:
    return {name: choice.record() for name, choice in choices.items()}


def record_of(searched: Searched) -> dict[str, Any]:
    """The allocation that was taken, with what was measured of it."""
    found = as_record(searched.allocation)
    found["choices"] = _bits(searched.choices)
    found["measured_loss"] = dict(searched.measured_loss)
    found |= {"pairwise": dict(searched.pairwise)} if searched.pairwise else {}
    found |= {"lossless": dict(searched.lossless)} if searched.lossless else {}
    found["note"] = searched.note or found["note"]
    return found


def record_of_fixed(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """A fixed scheme is an allocation that nobody had to solve."""
    return {
        "solver": None,
        "status": "fixed",
        "objective": None,
        "bound": None,
        "gap": None,
        "budgets": {},
        "uniform": None,
        "choices": _bits(choices),
    }
