"""What can be chosen together: units that are tied take one choice, the others choose alone.

The column `group` of the table names what a unit is tied to, several names separated by blanks:

    stage1      all units of this group take the same choice
    a:add3      all units of this group take the same input bits (their inputs share one grid)

Units whose inputs cannot be quantised (every choice has 0 input bits) follow a group in their
weight bits alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bitwright.allocation.cost import Measure
from bitwright.allocation.table import Row, Table
from bitwright.allocation.ties import INPUTS
from bitwright.errors import RunDirectoryError
from bitwright.graph.choice import Choice

Selection = tuple[int, ...]
Indices = NDArray[np.int64]


def starts(levels: Indices) -> Indices:
    """Where each run of equal numbers begins; numbers are 0 or more, equal ones together."""
    return np.flatnonzero(np.diff(levels, prepend=-1))


@dataclass(frozen=True, eq=False)
class Menu:
    """Options of classes of units that choose together.

    Options are in order of component, alternative, cell. A *class* is one unit, or units that take
    the same choice. A *cell* holds the options of one class under one number of input bits where
    those are tied, all its options otherwise. An *alternative* is the cells of all classes of a
    component under the same input bits: one alternative of each component is taken, and one option
    of each of its cells.

    Attributes:
        table: where the options come from.
        classes: the units of each class.
        rows: of each option, the table row of each unit of its class.
        labels: of each option, its choice (that of a unit with quantised inputs, if one is there).
        cell_of, class_of_cell, alternative_of_cell, component_of_alternative: indices upwards.
    """

    table: Table
    classes: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[int, ...], ...]
    labels: tuple[Choice, ...]
    cell_of: Indices
    class_of_cell: Indices
    alternative_of_cell: Indices
    component_of_alternative: Indices

    @cached_property
    def class_of(self) -> Indices:
        """The class of each option."""
        return self.class_of_cell[self.cell_of]

    @cached_property
    def alternative_of(self) -> Indices:
        """The alternative of each option."""
        return self.alternative_of_cell[self.cell_of]

    @cached_property
    def options_of(self) -> tuple[tuple[int, ...], ...]:
        """The options of each class."""
        found: list[list[int]] = [[] for _ in self.classes]
        for option, index in enumerate(self.class_of.tolist()):
            found[index].append(option)
        return tuple(map(tuple, found))

    def spread(self, measure: Measure) -> tuple[int, ...]:
        """The steps of a measure, summed over the units of each option."""
        steps = measure.steps
        return tuple(
            steps[rows[0]] if len(rows) == 1 else sum(steps[row] for row in rows)
            for rows in self.rows
        )

    def in_order(self, options: Iterable[int]) -> Selection:
        """Options, one of every class, in the order of classes: a selection."""
        picked = {int(self.class_of[option]): int(option) for option in options}
        return tuple(picked[c] for c in range(len(self.classes)))

    def is_selection(self, options: Sequence[int] | Indices) -> bool:
        """Whether there is exactly one option of every class."""
        taken = self.class_of[np.asarray(options)]
        return len(taken) == len(self.classes) == len(set(taken.tolist()))

    def rows_of(self, selection: Sequence[int]) -> dict[str, Row]:
        """The row of every unit in the table's order; a selection is one option of every class."""
        found = {
            unit: self.table.rows[row]
            for option in selection
            for unit, row in zip(
                self.classes[self.class_of[option]], self.rows[option], strict=True
            )
        }
        return {unit: found[unit] for unit in self.table.units}

    def uniforms(self) -> dict[Choice, Selection]:
        """Every selection that gives all free units the same choice; kept units stay as kept.

        Units whose inputs cannot be quantised take its weight bits.
        """
        kept = {c: own[0] for c, own in enumerate(self.options_of) if len(own) == 1}
        free = [
            (c, {self.labels[o]: o for o in own}, all(self.labels[o].a_bits == 0 for o in own))
            for c, own in enumerate(self.options_of)
            if c not in kept
        ]
        found = {}
        for choice in dict.fromkeys(label for _, own, _ in free for label in own):
            weights = _weights_of(choice)
            picked = dict(kept)
            for c, own, weights_only in free:
                option = own.get(choice, own.get(weights) if weights_only else None)
                if option is None:
                    break
                picked[c] = option
            if len(picked) == len(self.classes):
                found[choice] = tuple(picked[c] for c in range(len(self.classes)))
        return found


def _weights_of(choice: Choice) -> Choice:
    return Choice(choice.w_bits, 0, choice.points)


