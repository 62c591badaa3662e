"""Peak memory of activations: which values are alive at once, and what each takes at its bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.choice import Choice
from bitwright.graph.execute import run
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.operators import ACTIVATIONS, TRANSPARENT
from bitwright.graph.sites import Site, is_zero_pad

aten = torch.ops.aten

# A reshaped value lies where it lay; pooling makes new values.
_SAME_STORAGE = TRANSPARENT - {aten.max_pool2d.default} | {aten.unflatten.int, aten.squeeze.dims}
CHAIN_BITS = 8


@dataclass(frozen=True)
class Span:
    """A value's life: from the step that makes it to the last that reads it, both included."""

    name: str
    start: int
    stop: int
    size: int


@dataclass(frozen=True)
class LivePeak:
    """The most that is alive at one step: its size, the step, and what it consists of."""

    size: int
    step: int
    spans: tuple[Span, ...]


def peak_of(spans: Iterable[Span]) -> LivePeak:
    """The step at which the sum of the sizes of the live values is largest.

    Equation: max over t of sum over v with start_v <= t <= stop_v of size_v; the first such t.
    """
    held = [span for span in spans if span.size]
    change: dict[int, int] = {}
    for span in held:
        change[span.start] = change.get(span.start, 0) + span.size
        change[span.stop + 1] = change.get(span.stop + 1, 0) - span.size
    now = best = step = 0
    for at in sorted(change):
        now += change[at]
        if now > best:
            best, step = now, at
    return LivePeak(best, step, tuple(s for s in held if s.start <= step <= s.stop))


@dataclass(frozen=True)
class ValueSize:
    """Elements of a value that one sample has, and the bits of each in float."""

    elements: int
    bits: int


def value_sizes(graph: ModelGraph, flat: tuple[Any, ...]) -> dict[str, ValueSize]:
    """The sizes of all values for one sample, from one float pass over a bound example batch.

    A value that every sample shares is counted with its part of the batch.
    """
    batch = next((t.shape[0] for t in flat if isinstance(t, Tensor) and t.dim()), 1)
    found: dict[str, ValueSize] = {}

    def visit(node: fx.Node, value: object) -> None:
        if isinstance(value, Tensor):
            elements = -(-value.numel() // max(batch, 1))
            found[node.name] = ValueSize(elements, 8 * value.element_size())

    run(graph, flat, visit)
    return found


def bits_of_edges(
    sites: Iterable[Site], choices: Mapping[str, Choice], chain_bits: int = CHAIN_BITS
) -> dict[tuple[str, str], int]:
    """The bits of every quantised edge under an allocation; edges of float inputs are left out."""
    bits = {
        (s.source, s.reader): chain_bits if s.unit is None else choices[s.unit].a_bits
        for s in sites
    }
    return {edge: count for edge, count in bits.items() if count}


def activation_peak(
    graph: ModelGraph,
    sizes: Mapping[str, ValueSize],
    bits: Mapping[tuple[str, str], int],
) -> LivePeak:
    """Peak bytes of the live activations of one sample, run in the graph's order.

    A value is kept once for each width that a later reader takes it at: at the edge's bits where
    that is quantised, in float elsewhere, packed to whole bytes. Reshapes, zero paddings and
    activations on a value that nothing else reads take no memory of their own, as runtimes fuse
    them; weights do not count, and neither does a kernel's scratch space.

    Args:
        graph: the captured network.
        sizes: of every value, from `value_sizes`.
        bits: of the quantised edges (source, reader), from `bits_of_edges`.

    Returns:
        The peak: bytes for one sample, the step (position in the graph) and the values alive then.
    """
    order = {node: i for i, node in enumerate(graph.module.graph.nodes)}
    homes = _homes(graph, bits)
    first: dict[fx.Node, int] = {}
    last: dict[tuple[fx.Node, int], int] = {}
    for node, step in order.items():
        if node in homes:
            first.setdefault(homes[node], step)
        for source in node.all_input_nodes:
            inside = source in homes and homes.get(node) is homes[source]
            if source.name in sizes and not inside:
                home = homes[source]
                width = _width(source, node, bits) or sizes[source.name].bits
                last[home, width] = step
    return peak_of(
        Span(home.name, first[home], stop, -(-sizes[home.name].elements * width // 8))
        for (home, width), stop in last.items()
    )


def _homes(graph: ModelGraph, bits: Mapping[tuple[str, str], int]) -> dict[fx.Node, fx.Node]:
    """For each value the one that it shares its memory with, or itself."""
    homes: dict[fx.Node, fx.Node] = {}
    for node in graph.module.graph.nodes:
        if node.op in ("get_attr", "output"):
            continue
        source = _looks_into(node)
        if source is None and _is_in_place(node, bits):
            source = node.all_input_nodes[0]
        homes[node] = homes.get(source, node) if source is not None else node
    return homes


def _is_in_place(node: fx.Node, bits: Mapping[tuple[str, str], int]) -> bool:
    """Whether a node is an activation on a value that nothing else reads."""
    if node.target not in ACTIVATIONS:
        return False
    source = node.all_input_nodes[0]
    return len(source.users) == 1 and (source.name, node.name) not in bits


def _looks_into(node: fx.Node) -> fx.Node | None:
    """The value that a node only reshapes or surrounds with zeros."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    return node.args[0] if node.target in _SAME_STORAGE or is_zero_pad(node) else None


def _width(source: fx.Node, reader: fx.Node, bits: Mapping[tuple[str, str], int]) -> int | None:
    """The bits at which a reader takes a value; through a reshape, those that the reshape takes."""
    width = bits.get((source.name, reader.name))
    before = _looks_into(source)
    if width is None and before is not None:
        return _width(before, source, bits)
    return width
