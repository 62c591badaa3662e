"""Why a unit got its bits: its choices, what each would cost the whole network, when it changes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from bitwright.allocation.advice import Number
from bitwright.allocation.allocate import best
from bitwright.allocation.cost import DEGRADATIONS, Measure
from bitwright.allocation.menu import Selection
from bitwright.allocation.question import Question
from bitwright.allocation.solver import hull
from bitwright.allocation.solver.program import UNKNOWN, ProgramOutcome
from bitwright.allocation.solver.solver import solve
from bitwright.allocation.table import Row

# With several budgets over thousands of units each forced choice is a program of its own.
_FORCED_SECONDS = 1.5


@dataclass(frozen=True)
class Alternative:
    """One choice of the unit, and what it would mean.

    Attributes:
        row: of the table.
        used: of every budget, by this unit, in the order of the budgets.
        priced: its goal plus price times use of every budget, less the same of the choice taken:
            below 0 only where the relaxation's prices do not tell the whole story.
        forced: the least goal of the whole network with the unit held at this choice, less the
            goal reached; None where the budgets cannot be held with it, or time was up.
        taken: whether this is what the allocation chose.
    """

    row: Row
    used: tuple[Number, ...]
    priced: float
    forced: Number | None
    taken: bool


@dataclass(frozen=True)
class Exchange:
    """Where along the frontier the unit would change.

    Attributes:
        cost: the measure; at: what the whole network would spend there, in its unit.
        row: what the unit would take.
    """

    cost: str
    at: Number
    row: Row


@dataclass(frozen=True)
class Explanation:
    """One unit in an allocation.

    Attributes:
        unit: module path; tied: units that take the same choice with it.
        prices: fall of the goal per unit that each budget is raised, by name.
        alternatives: in the table's order.
        below, above: the nearest changes for a tighter and a looser budget of the dearest cost, on
            the convex hull of the frontier with the other budgets at their prices.
    """

    unit: str
    tied: tuple[str, ...]
    prices: dict[str, float]
    alternatives: tuple[Alternative, ...]
    below: Exchange | None
    above: Exchange | None


def explain(
    question: Question, unit: str, found: ProgramOutcome | None = None, seconds: float = 20.0
) -> Explanation:
    """Explain the bits of a unit.

    Args:
        question: budgets and goal.
        unit: module path.
        found: the allocation, where it is known already.
        seconds: time limit; with several budgets what forcing each choice would cost has 1.5 of
            them at most.

    Raises:
        RunDirectoryError: no such unit.
    """
    rows = question.table.of(unit)
    deadline = time.monotonic() + seconds
    found = found or best(question, deadline)
    if len(question.caps) > 1:
        deadline = min(deadline, time.monotonic() + _FORCED_SECONDS)
    menu = question.menu
    index = next(i for i, units in enumerate(menu.classes) if unit in units)
    place = menu.classes[index].index(unit)
    selection = found.selection
    taken = -1 if selection is None else menu.rows[selection[index]][place]
    first = question.table.spans[unit][0]
    weights = _Prices.of(question, found)
    alternatives = [
        Alternative(
            row,
            tuple(c.measure.shown(c.measure.steps[first + i]) for c in question.caps),
            weights.beyond(question, first + i, taken) if taken >= 0 else 0.0,
            _force(question, found, (index, place, first + i), deadline),
            first + i == taken,
        )
        for i, row in enumerate(rows)
    ]
    below, above = (
        (None, None) if selection is None else _changes(question, selection, weights, index, place)
    )
    return Explanation(
        unit,
        tuple(u for u in menu.classes[index] if u != unit),
        {
            cap.name: price * cap.measure.scale / question.goal.scale
            for cap, price in zip(question.caps, found.prices, strict=False)
        },
        tuple(alternatives),
        below,
        above,
    )


@dataclass(frozen=True)
class _Prices:
    """Steps of the goal per step of each budget."""

    prices: tuple[float, ...]

    @staticmethod
    def of(question: Question, found: ProgramOutcome) -> _Prices:
        return _Prices(found.prices or tuple(0.0 for _ in question.caps))

    def beyond(self, question: Question, row: int, taken: int) -> float:
        """Goal plus priced use of a row, less that of another, in the goal's unit."""
        steps = question.goal.steps[row] - question.goal.steps[taken]
        priced = sum(
            price * (cap.measure.steps[row] - cap.measure.steps[taken])
            for price, cap in zip(self.prices, question.caps, strict=True)
        )
        return (steps + priced) / question.goal.scale


