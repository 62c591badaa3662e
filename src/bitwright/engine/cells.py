"""Cells of CSV files that a spreadsheet would take for formulas.

A module may be called `=HYPERLINK(...)`, and whoever opens table.csv in a spreadsheet would run it.
Such a text is written behind an apostrophe, which spreadsheets take as "this is text", and read
back without it.
"""

from __future__ import annotations

_QUOTE = "'"
_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", _QUOTE)


def guard(text: str) -> str:
    """The text as a cell that no spreadsheet computes.

    >>> guard("=1+1"), guard("layer1.conv")
    ("'=1+1", 'layer1.conv')
    """
    return _QUOTE + text if text.startswith(_BEGINNINGS) else text


def unguard(cell: str) -> str:
    """The text of a cell that `guard` may have written.

    >>> unguard("'=1+1"), unguard("-0.5")
    ('=1+1', '-0.5')
    """
    guarded = cell.startswith(_QUOTE) and cell[1:].startswith(_BEGINNINGS)
    return cell[1:] if guarded else cell
