"""Rescaling and shifting the channels of a joint: weights, biases, clips, batch-norm records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from bitwright.graph.execute import channels_last
from bitwright.graph.model_graph import (
    FoldedBatchNorm,
    ModelGraph,
    Unit,
    get_tensor,
    set_tensor,
)
from bitwright.prepare.joints import Joint, Reader

aten = torch.ops.aten


def by_output(weight: Tensor, unit: Unit) -> Tensor:
    """A view [channels, rest] of a weight by output channel."""
    moved = weight.movedim(unit.channel_axis, 0)
    return moved.reshape(moved.shape[0], -1)


def by_input(weight: Tensor, unit: Unit) -> Tensor:
    """A copy [inputs, rest] of a weight by input channel."""
    if unit.kind == "addmm" or unit.kind.startswith("conv_transpose"):
        return weight.reshape(weight.shape[0], -1)
    grouped = weight.reshape(unit.groups, weight.shape[0] // unit.groups, *weight.shape[1:])
    turned = grouped.transpose(1, 2)
    return turned.reshape(unit.groups * weight.shape[1], -1)


def scale_outputs(weight: Tensor, unit: Unit, factor: Tensor) -> Tensor:
    """The weight with each output channel times its factor."""
    shape = [1] * weight.dim()
    shape[unit.channel_axis] = -1
    return weight * factor.reshape(shape)


def scale_inputs(weight: Tensor, unit: Unit, factor: Tensor) -> Tensor:
    """The weight with each input channel times its factor."""
    rest = [1] * (weight.dim() - 2)
    if unit.kind == "addmm" or unit.kind.startswith("conv_transpose"):
        return weight * factor.reshape(-1, 1, *rest)
    grouped = weight.reshape(unit.groups, weight.shape[0] // unit.groups, *weight.shape[1:])
    spread = factor.reshape(unit.groups, 1, weight.shape[1], *rest)
    return (grouped * spread).reshape(weight.shape)


def for_reader(values: Tensor, reader: Reader) -> Tensor:
    """One value for each input of a reader: those of a flattened channel are alike."""
    return values.repeat_interleave(reader.block)


def scale_record(record: FoldedBatchNorm, factor: Tensor) -> FoldedBatchNorm:
    """What the batch-norm would have been had the unit's output been scaled."""
    factor = factor.float()
    return replace(record, gamma=record.gamma * factor, beta=record.beta * factor)


def put(module: fx.GraphModule, target: str, value: Tensor) -> None:
    """Set a tensor as float32 in the layout that captured networks have."""
    set_tensor(module, target, channels_last(value.float().contiguous()))


def put_bias(
    module: fx.GraphModule, nodes: Mapping[str, fx.Node], unit: Unit, value: Tensor
) -> Unit:
    """Set a unit's bias; one that had none gets a place for it."""
    if unit.bias is not None:
        put(module, unit.bias, value)
        return unit
    owner, _, leaf = unit.weight.rpartition(".")
    stem = "bias" if leaf == "weight" else f"{leaf}_bias"
    target = f"{owner}.{stem}" if owner else stem
    set_tensor(module, target, value.float().contiguous())
    call = nodes[unit.calls[0]]
    with module.graph.inserting_before(call):
        node = module.graph.get_attr(target)
    args = list(call.args)
    # Operators take the bias third; a place that was left out is made.
    args += [None] * (3 - len(args))
    args[2] = node
    call.args = tuple(args)
    return replace(unit, bias=target)


def put_clip(
    module: fx.GraphModule, nodes: dict[str, fx.Node], joint: Joint, name: str, limit: Tensor
) -> str:
    """Let a clip of a joint end at a limit for each channel; returns the relu's name."""
    rank = _rank(nodes[name], joint)
    axis = 1 if joint.writer.kind.startswith("conv") else rank - 1
    target = f"{joint.writer.name}.clip{joint.clips.index(name) or ''}"
    return put_limit(module, nodes, name, target, limit.reshape(-1, *[1] * (rank - 1 - axis)))


def put_limit(
    module: fx.GraphModule, nodes: dict[str, fx.Node], name: str, target: str, limit: Tensor
) -> str:
    """Let a clip be a relu, then a minimum with a stored limit; returns the relu's name."""
    node = nodes[name]
    source = node.args[0]
    assert isinstance(source, fx.Node)
    set_tensor(module, target, limit.float().contiguous())
    if node.target is aten.minimum.default:
        old = node.args[1]
        if isinstance(old, fx.Node) and old.target == target:
            return source.name
        with module.graph.inserting_before(node):
            node.args = (source, module.graph.get_attr(target))
        return source.name
    with module.graph.inserting_before(node):
        positive = module.graph.call_function(aten.relu.default, (source,))
        stored = module.graph.get_attr(target)
        least = module.graph.call_function(aten.minimum.default, (positive, stored))
    positive.meta, least.meta = dict(node.meta), dict(node.meta)
    node.replace_all_uses_with(least)
    module.graph.erase_node(node)
    nodes[positive.name], nodes[least.name] = positive, least
    return positive.name


def put_relu(module: fx.GraphModule, nodes: dict[str, fx.Node], name: str) -> str:
    """Let a clip go: only zero bounds it any more; returns the relu's name."""
    node = nodes[name]
    source = node.args[0]
    with module.graph.inserting_before(node):
        positive = module.graph.call_function(aten.relu.default, (source,))
    positive.meta = dict(node.meta)
    node.replace_all_uses_with(positive)
    module.graph.erase_node(node)
    nodes[positive.name] = positive
    return positive.name


def _rank(node: fx.Node, joint: Joint) -> int:
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return value.dim()
    return len(joint.writer.shape)


def behind_clip(unit: Unit, old: str, new: str) -> Unit:
    """A unit whose own activation was a clip that is now another node."""
    if unit.outputs != (old,):
        return unit
    return replace(unit, outputs=(new,), activation="relu")


def rebuilt(
    graph: ModelGraph,
    module: fx.GraphModule,
    units: Mapping[str, Unit],
    folded: Mapping[str, FoldedBatchNorm],
) -> ModelGraph:
    """The graph with an edited module, checked and compiled."""
    module.graph.lint()
    module.recompile()
    changed = tuple(units.get(unit.name, unit) for unit in graph.units)
    return replace(graph, module=module, units=changed, folded={**graph.folded, **folded})


def tensor64(module: fx.GraphModule, target: str) -> Tensor:
    """A stored tensor in float64."""
    return get_tensor(module, target).double()
