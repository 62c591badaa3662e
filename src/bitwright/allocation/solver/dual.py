"""The Lagrangian of a program in floating point: bounds and prices without a linear program.

    L(p) = sum_components min_alternative sum_cells min_option (goal + p use) - p limit

is concave and piecewise linear. Its greatest value is that of the linear relaxation, and any p >= 0
bounds every selection from below, so a price that is not quite the best is still a valid one.

References: Everett, "Generalized Lagrange multiplier method", Operations Research 11 (1963);
Kelley, "The cutting-plane method for solving convex programs", J. SIAM 8 (1960).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.optimize import linprog

from bitwright.allocation.menu import Indices, Menu, starts
from bitwright.allocation.solver.program import Program
from bitwright.allocation.solver.proof import Gaps
from bitwright.allocation.solver.scaled import GOAL_SIZE, Floats, Mask

# Relative: what is left of the bound when prices are good enough.
_FINE = 1e-12
_ROUNDS = 200
# Prices of several budgets are looked for below this many times those of each budget alone.
_BOX, _WIDEST = 4.0, 1e9


@dataclass(frozen=True, eq=False)
class Line:
    """One number of each option, as floats from 0 to 1 above the least of its class.

    Attributes:
        above: of each option; times `unit` plus `offset` (of all classes) it is the exact number.
    """

    above: Floats
    unit: int
    offset: int


@lru_cache(maxsize=4)
def line(menu: Menu, values: tuple[int, ...]) -> Line:
    """The line of exact numbers; kept, since one row is asked of under many limits."""
    order = np.argsort(menu.class_of, kind="stable")
    every = np.array(values, dtype=object)
    least = np.minimum.reduceat(every[order], starts(menu.class_of[order]))
    above = (every - least[menu.class_of]).tolist()
    unit = max(*above, 1)
    # Integers of any size are divided exactly; floats would overflow first.
    return Line(np.array([a / unit for a in above]), unit, sum(least.tolist()))


@dataclass(frozen=True, eq=False)
class Dual:
    """The Lagrangian of a program on the options that may be taken and fit alone.

    Attributes:
        menu: classes and ties.
        goal, uses: of each option, above the least of its class; the goal up to `GOAL_SIZE`.
        limits: in the units of the uses.
        kept: options that can be taken.
    """

    menu: Menu
    goal: Floats
    uses: Floats
    limits: Floats
    kept: Mask

    @staticmethod
    def of(program: Program) -> Dual:
        """The Lagrangian of a program without pairs."""
        lines = [line(program.menu, use) for use in program.uses]
        kept = np.ones(len(program.goal), bool)
        kept[list(program.barred)] = False
        limits = []
        for own, limit in zip(lines, program.limits, strict=True):
            limits.append((limit - own.offset) / own.unit)
            kept &= own.above <= limits[-1] * (1 + _FINE) + _FINE
        return Dual(
            program.menu,
            line(program.menu, program.goal).above * GOAL_SIZE,
            np.array([own.above for own in lines]).reshape(len(lines), len(program.goal)),
            np.array(limits),
            kept,
        )

    @cached_property
    def _starts(self) -> tuple[Indices, Indices, Indices]:
        """Where cells, alternatives and components begin."""
        menu = self.menu
        return (
            starts(menu.cell_of),
            starts(menu.alternative_of_cell),
            starts(menu.component_of_alternative),
        )

    def _levels(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """The least of every cell, alternative and component."""
        cells, alternatives, components = self._starts
        of_cell = np.minimum.reduceat(values, cells)
        of_alternative = np.add.reduceat(of_cell, alternatives)
        return of_cell, of_alternative, np.minimum.reduceat(of_alternative, components)

    def _values(self, prices: Floats) -> Floats:
        return np.where(self.kept, self.goal + prices @ self.uses, np.inf)

    def cut(self, prices: Floats) -> tuple[float, Floats]:
        """The goal of the selection that these prices choose, and how far it overruns the limits.

        L is at most goal + p over at every p, and equal to it at these prices.
        """
        menu = self.menu
        values = self._values(prices)
        of_cell, of_alternative, of_component = self._levels(values)
        picked = np.flatnonzero(values == of_cell[menu.cell_of])
        picked = picked[starts(menu.cell_of[picked])]
        least = of_component[menu.component_of_alternative]
        best = np.flatnonzero(of_alternative == least)
        best = best[starts(menu.component_of_alternative[best])]
        taken = picked[np.isin(menu.alternative_of_cell, best)]
        return float(self.goal[taken].sum()), self.uses[:, taken].sum(1) - self.limits

    def gaps(self, prices: Floats) -> Gaps:
        """The bound at these prices, and how far from it every choice leads."""
        values = self._values(prices)
        of_cell, of_alternative, of_component = self._levels(values)
        with np.errstate(invalid="ignore"):
            alternative = of_alternative - of_component[self.menu.component_of_alternative]
            option = np.where(self.kept, values - of_cell[self.menu.cell_of], np.inf)
        floor = float(of_component.sum() - prices @ self.limits)
        return Gaps(floor, np.nan_to_num(alternative, nan=np.inf).tolist(), option.tolist())

    def prices(self) -> Floats:
        """Prices at which the bound is greatest, or nearly."""
        if len(self.limits) == 1:
            return np.array([self._price(0)])
        return self._several()

    def _price(self, m: int) -> float:
        """The price of one budget with the others free: secants of a concave function."""
        unit = np.zeros(len(self.limits))
        unit[m] = 1.0
        goal, over = self.cut(unit * 0.0)
        if over[m] <= 0:
            return 0.0
        below = goal, float(over[m])
        above = self._cheapest(m)
        price = 0.0
        for _ in range(_ROUNDS):
            if above[1] >= below[1]:  # nothing fits: no price is too high, and this one will do
                return price
            price = (above[0] - below[0]) / (below[1] - above[1])
            reached = below[0] + price * below[1]
            goal, over = self.cut(unit * price)
            if goal + price * float(over[m]) >= reached - _FINE * (1 + abs(reached)):
                break
            if over[m] > 0:
                below = goal, float(over[m])
            else:
                above = goal, float(over[m])
        return max(price, 0.0)

    def _cheapest(self, m: int) -> tuple[float, float]:
        """Goal and overrun of the selection that uses least: goal and use change places."""
        swapped = Dual(self.menu, self.uses[m], self.goal[None, :], np.zeros(1), self.kept)
        use, goal = swapped.cut(np.full(1, _FINE / GOAL_SIZE))
        return float(goal[0]), use - float(self.limits[m])

    def _several(self) -> Floats:
        """Cutting planes: the best prices under all cuts so far are cut again."""
        count = len(self.limits)
        alone = np.array([self._price(m) for m in range(count)])
        box = _BOX * max(float(alone.max()), _FINE)
        widest = box * _WIDEST
        cuts: list[tuple[float, Floats]] = []
        best, reached = np.zeros(count), -np.inf
        tried: Sequence[Floats] = [np.zeros(count), *np.diag(alone)]
        for _ in range(_ROUNDS):
            for prices in tried:
                goal, over = self.cut(prices)
                cuts.append((goal, over))
                value = goal + float(prices @ over)
                if value > reached:
                    best, reached = prices, value
            prices, bound = _highest(cuts, box)
            if bound - reached > 1e-9 * (1 + abs(bound)):
                tried = [prices]
            elif box < widest and float(best.max()) > 0.99 * box:
                box, tried = box * 10, []
            else:
                break
        return best


def _highest(cuts: Sequence[tuple[float, Floats]], box: float) -> tuple[Floats, float]:
    """The prices at which the least of all cuts is highest, and how high it is there."""
    count = len(cuts[0][1])
    found = linprog(
        np.array([-1.0, *np.zeros(count)]),
        A_ub=np.array([[1.0, *-over] for _, over in cuts]),
        b_ub=np.array([goal for goal, _ in cuts]),
        bounds=[(None, None), *[(0.0, box)] * count],
        method="highs",
    )
    if found.status != 0:
        return np.zeros(count), -np.inf
    return np.maximum(found.x[1:], 0.0), -float(found.fun)
