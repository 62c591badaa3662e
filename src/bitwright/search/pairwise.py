"""Losses that do not add up: the allocation corrected by measured pairwise terms.

    minimise   sum_l dL_l^{c_l} + sum_(l,k) q_lk^{c_l c_k}     such that the budgets are held

with q the loss of two units changed together, less the losses of each alone.

Reference: Z. Deng, S. Sharify, X. Wang, M. Orshansky, "Mixed-precision quantization with
cross-layer dependencies" (CLADO), arXiv:2307.05657, for the terms.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from bitwright.errors import RecipeError, unknown
from bitwright.graph.choice import Choice
from bitwright.search.allocate import SECONDS, Allocation, answer, best
from bitwright.search.budget import Budget, in_steps
from bitwright.search.cost import Measure, UserTable, exact_steps
from bitwright.search.menu import Menu
from bitwright.search.question import NO_TABLES, Question, ask
from bitwright.search.table import Table

Chosen = tuple[str, Choice]
Terms = Mapping[tuple[Chosen, Chosen], float]


def terms_of(measured: Mapping[tuple[str, str], Mapping[tuple[Choice, Choice], float]]) -> Terms:
    """Terms listed by pair of units, as `interaction` measures them, one by one."""
    return {
        ((first, a), (second, b)): delta
        for (first, second), deltas in measured.items()
        for (a, b), delta in deltas.items()
    }


def allocate_pairs(
    table: Table,
    budgets: str | Iterable[str] | Iterable[Budget],
    terms: Terms,
    *,
    minimize: str = "",
    tables: Mapping[str, UserTable] = NO_TABLES,
    seconds: float = SECONDS,
) -> Allocation:
    """Like `allocate`, with the loss corrected by pairwise terms.

    Args:
        table: measured choices.
        budgets: as for `allocate`.
        terms: of two chosen units, what they add to the loss together; others add nothing.
        minimize: as for `allocate`.
        tables: costs of the user's own.
        seconds: time limit.

    Returns:
        The allocation; its `loss` counts the terms, its `note` says what the table alone predicts.

    Raises:
        RecipeError: terms of what is not in the table, or an ill-written budget.
    """
    deadline = time.monotonic() + seconds
    plain = ask(table, budgets, minimize, tables)
    question = with_terms(plain, terms)
    found = answer(question, best(question, deadline), deadline, advise=False)
    if found.rows is None:
        return found
    additive = sum(row.loss or 0.0 for row in found.rows.values())
    note = f"with {len(terms)} pairwise terms; the table alone predicts a loss of {additive:g}"
    return replace(found, note="; ".join(filter(None, (found.note, note))))


def with_terms(question: Question, terms: Terms) -> Question:
    """The question with the loss corrected by pairwise terms, wherever the loss occurs.

    Raises:
        RecipeError: a term names a unit or a choice that the table has not, or one unit twice.
    """
    for pair in terms:
        _check(question.table, pair)
    steps, scale = exact_steps(list(terms.values()))
    finest = math.lcm(scale, question.loss.scale)
    found: dict[tuple[int, int], int] = {}
    for (first, second), value in zip(terms, steps, strict=True):
        for options in _options(question.menu, first, second):
            found[options] = found.get(options, 0) + value * (finest // scale)
    loss = _finer(question.loss, finest)
    return replace(
        question,
        loss=loss,
        goal=loss if question.goal.name == "loss" else question.goal,
        caps=tuple(
            in_steps(loss, cap.amount, cap.text) if cap.name == "loss" else cap
            for cap in question.caps
        ),
        corrections=tuple((a, b, value) for (a, b), value in found.items() if value),
    )


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
    return replace(measure, steps=tuple(s * factor for s in measure.steps), scale=scale)


def _options(menu: Menu, first: Chosen, second: Chosen) -> list[tuple[int, int]]:
    """The options that stand for two chosen units; none where ties rule one of them out.

    Two units that are tied are one option: the term adds to it alone.
    """
    found = []
    for a in _standing_for(menu, first):
        for b in _standing_for(menu, second):
            if menu.class_of[a] != menu.class_of[b] or a == b:
                found.append((min(a, b), max(a, b)))
    return found


def _standing_for(menu: Menu, chosen: Chosen) -> list[int]:
    unit, choice = chosen
    index = next(i for i, units in enumerate(menu.classes) if unit in units)
    place = menu.classes[index].index(unit)
    return [
        o for o in menu.options_of[index] if menu.table.rows[menu.rows[o][place]].choice == choice
    ]
