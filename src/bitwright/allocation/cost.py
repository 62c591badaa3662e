"""Additive measures of a choice: loss, drop, size, BOPs, energy, latency and the user's own.

Every measure is held in whole steps of a stated size, so that sums and budgets are exact integers:
bits and BOPs are counted as they are, decimal numbers (milliseconds, picojoules, losses) in steps
of the last decimal that the table states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bitwright.allocation.cells import amount, parse_cell
from bitwright.allocation.energy import energy_pj
from bitwright.allocation.table import FLOAT_BITS, Row, Table, read_choice, read_csv
from bitwright.errors import RecipeError, RunDirectoryError, unknown
from bitwright.graph.choice import FLOAT, Choice

COSTS = ("size", "bops", "latency", "energy")
DEGRADATIONS = ("loss", "drop")
# What one step of each measure stands for, before decimals.
UNITS = {"size": "bit", "bops": "BOP", "latency": "ms", "energy": "pJ", "loss": "", "drop": ""}
SCALE_BITS = 32
_USER_COLUMNS = ("unit", "w_bits", "a_bits", "points", "value")
_NONE: Mapping[str, UserTable] = MappingProxyType({})


def kind_of(name: str) -> str:
    """What a measure counts, whatever device it is of.

    >>> kind_of("latency[pi]"), kind_of("size")
    ('latency', 'size')
    """
    return name.partition("[")[0]


def is_of_device(name: str) -> bool:
    """Whether a measure is the latency of a device that is named."""
    return kind_of(name) == "latency" != name


@dataclass(frozen=True)
class Measure:
    """A number for each row of a table, in whole steps.

    Attributes:
        name: size, bops, latency, energy, loss, drop or a user table's name.
        steps: of each row.
        scale: steps in one `unit`.
        unit: what the numbers count.
        whole: steps of the float network; None where nothing tells.
    """

    name: str
    steps: tuple[int, ...]
    scale: int = 1
    unit: str = ""
    whole: int | None = None

    def shown(self, steps: int) -> float | int:
        """A number of steps in the measure's unit: an integer where one step is one unit."""
        return steps if self.scale == 1 else steps / self.scale


@dataclass(frozen=True)
class UserTable:
    """A cost of the user's own: a value of every unit at every choice, and of float if known."""

    name: str
    place: str
    values: Mapping[tuple[str, Choice], float]


def weight_bits(params: int, channels: int, choice: Choice, zero_points: bool = False) -> int:
    """Bits that the weights of a unit take: integers, float32 scales, zero points.

    Equation: points (params w + channels w [zero points]) + 32 channels; 32 params for float.
    The scales of a unit's points differ by powers of two, and one is stored (`numerics.points`).

    >>> weight_bits(1000, 10, Choice(4, 8)), weight_bits(1000, 10, FLOAT)
    (4320, 32000)
    >>> weight_bits(1000, 10, Choice(4, 8, 2))
    8320
    """
    if choice.is_float:
        return FLOAT_BITS * params
    if choice.group:
        channels = params // choice.group
    stored = params + channels if zero_points else params
    return stored * choice.sum_bits + SCALE_BITS * channels


def bops(macs: int, choice: Choice) -> int:
    """Bit operations: macs w a points, float counted as 32 bits.

    >>> bops(10, Choice(4, 0))
    1280
    """
    return macs * (choice.w_bits or FLOAT_BITS) * (choice.a_bits or FLOAT_BITS) * choice.points


def exact_steps(values: Sequence[float | int]) -> tuple[tuple[int, ...], int]:
    """Decimal numbers as whole steps of their last decimal, and how many steps make one.

    A float stands for the shortest decimal that reads back as the same float.

    >>> exact_steps([0.1, 0.25, 3.0])
    ((10, 25, 300), 100)
    """
    parts = [_decimal(value) for value in values]
    decimals = max((-exponent for _, exponent in parts), default=0)
    decimals = max(decimals, 0)
    return tuple(n * 10 ** (e + decimals) for n, e in parts), 10**decimals


def _decimal(value: float | int) -> tuple[int, int]:
    """(n, e) with value = n 10^e."""
    if isinstance(value, int):
        return value, 0
    mantissa, _, exponent = repr(float(value)).partition("e")
    whole, _, digits = mantissa.partition(".")
    digits = "" if digits == "0" else digits
    return int(whole + digits), int(exponent or 0) - len(digits)


def measure(name: str, table: Table, tables: Mapping[str, UserTable] = _NONE) -> Measure:
    """The measure of that name.

    Raises:
        RecipeError: unknown name, with the nearest known one.
        RunDirectoryError: the table does not hold it for every choice.
    """
    if name in tables:
        return _user(table, tables[name])
    if name in table.more:
        return _user(table, UserTable(name, table.place, table.more[name]))
    if name not in _BUILT_IN:
        raise RecipeError(unknown("cost", name, {*_BUILT_IN, *tables, *table.more}))
    return _BUILT_IN[name](table)


def _size(table: Table) -> Measure:
    whole = FLOAT_BITS * sum(table.of(unit)[0].params for unit in table.units)
    return Measure("size", tuple(row.weight_bits for row in table.rows), 1, "bit", whole)


