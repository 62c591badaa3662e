"""Finding the units of a captured graph: one weighted operation each, named by its module path."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from torch import Tensor, fx

from bitwright.graph.execute import walk
from bitwright.graph.model_graph import Unit, get_tensor
from bitwright.graph.operators import ACTIVATIONS, WEIGHTED, arguments, unit_name


def find_units(module: fx.GraphModule, example: list[Tensor]) -> tuple[Unit, ...]:
    """Every weighted operation whose weight is a parameter, in execution order.

    Calls that share one weight are one unit. One forward pass over the example gives the shapes
    that the counts of multiply-accumulates need.
    """
    shapes: dict[fx.Node, tuple[int, ...]] = {}

    def record(node: fx.Node, value: Any) -> None:
        if isinstance(value, Tensor):
            shapes[node] = tuple(value.shape)

    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    given = iter(example)
    walk(
        module,
        tuple(next(given) if _is_tensor(n) else None for n in placeholders),
        record,
    )
    batch = example[0].shape[0] if example[0].dim() else 1
    calls: dict[int, list[fx.Node]] = defaultdict(list)
    for node in module.graph.nodes:
        weight = weight_of(node)
        if weight is not None and node in shapes:
            tensor = get_tensor(module, str(weight.target))
            if tensor.dtype.is_floating_point and _is_weight(node, tensor):
                calls[tensor.data_ptr()].append(node)
    made: list[Unit] = []
    for nodes in calls.values():
        made.append(_unit(module, nodes, shapes, batch, {u.name for u in made}))
    return tuple(made)


def _is_weight(node: fx.Node, tensor: Tensor) -> bool:
    """Products take a matrix: runtimes know no scale a channel for a stack of matrices."""
    if WEIGHTED[node.target] in ("matmul", "addmm"):
        return tensor.dim() == 2
    return tensor.dim() >= 2


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor) or "val" not in node.meta


def weight_of(node: fx.Node) -> fx.Node | None:
    """The parameter that a weighted call multiplies by, or None when it is not one."""
    if node.op != "call_function" or node.target not in WEIGHTED:
        return None
    position = arguments(WEIGHTED[node.target])[1]
    weight = node.args[position]
    return weight if isinstance(weight, fx.Node) and weight.op == "get_attr" else None


def input_of(node: fx.Node) -> fx.Node:
    """The input tensor of a weighted call."""
    value = node.args[arguments(WEIGHTED[node.target])[0]]
    assert isinstance(value, fx.Node)
    return value


def bias_of(node: fx.Node) -> fx.Node | None:
    """The bias of a weighted call, or None."""
    position = arguments(WEIGHTED[node.target])[2]
    value = node.args[position] if position is not None and len(node.args) > position else None
    return value if isinstance(value, fx.Node) and value.op == "get_attr" else None


def activation_after(node: fx.Node) -> fx.Node | None:
    """The activation that alone reads the output of a call, or None."""
    users = list(node.users)
    if len(users) == 1 and users[0].target in ACTIVATIONS and users[0].args[0] is node:
        return users[0]
    return None


def _unit(
    module: fx.GraphModule,
    nodes: list[fx.Node],
    shapes: dict[fx.Node, tuple[int, ...]],
    batch: int,
    taken: set[str],
) -> Unit:
    # A table that is also the output layer (tied weights) is a layer with an input to quantise:
    # what multiplies comes first, as methods take the first call's input for the unit's.
    nodes = sorted(nodes, key=_is_look_up)
    first = nodes[0]
    kind = WEIGHTED[first.target]
    weight_node = weight_of(first)
    assert weight_node is not None
    target = str(weight_node.target)
    weight = get_tensor(module, target)
    kind = _resolve_kind(kind, first, weight)
    name = unit_name(target)
    if name in taken:
        name = target
    biases = {str(b.target) for b in (bias_of(n) for n in nodes) if b is not None}
    after = [activation_after(n) for n in nodes]
    outputs = tuple((a or n).name for a, n in zip(after, nodes, strict=True))
    kinds = {ACTIVATIONS[a.target] if a is not None else None for a in after}
    kinds_of = [_resolve_kind(WEIGHTED[n.target], n, weight) for n in nodes]
    per_call = [_work(k, n, weight, shapes, batch) for k, n in zip(kinds_of, nodes, strict=True)]
    return Unit(
        name=name,
        kind=kind,
        calls=tuple(n.name for n in nodes),
        outputs=outputs,
        weight=target,
        bias=biases.pop() if len(biases) == 1 else None,
        channel_axis=channel_axis(kind, weight),
        groups=_groups(kind, first),
        activation=kinds.pop() if len(kinds) == 1 else None,
        shape=tuple(weight.shape),
        macs=sum(macs for macs, _ in per_call),
        positions=sum(positions for _, positions in per_call),
        look_ups=sum(map(_is_look_up, nodes)),
    )


def _is_look_up(node: fx.Node) -> bool:
    return WEIGHTED[node.target] == "embedding"


def _resolve_kind(kind: str, node: fx.Node, weight: Tensor) -> str:
    if kind != "convolution":
        return kind
    transposed = bool(node.args[6])
    return f"conv{'_transpose' if transposed else ''}{weight.dim() - 2}d"


def channel_axis(kind: str, weight: Tensor) -> int:
    """Which axis of the weight is the unit's output."""
    if kind in ("addmm", "matmul"):
        return weight.dim() - 1
    return 1 if kind.startswith("conv_transpose") else 0


def _groups(kind: str, node: fx.Node) -> int:
    """The groups argument stands at another place for each kind of convolution."""
    if not kind.startswith("conv"):
        return 1
    if WEIGHTED[node.target] == "convolution":
        value: Any = node.args[8]
    else:
        value = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    return int(value)


def _work(
    kind: str, node: fx.Node, weight: Tensor, shapes: dict[fx.Node, tuple[int, ...]], batch: int
) -> tuple[int, int]:
    """(multiply-accumulates, positions) of one sample: positions are the rows of its im2col."""
    out = math.prod(shapes[node])
    if kind == "embedding":
        return 0, out // weight.shape[1] // batch
    if kind.startswith("conv_transpose"):
        taken = math.prod(shapes[input_of(node)])
        positions = taken // weight.shape[0] // batch
        return taken // batch * math.prod(weight.shape[1:]), positions
    channels = weight.shape[channel_axis(kind, weight)]
    positions = out // channels // batch
    return positions * weight.numel(), positions


def fits(unit: Unit, group: int) -> bool:
    """Whether groups of that size divide a linear layer's inputs."""
    width = unit.shape[1 - unit.channel_axis]
    return len(unit.shape) == 2 and width % group == 0 and width > group
