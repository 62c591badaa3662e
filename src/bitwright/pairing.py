"""The allocation corrected by the losses of pairs of units, measured together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.graph.choice import Choice
from bitwright.recipe import Recipe
from bitwright.search.allocate import Allocation, allocate
from bitwright.search.interaction import (
    Choices,
    Pair,
    PairTerms,
    choose_pairs,
    neighbours,
    pair_groups,
    pair_terms,
    spread_terms,
)
from bitwright.search.pairwise import noted
from bitwright.search.table import Row, Table
from bitwright.search.terms import terms_of
from bitwright.tabulating import Base

# Choices of each unit that its pairs are measured at: the allocation's, and the next coarser one.
_TRIED = 2


@dataclass(frozen=True, eq=False)
class Paired:
    """The terms of the pairs that were measured, and the table with them."""

    table: Table
    terms: PairTerms
    measured: int

    @property
    def pairs(self) -> int:
        """How many pairs."""
        return len(self.terms)


def with_pairs(base: Base, table: Table, allocation: Allocation, count: int) -> Paired:
    """Measure the pairs of units that may interact most around an allocation.

    Equation: q_ab(i, j) = loss(a at i, b at j) - loss(a at i) - loss(b at j) + loss(base), measured
    at the allocation's choices and the next coarser ones, and spread over all others by the bound
    2 sqrt(dL_a dL_b) that losses quadratic in the errors have (`interaction.spread_terms`).
    """
    free = [unit for unit in table.units if len(table.of(unit)) > 1]
    tried = {unit: _tried(table, unit, allocation.choices[unit]) for unit in free}
    deltas = {unit: _mean(table, unit, tried[unit]) for unit in free}
    pairs = choose_pairs(neighbours(base.prepared.graph), deltas, count)
    wanted: dict[Pair, tuple[Choices, ...]] = {
        pair: tuple(itertools.product(tried[pair[0]], tried[pair[1]])) for pair in pairs
    }
    both = base.measured(pair_groups(base.changes, wanted))
    terms = spread_terms(base.single, pair_terms(base.single, both, pairs))
    return Paired(table.with_terms("loss", terms_of(terms)), terms, sum(map(len, wanted.values())))


def _tried(table: Table, unit: str, chosen: Choice) -> tuple[Choice, ...]:
    """The choice of a unit and the next that loses more; changes from the base alone interact."""
    rows = sorted(table.of(unit), key=_loss)
    place = next(i for i, row in enumerate(rows) if row.choice == chosen)
    found = [row.choice for row in rows[place : place + _TRIED]]
    if len(found) < _TRIED:
        found = [row.choice for row in rows[-_TRIED:]]
    return tuple(found)


def _mean(table: Table, unit: str, choices: tuple[Choice, ...]) -> float:
    rows = [row for row in table.of(unit) if row.choice in choices]
    return sum(map(_loss, rows)) / len(rows)


def _loss(row: Row) -> float:
    return row.loss or 0.0


def allocate_paired(paired: Paired, recipe: Recipe) -> Allocation:
    """The allocation with the pairwise terms counted."""
    found = allocate(
        paired.table, recipe.budget, minimize=recipe.minimize, solver=recipe.solver, advise=False
    )
    return found if found.rows is None else noted(found, len(paired.table.terms["loss"]))


def pairs_record(
    paired: Paired, losses: Mapping[str, float], predicted: Mapping[str, float | None]
) -> dict[str, object]:
    """What allocation.json says of the correction: what was measured, and what it gained."""
    return {
        "pairs": paired.pairs,
        "measured": paired.measured,
        "predicted_loss": dict(predicted),
        "measured_loss": {name: losses[name] for name in ("allocation", "pairwise")},
        "gain": losses["allocation"] - losses["pairwise"],
    }
