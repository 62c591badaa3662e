"""What can be ruled out before anything is solved: dominated options, and bounds from prices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csc_array

from bitwright.allocation.menu import Indices, Menu
from bitwright.allocation.solver.program import Program
from bitwright.allocation.solver.proof import Gaps
from bitwright.allocation.solver.scaled import Floats, Mask, Scaled, columns, wide


def drop_dominated(program: Program) -> Mask:
    """Options that no other of their cell matches or beats in the goal and in every use."""
    ranks = np.array([_ranks(values) for values in (program.goal, *program.uses)])
    kept = np.ones(ranks.shape[1], bool)
    starts = np.flatnonzero(np.diff(program.menu.cell_of, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], ranks.shape[1]], strict=True):
        own = ranks[:, start:stop]
        better = (own[:, :, None] <= own[:, None, :]).all(0)
        # Of equal options the first stays.
        equal = better & better.T
        better &= ~equal | np.tri(stop - start, k=-1, dtype=bool).T
        kept[start:stop] = ~better.any(0)
    return kept


def _ranks(values: Sequence[int]) -> Indices:
    """The order of integers of any size as small integers."""
    order = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return np.array([order[value] for value in values])


def alive(menu: Menu, kept: Mask) -> Mask | None:
    """The options whose whole alternative still has options; None where a component has none."""
    cells = np.bincount(menu.cell_of[kept], minlength=len(menu.class_of_cell)) > 0
    dead = np.zeros(len(menu.component_of_alternative), bool)
    dead[menu.alternative_of_cell[~cells]] = True
    if len(set(menu.component_of_alternative[~dead])) <= menu.component_of_alternative[-1]:
        return None
    return kept & ~dead[menu.alternative_of]


def relax_prices(program: Program, scaled: Scaled, options: Indices) -> Floats:
    """Multipliers of the budgets in the linear relaxation; zeros where it tells none.

    Any prices that are not negative give a valid bound, these the best one.
    """
    if len(options) == 1:  # linprog takes no single column
        return np.zeros(len(scaled.limits))
    ones, right = columns(program.menu, options)
    width = ones.shape[1]
    found = linprog(
        wide(scaled.goal[options], width),
        A_ub=csc_array(wide(scaled.uses[:, options], width)),
        b_ub=scaled.limits,
        A_eq=ones,
        b_eq=right,
        method="highs",
    )
    if found.status != 0:
        return np.zeros(len(scaled.limits))
    prices: Floats = np.maximum(-np.asarray(found.ineqlin.marginals), 0.0)
    return prices


def lagrangian(
    menu: Menu, goal: Floats, uses: Floats, limits: Floats, prices: Floats, kept: Mask
) -> Gaps:
    """The Lagrangian bound at these prices, and how far from it every choice leads.

    Equation: L(p) = sum_components min_alternative sum_cells min_option (goal + p use) - p limit.
    """
    value = np.where(kept, goal + prices @ uses, 1e300)
    cell = np.minimum.reduceat(value, np.flatnonzero(np.diff(menu.cell_of, prepend=-1)))
    alternative = np.bincount(menu.alternative_of_cell, weights=cell)
    first = np.flatnonzero(np.diff(menu.component_of_alternative, prepend=-1))
    component = np.minimum.reduceat(alternative, first)
    return Gaps(
        float(component.sum() - prices @ limits),
        (alternative - component[menu.component_of_alternative]).tolist(),
        np.where(kept, value - cell[menu.cell_of], np.inf).tolist(),
    )
