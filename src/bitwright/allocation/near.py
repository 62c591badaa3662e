"""One budget and many options: everything near the Lagrangian bound is gone through, in integers.

Every selection has a goal of L(p) + the gaps of its options + p (limit - use), and no term is
negative, so whatever beats a goal G lies within the room G - L(p). With one budget few selections
in part survive: one that uses no less and has no smaller goal than another is dropped. What is left
when all is gone through is the optimum, proven; the room starts small and grows until it holds one.

Reference: D. Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", European
Journal of Operational Research 83 (1995), for solving on a core that grows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bitwright.allocation.menu import Indices, Menu, Selection, starts
from bitwright.allocation.solver.dual import Dual, line
from bitwright.allocation.solver.program import INFEASIBLE, OPTIMAL, Program, ProgramOutcome
from bitwright.allocation.solver.scaled import GOAL_SIZE, Floats

# So many options beyond one a cell are within the first room.
_SMALL = 30
# Extensions of states looked at before giving up, and answers counted again; about half a second.
_STEPS, _COUNTED = 4_000_000, 1_000
# Sums are kept below this many bits; what does not fit is rounded down, and told apart no finer.
_BITS = 61


def solve_near(program: Program, deadline: float = math.inf) -> ProgramOutcome | None:
    """The proven optimum of a program of one budget; None where too much lies near the bound.

    Args:
        program: without pairs.
        deadline: on the monotonic clock.
    """
    if program.limits[0] < program.least_uses[0]:
        return ProgramOutcome(INFEASIBLE)
    dual = Dual.of(program)
    prices = dual.prices()
    gaps = dual.gaps(prices)
    goal, use = (line(program.menu, values) for values in (program.goal, program.uses[0]))
    option, alternative = np.asarray(gaps.option), np.asarray(gaps.alternative)
    reduced = option + alternative[program.menu.alternative_of]
    walk = _Walk(program, option, alternative, float(prices[0]) * (1 / use.unit))
    margin = 1e-9 * (GOAL_SIZE + abs(gaps.floor) + float(prices @ dual.limits))
    open_ = np.flatnonzero(np.isfinite(reduced))
    order = np.sort(reduced[open_])
    count, needed = _SMALL, math.inf
    best: Selection | None = None
    while time.monotonic() < deadline:
        place = len(program.menu.class_of_cell) + count
        whole = place >= len(order)
        room = min(needed, math.inf if whole else float(order[place]))
        try:
            found = walk.within(open_[reduced[open_] <= room], room)
        except _TooMuchError:
            return None
        best = found or best
        if best is not None:
            above = program.value(best) - goal.offset
            needed = above / goal.unit * GOAL_SIZE - gaps.floor + margin
        if room >= needed or (whole and room == math.inf):
            break
        count += count // 2
    else:
        return None
    if best is None:
        return ProgramOutcome(INFEASIBLE)
    price = float(prices[0]) / GOAL_SIZE * (goal.unit / use.unit)
    return ProgramOutcome(OPTIMAL, best, float(program.value(best)), (price,))


class _TooMuchError(Exception):
    """More states than are gone through."""


class _States(NamedTuple):
    """Selections in part: goal and use above the least, distance from the bound, how made."""

    goal: Indices
    use: Indices
    above: Floats
    node: Indices


class _Cell(NamedTuple):
    """Options of which one is taken: their goals and uses, rounded down, and gaps."""

    options: Indices
    goal: Indices
    use: Indices
    gap: Floats


_Part = list[list[int]]


@dataclass
class _Nodes:
    """What was taken, and after what: a tree of selections in part."""

    options: list[Indices] = field(default_factory=list)
    before: list[Indices] = field(default_factory=list)
    count: int = 1

    def add(self, options: Indices, before: Indices) -> Indices:
        self.options.append(options)
        self.before.append(before)
        self.count += len(options)
        return np.arange(self.count - len(options), self.count)

    def back_from(self, node: int) -> list[int]:
        """The options taken on the way to a node."""
        options = np.concatenate([[-1], *self.options])
        before = np.concatenate([[-1], *self.before])
        found = []
        while node > 0:
            found.append(int(options[node]))
            node = int(before[node])
        return found


@dataclass(frozen=True)
class _Row:
    """A row of the program as it is summed: each number less a base, shifted right.

    `slack` is by how much a sum of rounded numbers may be too small.
    """

    shift: int
    slack: int


@dataclass(frozen=True, eq=False)
class _Walk:
    """Ways through the options near the bound.

    Attributes:
        program: exactly.
        option, alternative: gaps.
        price: goal (scaled as the gaps are) for a step of use.
    """

    program: Program
    option: Floats
    alternative: Floats
    price: float

    def within(self, near: Indices, room: float) -> Selection | None:
        """The best selection within the room that holds the budget; None where there is none."""
        parts = _parts(self.program.menu, near)
        if parts is None:
            return None
        taken, free = parts
        free.sort(key=self._spread, reverse=True)
        cells, rows, base = self._cells(taken, free)
        limit = (self.program.limits[0] - base[1]) >> rows[1].shift
        if limit < 0:
            return None
        tops = [max(sum(int(c.use.max()) for c in part) for part in own) for own in cells]
        left = sum(tops)
        nodes = _Nodes()
        zero = np.zeros(1, np.int64)
        states = _States(zero, zero, np.zeros(1), zero)
        # No sum reaches beyond `left`: a limit there holds nothing back, and fits into few bits.
        bounds = _Bounds(min(limit, left), self.price * 2.0 ** rows[1].shift, room, rows, _STEPS)
        for own, top in zip(cells, tops, strict=True):
            left -= top
            ways = [bounds.through(states, part, left, nodes) for part in own]
            states = ways[0] if len(ways) == 1 else bounds.undominated(_join(ways))
            if not len(states.goal):
                return None
        return self._least(states, nodes, taken, rows[0].slack)

    def _spread(self, own: Sequence[_Part]) -> int:
        """How much a component's use can differ: what spreads most goes first."""
        use = self.program.uses[0]
        sums = [sum(use[o] for o in side) for part in own for side in _ends(part, use)]
        return max(sums) - min(sums)

    def _cells(
        self, taken: list[int], free: list[list[_Part]]
    ) -> tuple[list[list[list[_Cell]]], tuple[_Row, _Row], list[int]]:
        """The free cells in few bits, how they are rounded, and what everything uses at least."""
        values = (self.program.goal, self.program.uses[0])
        base = [sum(row[o] for o in taken) for row in values]
        offsets: list[list[list[int]]] = []
        widths = [0, 0]
        for own in free:
            least = [
                [sum(min(row[o] for o in cell) for cell in part) for part in own] for row in values
            ]
            for i, row in enumerate(values):
                base[i] += min(least[i])
                most = max(sum(max(row[o] for o in cell) for cell in part) for part in own)
                widths[i] += most - min(least[i])
            offsets.append([[total - min(sums) for total in sums] for sums in least])
        count = sum(max(len(part) for part in own) for own in free)
        shifts = [max(0, width.bit_length() - _BITS) for width in widths]
        rows = tuple(_Row(shift, count if shift else 0) for shift in shifts)
        cells = [
            [self._part(part, (at[0][i], at[1][i]), shifts) for i, part in enumerate(own)]
            for own, at in zip(free, offsets, strict=True)
        ]
        return cells, (rows[0], rows[1]), base

    def _part(self, part: _Part, offset: tuple[int, int], shifts: Sequence[int]) -> list[_Cell]:
        """The cells of an alternative; what it uses beyond the cheapest is in its first cell."""
        values = (self.program.goal, self.program.uses[0])
        found = []
        for number, cell in enumerate(part):
            sums = []
            for row, extra, shift in zip(values, offset, shifts, strict=True):
                least = min(row[o] for o in cell) - (0 if number else extra)
                sums.append(np.array([(row[o] - least) >> shift for o in cell], np.int64))
            gap = self.option[cell]
            if not number:
                gap = gap + self.alternative[self.program.menu.alternative_of[cell[0]]]
            found.append(_Cell(np.array(cell), sums[0], sums[1], gap))
        return found

    def _least(
        self, states: _States, nodes: _Nodes, taken: list[int], slack: int
    ) -> Selection | None:
        """The best of the whole selections, each counted again exactly."""
        order = np.argsort(states.goal, kind="stable")
        best: tuple[int, Selection] | None = None
        reach = math.inf
        for number, place in enumerate(order.tolist()):
            rounded = int(states.goal[place])
            if rounded > reach:
                break
            if number >= _COUNTED:
                raise _TooMuchError
            options = [*taken, *nodes.back_from(int(states.node[place]))]
            selection = self.program.menu.in_order(options)
            if self.program.holds(selection):
                value = self.program.value(selection)
                if best is None:
                    reach = rounded + slack
                if best is None or value < best[0]:
                    best = value, selection
        return None if best is None else best[1]


