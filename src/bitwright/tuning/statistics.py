"""Output statistics of every unit of a network, float or quantised, one pass or in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from bitwright.graph.custom_ops import is_stored_weight
from bitwright.graph.execute import walk
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.replay import live_after, replay
from bitwright.run.memory import trim_heap
from bitwright.solving.samples import Open, Samples, bytes_of, size_of
from bitwright.tuning.moments import Moments
from bitwright.tuning.network import Simulation, channel_axis_of

CUT_BYTES = 224 << 20

Values = dict[str, Any]


def output_moments(
    module: fx.GraphModule, units: Iterable[Unit], batches: Open
) -> dict[str, Moments]:
    """Mean and variance of every unit's result over all its calls, in one pass."""
    by_call = {call: unit for unit in units for call in unit.calls}
    found: dict[str, Moments] = {}

    def visit(node: fx.Node, value: Any) -> None:
        unit = by_call.get(node.name)
        if unit is not None:
            found[unit.name] = _joined(found.get(unit.name), value, unit)

    for flat in batches():
        walk(module, flat, visit)
    return found


def _joined(so_far: Moments | None, value: Any, unit: Unit) -> Moments:
    here = Moments.of(value, channel_axis_of(unit, value.dim()))
    return here if so_far is None else so_far.merge(here)


@dataclass
class Cut:
    """All samples' values at one place of the graph; without any, the inputs are read again.

    Each entry has the number of its samples and the values by node.
    """

    stored: list[tuple[int, Values]] = field(default_factory=list)

    def walk(self, graph: ModelGraph, batches: Open) -> Iterator[tuple[int, Values]]:
        """The values, batch by batch."""
        if self.stored:
            yield from self.stored
            return
        inputs = tuple(n.name for n in graph.module.graph.nodes if n.op == "placeholder")
        for flat in batches():
            yield size_of(flat), dict(zip(inputs, flat, strict=True))

    def forget(self, index: int) -> None:
        """Let go of one entry's values."""
        if self.stored:
            self.stored[index] = (self.stored[index][0], {})


def in_order(
    simulation: Simulation,
    units: Iterable[Unit],
    samples: Samples,
    correct: Callable[[Unit, Moments], None],
) -> None:
    """Measure each unit's result with all units before it corrected, then let it be corrected.

    The values of all samples just before a unit are kept wherever they fit into memory, so that a
    sweep costs little more than two forward passes; where the activations are wide they are
    computed again from the last place where they did fit.
    """
    cut = Cut()
    for unit in units:
        trim_heap()
        found, cut = _measure(simulation.graph, unit, cut, samples)
        if found is not None:
            correct(unit, found)


def _measure(
    graph: ModelGraph, unit: Unit, cut: Cut, samples: Samples
) -> tuple[Moments | None, Cut]:
    """The moments of one unit, and the cut moved to just before it where it fits there."""
    names = _before(graph, unit.calls[0])
    found: Moments | None = None
    moved: list[tuple[int, Values]] | None = []
    for index, (rows, start) in enumerate(cut.walk(graph, samples.fit)):
        if not cut.stored:
            trim_heap()
        values = replay(graph, start, {*names, *unit.calls})
        for call in unit.calls:
            found = _joined(found, values[call], unit)
        here = {name: values[name] for name in names}
        if index == 0 and bytes_of(here) * samples.fit_count > CUT_BYTES * rows:
            moved = None
        if moved is not None:
            moved.append((rows, here))
            cut.forget(index)
    return found, cut if moved is None else Cut(moved)


def _before(graph: ModelGraph, call: str) -> tuple[str, ...]:
    """The values that live just before a node; weights are turned to numbers when needed."""
    nodes = graph.nodes()
    names = list(nodes)
    live = live_after(graph, names[names.index(call) - 1])
    return tuple(name for name in live if not is_stored_weight(nodes[name]))
