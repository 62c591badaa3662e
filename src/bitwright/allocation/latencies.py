"""Allocation under a budget of latency, which is no sum of single units where inputs may be float.

The whole network's latency (`export.latency.predict`) has terms between neighbours of which one has
quantised and one float inputs. They are pairwise terms of the program, so that the budget is held
by the network and not by a sum of units, and an answer is proven like any other.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from bitwright.allocation.cost import bops
from bitwright.allocation.latency_table import LatencyTable, border
from bitwright.allocation.table import FLOAT_BITS, Row, Table, Terms, make_table
from bitwright.errors import RunDirectoryError
from bitwright.graph.choice import FLOAT

LATENCY = "latency"
# Nanoseconds: finer digits of a latency mean nothing.
_DIGITS = 6


def in_nanoseconds(ms: float) -> float:
    """Milliseconds to six decimals.

    >>> in_nanoseconds(1.23456789)
    1.234568
    """
    return float(f"{ms:.{_DIGITS}f}")


def with_latencies(table: Table, latency: LatencyTable) -> Table:
    """The table with the latency of every choice filled in, and what borders add as its terms.

    Units that cannot stay in float get a line that tells what float costs: a fraction of float's
    latency is of the sum of these, which is the whole float network.

    Raises:
        RunDirectoryError: a choice that was not timed.
    """

    def filled(row: Row) -> Row:
        if (row.unit, row.choice) not in latency.cells:
            raise RunDirectoryError(
                f"the table of latencies holds none of unit {row.unit!r} at {row.choice}. Measure "
                "again with this choice in the menu: 'bitwright measure MODEL --menu ...'."
            )
        return replace(row, latency_ms=in_nanoseconds(latency.own(row.unit, row.choice)))

    rows = (*table.rows, *table.references)
    known = {row.unit for row in rows if row.choice.is_float}
    floats = [_in_float(table.of(unit)[0]) for unit in table.units if unit not in known]
    # A unit's lines stand together, whatever they are.
    order = {unit: i for i, unit in enumerate(table.units)}
    every = sorted((*rows, *floats), key=lambda row: order[row.unit])
    made = make_table(map(filled, every), table.place)
    whole = replace(table, rows=made.rows, references=made.references)
    return whole.with_terms(LATENCY, _border_terms(whole, latency))


def with_device(table: Table, name: str, latency: LatencyTable) -> Table:
    """The table with the latencies of another device as a measure of that name.

    Raises:
        RunDirectoryError: a choice that was not timed there.
    """
    rows = (*table.rows, *table.references)
    cells = dict.fromkeys([(r.unit, r.choice) for r in rows] + [(u, FLOAT) for u in table.units])
    lacking = next((cell for cell in cells if cell not in latency.cells), None)
    if lacking is not None:
        raise RunDirectoryError(
            f"the table of {name} holds none of unit {lacking[0]!r} at {lacking[1]}. Make its "
            "timing bundle again with this choice in the menu: 'bitwright bench MODEL --bundle DIR "
            "--menu ...'."
        )
    values = {cell: in_nanoseconds(latency.own(*cell)) for cell in cells}
    whole = replace(table, more={**table.more, name: values})
    return whole.with_terms(name, _border_terms(whole, latency))


def _in_float(row: Row) -> Row:
    return Row(
        row.unit, FLOAT, None, row.params, FLOAT_BITS * row.params, row.macs,
        bops(row.macs, FLOAT), method="float", group=row.group,
    )  # fmt: skip


def _border_terms(table: Table, latency: LatencyTable) -> Terms:
    """What borders between neighbours add, for every two choices that make one."""
    found = {}
    for unit, (_, after) in latency.neighbours.items():
        if after is None or unit not in table.spans or after not in table.spans:
            continue
        both = itertools.product(table.of(unit), table.of(after))
        for first, second in both:
            pair = (unit, first.choice), (after, second.choice)
            ms = in_nanoseconds(border(latency, *pair))
            if ms:
                found[pair] = ms
    return found
