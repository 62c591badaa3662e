"""What the report lists: operations that stay float, records as facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bitwright.engine.record import Record
from bitwright.graph.census_record import Census
from bitwright.report import texts as text

# Names of one group that are written out; the others are counted.
_NAMED = 6


def float_operators(census: Census) -> list[tuple[str, str, str]]:
    """Rows of (what, how many, why), one a reason: units that were kept, then operators."""
    units: dict[str, list[str]] = {}
    for unit in census.units:
        if not unit.w_bits:
            units.setdefault(unit.reason or "no reason recorded", []).append(unit.name)
    operators: dict[str, Counter[str]] = {}
    for row in census.float_ops:
        # An operator that works in place is the same operator.
        operators.setdefault(row.reason, Counter())[row.op.rstrip("_") or "?"] += row.count
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


def facts(record: Record | None) -> list[tuple[str, str]]:
    """A record as (name, value) lines."""
    if record is None:
        return []
    return [(key.replace("_", " "), text.show_value(value)) for key, value in record.items()]
