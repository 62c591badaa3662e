"""A program in floating point, for a solver that knows no other numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array

from bitwright.allocation.menu import Indices, Menu
from bitwright.allocation.solver.program import Program

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# The solver's tolerances are absolute, about 1e-6: rows and goals far larger make them fine, and
# rows that are too large make its presolve err (see `proof`).
ROW_SIZE, GOAL_SIZE = 1e3, 1e5


@dataclass(frozen=True, eq=False)
class Scaled:
    """A program in floating point: every class measured from its least value.

    Differences within a class are taken in integers before anything is rounded, and a row is
    divided by the greatest divisor of its numbers, so that most rows stay integers.
    """

    goal: Floats
    goal_offset: int
    goal_unit: float
    uses: Floats
    limits: Floats
    use_units: tuple[float, ...]
    fits: Mask


def from_least(menu: Menu, values: Sequence[int]) -> tuple[list[int], int]:
    """Values less the least of their class, and what all the classes' least ones sum to."""
    least = [min(values[i] for i in options) for options in menu.options_of]
    classes = menu.class_of.tolist()
    return [v - least[c] for v, c in zip(values, classes, strict=True)], sum(least)


def scale(program: Program) -> Scaled:
    """Rows and goal at sizes that the solver's tolerances suit."""
    menu = program.menu
    goal, offset = from_least(menu, program.goal)
    goal_unit = max(goal, default=0) / GOAL_SIZE or 1.0
    rows, limits, units = [], [], []
    fits = np.ones(len(goal), bool)
    for use, limit in zip(program.uses, program.limits, strict=True):
        above, least = from_least(menu, use)
        room = limit - least
        fits &= np.array([a <= room for a in above])
        divisor = math.gcd(*(a for a in above if a <= room)) or 1
        room //= divisor
        # Beyond this size the row is no longer whole; what it lets through is found by counting.
        shrink = max(1.0, room / ROW_SIZE)
        rows.append([a / divisor / shrink if a <= room * divisor else 0.0 for a in above])
        limits.append(room / shrink)
        units.append(divisor * shrink)
    return Scaled(
        np.array([g / goal_unit for g in goal]),
        offset,
        goal_unit,
        np.array(rows).reshape(len(rows), len(goal)),
        np.array(limits),
        tuple(units),
        fits,
    )


def columns(menu: Menu, options: Indices) -> tuple[csc_array, Floats]:
    """Rows of "one option a cell, one alternative a component" over options, then alternatives.

    Where a component has one alternative that is taken anyway and gets no column.
    """
    alternatives = np.bincount(menu.component_of_alternative)
    free = np.flatnonzero(alternatives[menu.component_of_alternative] > 1)
    column = np.full(len(menu.component_of_alternative), -1)
    column[free] = len(options) + np.arange(len(free))
    cells = np.arange(len(menu.class_of_cell))
    of_cell = column[menu.alternative_of_cell]
    tied = of_cell >= 0
    components, row_of = np.unique(menu.component_of_alternative[free], return_inverse=True)
    rows = np.concatenate([menu.cell_of[options], cells[tied], len(cells) + row_of])
    columns = np.concatenate([np.arange(len(options)), of_cell[tied], column[free]])
    values = np.concatenate([np.ones(len(options)), -np.ones(int(tied.sum())), np.ones(len(free))])
    shape = (len(cells) + len(components), len(options) + len(free))
    right = np.concatenate([np.where(tied, 0.0, 1.0), np.ones(len(components))])
    return coo_array((values, (rows, columns)), shape=shape).tocsc(), right


def wide(values: Floats, width: int) -> Floats:
    """Rows over options, with nothing for the columns of alternatives."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])])
