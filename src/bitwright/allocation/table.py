"""The table of a run: what every choice of every unit does to the loss and what it costs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bitwright.allocation.cells import REMEDY, amount, count, parse_cell, real
from bitwright.engine.cells import guard, unguard
from bitwright.engine.files import write_atomically
from bitwright.engine.texts import read_text as _plain_text
from bitwright.errors import RunDirectoryError, unknown
from bitwright.graph.choice import ALLOWED_BITS, FLOAT, Choice

FLOAT_BITS = 32
COLUMNS = (
    "unit", "w_bits", "a_bits", "points", "loss_delta", "params", "weight_bits", "macs", "bops",
    "latency_ms", "method", "solve_seconds", "loss_stderr", "energy_pj", "group", "drop",
    "loss_fitted",
)  # fmt: skip
REQUIRED = COLUMNS[:9]
# Written where a choice of the menu has its weights in groups (`w4a8g64`), after the others.
GROUPED = "weight_group"
# The last column, in every line the number of all lines: a file that was cut short tells it.
ROWS = "rows"
UNCOUNTED = (
    "the table does not say how many lines it has (it is of an older version), so nothing would "
    "tell if it were cut short"
)


@dataclass(frozen=True)
class Row:
    """One choice of one unit.

    Attributes:
        unit: module path.
        choice: bits of weights and inputs; 0 stands for float, which costs 32 bits.
        loss_delta: change of the loss when this unit alone leaves the base precision; None where
            it was not measured: the only row of a unit that is kept, or a float row that states
            what float costs and cannot be chosen.
        params, macs: of the unit.
        weight_bits: what its weights take, scales included.
        bops: macs x weight bits x input bits x points.
        latency_ms, energy_pj: of the unit at this choice.
        method, solve_seconds: how its parameters were found.
        loss_stderr: standard error of `loss_delta` over the calibration samples.
        group: what it is tied to, see `bitwright.allocation.menu`.
        drop: change of the accuracy, as a fraction that is positive where accuracy is lost.
        loss_fitted: the change with the measurement's noise taken out (`search.smooth`), where it
            is known; allocations go by it.
        line: where in the file it stands.
    """

    unit: str
    choice: Choice
    loss_delta: float | None
    params: int
    weight_bits: int
    macs: int
    bops: int
    latency_ms: float | None = None
    method: str = ""
    solve_seconds: float | None = None
    loss_stderr: float | None = None
    energy_pj: float | None = None
    group: str = ""
    drop: float | None = None
    loss_fitted: float | None = None
    line: int = field(default=0, compare=False)

    @property
    def loss(self) -> float | None:
        """The loss change that allocations go by."""
        return self.loss_delta if self.loss_fitted is None else self.loss_fitted


Chosen = tuple[str, Choice]
Terms = Mapping[tuple[Chosen, Chosen], float]


@dataclass(frozen=True)
class Table:
    """Rows that can be chosen, unit by unit, and float rows that only tell what float costs.

    `more` are values of every choice, and of float, in measures that have no column, by name.
    `terms` are, by the name of a measure, what two chosen units add to it together, beyond the sum
    of each alone. Neither is a part of the file. `note` is what should be known of the file.
    """

    rows: tuple[Row, ...]
    references: tuple[Row, ...] = ()
    place: str = "the table"
    terms: Mapping[str, Terms] = field(default_factory=dict)
    note: str = field(default="", compare=False)
    more: Mapping[str, Mapping[Chosen, float]] = field(default_factory=dict)

    def with_terms(self, name: str, terms: Terms) -> Table:
        """The table with the pairwise terms of one measure."""
        return replace(self, terms={**self.terms, name: terms})

    @cached_property
    def spans(self) -> Mapping[str, range]:
        """Where the rows of each unit are, in the units' own order."""
        starts: dict[str, list[int]] = {}
        for index, row in enumerate(self.rows):
            starts.setdefault(row.unit, []).append(index)
        return {unit: range(where[0], where[-1] + 1) for unit, where in starts.items()}

    @property
    def units(self) -> tuple[str, ...]:
        """The units in order of execution."""
        return tuple(self.spans)

    def of(self, unit: str) -> tuple[Row, ...]:
        """The rows that one unit can choose from.

        Raises:
            RunDirectoryError: no such unit, with the nearest name.
        """
        if unit not in self.spans:
            raise RunDirectoryError(unknown("unit", unit, self.units, self.place))
        return tuple(self.rows[i] for i in self.spans[unit])

    def chosen(self, choices: Mapping[str, Choice]) -> list[Row]:
        """The row of every unit at the choice that it got; of float where it stays there."""
        every = (*self.rows, *self.references)
        return [row for row in every if choices[row.unit] == row.choice]


