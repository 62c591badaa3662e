"""What a change makes different: the part of a graph behind it, run from stored values onward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx

from bitwright.graph.batch_axes import BatchAxes, join, part, widen
from bitwright.graph.execute import NodeValues, interpret, last_uses
from bitwright.graph.installed import Installed, evaluate
from bitwright.graph.live_memory import Span, peak_of
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.work import OperationCount

GivenValues = Mapping[fx.Node, Any]


@dataclass(frozen=True, eq=False)
class Suffix:
    """The nodes that depend on the touched ones and that the wanted values depend on.

    `nodes` are to be computed, in order; `inputs` are the values that they read and that no change
    reaches; `frees` tells which values nobody needs after a node. A wanted value that does not
    depend on what was touched is itself an input.
    """

    touched: frozenset[str]
    wanted: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    frees: Mapping[fx.Node, list[fx.Node]]


def suffix_of(graph: ModelGraph, touched: Set[str], wanted: tuple[fx.Node, ...]) -> Suffix:
    """Plan the suffix behind the touched nodes up to the wanted values."""
    order = [n for n in graph.module.graph.nodes if n.op not in ("get_attr", "output")]
    reached: set[fx.Node] = set()
    for node in order:
        if node.name in touched or any(i in reached for i in node.all_input_nodes):
            reached.add(node)
    needed = set(wanted) & reached
    for node in reversed(order):
        if node in needed:
            needed.update(i for i in node.all_input_nodes if i in reached)
    nodes = tuple(node for node in order if node in needed)
    read = dict.fromkeys(i for node in nodes for i in node.all_input_nodes)
    read |= dict.fromkeys(w for w in wanted if w not in reached)
    inputs = tuple(i for i in read if i not in needed and i.op != "get_attr")
    frees = {node: [d for d in dead if d not in wanted] for node, dead in last_uses(nodes).items()}
    return Suffix(frozenset(touched), wanted, nodes, inputs, frees)


def stackable(suffix: Suffix, axes: BatchAxes | None) -> bool:
    """Whether several networks can go through the suffix in one pass."""
    return axes is not None and axes.can_be_stacked(
        (n.name for n in suffix.nodes), (n.name for n in suffix.inputs)
    )


def peak_bytes(suffix: Suffix, axes: BatchAxes) -> int:
    """The most bytes of live values that one sample of one network has in the suffix."""
    step = {node: i for i, node in enumerate(suffix.nodes)}
    ends = {dead: step[node] for node, freed in suffix.frees.items() for dead in freed}
    end = len(suffix.nodes)
    return peak_of(
        Span(node.name, step.get(node, 0), ends.get(node, end), axes.sample_bytes.get(node.name, 0))
        for node in (*suffix.inputs, *suffix.nodes)
    ).size


@torch.no_grad()
def run_suffix(
    graph: ModelGraph,
    suffix: Suffix,
    given: GivenValues,
    networks: Sequence[Installed],
    axes: BatchAxes | None,
    work: OperationCount,
) -> list[tuple[Any, ...]]:
    """The wanted values of every network, in one pass over the suffix.

    The networks agree everywhere but at the touched nodes. There each computes its own; their
    results stand one behind the other along the batch, and so go through all other nodes at once.

    Args:
        graph: the captured network.
        suffix: what to compute.
        given: the values of `suffix.inputs`, for one network.
        networks: what is installed in each; only one where `stackable` is false.
        axes: where the batch stands; not needed for one network.
        work: counts the multiply-accumulates.
    """
    times = len(networks)
    assert times == 1 or axes is not None

    def leaves(node: fx.Node) -> tuple[int | None, ...]:
        return axes.leaves[node.name] if axes is not None else ()

    own = set(suffix.nodes)
    values: NodeValues = {}

    def for_all(source: fx.Node) -> Any:
        if source not in values:
            values[source] = widen(given[source], leaves(source), times)
        return values[source]

    def for_one(source: fx.Node, index: int) -> Any:
        if source in own:
            return part(values[source], leaves(source), index, times)
        return given[source]

    def value(node: fx.Node, _: NodeValues) -> Any:
        if node.name not in suffix.touched:
            return evaluate(graph.module, node, for_all, networks[0], work)
        results = [
            evaluate(graph.module, node, partial(for_one, index=index), network, work)
            for index, network in enumerate(networks)
        ]
        return join(results, leaves(node))

    for _ in interpret(suffix.nodes, values, value, set(suffix.wanted)):
        pass
    return [tuple(for_one(node, index) for node in suffix.wanted) for index in range(times)]
