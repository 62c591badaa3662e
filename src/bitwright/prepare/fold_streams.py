"""Folding a factor for each stream into a network, which computes afterwards what it did before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.graph.model_graph import (
    FoldedBatchNorm,
    ModelGraph,
    Unit,
    set_tensor,
    shallow_copy,
)
from bitwright.graph.units import input_of
from bitwright.prepare.channel_sets import ChannelStreams
from bitwright.prepare.joints import top_of
from bitwright.prepare.rescale import (
    behind_clip,
    put,
    put_bias,
    put_limit,
    rebuilt,
    scale_inputs,
    scale_outputs,
    scale_record,
    tensor64,
)
from bitwright.prepare.streams import Streams, find_streams

# Kept with the network, so that a run is read again as it was made.
FACTORS = "streams.factors"


@dataclass(eq=False)
class _Folding:
    """A network that is being rewritten, and what is known of its parts."""

    graph: ModelGraph
    streams: Streams
    factors: Tensor
    module: fx.GraphModule
    nodes: dict[str, fx.Node]
    units: dict[str, Unit]
    folded: dict[str, FoldedBatchNorm]

    def factor(self, name: str) -> Tensor | None:
        """A factor for each channel of a value; None where it stays as it is."""
        channels = self.streams.of(name)
        if channels is None:
            return None
        return self.factors[torch.from_numpy(channels.streams)]


def fold_factors(graph: ModelGraph, streams: Streams, factors: Tensor) -> ModelGraph:
    """The network whose every channel is so many times what it was, and whose answers are the same.

    Equation: W_oi <- W_oi f_o / f_i, b_o <- b_o f_o with f_o, f_i the factors of the streams that
    a unit makes and reads; clips from zero to t end at t f; gains and offsets of norms times f.
    Nagel et al., arXiv 1906.04721, section 4.1, for any number of readers and writers.

    Args:
        graph: the captured network, left as it was.
        streams: of this network.
        factors: one a stream, positive; the first is 1.
    """
    module = shallow_copy(graph.module)
    nodes = {node.name: node for node in module.graph.nodes}
    doing = _Folding(
        graph, streams, factors.double(), module, nodes, {u.name: u for u in graph.units}, {}
    )
    for unit in streams.units:
        _fold_unit(doing, unit)
    for norm in streams.norms:
        factor = doing.factor(norm.node)
        if factor is not None:
            for path in (norm.gain, norm.offset):
                put(module, path, tensor64(module, path) * factor)
    for index, clip in enumerate(streams.clips):
        _fold_clip(doing, clip, index)
    set_tensor(module, FACTORS, factors.double().contiguous())
    return rebuilt(graph, module, doing.units, doing.folded)


def with_factors(graph: ModelGraph, stored: Mapping[str, Tensor]) -> ModelGraph:
    """The network with the factors that a run folded into it and stored."""
    if FACTORS not in stored:
        return graph
    return fold_factors(graph, find_streams(graph), stored[FACTORS])


def _fold_unit(doing: _Folding, unit: Unit) -> None:
    call = doing.graph.nodes()[unit.calls[0]]
    made, read = doing.factor(call.name), doing.factor(input_of(call).name)
    if made is None and read is None:
        return
    weight = tensor64(doing.module, unit.weight)
    if made is not None:
        weight = scale_outputs(weight, unit, made)
        if unit.bias is not None:
            put_bias(doing.module, doing.nodes, unit, tensor64(doing.module, unit.bias) * made)
        if unit.name in doing.graph.folded:
            doing.folded[unit.name] = scale_record(doing.graph.folded[unit.name], made)
    if read is not None:
        weight = scale_inputs(weight, unit, 1.0 / read)
    put(doing.module, unit.weight, weight)


def _fold_clip(doing: _Folding, clip: str, index: int) -> None:
    factor, channels = doing.factor(clip), doing.streams.of(clip)
    if factor is None or channels is None:
        return
    node = doing.graph.nodes()[clip]
    top = top_of(doing.graph, node)
    assert top is not None
    limit = (top.double() * factor).reshape(-1, *[1] * (_rank(node, channels) - 1 - channels.axis))
    new = put_limit(doing.module, doing.nodes, clip, f"streams.clip{index}", limit)
    for name, unit in doing.units.items():
        doing.units[name] = behind_clip(unit, clip, new)


def _rank(node: fx.Node, channels: ChannelStreams) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else channels.axis + 1
