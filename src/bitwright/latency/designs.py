"""Which whole networks are timed so that every unit's latency at every choice follows.

Choices that the runtime sees alike (six bits of a weight are stored in eight) are one *kernel* and
are timed once. There is a network of every kernel; and where inputs are quantised at some choices
and float at others, networks of the former with every third unit of the latter: each of these is
alone there and every other unit has one of them beside it, so what the borders add can be told.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from bitwright.allocation.latency_table import Conditions, LatencyCell, LatencyTable, finest
from bitwright.export.onnx_weights import container
from bitwright.graph.choice import FLOAT, Choice, Menus
from bitwright.latency.time_here import TablePlan, Timing

Kernel = tuple[int, int, bool, int]
# The distance at which two units no longer share a neighbour.
APART = 3
# How often a unit of a random mixture takes the choice of the unit before it, in every other one:
# allocations come in stretches as well as scattered.
_STAY = 0.8


@dataclass(frozen=True, eq=False)
class Design:
    """A network to time: the choice of every unit."""

    label: str
    choices: Mapping[str, Choice]


@dataclass(frozen=True, eq=False)
class Mixed:
    """A network of one kernel with quantised inputs, but for single units with float inputs."""

    design: Design
    ground: Design
    apart: frozenset[str]


@dataclass(frozen=True, eq=False)
class TimingPlan:
    """All networks of a measurement.

    Attributes:
        menu: the choices of every unit, float last where it is not among them.
        uniform: the network of each kernel.
        mixed: networks of one kernel with single units of another.
    """

    menu: Menus
    uniform: Mapping[Kernel, Design]
    mixed: tuple[Mixed, ...]

    @property
    def designs(self) -> tuple[Design, ...]:
        """The networks to time."""
        return (*self.uniform.values(), *(mixed.design for mixed in self.mixed))

    @property
    def row(self) -> tuple[str, ...]:
        """The units that have borders: those whose inputs can be quantised."""
        return tuple(unit for unit, own in self.menu.items() if finest(own).a_bits)


def kernel(choice: Choice) -> Kernel:
    """What the runtime sees of a choice: how it holds weights and inputs, and whether it clamps.

    >>> kernel(Choice(5, 8)) == kernel(Choice(8, 8)), kernel(Choice(8, 5)) == kernel(Choice(8, 8))
    (True, False)
    """
    if choice.is_float:
        return 0, 0, False, 1
    held = choice.a_bits if choice.a_bits in (0, 8, 16) else 8
    weights = container(choice.w_bits, True)[1]
    return weights, held, held != choice.a_bits, choice.points


def plan(menu: Menus) -> TimingPlan:
    """The networks to time for a menu; float is always among them."""
    full = {unit: tuple(dict.fromkeys((*own, FLOAT))) for unit, own in menu.items()}
    base = {unit: finest(own) for unit, own in full.items()}
    uniform: dict[Kernel, Design] = {}
    covered: set[tuple[str, Kernel]] = set()
    for choice in _by_commonness(full):
        own = {unit: _like(choice, full[unit], base[unit]) for unit in full}
        taken = {(unit, kernel(c)) for unit, c in own.items()}
        if kernel(choice) not in uniform and not taken <= covered:
            uniform[kernel(choice)] = Design(str(choice), own)
            covered |= taken
    made = TimingPlan(full, uniform, ())
    return replace(made, mixed=tuple(_mix(made, menu)))


def _mix(made: TimingPlan, menu: Menus) -> Iterator[Mixed]:
    floats = {kernel(c): c for unit in made.row for c in menu[unit] if not c.a_bits}
    grounds = {seen: design for seen, design in made.uniform.items() if seen[1]}
    for seen, choice in floats.items():
        for ground in grounds.values():
            for first in range(min(APART, len(made.row))):
                own = dict(ground.choices)
                apart = {u for u in made.row[first::APART] if seen in map(kernel, menu[u])}
                own |= {u: _like(choice, made.menu[u], own[u]) for u in apart}
                label = f"{ground.label}, every third {choice}, from {first + 1}"
                yield Mixed(Design(label, own), ground, frozenset(apart))


def _by_commonness(menu: Menus) -> list[Choice]:
    """The choices of a menu, those of the most units first."""
    counts: dict[Choice, int] = {}
    for own in menu.values():
        for choice in own:
            counts[choice] = counts.get(choice, 0) + 1
    return sorted(counts, key=lambda c: -counts[c])


def _like(wanted: Choice, own: tuple[Choice, ...], base: Choice) -> Choice:
    """A unit's choice in the network of a choice that it may not have."""
    weights = replace(wanted, a_bits=0)
    for same in (wanted, weights):
        found = [c for c in own if kernel(c) == kernel(same)]
        if found:
            return found[0]
    return base


def mixtures(menu: Menus, count: int, seed: int = 0) -> tuple[Design, ...]:
    """Random networks of a menu, scattered and in stretches by turns, to check predictions on."""
    made = []
    for index in range(count):
        r = random.Random(f"{seed}|{index}")
        stay = _STAY if index % 2 else 0.0
        own: dict[str, Choice] = {}
        last: Choice | None = None
        for unit, choices in menu.items():
            kept = last is not None and last in choices and r.random() < stay
            last = last if kept and last is not None else r.choice(choices)
            own[unit] = last
        kind = "stretches" if stay else "scattered"
        made.append(Design(f"{kind} {index // 2 + 1}", own))
    return tuple(made)


def plan_table(made: TimingPlan) -> TablePlan:
    """What turns the times of a plan's networks into a table."""
    every = {choice for own in made.menu.values() for choice in own}
    return TablePlan(
        {unit: list(map(bits_of, own)) for unit, own in made.menu.items()},
        made.row,
        {bits_of(choice): kernel(choice) for choice in every},
        {seen: design.label for seen, design in made.uniform.items()},
        [(mixed.design.label, mixed.apart) for mixed in made.mixed],
        {
            design.label: {unit: bits_of(choice) for unit, choice in design.choices.items()}
            for design in made.designs
        },
    )


def bits_of(choice: Choice) -> tuple[int, int, int]:
    """A choice as tables of latencies have it."""
    return choice.w_bits, choice.a_bits, choice.points


def rest_designs(made: TimingPlan) -> dict[Choice, Design]:
    """The network of which each choice's rest is."""
    return {
        choice: made.uniform[kernel(choice)]
        for choice in _by_commonness(made.menu)
        if kernel(choice) in made.uniform
    }


def tabulate(
    made: TimingPlan, timings: Mapping[Design, Timing], conditions: Conditions
) -> LatencyTable:
    """The table that a plan's timings give."""
    by_label = {design.label: timing for design, timing in timings.items()}
    found = plan_table(made).cells(by_label)
    rest = {choice: timings[design].rest for choice, design in rest_designs(made).items()}
    cells = {
        (unit, choice): LatencyCell(*found[unit, bits_of(choice)])
        for unit, own in made.menu.items()
        for choice in own
    }
    return LatencyTable(tuple(made.menu), cells, rest, conditions)
