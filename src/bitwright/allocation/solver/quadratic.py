"""Programs with products of options, made linear for HiGHS.

A product of binaries is exact in a linear program once it is a variable of its own. For every two
classes with pairs between them, y is a joint distribution over their options whose margins are x:

    sum_j y_ij = x_i,     sum_i y_ij = x_j,     sum_ij y_ij = 1,     y >= 0

which for binary x leaves y_ij = x_i x_j alone, and relaxes much tighter than a bound on each
product would. Options that are in no pair share one row of it.

Reference: W. P. Adams, H. D. Sherali, "A tight linearization and an algorithm for zero-one
quadratic programming problems", Management Science 32 (1986).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from bitwright.allocation.menu import Menu
from bitwright.allocation.solver.hushed import hush_output
from bitwright.allocation.solver.program import (
    FEASIBLE,
    GOAL,
    INFEASIBLE,
    OPTIMAL,
    UNKNOWN,
    PairTerm,
    Program,
    ProgramOutcome,
)
from bitwright.allocation.solver.scaled import GOAL_SIZE, ROW_SIZE, Floats, columns, from_least

_CUTS = 100


@dataclass(frozen=True, eq=False)
class _Linear:
    """Rows over options, alternatives and products."""

    goal: Floats
    offset: int
    unit: float
    uses: csr_array
    limits: Floats
    equal: csr_array
    right: Floats
    whole: Floats


def solve_pairs(program: Program, seconds: float) -> ProgramOutcome:
    """The selection of least goal that holds every budget, products counted.

    Args:
        program: with pairs.
        seconds: time limit.
    """
    deadline = time.monotonic() + seconds
    linear = _linearise(program)
    options = len(program.goal)
    uses, limits = linear.uses, linear.limits
    bound = -math.inf
    for _ in range(_CUTS):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        limited = {"time_limit": left} if left < math.inf else {}
        with hush_output():
            found = milp(
                linear.goal,
                integrality=linear.whole,
                bounds=Bounds(0, 1),
                constraints=[
                    LinearConstraint(linear.equal, linear.right, linear.right),
                    LinearConstraint(uses, -np.inf, limits),
                ],
                options={"mip_rel_gap": 0.0, **limited},
            )
        if found.status == 2:
            return ProgramOutcome(INFEASIBLE)
        if found.x is None:
            break
        taken = np.flatnonzero(found.x[:options] > 0.5)
        if not program.menu.is_selection(taken):
            break
        selection = program.menu.in_order(taken)
        dual = found.mip_dual_bound if found.mip_dual_bound is not None else -math.inf
        bound = linear.offset + float(dual) * linear.unit
        if program.holds(selection):
            return ProgramOutcome(OPTIMAL if found.status == 0 else FEASIBLE, selection, bound)
        # Overrun by rounding: this selection alone is ruled out, for with products of either sign
        # nothing can be said of others.
        cut = np.zeros(len(linear.goal))
        cut[list(selection)] = 1.0
        uses = vstack([uses, csr_array(cut[None, :])])
        limits = np.append(limits, len(selection) - 1.0)
    return ProgramOutcome(UNKNOWN, bound=bound)


def _linearise(program: Program) -> _Linear:
    menu = program.menu
    products = _products(menu, program.pairs)
    ones, right = columns(menu, np.arange(len(program.goal)))
    start = ones.shape[1]
    width = start + len(products)
    margins, margin_right = _margins(menu, products, start, width)
    base = csr_array(ones)
    base.resize((ones.shape[0], width))
    goal, offset = from_least(menu, _alone(program, program.goal, GOAL))
    goal_line = _line(goal, _steps(program.pairs, GOAL, products), width, start)
    unit = max(map(abs, goal_line), default=0) / GOAL_SIZE or 1.0
    uses, limits = [], []
    for m, use in enumerate(program.uses):
        above, least = from_least(menu, _alone(program, use, m))
        line = _line(above, _steps(program.pairs, m, products), width, start)
        scaled, limit = _scale_row(line, program.limits[m] - least)
        uses.append(scaled)
        limits.append(limit)
    return _Linear(
        np.array([v / unit for v in goal_line]),
        offset,
        unit,
        csr_array(np.array(uses).reshape(len(uses), width)),
        np.array(limits),
        vstack([base, margins]),
        np.concatenate([right, margin_right]),
        np.concatenate([np.ones(start), np.zeros(len(products))]),
    )


def _alone(program: Program, values: Sequence[int], row: int) -> list[int]:
    """A row's values with the pairs of an option with itself, which tied units give."""
    found = list(values)
    for pair in program.pairs:
        if pair.row == row and pair.first == pair.second:
            found[pair.first] += pair.steps
    return found


def _scale_row(line: Sequence[int], room: int) -> tuple[Floats, float]:
    """A row and its limit at a size that the solver's tolerances suit."""
    divisor = math.gcd(*line) or 1
    room //= divisor
    negative = sum(v // divisor for v in line if v < 0)
    # What alone overruns even with all that is negative may be as little too much as can be seen.
    most = max(room - negative, 0) + max(1, abs(room) // 10)
    shrink = max(1.0, max(abs(room), most) / ROW_SIZE)
    return np.array([min(v // divisor, most) / shrink for v in line]), room / shrink


def _line(
    options: Sequence[int], products: dict[tuple[int, int], int], width: int, start: int
) -> list[int]:
    """One row over all columns, in exact steps."""
    line = [0] * width
    line[: len(options)] = options
    for place, steps in enumerate(products.values()):
        line[start + place] = steps
    return line


def _products(menu: Menu, pairs: Sequence[PairTerm]) -> list[tuple[int, int]]:
    """The columns of y: every option with a pair, and -1 - class for the rest of a class.

    In order of the pairs of classes.
    """
    sides: dict[tuple[int, int], tuple[dict[int, None], dict[int, None]]] = {}
    for pair in pairs:
        if pair.first == pair.second:
            continue
        key = int(menu.class_of[pair.first]), int(menu.class_of[pair.second])
        first, second = sides.setdefault(key, ({}, {}))
        first[pair.first] = None
        second[pair.second] = None
    return [
        (a, b)
        for (one, other), (first, second) in sides.items()
        for a in (*first, -1 - one)
        for b in (*second, -1 - other)
    ]


def _steps(
    pairs: Sequence[PairTerm], row: int, products: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], int]:
    found = dict.fromkeys(products, 0)
    for pair in pairs:
        if pair.row == row and pair.first != pair.second:
            found[pair.first, pair.second] += pair.steps
    return found


def _margins(
    menu: Menu, products: Sequence[tuple[int, int]], start: int, width: int
) -> tuple[csr_array, Floats]:
    """Rows that tie y to x: a row each option and pair of classes, and one for their sum."""
    rows: dict[tuple[int, int, int], dict[int, float]] = {}
    right: dict[tuple[int, int, int], float] = {}
    for place, (a, b) in enumerate(products):
        one, other = (int(menu.class_of[o]) if o >= 0 else -1 - o for o in (a, b))
        for option in (a, b):
            if option >= 0:
                key = one, other, option
                rows.setdefault(key, {option: -1.0})[start + place] = 1.0
                right[key] = 0.0
        whole = one, other, -1
        rows.setdefault(whole, {})[start + place] = 1.0
        right[whole] = 1.0
    columns_of = [column for row in rows.values() for column in row]
    values = [value for row in rows.values() for value in row.values()]
    ends = np.cumsum([0, *(len(row) for row in rows.values())])
    matrix = csr_array((values, columns_of, ends), shape=(len(rows), width))
    return matrix, np.array(list(right.values()))
