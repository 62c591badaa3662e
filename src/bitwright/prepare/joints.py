"""Joints: places between layers where channels can be rescaled without changing any answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.operators import WEIGHTED, arguments
from bitwright.graph.sites import is_zero_pad
from bitwright.graph.units import input_of

aten = torch.ops.aten

# f(s x) = s f(x) for every s > 0, channel by channel.
HOMOGENEOUS = {
    aten.relu.default, aten.leaky_relu.default, aten.prelu.default, aten.max_pool2d.default,
    aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_max_pool2d.default,
    aten.max_pool1d.default, aten.avg_pool1d.default, aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec,
}  # fmt: skip
# The same between zero and a top, which then becomes one for each channel: a minimum.
CLIPPED = {aten.relu6.default, aten.hardtanh.default, aten.clamp.default, aten.minimum.default}
_FLATTENING = {aten.flatten.using_ints, aten.reshape.default, aten.view.default}
_KINDS = ("conv1d", "conv2d", "conv3d", "linear", "addmm", "conv_transpose1d", "conv_transpose2d")


@dataclass(frozen=True)
class Reader:
    """A unit that reads the channels; each is `block` of its inputs, after a flattening."""

    unit: Unit
    block: int


@dataclass(frozen=True)
class Joint:
    """Channels that one unit makes and only units read.

    Attributes:
        writer: the unit whose output channels they are.
        readers: all units that read them.
        channels: how many there are.
        clips: nodes between them that clip at a number, such as ReLU6, in order.
        between: all nodes between them, in order.
    """

    writer: Unit
    readers: tuple[Reader, ...]
    channels: int
    clips: tuple[str, ...]
    between: tuple[str, ...]


@dataclass
class _Found:
    readers: list[Reader] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)
    between: list[str] = field(default_factory=list)


def find_joints(graph: ModelGraph) -> tuple[Joint, ...]:
    """Every joint of a network, in order of execution.

    Conv-(ReLU)-conv and its like: what lies between must commute with a positive scale for each
    channel, and nothing else may read the channels: no residual addition, no second kind of use.
    """
    found = (_joint(graph, unit) for unit in graph.units)
    return tuple(joint for joint in found if joint is not None)


def _joint(graph: ModelGraph, writer: Unit) -> Joint | None:
    nodes = graph.nodes()
    if not is_alone(graph, writer):
        return None
    call = nodes[writer.calls[0]]
    found = _Found()
    by_call = {c: u for u in graph.units for c in u.calls}
    if not _follow(graph, call, 1, by_call, found) or not found.readers:
        return None
    channels = channels_of(writer)
    fitting = all(inputs_of(r.unit) == channels * r.block for r in found.readers)
    if not fitting or len({r.unit.name for r in found.readers}) < len(found.readers):
        return None
    order = {name: i for i, name in enumerate(nodes)}
    between = sorted(found.between, key=order.__getitem__)
    clips = sorted(found.clips, key=order.__getitem__)
    return Joint(writer, tuple(found.readers), channels, tuple(clips), tuple(between))


def channels_of(unit: Unit) -> int:
    """How many output channels a unit has."""
    groups = unit.groups if unit.kind.startswith("conv_transpose") else 1
    return unit.shape[unit.channel_axis] * groups


def inputs_of(unit: Unit) -> int:
    """How many input channels a unit has."""
    if unit.kind == "addmm" or unit.kind.startswith("conv_transpose"):
        return unit.shape[0]
    return unit.shape[1] * unit.groups


def is_alone(graph: ModelGraph, unit: Unit) -> bool:
    """Whether a unit has one call, a plain one, and nobody else reads its weight and bias."""
    if len(unit.calls) != 1 or unit.kind not in _KINDS:
        return False
    if unit.kind.startswith("conv_transpose") and unit.groups > 1:
        return False
    call = graph.nodes()[unit.calls[0]]
    if any(name in call.kwargs for name in ("alpha", "beta", "bias")):
        return False
    if unit.bias is None and has_bias(call):
        return False
    wanted = {unit.weight, unit.bias}
    readers = [
        user
        for node in graph.module.graph.nodes
        if node.op == "get_attr" and node.target in wanted
        for user in node.users
    ]
    return all(user is call for user in readers)


def has_bias(call: fx.Node) -> bool:
    """Whether a call has a bias, stored or computed."""
    at = arguments(WEIGHTED[call.target])[2]
    return at is not None and len(call.args) > at and call.args[at] is not None


def _follow(
    graph: ModelGraph, node: fx.Node, block: int, by_call: dict[str, Unit], found: _Found
) -> bool:
    """Collect all readers of a value; false where something reads it that does not commute."""
    for user in node.users:
        if user.name in by_call and user.target in WEIGHTED:
            unit = by_call[user.name]
            if input_of(user) is not node or not is_alone(graph, unit) or _reads_twice(user, node):
                return False
            found.readers.append(Reader(unit, block))
            continue
        wider = _passes(graph, user, node)
        if wider is None:
            return False
        found.between.append(user.name)
        if user.target in CLIPPED:
            found.clips.append(user.name)
        if not _follow(graph, user, block * wider, by_call, found):
            return False
    return bool(node.users)


def _reads_twice(user: fx.Node, node: fx.Node) -> bool:
    at = arguments(WEIGHTED[user.target])[0]
    return any(arg is node for i, arg in enumerate(user.args) if i != at)


def _passes(graph: ModelGraph, user: fx.Node, node: fx.Node) -> int | None:
    """By how much a node widens each channel when it flattens; None where it does not commute."""
    if user.op != "call_function" or not user.args or user.args[0] is not node:
        return None
    if user.target is aten.prelu.default:
        slope = user.args[1]
        return 1 if isinstance(slope, fx.Node) and slope.op == "get_attr" else None
    if user.target in HOMOGENEOUS or is_zero_pad(user):
        return 1
    if user.target in CLIPPED:
        return 1 if top_of(graph, user) is not None else None
    if user.target is aten.mean.dim:
        return 1 if _rank(node) == 4 and _axes(user.args[1]) == {2, 3} else None
    if user.target in _FLATTENING:
        return flatten_joint(node, user)
    return None


def top_of(graph: ModelGraph, node: fx.Node) -> Tensor | None:
    """Where a clip from zero ends, as one number or one for each channel; None for any other."""
    if node.target is aten.relu6.default:
        return torch.tensor(6.0)
    if node.target is aten.minimum.default:
        limit = node.args[1]
        known = isinstance(limit, fx.Node) and limit.op == "get_attr"
        return graph.tensor(str(limit.target)).reshape(-1) if known else None  # type: ignore[union-attr]
    low, high = (*node.args[1:], None, None)[:2]
    low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
    if node.target is aten.hardtanh.default:
        low, high = -1.0 if low is None else low, 1.0 if high is None else high
    return torch.tensor(float(high)) if low == 0 and isinstance(high, (int, float)) else None


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else 0


def _axes(given: object) -> set[int]:
    values = given if isinstance(given, (list, tuple)) else [given]
    return {int(v) % 4 for v in values if isinstance(v, int)}


def flatten_joint(node: fx.Node, user: fx.Node) -> int | None:
    """Pixels of a channel where [B, C, H, W] becomes [B, C H W]."""
    before, after = node.meta.get("val"), user.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return None
    if before.dim() < 3 or after.dim() != 2 or str(before.shape[0]) != str(after.shape[0]):
        return None
    sizes = list(before.shape[1:]), after.shape[1]
    if not all(isinstance(s, int) for s in (*sizes[0], sizes[1])):
        return None
    pixels = 1
    for size in sizes[0][1:]:
        pixels *= size
    return pixels if pixels * sizes[0][0] == sizes[1] else None
