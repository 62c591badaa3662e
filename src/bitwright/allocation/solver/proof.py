"""A second proof in exact integers: nothing that the solver passed over is better.

HiGHS is fast and almost always right, but its presolve compares in floating point: on rows whose
numbers span many magnitudes it has been seen to call a worse selection optimal, or none feasible.
Where few enough selections lie between the relaxation and the best one found, all are gone through.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from bitwright.allocation.menu import Menu, Selection

# Steps looked at before giving up; a step takes about a microsecond.
STEPS = 20_000


@dataclass(frozen=True)
class Gaps:
    """How far from the Lagrangian bound choices lead: see `program.lagrangian`.

    Attributes:
        floor: the bound.
        alternative: of each alternative, above the least one of its component.
        option: of each option, above the least one of its cell; infinite for what cannot be taken.
    """

    floor: float
    alternative: Sequence[float]
    option: Sequence[float]


@dataclass(frozen=True)
class Proof:
    """Whether everything was gone through, and the best selection within the room, if any."""

    complete: bool
    best: Selection | None = None


class _State(NamedTuple):
    """A selection in part: what it uses, its goal, how far from the bound, how it was made."""

    used: tuple[int, ...]
    goal: int
    above: float
    option: int
    before: _State | None


class _Part(NamedTuple):
    """One alternative of a component: its distance from the bound and the options of its cells."""

    above: float
    cells: list[list[int]]


class _GaveUpError(Exception):
    """Too many states."""


@dataclass
class _Walk:
    """Steps through cells, counted."""

    goal: Sequence[int]
    uses: Sequence[Sequence[int]]
    limits: Sequence[int]
    gaps: Sequence[float]
    room: float
    left: int = STEPS

    def least(self, cells: Iterable[Sequence[int]]) -> tuple[int, ...]:
        """The least use of each budget by one option of each cell."""
        found = list(cells)
        return tuple(sum(min(use[o] for o in cell) for cell in found) for use in self.uses)

    def through(
        self, states: list[_State], part: _Part, after: tuple[int, ...]
    ) -> list[_State]:  # fmt: skip
        """Every state extended by one option of every cell; `after` is needed by what follows."""
        if part.above:
            states = [s._replace(above=s.above + part.above) for s in states]
        for position, cell in enumerate(part.cells):
            own = self.least(part.cells[position + 1 :])
            most = [limit - a - b for limit, a, b in zip(self.limits, after, own, strict=True)]
            states = _drop_dominated(self.step(states, cell, most))
        return states

    def step(self, states: list[_State], cell: list[int], most: list[int]) -> list[_State]:
        """Every state extended by every option that leaves it below `most` and within the room."""
        self.left -= len(states) * len(cell)
        if self.left < 0:
            raise _GaveUpError
        found = []
        for option in cell:
            gap, goal = self.gaps[option], self.goal[option]
            use = tuple(u[option] for u in self.uses)
            bar = self.room - gap
            tops = tuple(m - u for m, u in zip(most, use, strict=True))
            for state in states:
                used, reached, above, _, _ = state
                # Tuples are compared by their first number first: most states need no more.
                if above > bar or used[:1] > tops[:1]:
                    continue
                if len(use) > 1 and any(u > top for u, top in zip(used, tops, strict=True)):
                    continue
                sums = tuple([u + v for u, v in zip(used, use, strict=True)])
                found.append(_State(sums, reached + goal, above + gap, option, state))
        return found


def prove(
    menu: Menu,
    values: tuple[Sequence[int], Sequence[Sequence[int]], Sequence[int]],
    gaps: Gaps,
    room: float,
) -> Proof:
    """Go through every selection that lies within the room above the Lagrangian bound.

    By weak duality the goal of a selection is at least the bound plus the gaps of what it takes, so
    a part of one is given up as soon as these exceed the room. It is also given up where even the
    least use of what remains overruns a budget, and where another part uses no more and has no
    larger goal (for one budget; for several, where it uses the same).

    Args:
        menu: classes and ties.
        values: goal and uses of every option and the limits, in exact steps.
        gaps: distances from the bound.
        room: from the bound to the goal to beat, with a margin for rounding; infinite to find any.
    """
    walk = _Walk(*values, gaps.option, room)
    components = _components(menu, gaps, room)
    if not all(components):
        return Proof(True)
    # What has one option only goes first, while there is one state; then the widest.
    components.sort(key=lambda parts: (_width(parts) > 1, -_width(parts)))
    zero = tuple(0 for _ in walk.uses)
    after = [zero]
    for parts in reversed(components):
        least = [walk.least(part.cells) for part in parts]
        own = [min(column) for column in zip(*least, strict=True)] if zero else []
        after.append(tuple(a + b for a, b in zip(after[-1], own, strict=True)))
    after.reverse()
    states = [_State(zero, 0, 0.0, -1, None)]
    try:
        for position, parts in enumerate(components):
            found = [walk.through(states, part, after[position + 1]) for part in parts]
            states = found[0] if len(found) == 1 else _drop_dominated([s for f in found for s in f])
    except _GaveUpError:
        return Proof(False)
    if not states:
        return Proof(True)
    return Proof(True, _selection(menu, min(states, key=itemgetter(1))))


def _width(parts: Sequence[_Part]) -> int:
    return sum(math.prod(len(cell) for cell in part.cells) for part in parts)


def _components(menu: Menu, gaps: Gaps, room: float) -> list[list[_Part]]:
    """The alternatives of every component with the options that are within the room."""
    cells: list[list[int]] = [[] for _ in menu.class_of_cell]
    owner = menu.alternative_of.tolist()
    for option, cell in enumerate(menu.cell_of.tolist()):
        gap = gaps.option[option]
        if gap < math.inf and gap + gaps.alternative[owner[option]] <= room:
            cells[cell].append(option)
    parts = [_Part(gap, []) for gap in gaps.alternative]
    for cell, alternative in enumerate(menu.alternative_of_cell.tolist()):
        parts[alternative].cells.append(cells[cell])
    components: list[list[_Part]] = [[] for _ in range(menu.component_of_alternative[-1] + 1)]
    for alternative, component in enumerate(menu.component_of_alternative.tolist()):
        if all(parts[alternative].cells):
            components[component].append(parts[alternative])
    return components


def _drop_dominated(states: list[_State]) -> list[_State]:
    """States that no other matches in use and beats in goal."""
    if len(states) < 2:
        return states
    kept: list[_State] = []
    for state in sorted(states, key=itemgetter(0, 1)):
        if kept and kept[-1].used == state.used:
            continue
        if kept and len(state.used) == 1 and kept[-1].goal <= state.goal:
            continue
        kept.append(state)
    return kept


def _selection(menu: Menu, state: _State) -> Selection:
    taken = []
    at: _State | None = state
    while at is not None and at.option >= 0:
        taken.append(at.option)
        at = at.before
    return menu.in_order(taken)
