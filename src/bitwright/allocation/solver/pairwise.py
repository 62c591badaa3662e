"""Losses that do not add up: the allocation corrected by measured pairwise terms.

    minimise   sum_l dL_l^{c_l} + sum_(l,k) q_lk^{c_l c_k}     such that the budgets are held

with q the loss of two units changed together, less the losses of each alone.

Reference: Z. Deng, S. Sharify, X. Wang, M. Orshansky, "Mixed-precision quantization with
cross-layer dependencies" (CLADO), arXiv:2307.05657, for the terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from bitwright.allocation.allocate import SECONDS, Allocation, allocate
from bitwright.allocation.budget import Budget
from bitwright.allocation.cost import UserTable
from bitwright.allocation.question import NO_TABLES
from bitwright.allocation.solver.terms import terms_of
from bitwright.allocation.table import Table, Terms


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
    found = allocate(
        table.with_terms("loss", terms),
        budgets,
        minimize=minimize,
        tables=tables,
        seconds=seconds,
        advise=False,
    )
    return found if found.rows is None else note_pairs(found, len(terms))


def note_pairs(found: Allocation, count: int) -> Allocation:
    """An allocation whose loss counts pairwise terms, with what the table alone predicts."""
    additive = sum(row.loss or 0.0 for row in (found.rows or {}).values())
    note = f"with {count} pairwise terms; the table alone predicts a loss of {additive:g}"
    return replace(found, note="; ".join(filter(None, (found.note, note))))


__all__ = ["Terms", "allocate_pairs", "note_pairs", "terms_of"]
