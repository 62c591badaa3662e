"""What the report lists: operations that stay float, notes, records as facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from bitwright.report import texts as text

# Names of one group that are written out; the others are counted.
_NAMED = 6


def float_operators(census: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of (what, how many, why), one a reason: units that were kept, then operators."""
    units: dict[str, list[str]] = {}
    for unit in text.rows(census.get("units")):
        if "w_bits" in unit and not unit["w_bits"]:
            why = str(unit.get("reason") or "no reason recorded")
            units.setdefault(why, []).append(str(unit.get("name", "?")))
    operators: dict[str, Counter[str]] = {}
    for row in text.rows(census.get("float_ops")):
        count = text.number(row.get("count"))
        # An operator that works in place is the same operator.
        name = str(row.get("op", "?")).rstrip("_") or "?"
        counts = operators.setdefault(str(row.get("reason", "")), Counter())
        counts[name] += 1 if count is None else max(int(count), 0)
    return [
        *((_some(names), text.show_count(len(names)), why) for why, names in units.items()),
        *(
            (_some(_times(counts)), text.show_count(sum(counts.values())), why)
            for why, counts in operators.items()
        ),
    ]


def _times(counts: Counter[str]) -> list[str]:
    if len(counts) == 1:
        return list(counts)
    return [f"{name} ×{count}" for name, count in counts.most_common()]


def _some(names: Iterable[str]) -> str:
    named = list(names)
    rest = len(named) - _NAMED
    return ", ".join(named[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def notes(census: Mapping[str, Any]) -> list[str]:
    """Notes as lines, whether they are text or (place, text)."""
    found = census.get("notes")
    return [
        f"{note.get('place', '?')}: {note.get('text', '')}"
        if isinstance(note, Mapping)
        else str(note)
        for note in (found if isinstance(found, list) else [])
    ]


def facts(record: object) -> list[tuple[str, str]]:
    """A record as (name, value) lines."""
    return [
        (str(key).replace("_", " "), text.show_value(value))
        for key, value in text.read_mapping(record).items()
    ]
