"""The whole frontier of loss against one cost, from one table.

Where the frontier has few enough points all are listed: each is the least loss at its own cost, and
nothing lies between them. A longer one is given by two exact sets: every breakpoint of its convex
hull, and the least loss at evenly spaced budgets. `complete` tells which it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.allocation.cost import DEGRADATIONS, Measure, UserTable, measure
from bitwright.allocation.menu import Menu, Selection, make_menu
from bitwright.allocation.question import NO_TABLES
from bitwright.allocation.solver import hull
from bitwright.allocation.solver.greedy import accuracy_moves, compression_moves, ladders
from bitwright.allocation.solver.program import GOAL, OPTIMAL, PairTerm, Program
from bitwright.allocation.solver.solver import solve
from bitwright.allocation.solver.terms import Corrections, correct_choice
from bitwright.allocation.table import Table
from bitwright.errors import RecipeError

# Beyond so many points a complete list helps nobody; beyond so many pairs a merge takes seconds.
COMPLETE, _PAIRS = 20_000, 2_000_000
BUDGETS, KNEES = 100, 5
# Budgets where the cost has pairwise terms: each takes a few tenths of a second.
_WITH_TERMS = 25
# A hull this dense leaves nothing between its breakpoints that a budget could show.
_DENSE = 1_000
_FLAT = 0.01


@dataclass(frozen=True)
class Point:
    """One configuration on a curve.

    Attributes:
        steps: of the cost, exactly; used: in its unit; share: of float, None where not known.
        loss: predicted.
        selection: its options; None where only the figures were kept.
        hull: on the convex hull; knee: where the curve bends most.
    """

    steps: int
    used: float
    share: float | None
    loss: float
    selection: Selection | None = None
    hull: bool = False
    knee: bool = False


@dataclass(frozen=True, eq=False)
class Frontier:
    """Curves of loss against a cost.

    Attributes:
        menu: what was chosen from.
        cost: the measure.
        complete: whether `points` are all the points of the frontier.
        proven: whether each of them is a proven optimum at its own budget.
        points: of the exact allocation, from the cheapest up.
        others: the two greedy rules and the uniform configurations, by name.
    """

    menu: Menu
    cost: Measure
    complete: bool
    proven: bool
    points: tuple[Point, ...]
    others: Mapping[str, tuple[Point, ...]]

    @property
    def knees(self) -> tuple[Point, ...]:
        """The points worth measuring; each has its selection."""
        return tuple(point for point in self.points if point.knee)


def trace(
    table: Table,
    cost: str = "size",
    *,
    tables: Mapping[str, UserTable] = NO_TABLES,
    budgets: int = BUDGETS,
    complete: int = COMPLETE,
) -> Frontier:
    """The frontier of predicted loss against a cost.

    Args:
        table: measured choices.
        cost: size, bops, latency, energy or a user table's name.
        tables: costs of the user's own.
        budgets: evenly spaced budgets to solve where the frontier is too long to list.
        complete: the most points that are listed completely.

    Raises:
        RecipeError: an unknown cost.
    """
    if cost in DEGRADATIONS:
        raise RecipeError(f"--cost {cost!r} is what the frontier shows already. Name a cost.")
    menu = make_menu(table)
    found, losses = measure(cost, table, tables), measure("loss", table)
    pairs: Corrections = ()
    if table.terms.get(cost):
        found, pairs = correct_choice(menu, found, table.terms[cost])
    curve = _Curve(menu, found, losses, menu.spread(found), menu.spread(losses), pairs)
    listed = None if pairs else _every_point(curve, complete)
    if listed is not None:
        points, proven = listed, True
    elif pairs:
        points, proven = _budgets_alone(curve, min(budgets, _WITH_TERMS))
    else:
        points, proven = _hull_and_budgets(curve, budgets)
    points = _with_knees(curve, _on_hull(points))
    return Frontier(menu, found, listed is not None, proven, tuple(points), _others(curve))


@dataclass(frozen=True, eq=False)
class _Curve:
    """Exact cost and loss of every option."""

    menu: Menu
    cost: Measure
    loss: Measure
    costs: tuple[int, ...]
    losses: tuple[int, ...]
    pairs: Corrections = ()

    def point(self, cost: int, loss: int, selection: Selection | None = None) -> Point:
        share = cost / self.cost.whole if self.cost.whole else None
        return Point(
            cost, self.cost.shown(cost), share, float(self.loss.shown(loss)), selection
        )  # fmt: skip

    def of(self, selection: Selection) -> Point:
        return self.point(
            self.cost_of(selection), sum(self.losses[i] for i in selection), selection
        )

    def cost_of(self, options: Iterable[int]) -> int:
        taken = set(options)
        terms = sum(steps for a, b, steps in self.pairs if a in taken and b in taken)
        return sum(self.costs[i] for i in taken) + terms


# ---- every point -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Front:
    """Points that no other beats, by rising cost; the options of each."""

    cost: NDArray[Any]
    loss: NDArray[np.float64]
    options: NDArray[np.int32]


def _every_point(curve: _Curve, most: int) -> list[Point] | None:
    """Merge component after component; None where the frontier grows longer than `most`.

    Costs are added as integers, however many digits they have. Losses are compared in double
    precision while merging and added exactly in the end.
    """
    scaled = _reduce(curve.costs)
    losses = np.array([loss / curve.loss.scale for loss in curve.losses])
    menu = curve.menu
    cells = np.split(np.arange(len(losses)), np.flatnonzero(np.diff(menu.cell_of)) + 1)
    total = _Front(np.zeros(1, np.int64), np.zeros(1), np.zeros((1, 0), np.int32))
    for component in range(int(menu.component_of_alternative[-1]) + 1):
        parts = []
        for alternative in np.flatnonzero(menu.component_of_alternative == component):
            merged: _Front | None = total
            for cell in np.flatnonzero(menu.alternative_of_cell == alternative):
                own = cells[cell]
                merged = _merge(
                    merged, _Front(scaled[own], losses[own], own[:, None].astype(np.int32)), most
                )
                if merged is None:
                    return None
            parts.append(merged)
        total = _best([p for p in parts if p is not None])
        if len(total.cost) > most:
            return None
    order = np.argsort(menu.class_of[total.options[0]])
    points = [curve.of(tuple(row)) for row in total.options[:, order].tolist()]
    return _pareto(points)


def _reduce(costs: Sequence[int]) -> NDArray[Any]:
    """Costs by their common divisor; Python's integers where sums would not fit into 64 bits."""
    divisor = math.gcd(*costs) or 1
    whole = [cost // divisor for cost in costs]
    fits = sum(map(abs, whole)) < 1 << 62
    return np.array(whole, np.int64 if fits else object)


def _merge(a: _Front | None, b: _Front, most: int) -> _Front | None:
    """The front of all sums; None where it is too long."""
    if a is None or len(a.cost) * len(b.cost) > max(_PAIRS, 8 * most):
        return None
    cost = (a.cost[:, None] + b.cost[None, :]).reshape(-1)
    loss = (a.loss[:, None] + b.loss[None, :]).reshape(-1)
    kept = _front(cost, loss)
    if len(kept) > most:
        return None
    first, second = np.divmod(kept, len(b.cost))
    options = np.concatenate([a.options[first], b.options[second]], axis=1, dtype=np.int32)
    return _Front(cost[kept], loss[kept], options)


def _best(fronts: list[_Front]) -> _Front:
    """The front of several fronts over the same classes."""
    if len(fronts) == 1:
        return fronts[0]
    cost = np.concatenate([f.cost for f in fronts])
    loss = np.concatenate([f.loss for f in fronts])
    # Alternatives list the same classes in the same order.
    options = np.concatenate([f.options for f in fronts])
    kept = _front(cost, loss)
    return _Front(cost[kept], loss[kept], options[kept])


def _front(cost: NDArray[Any], loss: NDArray[np.float64]) -> NDArray[np.int64]:
    order = np.lexsort((loss, cost))
    ordered = loss[order]
    before = np.concatenate([[np.inf], np.minimum.accumulate(ordered)[:-1]])
    return order[ordered < before]


def _pareto(points: Iterable[Point]) -> list[Point]:
    """Points by rising cost, each of less loss than all before."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.steps, p.loss)):
        if not found or point.loss < found[-1].loss:
            found.append(point)
    return found


# ---- hull and budgets ------------------------------------------------------------------------


def _hull_and_budgets(curve: _Curve, budgets: int) -> tuple[list[Point], bool]:
    hulls = hull.component_hulls(curve.menu, curve.costs, curve.losses)
    points = [curve.point(cost, loss) for cost, loss, _ in hull.walk(hulls)]
    low, high = points[0].steps, points[-1].steps
    proven = True
    for index in range(budgets if len(points) < _DENSE else 0):
        limit = low + (high - low) * (index + 1) // budgets
        found = solve(Program(curve.menu, curve.losses, (curve.costs,), (limit,)))
        if found.selection is not None:
            points.append(curve.of(found.selection))
            proven &= found.status == OPTIMAL
    return _pareto(points), proven


def _budgets_alone(curve: _Curve, budgets: int) -> tuple[list[Point], bool]:
    """Where pairs of units add to the cost: evenly spaced budgets, each solved to optimality."""
    rows = {row: tuple(PairTerm(row, *pair) for pair in curve.pairs) for row in (GOAL, 0)}
    cheapest = solve(Program(curve.menu, curve.costs, pairs=rows[GOAL])).selection
    finest = solve(Program(curve.menu, curve.losses)).selection
    if cheapest is None or finest is None:  # neither has a budget that could not be held
        return [], False
    low, high = curve.cost_of(cheapest), curve.cost_of(finest)
    points, proven = [curve.of(finest)], True
    for index in range(budgets):
        limit = low + (high - low) * index // budgets
        found = solve(Program(curve.menu, curve.losses, (curve.costs,), (limit,), rows[0]))
        if found.selection is not None:
            points.append(curve.of(found.selection))
            proven &= found.status == OPTIMAL
    return _pareto(points), proven


def _on_hull(points: list[Point]) -> list[Point]:
    """Mark the points on the convex hull."""
    kept: list[int] = []
    for index in range(len(points)):
        while len(kept) > 1 and _above(points[kept[-2]], points[kept[-1]], points[index]):
            kept.pop()
        kept.append(index)
    marked = set(kept)
    return [replace(point, hull=i in marked) for i, point in enumerate(points)]


def _above(left: Point, middle: Point, right: Point) -> bool:
    rise = (middle.loss - left.loss) * (right.steps - left.steps)
    return rise > (right.loss - left.loss) * (middle.steps - left.steps)


def _with_knees(curve: _Curve, points: list[Point]) -> list[Point]:
    """Mark the points furthest below the chords, and find the selections of those without one.

    Losses span magnitudes, so the bend is looked for in their logarithm above the least one.
    """
    marked = _knees(points)
    bare = [i for i in marked if points[i].selection is None]
    # Every point of a curve with pairs has its selection: it was solved for.
    hulls = hull.component_hulls(curve.menu, curve.costs, curve.losses) if bare else []
    places = {cost: place for place, (cost, _, _) in enumerate(hull.walk(hulls))} if bare else {}
    found = hull.selections(curve.menu, hulls, [places[points[i].steps] for i in bare])
    given = dict(zip(bare, found, strict=True))
    return [
        replace(point, knee=i in marked, selection=given.get(i, point.selection))
        for i, point in enumerate(points)
    ]


def _knees(points: list[Point]) -> list[int]:
    if len(points) < 3:
        return []
    cost = np.array([float(p.steps - points[0].steps) for p in points])
    loss = np.array([p.loss for p in points])
    above = loss - loss[-1]
    height = np.log(above + 1e-3 * above[0])
    x = cost / cost[-1]
    y = (height - height[-1]) / (height[0] - height[-1])
    found: list[int] = []
    spans = [(0, len(points) - 1)]
    while spans and len(found) < KNEES:
        gaps = [_furthest(x, y, *span) for span in spans]
        widest = max(range(len(spans)), key=lambda s: gaps[s][0])
        distance, index = gaps[widest]
        if distance < _FLAT:
            break
        found.append(index)
        start, stop = spans.pop(widest)
        spans += [(start, index), (index, stop)]
    return sorted(found)


def _furthest(
    x: NDArray[np.float64], y: NDArray[np.float64], start: int, stop: int
) -> tuple[float, int]:
    """The point furthest below the chord between two, in units of the whole picture."""
    if stop - start < 2:
        return 0.0, start
    inner = slice(start + 1, stop)
    chord = y[start] + (y[stop] - y[start]) * (x[inner] - x[start]) / (x[stop] - x[start])
    below = chord - y[inner]
    index = int(below.argmax())
    return float(below[index]), start + 1 + index


# ---- beside it -------------------------------------------------------------------------------


def _others(curve: _Curve) -> dict[str, tuple[Point, ...]]:
    """The greedy rules at every step that they take, and every uniform configuration."""
    whole = max(sum(curve.costs), 1)
    found = ladders(curve.menu, [cost / whole for cost in curve.costs], curve.losses)
    levels = [
        [
            (sum(curve.costs[o] for o in rung.options), sum(curve.losses[o] for o in rung.options))
            for rung in ladder
        ]
        for ladder in found
    ]

    def cost_at(at: Sequence[int]) -> int:
        rungs = [ladder[level].options for ladder, level in zip(found, at, strict=True)]
        return curve.cost_of(option for rung in rungs for option in rung)

    def path(moves: Iterable[tuple[int, int]], at: list[int]) -> tuple[Point, ...]:
        cost = cost_at(at)
        loss = sum(own[level][1] for own, level in zip(levels, at, strict=True))
        points = [curve.point(cost, loss)]
        for component, level in moves:
            own, old = levels[component], at[component]
            cost += own[level][0] - own[old][0]
            loss += own[level][1] - own[old][1]
            at[component] = level
            cost = cost_at(at) if curve.pairs else cost
            points.append(curve.point(cost, loss))
        return tuple(sorted(points, key=lambda p: p.steps))

    top = [0] * len(found)
    foot = [len(ladder) - 1 for ladder in found]
    uniforms = [curve.of(selection) for selection in curve.menu.uniforms().values()]
    return {
        "greedy-accuracy": path(accuracy_moves(found), top),
        "greedy-compression": path(compression_moves(curve.menu, found), foot),
        "uniform": tuple(sorted(uniforms, key=lambda p: p.steps)),
    }
