"""How much of a network the sequential mode computes, counted without computing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import fx

from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.replay import live_after, plan
from bitwright.graph.rows import solvable
from bitwright.graph.units import input_of
from bitwright.solving.cuts import INPUT, batches_of, places
from bitwright.solving.work import Work


@dataclass(frozen=True)
class Walked:
    """What the sequential mode computes and reads beside the sums and the solving.

    Attributes:
        cost: of all passes of both networks, in the unit of what the nodes were said to cost.
        read: samples that are read from the data, each as often as it is.
    """

    cost: float
    read: float


def count_walks(work: Work, cost: Mapping[str, float]) -> Walked:
    """The passes of `solve_sequential`, by what each node costs for one sample.

    Args:
        work: with one batch of data, which is run once for the sizes of the values.
        cost: of a node of the float and of the quantised network together, by name.
    """
    graph, found = work.graph, places(work)
    begin = [n.name for n in graph.module.graph.nodes if n.op == "placeholder"]
    total = read = 0.0
    held, place, whole, have = 0.0, INPUT, False, begin
    for index, unit in enumerate(graph.units):
        if work.menu[unit.name][0].is_float or not solvable(unit):
            continue
        target, all_of_them = found.before(index)
        if (target, all_of_them) != (place, whole):
            names = live_after(graph, graph.units[target].outputs[-1])
            wanted = _samples(work, all_of_them)
            kept = 0.0 if all_of_them and not whole else min(held, wanted)
            total += kept * _cost_between(graph, have, names, cost)
            total += (wanted - kept) * _cost_between(graph, begin, names, cost)
            read += wanted - kept
            held, place, whole, have = wanted, target, all_of_them, list(names)
        sources = [input_of(graph.nodes()[call]).name for call in unit.products]
        seen = held if place != INPUT else _samples(work, whole)
        total += seen * _cost_between(graph, have, sources, cost)
        read += 0.0 if place != INPUT else seen
    return Walked(total, read)


def _samples(work: Work, whole: bool) -> float:
    return min(work.samples, batches_of(work, whole) * work.samples / work.passes)


def _cost_between(
    graph: ModelGraph, have: Iterable[str], wanted: Iterable[str], cost: Mapping[str, float]
) -> float:
    nodes: list[fx.Node] = plan(graph, have, wanted)
    return sum(cost.get(node.name, 0.0) for node in nodes)
