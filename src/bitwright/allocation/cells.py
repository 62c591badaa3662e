"""Numbers in the cells of a CSV file: finite, of a size that can be, told with their place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bitwright.errors import RunDirectoryError

REMEDY = "Correct the line, or let 'bitwright quantize' write the table again."
# What no cost and no loss of a network exceeds.
_LARGEST, _DIGITS = 1e30, 30


def parse_cell(kind: Callable[[str], Any], text: str, wanted: str, place: str) -> Any:
    """The value of a cell.

    Raises:
        RunDirectoryError: naming the place, the value and what it must be.
    """
    try:
        return kind(text.strip())
    except ValueError as error:
        raise RunDirectoryError(
            f"{place} is {text[:60]!r}; it must be {wanted}. {REMEDY}"
        ) from error


def real(text: str) -> float:
    """A finite number."""
    value = float(text)
    if not math.isfinite(value) or abs(value) > _LARGEST:
        raise ValueError
    return value


def amount(text: str) -> float:
    """A finite number that is not negative."""
    value = real(text)
    if value < 0:
        raise ValueError
    return value


def count(text: str) -> int:
    """A whole number that is not negative."""
    if len(text) > _DIGITS:  # of a long text the digits alone take forever
        raise ValueError
    value = int(text)
    if value < 0:
        raise ValueError
    return value
