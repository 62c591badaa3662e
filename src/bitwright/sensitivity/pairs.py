"""The allocation corrected by the losses of pairs of units, measured together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bitwright.allocation.allocate import Allocation, allocate
from bitwright.allocation.budget import Budget
from bitwright.allocation.chosen import Pairwise
from bitwright.allocation.solver.pairwise import note_pairs
from bitwright.allocation.solver.terms import terms_of
from bitwright.allocation.table import Row, Table
from bitwright.graph.choice import Choice
from bitwright.recipe.values import Recipe
from bitwright.sensitivity.interaction import (
    ChoicePair,
    PairTerms,
    UnitPair,
    choose_pairs,
    neighbours,
    pair_deltas,
    pair_groups,
    quadratic_terms,
)
from bitwright.sensitivity.measure import soften
from bitwright.sensitivity.table import Base

TriedChoices = tuple[Choice, ...]
# Choices of each unit that its pairs are measured at: the allocation's, and the next coarser one.
_TRIED = 2


@dataclass(frozen=True, eq=False)
class Paired:
    """The terms of the pairs that were measured, of the softened loss; and the table with them."""

    table: Table
    terms: PairTerms
    measured: int

    @property
    def pairs(self) -> int:
        """How many pairs."""
        return len(self.terms)


def with_pairs(base: Base, table: Table, tried: Mapping[str, TriedChoices], count: int) -> Paired:
    """Measure the pairs of units that may interact most, at some choices of each.

    Equation: q_ab(i, j) = loss(a at i, b at j) - loss(a at i) - loss(b at j) + loss(base), measured
    at the choices that are tried, and given to all others by r_ab sqrt(dL_a dL_b), which is how
    losses quadratic in the errors interact (`interaction.quadratic_terms`). Softened losses are
    measured, and brought to the table's units.

    Args:
        base: what was measured of each unit alone.
        table: the same as a table; units with one choice are in no pair.
        tried: the choices of each unit.
        count: how many pairs.
    """
    free = {unit: own for unit, own in tried.items() if len(table.of(unit)) > 1}
    deltas = {unit: _mean(table, unit, own) for unit, own in free.items()}
    pairs = choose_pairs(neighbours(base.graph), deltas, count)
    wanted: dict[UnitPair, tuple[ChoicePair, ...]] = {
        pair: tuple(itertools.product(free[pair[0]], free[pair[1]])) for pair in pairs
    }
    both = soften(base.measured(pair_groups(base.changes, wanted)))
    terms = quadratic_terms(soften(base.single), pair_deltas(soften(base.single), both, pairs))
    own = {
        pair: {key: base.scale * term for key, term in of.items() if term}
        for pair, of in terms.items()
    }
    return Paired(table.with_terms("loss", terms_of(own)), terms, sum(map(len, wanted.values())))


def choose_around(table: Table, allocation: Allocation) -> dict[str, TriedChoices]:
    """Of every unit the choice in an allocation and the next that loses more."""
    return {unit: _choose(table, unit, choice) for unit, choice in allocation.choices.items()}


def _choose(table: Table, unit: str, chosen: Choice) -> TriedChoices:
    rows = sorted(table.of(unit), key=_loss)
    place = next(i for i, row in enumerate(rows) if row.choice == chosen)
    start = max(0, min(place, len(rows) - _TRIED))
    return tuple(row.choice for row in rows[start : start + _TRIED])


def _mean(table: Table, unit: str, choices: TriedChoices) -> float:
    rows = [row for row in table.of(unit) if row.choice in choices]
    return sum(map(_loss, rows)) / len(rows)


def _loss(row: Row) -> float:
    return row.loss or 0.0


def allocate_paired(paired: Paired, budgets: Iterable[Budget], recipe: Recipe) -> Allocation:
    """The allocation with the pairwise terms counted."""
    found = allocate(
        paired.table, budgets, minimize=recipe.minimize, solver=recipe.solver, advise=False
    )
    return found if found.rows is None else note_pairs(found, len(paired.table.terms["loss"]))


def pairs_record(
    paired: Paired, losses: Mapping[str, float], predicted: Mapping[str, float | None]
) -> Pairwise:
    """What allocation.json says of the correction: what was measured, and what it gained."""
    return Pairwise(
        pairs=paired.pairs,
        measured=paired.measured,
        predicted_loss=dict(predicted),
        measured_loss={name: losses[name] for name in ("allocation", "pairwise")},
        gain=losses["allocation"] - losses["pairwise"],
    )
