"""Bits for every unit: the least loss under budgets of cost, or the least cost under one of loss.

    minimise   sum_l sum_c dL_l^c I_l^c      (or the named cost)
    such that  sum_l sum_c P_l^c I_l^c <= P  for every budget,   sum_c I_l^c = 1,  I binary

with choices c = (weight bits, input bits, points) of every unit l taken jointly, negative dL kept,
and tied units sharing what ties them. Solved to proven optimality; every budget is held in exact
integers, and the answer is never worse than the best uniform configuration that holds them.

Reference: Hubara et al., "Improving Post Training Neural Quantization: Layer-wise Calibration and
Integer Programming", arXiv:2006.10518, section 3.2, eq. 5.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bitwright.allocation.advice import (
    Attainable,
    Number,
    Relaxation,
    attainable,
    find_binding,
    relaxations,
)
from bitwright.allocation.budget import Budget
from bitwright.allocation.cost import UserTable
from bitwright.allocation.menu import Selection
from bitwright.allocation.question import NO_TABLES, Question, ask
from bitwright.allocation.solver.greedy import ACCURACY, COMPRESSION, greedy
from bitwright.allocation.solver.program import (
    FEASIBLE,
    INFEASIBLE,
    OPTIMAL,
    UNKNOWN,
    ProgramOutcome,
)
from bitwright.allocation.solver.solver import solve
from bitwright.allocation.table import Row, Table
from bitwright.errors import RecipeError, unknown
from bitwright.graph.choice import Choice
from bitwright.recipe.names import SOLVERS

IP = "ip"
SECONDS = 60.0
# Advice is worth less than the allocation: a large table with several budgets gets what fits.
_ADVICE_SECONDS = 1.0
_TIME_UP = "time was up; give more (--seconds), or loosen a budget"


@dataclass(frozen=True)
class Spent:
    """A budget and what the allocation uses of it.

    Attributes:
        name: of the measure; unit: what its numbers count; asked: as the user wrote it.
        limit, used: in that unit; integers where the measure is one.
        whole: of the float network, None where not known.
        binding: whether the goal would be better without this budget; None where not looked for.
        price: fall of the goal per unit that the limit is raised, in the linear relaxation.
    """

    name: str
    unit: str
    asked: str
    limit: Number
    used: Number | None = None
    whole: Number | None = None
    binding: bool | None = None
    price: float = 0.0


@dataclass(frozen=True)
class Uniform:
    """The best configuration that gives all free units the same choice and holds the budgets."""

    choice: Choice
    loss: float
    objective: Number
    used: Mapping[str, Number]


@dataclass(frozen=True)
class Allocation:
    """Bits of every unit with their certificate.

    Attributes:
        solver: ip or a greedy rule.
        status: optimal (proven), feasible (holds the budgets, optimality not proven), infeasible
            (proven), unknown (nothing found: time was up, or a greedy rule came to its end).
        minimizes: the name of the goal.
        objective: the goal reached; bound: no allocation reaches less; gap: their difference
            relative to the objective.
        loss, loss_stderr: predicted change of the loss and its standard error, where every choice
            states one.
        budgets: what is used of each.
        rows: the table's row of every unit.
        uniform: the best uniform configuration of no greater cost; None where none holds.
        relaxations: the cheapest first.
        infeasible: how low each budget could go, where they cannot be held.
        note: what should be known of how the answer came about.
    """

    solver: str
    status: str
    minimizes: str
    budgets: tuple[Spent, ...]
    objective: Number | None = None
    bound: float | None = None
    gap: float | None = None
    loss: float | None = None
    loss_stderr: float | None = None
    rows: Mapping[str, Row] | None = None
    uniform: Uniform | None = None
    relaxations: tuple[Relaxation, ...] = ()
    infeasible: tuple[Attainable, ...] = ()
    note: str = ""

    @property
    def choices(self) -> dict[str, Choice]:
        """The choice of every unit; empty where there is none."""
        return {unit: row.choice for unit, row in (self.rows or {}).items()}


def allocate(
    table: Table,
    budgets: str | Iterable[str] | Iterable[Budget],
    *,
    minimize: str = "",
    solver: str = IP,
    tables: Mapping[str, UserTable] = NO_TABLES,
    seconds: float = SECONDS,
    advise: bool = True,
) -> Allocation:
    """Choose bits for every unit of a table.

    Args:
        table: measured choices; its pairwise terms, where it has any, are counted.
        budgets: such as "size<=0.13 and bops<=0.05", or several.
        minimize: the cost to make small under a budget of the loss or the accuracy drop.
        solver: ip, greedy-accuracy or greedy-compression.
        tables: costs of the user's own, by name.
        seconds: time limit of the whole.
        advise: also find binding budgets and the cheapest relaxation.

    Returns:
        The allocation; `status` says what is proven. Infeasible is a status, not an error.

    Raises:
        RecipeError: an unknown solver, cost or ill-written budget.
        RunDirectoryError: the table does not hold what is asked for.
    """
    if solver not in SOLVERS:
        raise RecipeError(unknown("solver", solver, SOLVERS, "--solver"))
    deadline = time.monotonic() + seconds
    question = ask(table, budgets, minimize, tables)
    if solver != IP:
        return _greedy(question, solver, deadline)
    return answer(question, best(question, deadline), deadline, advise)


def best(question: Question, deadline: float = math.inf) -> ProgramOutcome:
    """The selection of least goal; of those with the same least cost, the one of least loss.

    Where time was up, the best of what the solver, the uniform configurations and the greedy rules
    found.
    """
    program = question.program
    found = solve(program, deadline - time.monotonic())
    if found.status in (FEASIBLE, UNKNOWN):
        found = _fallback(question, found)
    if found.selection is None or not question.minimizes_cost:
        return found
    second = question.least_loss(program.value(found.selection))
    least_loss = solve(second, max(deadline - time.monotonic(), 0.01)).selection
    return ProgramOutcome(found.status, least_loss or found.selection, found.bound, found.prices)


def _fallback(question: Question, found: ProgramOutcome) -> ProgramOutcome:
    program = question.program
    candidates = [
        selection
        for selection in (
            found.selection,
            *question.menu.uniforms().values(),
            greedy(question, ACCURACY),
            greedy(question, COMPRESSION),
        )
        if selection is not None and program.holds(selection)
    ]
    if not candidates:
        return found
    return ProgramOutcome(FEASIBLE, min(candidates, key=program.value), found.bound, found.prices)


def _greedy(question: Question, rule: str, deadline: float) -> Allocation:
    selection = greedy(question, rule)
    if selection is not None:
        return answer(question, ProgramOutcome(FEASIBLE, selection), deadline, False, rule)
    exact = best(question, deadline)
    if exact.selection is None:
        return answer(question, exact, deadline, False, rule)
    return Allocation(
        rule,
        UNKNOWN,
        question.goal.name,
        _spend(question, None, (), ()),
        uniform=_uniform(question),
        note=f"{rule} finds none, but there is one: take --solver ip",
    )


def answer(
    question: Question,
    found: ProgramOutcome,
    deadline: float,
    advise: bool = True,
    solver: str = IP,
) -> Allocation:
    """An outcome in the words of the question, with its certificate and advice."""
    selection = found.selection
    if selection is None:
        return Allocation(
            solver,
            found.status,
            question.goal.name,
            _spend(question, None, (), ()),
            infeasible=attainable(question, deadline) if found.status == INFEASIBLE else (),
            note="" if found.status == INFEASIBLE else _TIME_UP,
        )
    value = question.program.value(selection)
    bound = min(found.bound, float(value))
    deadline = min(deadline, time.monotonic() + _ADVICE_SECONDS)
    binds = find_binding(question, value, deadline) if advise else ()
    rows = question.menu.rows_of(selection)
    objective = question.goal.shown(value)
    return Allocation(
        solver,
        found.status,
        question.goal.name,
        _spend(question, selection, found.prices, binds),
        objective=objective,
        bound=None if bound == -math.inf else min(bound / question.goal.scale, objective),
        gap=_gap(value, bound),
        loss=question.loss_of(selection),
        loss_stderr=_stderr(rows),
        rows=rows,
        uniform=_uniform(question),
        relaxations=relaxations(question, value, binds, deadline) if any(binds) else (),
        note=_note(found, binds, question),
    )


def _note(found: ProgramOutcome, binds: tuple[bool | None, ...], question: Question) -> str:
    if found.status == FEASIBLE and found.bound > -math.inf:
        return "time was up before optimality was proven; the gap says how far it may be"
    together = len(binds) > 1 and set(binds) == {False} and found.selection is not None
    if together and question.program.value(found.selection or ()) > question.program.least_goal:
        return "the budgets bind together: raising one of them alone changes nothing"
    return ""


def _gap(value: int, bound: float) -> float | None:
    if bound == -math.inf:
        return None
    if value <= bound:
        return 0.0
    return (value - bound) / abs(value) if value else math.inf


def _stderr(rows: Mapping[str, Row]) -> float | None:
    """Of the predicted loss, the units' errors taken as independent; kept units have none."""
    squares = [
        None if row.loss_stderr is None and row.loss_delta else (row.loss_stderr or 0.0) ** 2
        for row in rows.values()
    ]
    known = [square for square in squares if square is not None]
    return math.sqrt(sum(known)) if len(known) == len(squares) and any(known) else None


