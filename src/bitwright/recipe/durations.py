"""How long a run may take, as users write it: `--time 2min`."""

from __future__ import annotations

import re

from bitwright.errors import RecipeError

# A month: whoever writes more has taken one unit for another.
MOST_SECONDS = 31 * 24 * 3600.0
_SECONDS = {"h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(h|min|m|s)\s*", re.ASCII)


def parse_duration(text: str, place: str = "--time") -> float:
    """Seconds of `90s`, `2min`, `1.5h` or `1h30min`.

    >>> parse_duration("1h30min")
    5400.0

    Raises:
        RecipeError: no number with its unit, nothing, or more than a month.
    """
    rest, total = text.strip(), 0.0
    while rest:
        part = _PART.match(rest)
        if part is None:
            break
        total += float(part[1]) * _SECONDS[part[2]]
        rest = rest[part.end() :]
    if rest or not 0.0 < total <= MOST_SECONDS:
        raise RecipeError(
            f"{text!r} in {place} is no length of time. Write a number and its unit, such as 90s, "
            "2min or 1h30min; a month at most."
        )
    return total


def word_duration(seconds: float) -> str:
    """A length of time as a person says it.

    >>> word_duration(75.0), word_duration(8.2)
    ('1 min 15 s', '9 s')
    """
    whole = max(1, -int(-seconds // 1))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"