def _bops(table: Table) -> Measure:
    whole = sum(bops(table.of(unit)[0].macs, FLOAT) for unit in table.units)
    return Measure("bops", tuple(row.bops for row in table.rows), 1, "BOP", whole)


def _loss(table: Table) -> Measure:
    steps, scale = exact_steps([row.loss or 0.0 for row in table.rows])
    return Measure("loss", steps, scale)


def _drop(table: Table) -> Measure:
    kept = {unit for unit in table.units if len(table.of(unit)) == 1}
    for row in table.rows:
        if row.drop is None and row.unit not in kept:
            raise RunDirectoryError(
                f"{table.place} holds no accuracy drop of unit {row.unit!r} at {row.choice}: the "
                "column 'drop' is filled where accuracy was measured. Give a budget of the loss, "
                "such as 'loss<=0.05', or quantise with a --budget of the drop."
            )
    steps, scale = exact_steps([row.drop or 0.0 for row in table.rows])
    return Measure("drop", steps, scale)


def _latency(table: Table) -> Measure:
    for row in table.rows:
        if row.latency_ms is None:
            raise RunDirectoryError(
                f"{table.place} holds no latency of unit {row.unit!r} at {row.choice} "
                "(latency_ms is empty). Measure it with 'bitwright measure', or budget another "
                f"cost: {', '.join(c for c in COSTS if c != 'latency')}."
            )
    return _decimal_measure("latency", table, lambda row: row.latency_ms)


def _energy(table: Table) -> Measure:
    """As the table states it; of arithmetic and weights alone where it states none at all."""
    rows = (*table.rows, *table.references)
    if all(row.energy_pj is None for row in rows):
        return _decimal_measure("energy", table, _energy_of_row, _energy_of_float)
    for row in table.rows:
        if row.energy_pj is None:
            raise RunDirectoryError(
                f"{table.place} holds no energy of unit {row.unit!r} at {row.choice}, but of "
                "others. Fill energy_pj in every line, or in none."
            )
    return _decimal_measure("energy", table, lambda row: row.energy_pj)


def _energy_of_row(row: Row) -> float:
    # A thousandth of a picojoule: finer digits of the power law would be noise.
    return round(energy_pj(row.macs, row.weight_bits, row.choice), 3)


def _energy_of_float(row: Row) -> float:
    return round(energy_pj(row.macs, FLOAT_BITS * row.params, FLOAT), 3)


def _decimal_measure(
    name: str,
    table: Table,
    value: Callable[[Row], float | None],
    of_float: Callable[[Row], float] | None = None,
) -> Measure:
    """A measure in decimals; float from its rows, or from a formula."""
    whole: list[float | None] = []
    floats = {row.unit: row for row in (*table.rows, *table.references) if row.choice.is_float}
    for unit in table.units:
        if of_float is not None:
            whole.append(of_float(table.of(unit)[0]))
        else:
            whole.append(value(floats[unit]) if unit in floats else None)
    return _from_decimals(name, UNITS.get(name, ""), [value(row) for row in table.rows], whole)


def _from_decimals(
    name: str, unit: str, values: Sequence[float | None], whole: Sequence[float | None]
) -> Measure:
    known = [v for v in whole if v is not None]
    steps, scale = exact_steps([*(v or 0.0 for v in values), *known])
    total = sum(steps[len(values) :]) if len(known) == len(whole) else None
    return Measure(name, steps[: len(values)], scale, unit, total)


def _user(table: Table, given: UserTable) -> Measure:
    for unit, _ in given.values:
        if unit not in table.spans:
            raise RunDirectoryError(unknown("unit", unit, table.units, given.place))
    for row in table.rows:
        if (row.unit, row.choice) not in given.values:
            raise RunDirectoryError(
                f"{given.place} holds no value of unit {row.unit!r} at {row.choice}. Add the line "
                f"{row.unit},{row.choice.w_bits},{row.choice.a_bits},{row.choice.points},VALUE."
            )
    values = [given.values[row.unit, row.choice] for row in table.rows]
    whole = [given.values.get((unit, FLOAT)) for unit in table.units]
    return _from_decimals(given.name, UNITS.get(kind_of(given.name), "units"), values, whole)


def read_user_table(name: str, path: Path) -> UserTable:
    """Read a cost of the user's own: unit, w_bits, a_bits, points, value.

    Raises:
        RecipeError: a name that the table itself fills.
        RunDirectoryError: missing, or a line that cannot be.
    """
    if name in ("size", "bops", *DEGRADATIONS):
        raise RecipeError(
            f"--cost-table {name}={path}: {name!r} is counted from the table itself. Give your "
            "cost another name."
        )
    values: dict[tuple[str, Choice], float] = {}
    for line, cells in read_csv(path, _USER_COLUMNS, _USER_COLUMNS):
        place = f"{path}, line {line}"
        key = cells["unit"].strip(), read_choice(cells, place)
        if key in values:
            raise RunDirectoryError(f"{place}: {key[0]!r} at {key[1]} stands there twice.")
        values[key] = parse_cell(
            amount, cells["value"], "a finite number, 0 or more", f"{place}: value"
        )
    return UserTable(name, str(path), values)


_BUILT_IN: Mapping[str, Callable[[Table], Measure]] = {
    "size": _size,
    "bops": _bops,
    "latency": _latency,
    "energy": _energy,
    "loss": _loss,
    "drop": _drop,
}
