"""Streams: channels that can only be rescaled together, wherever they are made, added and read."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.operators import WEIGHTED, arguments
from bitwright.graph.sites import is_zero_pad
from bitwright.graph.units import input_of
from bitwright.prepare.channel_sets import ChannelStreams, NumberSets
from bitwright.prepare.joints import (
    CLIPPED,
    HOMOGENEOUS,
    channels_of,
    flatten_joint,
    inputs_of,
    is_alone,
    top_of,
)

aten = torch.ops.aten

_SAME = HOMOGENEOUS - {aten.prelu.default} | {
    aten.clone.default, aten.alias.default, aten.dropout.default, aten.contiguous.default,
    aten.detach.default,
}  # fmt: skip
_SUMS = {aten.add.Tensor, aten.sub.Tensor}
_SCALED = {aten.mul.Tensor, aten.div.Tensor}
_RESHAPES = {
    aten.flatten.using_ints, aten.reshape.default, aten.view.default, aten.squeeze.dim,
    aten.squeeze.dims, aten.unsqueeze.default, aten._unsafe_view.default,
}  # fmt: skip
_CONV_RANK = {
    "conv1d": 3, "conv2d": 4, "conv3d": 5, "conv_transpose1d": 3, "conv_transpose2d": 4,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Norm:
    """A layer norm whose gain and offset take a factor for each channel of its result."""

    node: str
    gain: str
    offset: str


@dataclass(frozen=True, eq=False)
class Streams:
    """Which channels of a network can be rescaled, each with all that belong to it.

    Attributes:
        count: of streams, the first of which is all that must stay as it is.
        values: the channels of every value that has some, by node.
        units: those that make or read streams, in order.
        norms: layer norms that make some.
        clips: nodes within streams that clip at a number, such as ReLU6.
    """

    count: int
    values: Mapping[str, ChannelStreams]
    units: tuple[Unit, ...]
    norms: tuple[Norm, ...]
    clips: tuple[str, ...]

    def of(self, name: str) -> ChannelStreams | None:
        """The channels of a value, None where all of it must stay as it is."""
        found = self.values.get(name)
        return found if found is not None and bool(found.streams.any()) else None


def find_streams(graph: ModelGraph, clips: bool = True) -> Streams:
    """All channels of a network that a positive factor can rescale without changing any answer.

    Every unit makes a new channel for each of its outputs. Whatever commutes with a positive factor
    (ReLU, PReLU, pooling, reshaping) hands channels on; an addition makes those of its operands
    one, so that a residual stream is one stream in all its blocks; a concatenation puts them side
    by side. What does not commute fixes the channels that it reads, as the network's own inputs and
    outputs are. Cross-layer equalisation (arXiv 1906.04721, section 4.1) on whole streams.

    Args:
        graph: the captured network.
        clips: whether ReLU6 and its like may become a minimum with a limit for each channel.
    """
    walker = _Walker(graph, clips)
    for node in graph.module.graph.nodes:
        walker.visit(node)
    return walker.found()


class _Walker:
    """One pass over the nodes; every handler says what channels a node's value has."""

    def __init__(self, graph: ModelGraph, clips: bool) -> None:
        self.graph, self.sets, self.may_clip = graph, NumberSets(), clips
        self.values: dict[fx.Node, ChannelStreams] = {}
        self.parts: dict[fx.Node, tuple[ChannelStreams, ...]] = {}
        self.units: list[Unit] = []
        self.norms: list[Norm] = []
        self.clips: list[str] = []
        self._by_call = {
            unit.calls[0]: unit for unit in graph.units if is_alone(graph, unit)
        }  # fmt: skip

    def visit(self, node: fx.Node) -> None:
        """Find the channels of one node; what no handler knows fixes all that it reads."""
        found = self._channels(node) if node.op == "call_function" else None
        if found is not None:
            self.values[node] = found
        elif node not in self.parts:
            for source in node.all_input_nodes:
                self.fix(source)

    def fix(self, source: fx.Node) -> None:
        """Let a value be what it is."""
        for channels in (self.values.get(source), *self.parts.get(source, ())):
            if channels is not None:
                self.sets.fix(channels.streams)

    def found(self) -> Streams:
        """What the pass found, the streams numbered from 1 in order."""
        named = {
            n: ChannelStreams(c.axis, self.sets.names(c.streams)) for n, c in self.values.items()
        }
        everything = [np.zeros(1, dtype=np.int64), *(c.streams for c in named.values())]
        roots = np.unique(np.concatenate(everything))
        values = {
            node.name: ChannelStreams(c.axis, np.searchsorted(roots, c.streams))
            for node, c in named.items()
        }
        return Streams(len(roots), values, tuple(self.units), tuple(self.norms), tuple(self.clips))

    def _channels(self, node: fx.Node) -> ChannelStreams | None:
        unit = self._by_call.get(node.name)
        if unit is not None and node.target in WEIGHTED:
            return self._of_unit(node, unit)
        if is_zero_pad(node):
            return self._padded(node)
        handler = _HANDLERS.get(node.target)
        return handler(self, node) if handler is not None else None

    def _of_unit(self, node: fx.Node, unit: Unit) -> ChannelStreams | None:
        source = input_of(node)
        at = arguments(WEIGHTED[node.target])[0]
        if any(other is source for i, other in enumerate(node.args) if i != at):
            return None
        self._read(source, unit)
        shape = shape_of(node)
        if shape is None:
            return None
        axis = 1 if unit.kind in _CONV_RANK else len(shape) - 1
        count = channels_of(unit)
        if shape[axis] != count or len(shape) != _CONV_RANK.get(unit.kind, len(shape)):
            return None
        self.units.append(unit)
        return ChannelStreams(axis, self.sets.new(count))

    def _read(self, source: fx.Node, unit: Unit) -> None:
        given = self.values.get(source)
        if given is None:
            return
        shape = shape_of(source) or ()
        axis = 1 if unit.kind in _CONV_RANK else len(shape) - 1
        if given.axis != axis or len(given.streams) != inputs_of(unit):
            self.fix(source)

    def _padded(self, node: fx.Node) -> ChannelStreams | None:
        source = node.all_input_nodes[0]
        given, shape = self.values.get(source), shape_of(source)
        widths: Any = node.args[1]
        if given is None or shape is None or not isinstance(widths, (list, tuple)):
            return None
        at = 2 * (len(shape) - 1 - given.axis)
        if at >= len(widths):
            return given
        if min(widths[at : at + 2]) < 0:
            return None
        # New channels of zeros are zero at every scale.
        before, after = (self.sets.new(int(count)) for count in widths[at : at + 2])
        return ChannelStreams(given.axis, np.concatenate([before, given.streams, after]))


