"""A table of latencies as a file: one line a unit and choice, the conditions on every line."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from bitwright.allocation.cells import amount, parse_cell, real
from bitwright.allocation.latency_table import Conditions, LatencyCell, LatencyTable
from bitwright.allocation.table import parse_csv, read_choice, read_text
from bitwright.engine.cells import guard
from bitwright.engine.files import write_atomically
from bitwright.errors import RunDirectoryError
from bitwright.graph.choice import FLOAT, Choice

# What is no unit; brackets, since a module may be called `rest`.
REST_ROW = "(rest)"
COLUMNS = (
    "unit", "w_bits", "a_bits", "points", "latency_ms", "enter_ms", "leave_ms", "target", "batch",
    "threads", "processor", "onnxruntime",
)  # fmt: skip
REMEDY = "Let 'bitwright measure' write it again."


def write_latencies(path: Path, table: LatencyTable) -> None:
    """Write a table; a later reader gets the same numbers, bit for bit."""
    write_atomically(path, latency_text(table).encode())


def latency_text(table: LatencyTable) -> str:
    """The table as CSV."""
    about = [guard(str(value)) for value in vars(table.conditions).values()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for unit in table.units:
        for choice in table.choices[unit]:
            cell = table.cells[unit, choice]
            writer.writerow(
                [
                    guard(unit),
                    *_bits(choice),
                    repr(cell.ms),
                    repr(cell.enter),
                    repr(cell.leave),
                    *about,
                ]
            )
    for choice, ms in table.rest.items():
        writer.writerow([REST_ROW, *_bits(choice), repr(ms), "0.0", "0.0", *about])
    return text.getvalue()


def _bits(choice: Choice) -> tuple[int, int, int]:
    return choice.w_bits, choice.a_bits, choice.points


def read_latencies(path: Path) -> LatencyTable:
    """Read a table that `write_latencies` wrote, or one made by hand in its form.

    Raises:
        RunDirectoryError: not readable, or a line that cannot be; with its number.
    """
    if not path.is_file():
        raise RunDirectoryError(
            f"there is no table of latencies {str(path)!r}. Let 'bitwright measure MODEL --out "
            f"{path}' write it."
        )
    return parse_latencies(read_text(path), str(path))


def parse_latencies(text: str, path: str) -> LatencyTable:
    """A table from its text; `path` names it in errors.

    Raises:
        RunDirectoryError: a line that cannot be, with its number.
    """
    lines = parse_csv(text, path, COLUMNS, COLUMNS)
    if not lines:
        raise RunDirectoryError(f"{path} holds no latencies. {REMEDY}")
    cells: dict[tuple[str, Choice], LatencyCell] = {}
    rest: dict[Choice, float] = {}
    about = _conditions(lines[0][1], f"{path}, line {lines[0][0]}")
    for line, texts in lines:
        place = f"{path}, line {line}"
        if _conditions(texts, place) != about:
            raise RunDirectoryError(f"{place} was measured on other conditions. {REMEDY}")
        unit, choice = texts["unit"].strip(), read_choice(texts, place)
        cell = _cell(texts, place)
        if (unit, choice) in cells or (unit == REST_ROW and choice in rest):
            raise RunDirectoryError(f"{place}: {unit!r} at {choice} stands there twice. {REMEDY}")
        if unit == REST_ROW:
            rest[choice] = cell.ms
        else:
            cells[unit, choice] = cell
    units = tuple(dict.fromkeys(unit for unit, _ in cells))
    missing = [unit for unit in units if (unit, FLOAT) not in cells]
    missing += [REST_ROW] if FLOAT not in rest else []
    if missing:
        raise RunDirectoryError(
            f"{path} lacks the line of {missing[0]!r} in float (w_bits 0): what a fraction of "
            f"float means is not known. {REMEDY}"
        )
    return LatencyTable(units, cells, rest, about)


def _cell(texts: Mapping[str, str], place: str) -> LatencyCell:
    def number(name: str, signed: bool) -> float:
        wanted = "a finite number" if signed else "a finite number, 0 or more"
        found: float = parse_cell(
            real if signed else amount, texts[name], wanted, f"{place}: {name}"
        )
        return found

    # A border may make a unit faster: its float kernel alone is not always that of a float network.
    return LatencyCell(
        number("latency_ms", False), number("enter_ms", True), number("leave_ms", True)
    )


def _conditions(texts: Mapping[str, str], place: str) -> Conditions:
    def whole(name: str) -> int:
        found: int = parse_cell(int, texts[name], "a whole number", f"{place}: {name}")
        return found

    return Conditions(
        texts["target"], whole("batch"), whole("threads"), texts["processor"], texts["onnxruntime"]
    )
