"""The table of a network's choices: what each costs, beside what it does to the loss."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitwright.allocation.cost import bops, weight_bits
from bitwright.allocation.energy import energy_pj
from bitwright.allocation.table import Row, Table, make_table
from bitwright.export.packed import save_packed
from bitwright.graph.choice import FLOAT, Choice, Menus
from bitwright.graph.live_memory import value_sizes
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.simulate import Assignment
from bitwright.graph.target import Target
from bitwright.graph.units import input_of
from bitwright.sensitivity.measure import Delta
from bitwright.solving.parallel import SolvedTasks


@dataclass(frozen=True, eq=False)
class Prices:
    """What the cost of a choice depends on.

    Attributes:
        graph, target: of the network.
        share: bits of the file that no choice changes, for each unit, see `file_share`.
        inputs: numbers that each unit reads, for the energy.
    """

    graph: ModelGraph
    target: Target
    share: int = 0
    inputs: Mapping[str, int] | None = None

    @classmethod
    def beside(
        cls,
        graph: ModelGraph,
        target: Target,
        network: Assignment,
        base: Mapping[str, Choice],
        flat: tuple[Any, ...],
    ) -> Prices:
        """The prices of a run, with a menu or without one.

        Args:
            graph, target: of the network.
            network: at the bits of `base`, whose file tells what no choice changes.
            base: the bits of every unit there.
            flat: a bound batch, for the sizes of inputs.
        """
        share = file_share(graph, target, network, base)
        return cls(graph, target, share, input_sizes(graph, flat))

    def weight_bits(self, unit: str, choice: Choice) -> int:
        """What the weights of a unit take alone, scales included."""
        return _weight_bits(self.target, self.graph.unit(unit), choice)

    def row(self, unit: Unit, choice: Choice) -> Row:
        """What a choice costs."""
        bits = _weight_bits(self.target, unit, choice)
        energy = None
        if self.inputs is not None:
            energy = round(energy_pj(unit.macs, bits, choice, self.inputs[unit.name]), 3)
        return Row(
            unit=unit.name,
            choice=choice,
            loss_delta=None,
            params=unit.params,
            weight_bits=bits + self.share,
            macs=unit.macs,
            bops=bops(unit.macs, choice),
            energy_pj=energy,
        )


def file_share(
    graph: ModelGraph, target: Target, network: Assignment, base: Mapping[str, Choice]
) -> int:
    """Bits of model.safetensors that no choice changes, for each unit: biases, names, the rest.

    With them in the table a budget of the size is one of the file as it lies on the disk.
    """
    with tempfile.TemporaryDirectory() as folder:
        size = save_packed(Path(folder) / "base", graph, network)
    plain = sum(_weight_bits(target, unit, base[unit.name]) for unit in graph.units)
    return max(0, -(-(8 * size - plain) // max(len(graph.units), 1)))


def input_sizes(graph: ModelGraph, flat: tuple[Any, ...]) -> dict[str, int]:
    """Numbers that each unit reads for one sample, over all its calls."""
    sizes = value_sizes(graph, flat)
    nodes = graph.nodes()
    return {
        unit.name: sum(sizes[input_of(nodes[call]).name].elements for call in unit.calls)
        for unit in graph.units
    }


def _weight_bits(target: Target, unit: Unit, choice: Choice) -> int:
    channels = unit.shape[unit.channel_axis]
    return weight_bits(unit.params, channels, choice, not target.weight_symmetric)


def table_of(
    prices: Prices,
    menu: Menus,
    solved: SolvedTasks,
    measured: Mapping[str, Mapping[Choice, Delta]] | None,
    seconds: float,
) -> Table:
    """The table: what each choice does to the loss, and what it costs.

    Args:
        prices: of the choices.
        menu: the choices of every unit.
        solved: the solutions.
        measured: the change of the loss, by unit and choice; with them come lines that tell what
            float costs.
        seconds: of a solution.
    """
    rows = []
    for unit in prices.graph.units:
        choices = menu[unit.name]
        for choice in choices:
            solution = solved.get((unit.name, choice))
            row = prices.row(unit, choice)
            method = "float" if solution is None else solution.method
            row = replace(row, method=method, solve_seconds=round(seconds, 6))
            # A kept unit has one row, whose loss is nobody's choice.
            if measured is not None and len(choices) > 1:
                delta = measured[unit.name][choice]
                row = replace(row, loss_delta=delta.loss, loss_stderr=delta.stderr, drop=delta.drop)
            rows.append(row)
        if measured is not None and FLOAT not in choices:
            rows.append(replace(prices.row(unit, FLOAT), method="float"))
    return make_table(rows)