def make_menu(table: Table) -> Menu:
    """The options of a table, ties applied.

    Raises:
        RunDirectoryError: tied units that have no choice in common.
    """
    units = table.units
    names = [table.of(unit)[0].group.split() for unit in units]
    groups = _members(names, inputs=False)
    roots = _join(len(units), groups.values())
    classes: dict[int, list[int]] = {}
    for unit, root in enumerate(roots):
        classes.setdefault(root, []).append(unit)
    members = [[units[i] for i in indices] for indices in classes.values()]
    options = [_common(table, names) for names in members]
    index = {unit: i for i, indices in enumerate(classes.values()) for unit in indices}
    tied = {
        name: sorted({index[u] for u in found if _has_inputs(table, units[u])})
        for name, found in _members(names, inputs=True).items()
    }
    return _order(table, members, options, _join(len(members), tied.values()))


def _members(names: Sequence[Sequence[str]], inputs: bool) -> dict[str, list[int]]:
    """Which units each group holds."""
    found: dict[str, list[int]] = {}
    for unit, own in enumerate(names):
        for name in own:
            if name.startswith(INPUTS) == inputs:
                found.setdefault(name, []).append(unit)
    return found


def _join(count: int, groups: Iterable[Sequence[int]]) -> list[int]:
    """The first member of whatever each of `count` things is joined with."""
    root = list(range(count))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for group in groups:
        for other in group[1:]:
            first, second = sorted((find(group[0]), find(other)))
            root[second] = first
    return [find(i) for i in range(count)]


def _has_inputs(table: Table, unit: str) -> bool:
    return any(row.choice.a_bits for row in table.of(unit))


def _common(table: Table, units: Sequence[str]) -> list[tuple[Choice, tuple[int, ...]]]:
    """The choices that all units of a class have, with the row of each."""
    if len(units) == 1:
        return [(table.rows[i].choice, (i,)) for i in table.spans[units[0]]]
    choices = [{table.rows[i].choice: i for i in table.spans[unit]} for unit in units]
    full = [_has_inputs(table, unit) for unit in units]
    leading = choices[full.index(True) if any(full) else 0]
    found = []
    for choice in leading:
        keys = [choice if whole else _weights_of(choice) for whole in full]
        if all(key in own for key, own in zip(keys, choices, strict=True)):
            rows = tuple(own[key] for key, own in zip(keys, choices, strict=True))
            found.append((choice, rows))
    if not found:
        raise RunDirectoryError(
            f"{table.place}: the group {table.of(units[0])[0].group!r} ties "
            f"{', '.join(map(repr, units))}, which have no choice in common. Give them the same "
            "menu, or untie them: leave out the --tie, or empty the column 'group'."
        )
    return found


def _order(
    table: Table,
    members: Sequence[Sequence[str]],
    options: Sequence[list[tuple[Choice, tuple[int, ...]]]],
    roots: Sequence[int],
) -> Menu:
    """Components one after the other, and the indices between the levels."""
    components: dict[int, list[int]] = {}
    for index, root in enumerate(roots):
        components.setdefault(root, []).append(index)
    rows: list[tuple[int, ...]] = []
    labels: list[Choice] = []
    cell_of: list[int] = []
    class_of_cell: list[int] = []
    alternative_of_cell: list[int] = []
    component_of_alternative: list[int] = []
    for number, component in enumerate(components.values()):
        for bits in _input_bits(table, members, options, component):
            for index in component:
                for label, found in options[index]:
                    if bits is None or label.a_bits == bits:
                        rows.append(found)
                        labels.append(label)
                        cell_of.append(len(class_of_cell))
                class_of_cell.append(index)
                alternative_of_cell.append(len(component_of_alternative))
            component_of_alternative.append(number)
    return Menu(
        table,
        tuple(map(tuple, members)),
        tuple(rows),
        tuple(labels),
        np.array(cell_of),
        np.array(class_of_cell),
        np.array(alternative_of_cell),
        np.array(component_of_alternative),
    )


def _input_bits(
    table: Table,
    members: Sequence[Sequence[str]],
    options: Sequence[list[tuple[Choice, tuple[int, ...]]]],
    component: Sequence[int],
) -> list[int | None]:
    """The input bits that all classes of a component have; None where there is one class."""
    if len(component) == 1:
        return [None]
    first, *others = ({label.a_bits for label, _ in options[index]} for index in component)
    common = first.intersection(*others)
    if not common:
        units = [unit for index in component for unit in members[index]]
        raise RunDirectoryError(
            f"{table.place}: the group {table.of(units[0])[0].group!r} ties the input bits of "
            f"{', '.join(map(repr, units))}, which have none in common. Give them the same menu, "
            "or untie them: leave out the --tie, or empty the column 'group'."
        )
    return [*sorted(common)]
