"""Pairwise terms: what two chosen units add to a measure together, beyond the sum of each alone.

    P = sum_l P_l^{c_l} + sum_(l,k) q_lk^{c_l c_k}

For the loss q is measured (`interaction`); for the latency it is what a border between quantised
and float units adds (`latency`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from bitwright.allocation.cost import Measure, exact_steps
from bitwright.allocation.menu import Menu
from bitwright.allocation.table import Chosen, Table, Terms
from bitwright.errors import RecipeError, unknown
from bitwright.graph.choice import Choice

# (option, option, steps) that the two add where both are taken.
Corrections = tuple[tuple[int, int, int], ...]


def terms_of(measured: Mapping[tuple[str, str], Mapping[tuple[Choice, Choice], float]]) -> Terms:
    """Terms listed by pair of units, as `interaction` measures them, one by one."""
    return {
        ((first, a), (second, b)): delta
        for (first, second), deltas in measured.items()
        for (a, b), delta in deltas.items()
    }


def correct_choice(menu: Menu, measure: Measure, terms: Terms) -> tuple[Measure, Corrections]:
    """A measure in steps that its terms are whole numbers of, and the steps of pairs of options.

    Args:
        menu: what is chosen from.
        measure: of single units.
        terms: what two chosen units add to it together.

    Raises:
        RecipeError: a term names a unit or a choice that the table has not, or one unit twice.
    """
    for pair in terms:
        _check(menu.table, pair)
    steps, scale = exact_steps(list(terms.values()))
    finest = math.lcm(scale, measure.scale)
    found: dict[tuple[int, int], int] = {}
    for (first, second), value in zip(terms, steps, strict=True):
        for options in _options(menu, first, second):
            found[options] = found.get(options, 0) + value * (finest // scale)
    own = tuple((a, b, value) for (a, b), value in found.items() if value)
    return _finer(measure, finest), own


def _check(table: Table, pair: tuple[Chosen, Chosen]) -> None:
    if pair[0][0] == pair[1][0]:
        raise RecipeError(
            f"a pairwise term names unit {pair[0][0]!r} twice. A term is of two units."
        )
    for unit, choice in pair:
        if unit not in table.spans:
            raise RecipeError(unknown("unit", unit, table.units, "a pairwise term"))
        choices = [str(row.choice) for row in table.of(unit)]
        if str(choice) not in choices:
            raise RecipeError(
                unknown("choice", str(choice), choices, f"a pairwise term of unit {unit!r}")
            )


def _finer(measure: Measure, scale: int) -> Measure:
    factor = scale // measure.scale
    whole = None if measure.whole is None else measure.whole * factor
    return replace(
        measure, steps=tuple(s * factor for s in measure.steps), scale=scale, whole=whole
    )


def _options(menu: Menu, first: Chosen, second: Chosen) -> list[tuple[int, int]]:
    """The options that stand for two chosen units; none where ties rule one of them out.

    Two units that are tied are one option: the term adds to it alone.
    """
    found = []
    for a in _find_stand_ins(menu, first):
        for b in _find_stand_ins(menu, second):
            if menu.class_of[a] != menu.class_of[b] or a == b:
                found.append((min(a, b), max(a, b)))
    return found


def _find_stand_ins(menu: Menu, chosen: Chosen) -> list[int]:
    unit, choice = chosen
    index = next(i for i, units in enumerate(menu.classes) if unit in units)
    place = menu.classes[index].index(unit)
    return [
        o for o in menu.options_of[index] if menu.table.rows[menu.rows[o][place]].choice == choice
    ]
