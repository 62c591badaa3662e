"""Output statistics of every unit of a network, float or quantised, one pass or in order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import fx

from bitwright.engine.limits import LIMITS
from bitwright.engine.memory import trim_heap
from bitwright.graph.custom_ops import is_stored_weight
from bitwright.graph.execute import Flat, Open, walk
from bitwright.graph.kept import KeptPlace, Stored, name_inputs
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.replay import Values, live_after, replay
from bitwright.solving.samples import Samples, bytes_of, size_of
from bitwright.tuning.moments import ChannelMoments
from bitwright.tuning.network import Simulation, channel_axis_of

CUT_BYTES = LIMITS.statistics_cut


def output_moments(
    module: fx.GraphModule, units: Iterable[Unit], batches: Open
) -> dict[str, ChannelMoments]:
    """Mean and variance of every unit's result over all its calls, in one pass."""
    by_call = {call: unit for unit in units for call in unit.calls}
    found: dict[str, ChannelMoments] = {}

    def visit(node: fx.Node, value: Any) -> None:
        unit = by_call.get(node.name)
        if unit is not None:
            found[unit.name] = _join(found.get(unit.name), value, unit)

    for flat in batches():
        walk(module, flat, visit)
    return found


def _join(so_far: ChannelMoments | None, value: Any, unit: Unit) -> ChannelMoments:
    here = ChannelMoments.of(value, channel_axis_of(unit, value.dim()))
    return here if so_far is None else so_far.merge(here)


def in_order(
    simulation: Simulation,
    units: Iterable[Unit],
    samples: Samples,
    correct: Callable[[Unit, ChannelMoments], None],
) -> None:
    """Measure each unit's result with all units before it corrected, then let it be corrected.

    The values of all samples just before a unit are kept wherever they fit into memory, so that a
    sweep costs little more than two forward passes; where the activations are wide they are
    computed again from the last place where they did fit.
    """
    graph = simulation.graph

    def opened() -> Iterator[Stored]:
        for flat in samples.fit():
            trim_heap()
            yield (name_inputs(graph, flat),)

    kept = KeptPlace(opened)
    sizes = _sample_bytes(graph, next(samples.fit()))
    for unit in units:
        trim_heap()
        names = _before(graph, unit.calls[0])
        room = samples.fit_count * sum(sizes[name] for name in names) <= CUT_BYTES
        correct(unit, _measure(graph, unit, kept, names if room else ()))


def _sample_bytes(graph: ModelGraph, flat: Flat) -> dict[str, float]:
    """What every value takes for one sample."""
    found: dict[str, float] = {}

    def visit(node: fx.Node, value: Any) -> None:
        found[node.name] = bytes_of(value) / size_of(flat)

    walk(graph.module, flat, visit)
    return found


def _measure(
    graph: ModelGraph, unit: Unit, kept: KeptPlace, names: tuple[str, ...]
) -> ChannelMoments:
    """The moments of one unit's result; what is kept moves to the named values, if any."""
    found: ChannelMoments | None = None

    def forward(values: Values) -> Values:
        nonlocal found
        got = replay(graph, values, {*names, *unit.calls})
        for call in unit.calls:
            found = _join(found, got[call], unit)
        return {name: got[name] for name in names}

    if names:
        kept.move((forward,), sys.maxsize)
    else:
        for (values,) in kept.walk():
            forward(values)
    assert found is not None
    return found


def _before(graph: ModelGraph, call: str) -> tuple[str, ...]:
    """The values that live just before a node; weights are turned to numbers when needed."""
    nodes = graph.nodes()
    names = list(nodes)
    live = live_after(graph, names[names.index(call) - 1])
    return tuple(name for name in live if not is_stored_weight(nodes[name]))
