"""Ties that the user states: units that must take the same choice, or the same input bits."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from bitwright.errors import RecipeError

# What ties the input bits alone.
INPUTS = "a:"
# What leaves the queries, keys and values of an attention free of one another.
APART = "apart"
TieGroups = Mapping[str, str]


def parse_ties(text: str, place: str = "--tie") -> tuple[str, ...]:
    """Read ``layer1.*|stem, a:layer2.*``: one group for each pattern, several ways joined by ``|``.

    >>> parse_ties("layer1.*|stem, a:layer2.*")
    ('layer1.*|stem', 'a:layer2.*')

    Raises:
        RecipeError: a pattern with a blank inside, or with nothing in it.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    for tie in found:
        if len(tie.split()) > 1 or not all(_patterns(tie)):
            raise RecipeError(
                f"{place} {tie!r} is no pattern over unit names. Write for example 'layer1.*' "
                "(these units take the same choice), 'stem|layer1.*' (either pattern), or "
                "'a:layer1.*' (the same input bits alone)."
            )
    return tuple(dict.fromkeys(found))


def _patterns(tie: str) -> list[str]:
    return tie.removeprefix(INPUTS).split("|")


def groups_of(names: Sequence[str], ties: Iterable[str], place: str = "--tie") -> dict[str, str]:
    """The column `group` of every unit that a tie names.

    Raises:
        RecipeError: a tie that matches fewer than two units.
    """
    found: dict[str, str] = {}
    for tie in ties:
        matched = [n for n in names if any(fnmatch.fnmatchcase(n, p) for p in _patterns(tie))]
        if len(matched) < 2:
            which = f"only {matched[0]!r}" if matched else "no unit"
            raise RecipeError(
                f"{place} {tie!r} matches {which}: a tie is of two units or more. Units are named "
                f"by module path: {', '.join(names[:5])}, ... ('bitwright doctor' lists all)."
            )
        found = join_groups(found, dict.fromkeys(matched, tie))
    return found


def join_groups(first: TieGroups, second: TieGroups) -> dict[str, str]:
    """The groups of both, for units that are in either.

    >>> join_groups({"a": "stage", "b": "stage"}, {"b": "a:add"})
    {'a': 'stage', 'b': 'stage a:add'}
    """
    return {
        unit: " ".join(filter(None, (first.get(unit), second.get(unit))))
        for unit in dict.fromkeys((*first, *second))
    }
