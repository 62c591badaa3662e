"""The convex hull of loss against one cost, exactly: what a price on the cost would choose.

For a price p the units choose alone, each the option of least loss + p cost. As p falls they step
along the lower hull of their own options, so the hull of the whole network is all their steps in
order of loss saved per cost. Every point of it is the least loss at its own cost.

Reference: Everett, "Generalized Lagrange multiplier method", Operations Research 11 (1963).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from bitwright.allocation.menu import Menu, Selection


class Vertex(NamedTuple):
    """Options with their exact cost and loss."""

    cost: int
    loss: int
    options: Selection


class HullStep(NamedTuple):
    """A component moves from one vertex of its hull to the next dearer one."""

    component: int
    before: Vertex
    after: Vertex

    @property
    def price(self) -> Fraction:
        """Loss saved per cost."""
        return Fraction(self.before.loss - self.after.loss, self.after.cost - self.before.cost)


def lower_hull(points: Iterable[Vertex]) -> list[Vertex]:
    """From the cheapest point to the one of least loss, every turn to the left.

    >>> points = [Vertex(0, 9, ()), Vertex(1, 8, ()), Vertex(2, 1, ()), Vertex(3, 2, ())]
    >>> [(v.cost, v.loss) for v in lower_hull(points)]
    [(0, 9), (2, 1)]
    """
    found: list[Vertex] = []
    for point in sorted(points, key=lambda v: v[:2]):
        if found and point.loss >= found[-1].loss:
            continue
        while len(found) > 1 and _turns_up(found[-2], found[-1], point):
            found.pop()
        found.append(point)
    return found


def _turns_up(a: Vertex, b: Vertex, c: Vertex) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b.loss - a.loss) * (c.cost - a.cost) >= (c.loss - a.loss) * (b.cost - a.cost)


def component_hulls(menu: Menu, cost: Sequence[int], loss: Sequence[int]) -> list[list[Vertex]]:
    """The hull of every component: of its options, or of all its alternatives together."""
    cells: list[list[Vertex]] = [[] for _ in menu.class_of_cell]
    for option, cell in enumerate(menu.cell_of.tolist()):
        cells[cell].append(Vertex(cost[option], loss[option], (option,)))
    alternatives: list[list[list[Vertex]]] = [[] for _ in menu.component_of_alternative]
    for cell, alternative in enumerate(menu.alternative_of_cell.tolist()):
        alternatives[alternative].append(lower_hull(cells[cell]))
    components: list[list[Vertex]] = [[] for _ in range(menu.component_of_alternative[-1] + 1)]
    for alternative, component in enumerate(menu.component_of_alternative.tolist()):
        components[component] += _sum(alternatives[alternative])
    return [lower_hull(points) for points in components]


def _sum(hulls: list[list[Vertex]]) -> list[Vertex]:
    """The hull of the sum of hulls."""
    if len(hulls) == 1:
        return hulls[0]
    at = [hull[0] for hull in hulls]
    found = [_total(at)]
    for step in steps(hulls):
        at[step.component] = step.after
        found.append(_total(at))
    return found


def _total(at: Sequence[Vertex]) -> Vertex:
    options = tuple(option for vertex in at for option in vertex.options)
    return Vertex(sum(v.cost for v in at), sum(v.loss for v in at), options)


def steps(hulls: Sequence[Sequence[Vertex]]) -> list[HullStep]:
    """All steps of all components, the most loss per cost first."""
    every = [
        HullStep(component, before, after)
        for component, hull in enumerate(hulls)
        for before, after in pairwise(hull)
    ]
    return sorted(every, key=lambda step: step.price, reverse=True)


def walk(hulls: Sequence[Sequence[Vertex]]) -> Iterator[tuple[int, int, HullStep | None]]:
    """Cost and loss of the whole network along its hull, with the step that led there."""
    cost, loss = sum(hull[0].cost for hull in hulls), sum(hull[0].loss for hull in hulls)
    yield cost, loss, None
    for step in steps(hulls):
        cost += step.after.cost - step.before.cost
        loss += step.after.loss - step.before.loss
        yield cost, loss, step


def selections(
    menu: Menu, hulls: Sequence[Sequence[Vertex]], wanted: Iterable[int]
) -> list[Selection]:
    """The selections at some places along the hull, given in rising order."""
    at = [hull[0] for hull in hulls]
    found: list[Selection] = []
    places = list(wanted)
    for place, (_, _, step) in enumerate(walk(hulls)):
        if step is not None:
            at[step.component] = step.after
        if len(found) < len(places) and places[len(found)] == place:
            found.append(menu.in_order(o for vertex in at for o in vertex.options))
    return found
