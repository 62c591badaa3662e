"""allocation.json: an allocation as the run directory keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitwright.allocation.advice import Attainable, Relaxation
from bitwright.allocation.allocate import Allocation, Spent, Uniform
from bitwright.allocation.as_json import as_record
from bitwright.allocation.table import Row, Table
from bitwright.engine.files import write_atomically
from bitwright.engine.texts import parse_json, read_text
from bitwright.errors import RunDirectoryError
from bitwright.graph.choice import Choice


def write_allocation(path: Path, allocation: Allocation) -> None:
    """Write allocation.json, whole or not at all.

    Raises:
        FileError: it cannot be written.
    """
    # A gap relative to an objective of 0 is infinite, which JSON does not know.
    record = as_record(allocation)
    record["gap"] = None if record["gap"] == math.inf else record["gap"]
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def read_allocation(path: Path, table: Table) -> Allocation:
    """Read allocation.json against the table that it was made from.

    Raises:
        RunDirectoryError: damaged, or of another table.
    """
    remedy = "Make it with 'bitwright allocate RUN --budget ...'."
    text = read_text(path, RunDirectoryError, remedy)
    try:
        return _read(parse_json(text, str(path), RunDirectoryError, remedy), table)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise RunDirectoryError(
            f"{path} is damaged ({type(error).__name__}: {error}). Make it again with 'bitwright "
            "allocate RUN --budget ...'."
        ) from error


def _read(record: Mapping[str, Any], table: Table) -> Allocation:
    rows = {unit: _row(unit, bits, table) for unit, bits in record["choices"].items()}
    _check_words(record)
    uniform = record.get("uniform")
    return Allocation(
        record["solver"] or "",
        record["status"],
        record.get("minimizes", "loss"),
        tuple(
            Spent(
                name,
                spent.get("unit", ""),
                spent.get("asked", ""),
                spent["limit"],
                spent["used"],
                spent.get("float"),
                spent.get("binding"),
                spent.get("price", 0.0),
            )
            for name, spent in record["budgets"].items()
        ),
        objective=record["objective"],
        bound=record["bound"],
        gap=record["gap"],
        loss=record.get("loss"),
        loss_stderr=record.get("loss_stderr"),
        rows=rows or None,
        uniform=None
        if uniform is None
        else Uniform(
            _choice(uniform), uniform["loss"], uniform["objective"], dict(uniform["used"])
        ),
        relaxations=tuple(Relaxation(**values) for values in record.get("relaxations", ())),
        infeasible=tuple(
            Attainable(name, **{**values, "kept": tuple(tuple(k.values()) for k in values["kept"])})
            for name, values in (record.get("infeasible") or {}).items()
        ),
        note=record.get("note", ""),
    )


def _check_words(record: Mapping[str, Any]) -> None:
    """Where a word belongs there must be one: it is looked up and taken for a budget later on."""
    spent = record["budgets"].values()
    words = [record["status"], record.get("minimizes", ""), record.get("note", "")]
    words += [one.get(key, "") for one in spent for key in ("unit", "asked")]
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f"{str(word)[:50]!r} is no word")


def _choice(bits: Mapping[str, int]) -> Choice:
    return Choice(bits["w_bits"], bits["a_bits"], bits["points"], bits.get("group", 0))


def _row(unit: str, bits: Mapping[str, int], table: Table) -> Row:
    choice = _choice(bits)
    for row in table.of(unit):
        if row.choice == choice:
            return row
    raise ValueError(f"unit {unit!r} has no choice {choice} in {table.place}")