def _force(
    question: Question, found: ProgramOutcome, where: tuple[int, int, int], deadline: float
) -> Number | None:
    """What the goal would lose if the unit had to take a row; 0 where it takes it anyway."""
    index, place, row = where
    if found.selection is None:
        return None
    program = question.program
    options = question.menu.options_of[index]
    if question.menu.rows[found.selection[index]][place] == row:
        return 0
    barred = {o for o in options if question.menu.rows[o][place] != row}
    if len(barred) == len(options):
        return None  # what it is tied to has no such choice
    held = replace(program, barred=frozenset(barred))
    left = deadline - time.monotonic()
    forced = solve(held, left) if left > 0 else ProgramOutcome(UNKNOWN)
    if forced.selection is None:
        return None
    return question.goal.shown(program.value(forced.selection) - program.value(found.selection))


def _changes(
    question: Question, selection: Selection, weights: _Prices, index: int, place: int
) -> tuple[Exchange | None, Exchange | None]:
    """The nearest places along the hull where the unit takes another row, on either side."""
    cost, costs, losses = _axis(question, weights)
    hulls = hull.component_hulls(question.menu, costs, losses)
    spent = sum(costs[i] for i in selection)
    taken = question.menu.rows[selection[index]][place]
    visited = list(_visits(question, hulls, index, place))
    below = [(at, row) for at, row in visited if at < spent and row != taken]
    above = [(at, row) for at, row in visited if at > spent and row != taken]

    def change(at: int, row: int) -> Exchange:
        return Exchange(cost.name, cost.shown(at), question.table.rows[row])

    return (
        change(*below[-1]) if below else None,
        change(*above[0]) if above else None,
    )


def _visits(
    question: Question, hulls: Sequence[Sequence[hull.Vertex]], index: int, place: int
) -> list[tuple[int, int]]:
    """What the network spends and which row the unit takes, after every step along the hull."""
    menu = question.menu
    component = int(menu.component_of_alternative[menu.alternative_of[menu.options_of[index][0]]])

    def row_of(vertex: hull.Vertex) -> int:
        option = next(o for o in vertex.options if menu.class_of[o] == index)
        return menu.rows[option][place]

    row = row_of(hulls[component][0])
    found = []
    for spent, _, step in hull.walk(hulls):
        if step is not None and step.component == component:
            row = row_of(step.after)
        found.append((spent, row))
    return found


def _axis(question: Question, weights: _Prices) -> tuple[Measure, list[int], list[int]]:
    """The cost to walk along, and the loss with every other budget added at its price.

    Prices are taken as the exact fractions that their floats are, so that the sums stay integers.
    """
    menu, program = question.menu, question.program
    if question.minimizes_cost:
        return question.goal, list(program.goal), list(question.losses)
    costs = [m for m, cap in enumerate(question.caps) if cap.name not in DEGRADATIONS]
    spent = [weights.prices[m] * max(program.limits[m], 1) for m in costs]
    dearest = costs[spent.index(max(spent))]
    shares = [
        Fraction(0) if m == dearest else Fraction(price) for m, price in enumerate(weights.prices)
    ]
    whole = math.lcm(*(share.denominator for share in shares))
    losses = [goal * whole for goal in program.goal]
    for share, use in zip(shares, program.uses, strict=True):
        factor = share.numerator * (whole // share.denominator)
        losses = [loss + factor * u for loss, u in zip(losses, use, strict=True)]
    cost = question.caps[dearest].measure
    return cost, list(menu.spread(cost)), losses