def make_table(rows: Iterable[Row], place: str = "the table") -> Table:
    """Rows in any order as a table.

    A unit with one row is kept at that choice. Of several rows each must have a measured loss; a
    float row without one is a reference.

    Raises:
        RunDirectoryError: no rows, a choice given twice, a loss that was not measured, or numbers
            of one unit that contradict each other.
    """
    by_unit: dict[str, list[Row]] = {}
    for row in rows:
        by_unit.setdefault(row.unit, []).append(row)
    if not by_unit:
        raise RunDirectoryError(f"{place} holds no rows. Let 'bitwright quantize' write it again.")
    chosen: list[Row] = []
    references: list[Row] = []
    for unit, found in by_unit.items():
        _check_unit(found, place)
        measured = [row for row in found if row.loss_delta is not None]
        floats = [row for row in found if row.loss_delta is None and row.choice.is_float]
        if not measured and len(found) - len(floats) <= 1:
            kept = [row for row in found if row not in floats] or floats
            chosen += kept
            references += [row for row in floats if row not in kept]
            continue
        for row in found:
            if row.loss_delta is None and row not in floats:
                raise RunDirectoryError(
                    f"{_where(place, row)}: unit {unit!r} has several choices, but {row.choice} "
                    "has no loss_delta, so there is nothing to choose by. Quantise with a --menu, "
                    "or remove the line."
                )
        chosen += measured
        references += floats
    return Table(tuple(chosen), tuple(references), place)


def _check_unit(rows: list[Row], place: str) -> None:
    seen: dict[Choice, Row] = {}
    for row in rows:
        if row.choice in seen:
            raise RunDirectoryError(
                f"{_where(place, row)}: unit {row.unit!r} has the choice {row.choice} twice. "
                "Remove one of the two lines."
            )
        seen[row.choice] = row
        for name in ("params", "macs", "group"):
            if getattr(row, name) != getattr(rows[0], name):
                raise RunDirectoryError(
                    f"{_where(place, row)}: {name} of unit {row.unit!r} is "
                    f"{getattr(row, name)!r}, but {getattr(rows[0], name)!r} at its first choice. "
                    f"It does not depend on the choice. {REMEDY}"
                )


def _where(place: str, row: Row) -> str:
    return f"{place}, line {row.line}" if row.line else place


def write_table(path: Path, table: Table) -> None:
    """Write table.csv; floats at full precision, what is not known stays empty."""
    order = {unit: i for i, unit in enumerate(table.units)}
    rows = sorted((*table.rows, *table.references), key=lambda row: order[row.unit])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    grouped = any(row.choice.group for row in rows)
    columns = (*COLUMNS, GROUPED) if grouped else COLUMNS
    writer.writerow([*columns, ROWS])
    writer.writerows([[*_cells(row, columns), str(len(rows))] for row in rows])
    write_atomically(path, text.getvalue().encode())


def _cells(row: Row, columns: tuple[str, ...]) -> list[str]:
    # A row's `group` is what it is tied to; that of its choice is how its weights lie.
    values = {**vars(row.choice), **vars(row), GROUPED: row.choice.group}
    return [_text(values[name]) for name in columns]


def _text(value: Any) -> str:
    # numpy's own repr would write the type as well.
    if isinstance(value, str):
        return guard(value)
    return "" if value is None else repr(float(value)) if isinstance(value, float) else str(value)


def read_table(path: Path) -> Table:
    """Read table.csv.

    Raises:
        RunDirectoryError: missing, cut short, no such columns, or a value that cannot be; with its
            line.
    """
    lines = read_csv(path, (*COLUMNS, GROUPED, ROWS), REQUIRED)
    note = _check_count(lines, path)
    table = make_table((_row(cells, line, path) for line, cells in lines), str(path))
    return replace(table, note=note)