@dataclass
class _Bounds:
    """What ends a way early.

    Attributes:
        limit: of the use.
        price: goal for a step of use.
        room: of the distance from the bound.
        rows: of goal and use.
        steps: that may still be looked at.
    """

    limit: int
    price: float
    room: float
    rows: tuple[_Row, _Row]
    steps: int

    def through(self, states: _States, part: list[_Cell], left: int, nodes: _Nodes) -> _States:
        """Every state extended by one option of every cell; `left` is the most that can follow."""
        after = [int(cell.use.max()) for cell in part]
        for number, cell in enumerate(part):
            states = self._step(states, cell, left + sum(after[number + 1 :]), nodes)
        return states

    def _step(self, states: _States, cell: _Cell, left: int, nodes: _Nodes) -> _States:
        self.steps -= len(states.goal) * len(cell.goal)
        if self.steps < 0:
            raise _TooMuchError
        # One option after the other, so that sorted states stay sorted in long runs.
        use = (cell.use[:, None] + states.use).reshape(-1)
        above = (cell.gap[:, None] + states.above).reshape(-1)
        # What is not used in the end is lost at the budget's price.
        unused = np.maximum(self.limit - use - (left + self.rows[1].slack), 0)
        held = (use <= self.limit) & (above + self.price * unused <= self.room)
        places = np.flatnonzero(held)
        option, before = np.divmod(places, len(states.goal))
        goal = cell.goal[option] + states.goal[before]
        # Nodes are numbered once it is known which states stay.
        made = self.undominated(_States(goal, use[places], above[places], np.arange(len(places))))
        node = nodes.add(cell.options[option[made.node]], states.node[before[made.node]])
        return made._replace(node=node)

    def undominated(self, states: _States) -> _States:
        """States that no other surely matches or beats in both goal and use."""
        if len(states.goal) < 2:
            return states
        order = np.argsort(states.use, kind="stable")
        goal, use = states.goal[order], states.use[order]
        least = np.minimum.accumulate(goal)
        goal_slack, use_slack = self.rows[0].slack, self.rows[1].slack
        if use_slack:
            before = np.searchsorted(use, use - use_slack, side="right") - 1
        else:
            before = np.arange(len(order)) - 1
        beaten = (before >= 0) & (least[before] + goal_slack <= goal)
        kept = order[~beaten]
        return _States(goal[~beaten], use[~beaten], states.above[kept], states.node[kept])