def shape_of(node: fx.Node) -> tuple[Any, ...] | None:
    """The shape of a node's value as it was captured; None where it is no single tensor."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _first(walker: _Walker, node: fx.Node) -> tuple[ChannelStreams, tuple[Any, ...]] | None:
    """The channels and the shape of what a node works on, where nothing else flows into it."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    given, shape = walker.values.get(source), shape_of(source)
    return (given, shape) if given is not None and shape is not None else None


def _same(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    given = _first(walker, node)
    return given[0] if given is not None and len(node.all_input_nodes) == 1 else None


def _prelu(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    given, slope = _first(walker, node), node.args[1]
    stored = isinstance(slope, fx.Node) and slope.op == "get_attr"
    return given[0] if given is not None and stored else None


def _clip(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    given = _first(walker, node)
    if given is None or not walker.may_clip or top_of(walker.graph, node) is None:
        return None
    walker.clips.append(node.name)
    return given[0]


def _mean(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    given = _first(walker, node)
    axes = node.args[1] if len(node.args) > 1 else None
    if given is None or not isinstance(axes, (list, tuple)):
        return None
    channels, shape = given
    gone = {int(axis) % len(shape) for axis in axes}
    if channels.axis in gone:
        return None
    kept = bool(node.args[2]) if len(node.args) > 2 else bool(node.kwargs.get("keepdim", False))
    below = 0 if kept else sum(axis < channels.axis for axis in gone)
    return ChannelStreams(channels.axis - below, channels.streams)


def _sum(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    sides = [walker.values.get(arg) for arg in node.args[:2] if isinstance(arg, fx.Node)]
    shapes = [shape_of(arg) for arg in node.args[:2] if isinstance(arg, fx.Node)]
    if len(sides) < 2 or node.kwargs or None in sides or len({len(s or ()) for s in shapes}) > 1:
        return None
    left, right = sides
    assert left is not None and right is not None
    if left.axis != right.axis or len(left.streams) != len(right.streams):
        return None
    walker.sets.join(left.streams, right.streams)
    return left


def _scaled(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    """Times a number, or times what stays as it is: a gate of squeeze-and-excitation."""
    given = _first(walker, node)
    by = node.args[1]
    if given is None:
        return None
    if isinstance(by, fx.Node):
        if by is node.args[0] or len(shape_of(by) or ()) not in (0, len(given[1])):
            return None
        walker.fix(by)
    return given[0]


def _cat(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    sources = node.args[0]
    if not isinstance(sources, (list, tuple)):
        return None
    parts = [walker.values.get(s) for s in sources if isinstance(s, fx.Node)]
    shape = shape_of(node)
    if shape is None or not parts or None in parts:
        return None
    known = [part for part in parts if part is not None]
    at = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(shape)  # type: ignore[arg-type]
    if len({part.axis for part in known}) > 1:
        return None
    axis = known[0].axis
    if at == axis:
        return ChannelStreams(axis, np.concatenate([part.streams for part in known]))
    for part in known[1:]:
        walker.sets.join(known[0].streams, part.streams)
    return known[0]


def _reshaped(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    given, after = _first(walker, node), shape_of(node)
    if given is None or after is None or len(node.all_input_nodes) > 1:
        return None
    channels, before = given
    axis, size = channels.axis, len(channels.streams)
    if axis == len(before) - 1:
        alike = bool(after) and after[-1] == size
        return ChannelStreams(len(after) - 1, channels.streams) if alike else None
    if [str(s) for s in after[: axis + 1]] == [str(s) for s in before[: axis + 1]]:
        return channels
    source = node.args[0]
    assert isinstance(source, fx.Node)
    pixels = flatten_joint(source, node) if axis == 1 else None
    return None if pixels is None else ChannelStreams(1, np.repeat(channels.streams, pixels))


def _turned(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    given = _first(walker, node)
    if given is None:
        return None
    channels, shape = given
    order = list(range(len(shape)))
    if node.target is aten.permute.default:
        order = [int(axis) % len(shape) for axis in node.args[1]]  # type: ignore[union-attr, arg-type]
    else:
        one, other = (int(axis) % len(shape) for axis in node.args[1:3])  # type: ignore[arg-type]
        order[one], order[other] = order[other], order[one]
    return ChannelStreams(order.index(channels.axis), channels.streams)


def _slice(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    given = _first(walker, node)
    if given is None or node.kwargs:
        return None
    channels, shape = given
    words: tuple[Any, ...] = node.args[1:]
    axis, start, stop, step = words + (0, None, None, 1)[len(words) :]
    if int(axis) % len(shape) != channels.axis:
        return channels
    return ChannelStreams(channels.axis, channels.streams[slice(start, stop, step)])


def _split(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    """Parts of a value, which `getitem` takes out."""
    given = _first(walker, node)
    made = node.meta.get("val")
    if given is None or not isinstance(made, (list, tuple)):
        return None
    channels, shape = given
    at = int(node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)) % len(shape)  # type: ignore[arg-type]
    if at != channels.axis:
        walker.parts[node] = tuple(channels for _ in made)
        return None
    sizes = [int(part.shape[at]) for part in made]
    cuts = np.split(channels.streams, np.cumsum(sizes)[:-1])
    walker.parts[node] = tuple(ChannelStreams(channels.axis, cut) for cut in cuts)
    return None


def _item(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    source, at = node.args
    parts = walker.parts.get(source) if isinstance(source, fx.Node) else None
    return parts[int(at)] if parts is not None else None  # type: ignore[arg-type]


def _norm(walker: _Walker, node: fx.Node) -> ChannelStreams | None:
    """A layer norm makes new channels where its gain and offset are its own, for its last axis."""
    shape, stored = shape_of(node), node.args[2:4]
    source = node.args[0]
    if isinstance(source, fx.Node):
        walker.fix(source)
    single = isinstance(node.args[1], (list, tuple)) and len(node.args[1]) == 1
    if shape is None or len(stored) < 2 or not single:
        return None
    if not all(isinstance(s, fx.Node) and s.op == "get_attr" for s in stored):
        return None
    paths = [str(s.target) for s in stored if isinstance(s, fx.Node)]
    readers = [
        user
        for other in walker.graph.module.graph.nodes
        if other.op == "get_attr" and other.target in paths
        for user in other.users
    ]
    if any(user is not node for user in readers):
        return None
    walker.norms.append(Norm(node.name, *paths))
    return ChannelStreams(len(shape) - 1, walker.sets.new(int(shape[-1])))


_Handler = Callable[[_Walker, fx.Node], ChannelStreams | None]
_HANDLERS: Mapping[Any, _Handler] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(CLIPPED, _clip),
    **dict.fromkeys(_SUMS, _sum),
    **dict.fromkeys(_SCALED, _scaled),
    **dict.fromkeys(_RESHAPES, _reshaped),
    **dict.fromkeys((aten.permute.default, aten.transpose.int), _turned),
    **dict.fromkeys((aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default), _split),
    aten.prelu.default: _prelu,
    aten.mean.dim: _mean,
    aten.cat.default: _cat,
    aten.slice.Tensor: _slice,
    aten.layer_norm.default: _norm,
    operator.getitem: _item,
}
