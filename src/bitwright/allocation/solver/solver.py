"""Solving a program to proven optimality with HiGHS, none of whose answers is taken on trust.

HiGHS works in floating point with tolerances. What it returns is summed again in Python's integers;
where it overran a limit by rounding, that answer and all that use no less are cut off and it is
asked again. What it calls optimal is gone through a second time in integers where that is quick.

Reference: Q. Huangfu, J. A. J. Hall, "Parallelizing the dual revised simplex method", Mathematical
Programming Computation 10 (2018), for the solver; scipy.optimize.milp is the way to it.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csc_array, vstack

from bitwright.allocation.menu import Indices, Selection
from bitwright.allocation.near import solve_near
from bitwright.allocation.solver.bounds import alive, drop_dominated, lagrangian, relax_prices
from bitwright.allocation.solver.dual import Dual
from bitwright.allocation.solver.hushed import hush_output
from bitwright.allocation.solver.program import (
    FEASIBLE,
    INFEASIBLE,
    OPTIMAL,
    UNKNOWN,
    Program,
    ProgramOutcome,
    cheapest,
)
from bitwright.allocation.solver.proof import Gaps, prove
from bitwright.allocation.solver.quadratic import solve_pairs
from bitwright.allocation.solver.scaled import GOAL_SIZE, Floats, Mask, Scaled, columns, scale, wide

# Beyond so many options a linear program takes longer than going through what is near its optimum.
_LARGE = 1_000
# So many options beyond one a cell are solved at once, those that the relaxation thinks best of;
# more only if these cannot be certified.
_SMALL = 30
# Answers that overran a limit and were cut off: first a few; if that is not enough, integers are
# tried; if that takes too long, many.
_CUTS = (3, 200)


def solve(program: Program, seconds: float = math.inf) -> ProgramOutcome:
    """The selection of least goal that holds every budget.

    A large program is solved on the options that the Lagrangian of its relaxation does not rule
    out: with prices p >= 0, L(p) = min_x sum (goal + p use) x - p limit bounds every selection from
    below, and an option whose reduced cost is r is in no selection better than L(p) + r. What was
    left out is thereby certified, or taken in and solved again.

    Args:
        program: what to solve.
        seconds: time limit.
    """
    deadline = time.monotonic() + seconds
    large = len(program.goal) > _LARGE
    if large and len(program.uses) == 1 and not program.pairs:
        near = solve_near(program, deadline)
        if near is not None:
            return near
    program = program.with_bars()
    if program.pairs:
        return solve_pairs(program, seconds)
    if any(limit < least for limit, least in zip(program.limits, program.least_uses, strict=True)):
        return ProgramOutcome(INFEASIBLE)
    if large and not program.uses:
        selection = cheapest(program)
        return ProgramOutcome(OPTIMAL, selection, float(program.value(selection)))
    scaled = scale(program)
    kept = alive(program.menu, drop_dominated(program) & scaled.fits)
    if kept is None:
        return ProgramOutcome(INFEASIBLE)
    if not program.uses:
        return _solve_on(program, scaled, kept, (deadline, 0))
    prices = _prices(program, scaled, kept)
    gaps = lagrangian(program.menu, scaled.goal, scaled.uses, scaled.limits, prices, kept)
    shown = tuple(
        float(p) * scaled.goal_unit / unit for p, unit in zip(prices, scaled.use_units, strict=True)
    )
    for cuts in _CUTS:
        found = _search(program, scaled, kept, gaps, (deadline, cuts))
        found = _check(program, scaled, gaps, found, prices)
        if found.status != UNKNOWN or time.monotonic() > deadline:
            break
    return replace(found, prices=shown)


def _prices(program: Program, scaled: Scaled, kept: Mask) -> Floats:
    """Multipliers of the budgets: by the linear relaxation, of large programs by cutting planes."""
    if len(program.goal) <= _LARGE:
        return relax_prices(program, scaled, np.flatnonzero(kept))
    dual = Dual(program.menu, scaled.goal, scaled.uses, scaled.limits, kept)
    return dual.prices()


def _search(
    program: Program, scaled: Scaled, kept: Mask, gaps: Gaps, until: tuple[float, int]
) -> ProgramOutcome:
    """Solve on options of small reduced cost, and on more until no other can be better."""
    reduced = np.asarray(gaps.option) + np.asarray(gaps.alternative)[program.menu.alternative_of]
    order = np.sort(reduced[kept])
    extra = _SMALL
    count = len(program.menu.class_of_cell) + extra
    while True:
        whole = count >= len(order)
        radius = math.inf if whole else float(order[count])
        found = _solve_on(program, scaled, kept & (reduced <= radius), until)
        if whole or found.status == UNKNOWN:
            return found
        extra *= 4
        count = len(program.menu.class_of_cell) + extra
        if found.selection is None:
            continue
        # Whatever takes an option outside is at least so far above the floor.
        outside = scaled.goal_offset + (gaps.floor + radius) * scaled.goal_unit
        value = program.value(found.selection)
        if value <= outside or found.status == FEASIBLE:
            return replace(found, bound=min(found.bound, outside))
        needed = (value - scaled.goal_offset) / scaled.goal_unit - gaps.floor
        # A poor answer asks for far too much; what a larger room holds asks for less.
        wanted = int(np.searchsorted(order, needed * (1 + 1e-9), side="right"))
        count = min(wanted, count)


def _check(
    program: Program, scaled: Scaled, gaps: Gaps, found: ProgramOutcome, prices: Floats
) -> ProgramOutcome:
    """The outcome after a second proof in integers, where that takes a moment only."""
    room = math.inf
    if found.selection is not None:
        value = program.value(found.selection)
        margin = 1e-9 * (GOAL_SIZE + abs(gaps.floor) + float(prices @ scaled.limits))
        room = (value - scaled.goal_offset) / scaled.goal_unit - gaps.floor + margin
    proof = prove(program.menu, (program.goal, program.uses, program.limits), gaps, room)
    if not proof.complete:
        return found
    best = proof.best or found.selection
    if best is None:
        return ProgramOutcome(INFEASIBLE)
    if found.selection is not None and program.value(best) >= program.value(found.selection):
        best = found.selection
    return ProgramOutcome(OPTIMAL, best, float(program.value(best)))


def _solve_on(
    program: Program, scaled: Scaled, kept: Mask, until: tuple[float, int]
) -> ProgramOutcome:
    """Solve on some of the options; the answer is counted again and repaired until it holds.

    Args:
        program, scaled: exactly, and for the solver.
        kept: the options.
        until: the time, and the number of answers to cut off, that end it.
    """
    deadline, cuts = until
    options = np.flatnonzero(kept)
    ones, right = columns(program.menu, options)
    width = ones.shape[1]
    goal = wide(scaled.goal[options], width)
    rows = csc_array(wide(scaled.uses[:, options], width))
    limits = scaled.limits
    bound = -math.inf
    for _ in range(cuts + 1):
        left = deadline - time.monotonic()
        if left <= 0:
            return ProgramOutcome(UNKNOWN, bound=bound)
        constraints = [LinearConstraint(ones, right, right)]
        if len(limits):
            constraints.append(LinearConstraint(rows, -np.inf, limits))
        limited = {"time_limit": left} if left < math.inf else {}
        with hush_output():
            found = milp(
                goal,
                integrality=np.ones(width),
                bounds=Bounds(0, 1),
                constraints=constraints,
                options={"mip_rel_gap": 0.0, **limited},
            )
        if found.status == 2:
            return ProgramOutcome(INFEASIBLE)
        if found.x is None:
            return ProgramOutcome(UNKNOWN, bound=bound)
        taken = options[found.x[: len(options)] > 0.5]
        if not program.menu.is_selection(taken):
            return ProgramOutcome(UNKNOWN, bound=bound)
        selection = program.menu.in_order(taken)
        dual = found.mip_dual_bound if found.mip_dual_bound is not None else -math.inf
        bound = scaled.goal_offset + float(dual) * scaled.goal_unit
        if program.holds(selection):
            status = OPTIMAL if found.status == 0 else FEASIBLE
            return ProgramOutcome(status, selection, bound)
        cut = _cut(program, selection, options)
        rows = vstack([rows, csc_array(wide(cut[None, :], width))])
        limits = np.append(limits, len(program.menu.classes) - 1.0)
    return ProgramOutcome(UNKNOWN, bound=bound)


def _cut(program: Program, selection: Selection, options: Indices) -> Floats:
    """Options that use no less of an overrun budget than the selection: not all can be taken.

    Every selection inside them overruns that budget too, so none that holds it is cut off.
    """
    over = next(
        m
        for m, (used, limit) in enumerate(zip(program.used(selection), program.limits, strict=True))
        if used > limit
    )
    use = program.uses[over]
    least = {int(program.menu.class_of[i]): use[i] for i in selection}
    classes = program.menu.class_of
    return np.array([float(use[i] >= least[int(classes[i])]) for i in options])