def _join(ways: Sequence[_States]) -> _States:
    return _States(
        np.concatenate([way.goal for way in ways]),
        np.concatenate([way.use for way in ways]),
        np.concatenate([way.above for way in ways]),
        np.concatenate([way.node for way in ways]),
    )


def _ends(part: _Part, use: Sequence[int]) -> tuple[list[int], list[int]]:
    """The options of a part that use least and most."""
    return (
        [min(cell, key=use.__getitem__) for cell in part],
        [max(cell, key=use.__getitem__) for cell in part],
    )


def _parts(menu: Menu, near: Indices) -> tuple[list[int], list[list[_Part]]] | None:
    """Of options near the bound: those that must be taken, and where there is a choice.

    None where a component has no whole alternative.
    """
    if not len(near):
        return None
    cells = np.split(near, starts(menu.cell_of[near])[1:])
    alternatives: dict[int, _Part] = {}
    owner = menu.alternative_of_cell[menu.cell_of[near[starts(menu.cell_of[near])]]].tolist()
    for alternative, cell in zip(owner, cells, strict=True):
        alternatives.setdefault(alternative, []).append(cell.tolist())
    whole = np.bincount(menu.alternative_of_cell).tolist()
    components: dict[int, list[_Part]] = {}
    component_of = menu.component_of_alternative.tolist()
    for alternative, part in alternatives.items():
        if len(part) == whole[alternative]:
            components.setdefault(component_of[alternative], []).append(part)
    if len(components) <= component_of[-1]:
        return None
    taken: list[int] = []
    free: list[list[_Part]] = []
    for own in components.values():
        if len(own) > 1:
            free.append(own)
            continue
        for options in own[0]:
            if len(options) == 1:
                taken += options
            else:
                free.append([[options]])
    return taken, free