def _spend(
    question: Question,
    selection: Selection | None,
    prices: tuple[float, ...],
    binds: tuple[bool | None, ...],
) -> tuple[Spent, ...]:
    used = None if selection is None else question.program.used(selection)
    found = []
    for m, cap in enumerate(question.caps):
        measure = cap.measure
        price = prices[m] * measure.scale / question.goal.scale if prices else 0.0
        found.append(
            Spent(
                cap.name,
                measure.unit,
                cap.text,
                measure.shown(cap.limit),
                None if used is None else measure.shown(used[m]),
                None if measure.whole is None else measure.shown(measure.whole),
                binds[m] if binds else None,
                price,
            )
        )
    return tuple(found)


def _uniform(question: Question) -> Uniform | None:
    program = question.program
    held = [
        (program.value(s), question.loss_of(s), s, choice)
        for choice, s in question.menu.uniforms().items()
        if program.holds(s)
    ]
    if not held:
        return None
    value, loss, selection, choice = min(held, key=lambda h: h[:2])
    return Uniform(
        choice,
        loss,
        question.goal.shown(value),
        {
            cap.name: cap.measure.shown(used)
            for cap, used in zip(question.caps, program.used(selection), strict=True)
        },
    )


__all__ = [
    "FEASIBLE",
    "INFEASIBLE",
    "OPTIMAL",
    "SOLVERS",
    "UNKNOWN",
    "Allocation",
    "Spent",
    "Uniform",
    "allocate",
    "answer",
    "best",
]
