"""What holds an allocation back: binding budgets, the cheapest way on, and what is attainable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitwright.allocation.cost import Measure
from bitwright.allocation.menu import make_menu
from bitwright.allocation.question import Question
from bitwright.allocation.solver.program import OPTIMAL, Program, ProgramOutcome
from bitwright.allocation.solver.solver import solve
from bitwright.allocation.table import make_table

Number = int | float
# A step of this share of what is still to be gained counts as better; less is noise.
_NOTABLE = 1000
_SHOWN = 5


@dataclass(frozen=True)
class Relaxation:
    """One budget raised just enough for the next better solution.

    Attributes:
        name: of the budget.
        limit: the raised limit, in the measure's unit; `raised` is the difference.
        objective: what the goal becomes; `gain` is by how much it falls.
        proven: no smaller raise admits a better solution.
    """

    name: str
    limit: Number
    raised: Number
    objective: Number
    gain: Number
    proven: bool


@dataclass(frozen=True)
class Attainable:
    """How low one budget could go.

    Attributes:
        name: of the budget; limit: what was asked.
        least: the least attainable with the other budgets held; None where those alone are too
            tight.
        alone: the least attainable with no other budget.
        untied: the least attainable alone if nothing were tied; None where nothing is.
        kept: units with one choice and what they use, the largest first.
        share: what `least` (else `alone`) is of float; None where float is not known.
    """

    name: str
    unit: str
    limit: Number
    least: Number | None
    alone: Number | None
    untied: Number | None
    kept: tuple[tuple[str, str, Number], ...]
    share: float | None


def find_binding(question: Question, value: int, deadline: float) -> tuple[bool | None, ...]:
    """Of each budget, whether the goal would be better without it; None where time was up."""
    program = question.program
    if len(program.limits) == 1 and not program.pairs:
        return (value > program.least_goal,)
    found: list[bool | None] = []
    for m in range(len(program.limits)):
        freed = solve(program.without(m), _count_seconds_left(deadline))
        better = freed.selection is not None and program.value(freed.selection) < value
        found.append(True if better else False if freed.status == OPTIMAL else None)
    return tuple(found)


def relaxations(
    question: Question, value: int, binds: Sequence[bool | None], deadline: float
) -> tuple[Relaxation, ...]:
    """The next better solution behind each binding budget, the cheapest raise first.

    Equation: for budget m, the least use_m over all selections that hold the other budgets and have
    a goal below the present one (by a thousandth of what is left to gain); then the least goal at
    that use.
    """
    found = []
    for m, holds_back in enumerate(binds):
        raised = _raise(question, value, m, deadline) if holds_back else None
        if raised is not None:
            found.append(raised)
    return tuple(sorted(found, key=lambda r: r.raised / (abs(r.limit) or 1)))


def _raise(question: Question, value: int, m: int, deadline: float) -> Relaxation | None:
    program = question.program
    step = max(1, (value - program.least_goal) // _NOTABLE)
    next_one = solve(program.below(value - step).towards(m), _count_seconds_left(deadline))
    if next_one.selection is None:
        return None
    limit = program.used(next_one.selection)[m]
    limits = tuple(limit if i == m else old for i, old in enumerate(program.limits))
    best = solve(replace(program, limits=limits), _count_seconds_left(deadline))
    reached = program.value(best.selection or next_one.selection)
    measure, goal = question.caps[m].measure, question.goal
    return Relaxation(
        measure.name,
        measure.shown(limit),
        measure.shown(limit - program.limits[m]),
        goal.shown(reached),
        goal.shown(value - reached),
        next_one.status == OPTIMAL and best.status == OPTIMAL,
    )


def attainable(question: Question, deadline: float) -> tuple[Attainable, ...]:
    """For budgets that cannot all be held: how low each could go, and what stands in the way."""
    untied = _untie(question)
    return tuple(_attainable(question, m, untied[m], deadline) for m in range(len(question.caps)))


def _attainable(question: Question, m: int, untied: int | None, deadline: float) -> Attainable:
    program, cap = question.program, question.caps[m]
    towards = program.towards(m)
    least = _least_use(program, m, solve(towards, _count_seconds_left(deadline)))
    alone = least
    if len(program.limits) > 1:
        free = towards
        while free.limits:
            free = free.without(0)
        alone = _least_use(program, m, solve(free, _count_seconds_left(deadline)))
    lowest = alone if least is None else least
    shown, whole = cap.measure.shown, cap.measure.whole
    return Attainable(
        cap.name,
        cap.measure.unit,
        shown(cap.limit),
        None if least is None else shown(least),
        None if alone is None else shown(alone),
        None if untied is None else shown(untied),
        _list_kept(question, cap.measure),
        lowest / whole if whole and lowest is not None else None,
    )


def _least_use(program: Program, m: int, found: ProgramOutcome) -> int | None:
    return None if found.selection is None else program.used(found.selection)[m]


def _count_seconds_left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.01)


def _untie(question: Question) -> tuple[int | None, ...]:
    """The least of each budget if the groups were not there; None where there are none."""
    table = question.table
    if not any(row.group for row in table.rows):
        return tuple(None for _ in question.caps)
    rows = [replace(row, group="") for row in (*table.rows, *table.references)]
    menu = make_menu(make_table(rows, table.place))
    # Rows keep their order, unit by unit, so the steps of the measures still fit them.
    return tuple(Program(menu, menu.spread(cap.measure)).least_goal for cap in question.caps)


def _list_kept(question: Question, measure: Measure) -> tuple[tuple[str, str, Number], ...]:
    table = question.table
    alone = [(span[0], unit) for unit, span in table.spans.items() if len(span) == 1]
    ordered = sorted(alone, key=lambda pair: -measure.steps[pair[0]])
    return tuple(
        (unit, str(table.rows[row].choice), measure.shown(measure.steps[row]))
        for row, unit in ordered[:_SHOWN]
        if measure.steps[row]
    )
