"""Where activations are quantised: the edges of the graph that a target wants on a grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from bitwright.graph.attention import SOFTMAX, scores_of
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.operators import ACTIVATIONS, CHAIN, CLAMPS, TRANSPARENT
from bitwright.graph.target import Target
from bitwright.graph.units import activation_after, input_of

aten = torch.ops.aten
_PADS = (aten.pad.default, aten.constant_pad_nd.default)


@dataclass(frozen=True)
class Site:
    """One quantised edge: the value of node `source` as read by node `reader`.

    `root` is the node whose statistics give the range: the source itself, or the node that the
    source merely moves or selects values of (max pooling, reshapes, zero padding). `unit` and
    `call` tell whose input it is; for the other operators of a chain `unit` is None. `clamped` says
    that the root ends at an upper clamp such as ReLU6, which a grid may stand for.
    """

    source: str
    reader: str
    root: str
    unit: str | None
    call: int
    clamped: bool = False


def find_sites(graph: ModelGraph, target: Target) -> tuple[Site, ...]:
    """All quantised edges for a target, in order of execution.

    The inputs of every unit; and where the target wants an unbroken integer chain, the inputs of
    the chain's other operators and every result of a quantised operator.
    """
    if not target.inputs:
        return ()
    calls = {
        call: (unit, i)
        for unit in graph.units
        if not unit.weight_only
        for i, call in enumerate(unit.calls)
    }
    sites: list[Site] = []
    for node in graph.module.graph.nodes:
        if node.name in calls and node.target is not aten.embedding.default:
            unit, index = calls[node.name]
            sites.append(_unit_site(node, unit, index))
        elif CHAIN.get(node.target) in target.chain and node.target in SOFTMAX:
            scores = scores_of(node)
            if scores is None:
                continue
            source, reader = scores
            sites.append(Site(source.name, reader.name, root_of(source).name, None, 0))
        elif CHAIN.get(node.target) in target.chain and _is_plain(node):
            sites += [
                Site(source.name, node.name, root_of(source).name, None, 0)
                for source in dict.fromkeys(node.all_input_nodes)
                if _is_float(source)
            ]
        else:
            continue
        if target.outputs:
            sites += _result_sites(node)
    nodes = graph.nodes()
    return tuple(
        replace(site, clamped=_has_upper_clamp(nodes[site.root]))
        for site in _without_repeats(sites)
    )


def _has_upper_clamp(node: fx.Node) -> bool:
    """ReLU6 and its kin; a plain ReLU has no top."""
    name = ACTIVATIONS.get(node.target)
    return name in ("hardtanh", "relu6") or (
        name == "clamp" and len(node.args) > 2 and node.args[2] is not None
    )


def _unit_site(node: fx.Node, unit: Unit, index: int) -> Site:
    source = input_of(node)
    reader = node
    if is_zero_pad(source) and len(source.users) == 1:
        # Zero is on every grid, so quantising before a zero padding equals quantising after it,
        # and runtimes can then merge the padding into the convolution.
        reader, source = source, source.all_input_nodes[0]
    return Site(source.name, reader.name, root_of(source).name, unit.name, index)


def _result_sites(node: fx.Node) -> list[Site]:
    """A result is quantised for all its readers, after a clamp that a saturating grid contains."""
    after = activation_after(node)
    result = after if after is not None and _is_clamp(after) else node
    return [
        Site(result.name, reader.name, root_of(result).name, None, 0)
        for reader in result.users
        if reader.op != "output"
    ]


def _is_clamp(node: fx.Node) -> bool:
    """Whether an activation only clamps from zero, so that saturation can stand for it."""
    name = ACTIVATIONS.get(node.target)
    from_zero = len(node.args) > 1 and node.args[1] in (0, 0.0)
    return name in ("relu", "relu6") or (name in CLAMPS and from_zero)


def _is_plain(node: fx.Node) -> bool:
    """Whether a chain operator works on two float tensors (an added constant is no edge)."""
    if node.target is aten.mean.dim:
        axes = node.args[1]
        return isinstance(axes, (list, tuple)) and sorted(axes) in ([2, 3], [-2, -1])
    if node.target is aten.adaptive_avg_pool2d.default:
        return node.args[1] in ([1, 1], (1, 1))
    if node.target is aten.add.Tensor:
        both = [isinstance(a, fx.Node) and a.op != "get_attr" for a in node.args[:2]]
        return all(both) and not node.kwargs and _same_shape(node)
    return True


def _same_shape(node: fx.Node) -> bool:
    shapes = [
        tuple(str(s) for s in i.meta["val"].shape)
        for i in node.all_input_nodes
        if isinstance(i.meta.get("val"), Tensor)
    ]
    return len(set(shapes)) <= 1


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.op != "get_attr" and (
        not isinstance(value, Tensor) or value.dtype.is_floating_point
    )


def is_zero_pad(node: fx.Node) -> bool:
    """Whether a node surrounds its input with zeros and does nothing else."""
    if node.target not in _PADS:
        return False
    rest = (*node.args[2:], *node.kwargs.values())
    return all(v in ("constant", 0, 0.0, None) for v in rest)


def root_of(node: fx.Node) -> fx.Node:
    """The node whose values a node merely moves or selects; the node itself where it does more."""
    while node.op == "call_function":
        moves = node.target in TRANSPARENT or is_zero_pad(node)
        if not moves or len(node.all_input_nodes) < 1 or not isinstance(node.args[0], fx.Node):
            break
        node = node.args[0]
    return node


def _without_repeats(sites: list[Site]) -> list[Site]:
    """An edge listed twice keeps the entry of the unit, whose bits decide."""
    kept: dict[tuple[str, str], Site] = {}
    for site in sites:
        key = (site.source, site.reader)
        if key not in kept or (kept[key].unit is None and site.unit is not None):
            kept[key] = site
    return list(kept.values())