def _check_count(lines: list[tuple[int, dict[str, str]]], path: Path) -> str:
    """Whether there are as many lines as each of them says; a note where none says it."""
    if all(not cells.get(ROWS, "").strip() for _, cells in lines):
        return UNCOUNTED if lines else ""
    for line, cells in lines:
        place = f"{path}, line {line}: {ROWS}"
        if parse_cell(count, cells[ROWS], f"the number of lines, {len(lines)}", place) != len(
            lines
        ):
            raise RunDirectoryError(
                f"{path}, line {line} says that the table has {cells[ROWS].strip()} lines, but "
                f"there are {len(lines)}: it was cut short, or lines were added or removed. Let "
                f"'bitwright quantize' write it again; if you changed it by hand, empty the column "
                f"{ROWS!r}."
            )
    return ""


def read_csv(
    path: Path, columns: tuple[str, ...], required: tuple[str, ...]
) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV file with a heading, each with its number.

    Raises:
        RunDirectoryError: not readable, or not the columns or the number of cells that must be.
    """
    return parse_csv(read_text(path), str(path), columns, required)


def read_text(path: Path) -> str:
    """The text of a CSV file.

    Raises:
        RunDirectoryError: it cannot be read, or is no text.
    """
    return _plain_text(path, RunDirectoryError, REMEDY).removeprefix("\ufeff")


def parse_csv(
    text: str, path: str, columns: tuple[str, ...], required: tuple[str, ...]
) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV text with a heading; `path` names it in errors.

    Raises:
        RunDirectoryError: not the columns or the number of cells that must be.
    """
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise RunDirectoryError(f"{path} is not a CSV file: {error}. {REMEDY}") from error
    if not lines:
        raise RunDirectoryError(f"{path} is empty. {REMEDY}")
    heading = lines[0][1]
    for name in heading:
        if name not in columns:
            raise RunDirectoryError(unknown("column", name, columns, f"{path}, line 1"))
    missing = [name for name in required if name not in heading]
    if missing or len(set(heading)) != len(heading):
        what = f"lacks the column {missing[0]!r}" if missing else "names a column twice"
        raise RunDirectoryError(f"{path}, line 1 {what}. It reads: {','.join(columns)}.")
    for line, cells in lines[1:]:
        if len(cells) != len(heading):
            raise RunDirectoryError(
                f"{path}, line {line} has {len(cells)} cells where the heading has "
                f"{len(heading)}. {REMEDY}"
            )
    return [
        (line, dict(zip(heading, map(unguard, cells), strict=True))) for line, cells in lines[1:]
    ]


def _row(cells: Mapping[str, str], line: int, path: Path) -> Row:
    def get(name: str, kind: Callable[[str], Any], wanted: str) -> Any:
        text = cells.get(name, "").strip()
        if not text and (name == "loss_delta" or name not in REQUIRED):
            return None
        return parse_cell(kind, text, wanted, f"{path}, line {line}: {name}")

    def whole(name: str) -> int:
        return int(get(name, count, "a whole number, 0 or more"))

    def positive(name: str) -> float | None:
        found: float | None = get(name, amount, "a finite number, 0 or more, or empty")
        return found

    return Row(
        get("unit", _name, "a module path"),
        read_choice(cells, f"{path}, line {line}"),
        get("loss_delta", real, "a finite number or empty"),
        whole("params"),
        whole("weight_bits"),
        whole("macs"),
        whole("bops"),
        positive("latency_ms"),
        cells.get("method", "").strip(),
        positive("solve_seconds"),
        positive("loss_stderr"),
        positive("energy_pj"),
        cells.get("group", "").strip(),
        get("drop", real, "a finite number or empty"),
        get("loss_fitted", real, "a finite number or empty"),
        line,
    )


def read_choice(cells: Mapping[str, str], place: str) -> Choice:
    """The choice of a line; 32 bits are what float costs, so they mean float."""
    bits = [
        parse_cell(_bits, cells.get(name, ""), "2 to 8, 16, or 0 for float", f"{place}: {name}")
        for name in ("w_bits", "a_bits")
    ]
    points = parse_cell(_points, cells.get("points", ""), "1 or more", f"{place}: points")
    group = parse_cell(
        count, cells.get(GROUPED, "") or "0", "a whole number", f"{place}: {GROUPED}"
    )
    return Choice(bits[0], bits[1], points, group) if bits[0] else FLOAT


def _points(text: str) -> int:
    value = count(text)
    if value < 1:
        raise ValueError
    return value


def _bits(text: str) -> int:
    value = count(text)
    if value not in (0, FLOAT_BITS, *ALLOWED_BITS):
        raise ValueError
    return 0 if value == FLOAT_BITS else value


def _name(text: str) -> str:
    if not text:
        raise ValueError
    return text
