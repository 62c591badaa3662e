r"""The latency of every unit at every choice on one machine, and what it says of whole networks.

A unit at a choice is as fast as its neighbours let it be: a runtime has an integer kernel only
where the results are quantised too, and it converts between kernels that hold values differently.
Where all units have quantised inputs (whatever their bits) the sum of single units tells the whole
network's latency; at the borders to units with float inputs it does not. So a table has, beside
the time t_u(c) of each unit in a network of that choice alone, what a border adds:

    T(c) = \sum_u t_u(c_u) + 1/n \sum_u r(c_u) + \sum_{borders} b

over neighbours in the order of execution of which one has quantised and one float inputs; r is the
time of everything that is no unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

from bitwright.graph.choice import FLOAT, Choice


@dataclass(frozen=True)
class Conditions:
    """What latencies hold for: they tell little about another machine."""

    target: str
    batch: int
    threads: int
    processor: str
    onnxruntime: str

    def differences(self, here: Conditions) -> tuple[str, ...]:
        """What is different here, in words; nothing where the latencies hold."""
        return tuple(
            f"{field.name} was {getattr(self, field.name)}, is {getattr(here, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(here, field.name)
        )


@dataclass(frozen=True)
class LatencyCell:
    """One choice of one unit, in milliseconds.

    Attributes:
        ms: in a network that has this choice everywhere.
        enter, leave: what is added where the unit before or after has inputs of the other kind:
            float where this one's are quantised, or the other way about.
    """

    ms: float
    enter: float = 0.0
    leave: float = 0.0


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Milliseconds of every unit at every choice.

    Attributes:
        units: in order of execution.
        cells: of every (unit, choice); float is always among a unit's choices.
        rest: of everything that is no unit, in a network of that choice.
        conditions: what was measured on.
    """

    units: tuple[str, ...]
    cells: Mapping[tuple[str, Choice], LatencyCell]
    rest: Mapping[Choice, float]
    conditions: Conditions

    @property
    def float_ms(self) -> float:
        """The float network, the rest included: what a relative budget is a fraction of."""
        return sum(self.cells[unit, FLOAT].ms for unit in self.units) + self.rest[FLOAT]

    @cached_property
    def choices(self) -> Mapping[str, tuple[Choice, ...]]:
        """The choices of each unit."""
        found: dict[str, list[Choice]] = {unit: [] for unit in self.units}
        for unit, choice in self.cells:
            found[unit].append(choice)
        return {unit: tuple(own) for unit, own in found.items()}

    @cached_property
    def base(self) -> Mapping[str, Choice]:
        """Every unit at its finest choice with quantised inputs, or else at its first."""
        return {unit: finest(own) for unit, own in self.choices.items()}

    @cached_property
    def neighbours(self) -> Mapping[str, tuple[str | None, str | None]]:
        """The units before and after each one, among those whose inputs can be quantised."""
        row = [unit for unit in self.units if self.base[unit].a_bits]
        around: list[str | None] = [None, *row, None]
        return {unit: (around[i], around[i + 2]) for i, unit in enumerate(row)}

    def own(self, unit: str, choice: Choice) -> float:
        """A unit with its share of the rest, borders apart."""
        rest = self.rest.get(choice)
        if rest is None:
            rest = next((r for c, r in self.rest.items() if not c.is_float), self.rest[FLOAT])
        return self.cells[unit, choice].ms + rest / len(self.units)


def finest(own: Sequence[Choice]) -> Choice:
    """The choice of the most bits among those with quantised inputs, or the first."""
    quantized = [c for c in own if c.a_bits]
    return max(quantized, key=lambda c: (c.a_bits, c.sum_bits)) if quantized else own[0]


def predict(table: LatencyTable, choices: Mapping[str, Choice]) -> float:
    """Milliseconds of a whole network."""
    total = sum(table.own(unit, choices[unit]) for unit in table.units)
    for unit, (_, after) in table.neighbours.items():
        if after is not None:
            total += border(table, (unit, choices[unit]), (after, choices[after]))
    return total


def border(table: LatencyTable, first: tuple[str, Choice], second: tuple[str, Choice]) -> float:
    """What is added between two neighbours; nothing where both have inputs of one kind."""
    if bool(first[1].a_bits) == bool(second[1].a_bits):
        return 0.0
    return table.cells[first].leave + table.cells[second].enter
