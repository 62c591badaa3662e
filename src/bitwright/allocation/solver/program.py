"""The integer program: one option a class, least goal, budgets held in exact integers.

    minimise   sum_i goal_i x_i                 (+ sum over pairs of q_ij x_i x_j)
    such that  sum_i use_mi x_i <= limit_m      for every budget m
               one alternative a component, one option a cell of it, x binary

Reference: Hubara et al., "Improving Post Training Neural Quantization", section 3.2, eq. 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitwright.allocation.menu import Menu, Selection, starts

OPTIMAL, FEASIBLE, INFEASIBLE, UNKNOWN = "optimal", "feasible", "infeasible", "unknown"
GOAL = -1


class PairTerm(NamedTuple):
    """What two options add to a row (`GOAL` or the number of a budget) where both are taken."""

    row: int
    first: int
    second: int
    steps: int


@dataclass(frozen=True, eq=False)
class Program:
    """Goal and uses of every option of a menu in whole steps, and the limits of the uses.

    Options that are `barred` cannot be taken.
    """

    menu: Menu
    goal: tuple[int, ...]
    uses: tuple[tuple[int, ...], ...] = ()
    limits: tuple[int, ...] = ()
    pairs: tuple[PairTerm, ...] = ()
    barred: frozenset[int] = frozenset()

    def value(self, selection: Selection) -> int:
        """The goal of a selection, exactly."""
        return sum(self.goal[i] for i in selection) + self._paired(selection, GOAL)

    def used(self, selection: Selection) -> tuple[int, ...]:
        """What a selection uses of every budget, exactly."""
        return tuple(
            sum(use[i] for i in selection) + self._paired(selection, m)
            for m, use in enumerate(self.uses)
        )

    def _paired(self, selection: Selection, row: int) -> int:
        own = [pair for pair in self.pairs if pair.row == row]
        taken = set(selection) if own else set()
        return sum(p.steps for p in own if p.first in taken and p.second in taken)

    def holds(self, selection: Selection) -> bool:
        """Whether every budget is held, exactly."""
        return all(u <= limit for u, limit in zip(self.used(selection), self.limits, strict=True))

    @cached_property
    def least_goal(self) -> int:
        """The least goal with no budget in the way, pairs left out."""
        return _least(self.menu, self.goal)

    @cached_property
    def least_uses(self) -> tuple[int, ...]:
        """The least use of each budget with no other in the way, pairs left out."""
        return tuple(_least(self.menu, use) for use in self.uses)

    def with_bars(self) -> Program:
        """The same program, what is barred held by one more budget of nothing."""
        if not self.barred:
            return self
        bars = tuple(int(option in self.barred) for option in range(len(self.goal)))
        return replace(self, uses=(*self.uses, bars), limits=(*self.limits, 0), barred=frozenset())

    def without(self, m: int) -> Program:
        """The program that has one budget less."""
        kept = [i for i in range(len(self.limits)) if i != m]
        place = {GOAL: GOAL, **{old: new for new, old in enumerate(kept)}}
        return replace(
            self,
            uses=tuple(self.uses[i] for i in kept),
            limits=tuple(self.limits[i] for i in kept),
            pairs=tuple(p._replace(row=place[p.row]) for p in self.pairs if p.row in place),
        )

    def towards(self, m: int) -> Program:
        """The program that makes one budget's use small and holds the others."""
        others = self.without(m)
        pairs = [p for p in others.pairs if p.row != GOAL]
        pairs += [p._replace(row=GOAL) for p in self.pairs if p.row == m]
        return replace(others, goal=self.uses[m], pairs=tuple(pairs))

    def below(self, goal: int) -> Program:
        """The program with the goal held as one more budget, at most so large."""
        number = len(self.limits)
        added = tuple(p._replace(row=number) for p in self.pairs if p.row == GOAL)
        return replace(
            self,
            uses=(*self.uses, self.goal),
            limits=(*self.limits, goal),
            pairs=self.pairs + added,
        )


@dataclass(frozen=True)
class ProgramOutcome:
    """What solving a program found.

    Attributes:
        status: optimal (proven), feasible (time was up), infeasible (proven), unknown (time was
            up before anything was found).
        selection: the best found.
        bound: no selection has a smaller goal, in steps.
        prices: fall of the goal's steps per step that each limit is raised, in the relaxation.
    """

    status: str
    selection: Selection | None = None
    bound: float = -math.inf
    prices: tuple[float, ...] = ()


def _least(menu: Menu, values: Sequence[int]) -> int:
    """Exactly: the sum over components of the least alternative."""
    return sum(_levels(menu, values)[2].tolist())


def _levels(menu: Menu, values: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The least of every cell, alternative and component."""
    # Numbers have any size, so they stay Python's own.
    cells = np.minimum.reduceat(np.array(values, dtype=object), starts(menu.cell_of))
    alternatives = np.add.reduceat(cells, starts(menu.alternative_of_cell))
    components = np.minimum.reduceat(alternatives, starts(menu.component_of_alternative))
    return cells, alternatives, components


def cheapest(program: Program) -> Selection:
    """A selection of the least goal with no budget in the way, pairs left out."""
    menu = program.menu
    cells, alternatives, components = _levels(menu, program.goal)
    goal = np.array(program.goal, dtype=object)
    picked = np.flatnonzero(goal == cells[menu.cell_of])
    picked = picked[starts(menu.cell_of[picked])]
    best = np.flatnonzero(alternatives == components[menu.component_of_alternative])
    best = best[starts(menu.component_of_alternative[best])]
    return menu.in_order(picked[np.isin(menu.alternative_of_cell, best)].tolist())
