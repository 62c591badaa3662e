"""Batch-norm folding: W' = W g, b' = (b - mean) g + beta with g = gamma / sqrt(var + eps)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from bitwright.engine.note import Note
from bitwright.graph.model_graph import FoldedBatchNorm, get_tensor, set_tensor
from bitwright.graph.operators import CHANNEL_AXIS, WEIGHTED, unit_name
from bitwright.graph.value_names import pass_names

aten = torch.ops.aten


def fold_batch_norm(module: fx.GraphModule, node: fx.Node) -> tuple[str, FoldedBatchNorm] | Note:
    """Fold one batch-norm into the layer before it, or say why it stays.

    The fold is computed in float64 and is exact up to float rounding. The record of what was
    folded is what batch-norm tuning reconstructs from (Hubara et al. 2020, section 3.3 and
    appendix B).
    """
    name = _norm_name(node)
    before = node.args[0]
    layer = _through_flatten(before)
    reason = _why_not(layer, node)
    if reason:
        return Note(name, f"batch-norm stays in float: {reason}")
    assert isinstance(layer, fx.Node) and isinstance(before, fx.Node)
    record = _record(module, node, name)
    weight_node, bias_node = layer.args[1], _bias(layer)
    assert isinstance(weight_node, fx.Node)
    weight = get_tensor(module, str(weight_node.target)).double()
    axis = CHANNEL_AXIS[layer.target]
    gain = record.gamma.double() / torch.sqrt(record.var.double() + record.eps)
    per_channel = _gain_per_weight(gain, weight, axis)
    old_bias = (
        get_tensor(module, str(bias_node.target)).double()
        if isinstance(bias_node, fx.Node)
        else torch.zeros_like(gain)
    )
    bias = (old_bias - record.mean.double()) * gain + record.beta.double()
    unit = unit_name(str(weight_node.target))
    set_tensor(module, str(weight_node.target), (weight * per_channel).float())
    _set_bias(module, layer, f"{unit}.bias" if unit else "bias", bias.float())
    pass_names(before, node)
    node.replace_all_uses_with(before)
    module.graph.erase_node(node)
    return unit, record


def _norm_name(node: fx.Node) -> str:
    mean = node.args[3]
    path = str(mean.target) if isinstance(mean, fx.Node) else node.name
    return path.removesuffix(".running_mean")


def _through_flatten(value: object) -> object:
    """The linear layer whose rows (all axes but the last) are merely joined before the norm."""
    if not isinstance(value, fx.Node) or value.target is not aten.flatten.using_ints:
        return value
    layer, rank = value.args[0], _rank(value)
    start = value.args[1] if len(value.args) > 1 else 0
    end = value.args[2] if len(value.args) > 2 else -1
    if not isinstance(layer, fx.Node) or layer.target is not aten.linear.default:
        return value
    joins_rows = rank == 2 and start == 0 and end in (-2, (_rank(layer) or 0) - 2)
    return layer if joins_rows and len(value.users) == 1 else value


def _bias(layer: fx.Node) -> object:
    return layer.args[2] if len(layer.args) > 2 else None


def _why_not(layer: object, node: fx.Node) -> str | None:
    training = node.args[5]
    if training:
        return "it is in training mode and uses the statistics of each batch"
    if not isinstance(node.args[3], fx.Node) or node.args[3].op != "get_attr":
        return "it keeps no running statistics"
    if not isinstance(layer, fx.Node) or layer.target not in WEIGHTED:
        what = str(layer.target) if isinstance(layer, fx.Node) else "nothing"
        return f"no weighted layer directly before it (found {what})"
    if layer.target is aten.embedding.default or layer.target not in CHANNEL_AXIS:
        return f"a batch-norm cannot fold into {layer.target}"
    if sum(not _reads_only_shape(user, layer) for user in layer.users) > 1:
        return "the output of the layer before it is used elsewhere too"
    weight = layer.args[1]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return "the weight of the layer before it is computed at run time"
    same = [n for n in node.graph.nodes if n.op == "get_attr" and n.target == weight.target]
    if sum(len(n.users) for n in same) > 1:
        return "the weight of the layer before it is shared by several calls"
    direct = layer is node.args[0]
    if direct and layer.target is aten.linear.default and _rank(layer) not in (None, 2):
        return "the linear layer's channels are not the batch-norm's"
    return None


def _reads_only_shape(user: fx.Node, layer: fx.Node) -> bool:
    shaped = (aten.reshape_as.default, aten.view_as.default, aten.expand_as.default)
    sizes = (aten.sym_size.int,)
    return user.target in sizes or (user.target in shaped and user.args[0] is not layer)


def _rank(node: fx.Node) -> int | None:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else None


def _record(module: fx.GraphModule, node: fx.Node, name: str) -> FoldedBatchNorm:
    _, gamma, beta, mean, var, _, _, eps, *_ = node.args

    def read(value: object, default: float) -> Tensor:
        if isinstance(value, fx.Node):
            return get_tensor(module, str(value.target)).float().clone()
        assert isinstance(mean, fx.Node)
        return torch.full_like(get_tensor(module, str(mean.target)), default, dtype=torch.float32)

    assert isinstance(eps, float)
    return FoldedBatchNorm(name, read(gamma, 1), read(beta, 0), read(mean, 0), read(var, 1), eps)


def _gain_per_weight(gain: Tensor, weight: Tensor, axis: int) -> Tensor:
    """The gain shaped like the weight: a grouped transposed convolution has its channels split."""
    if axis == 1 and gain.numel() != weight.shape[1]:
        groups = gain.numel() // weight.shape[1]
        rows = weight.shape[0] // groups
        table = gain.view(groups, weight.shape[1]).repeat_interleave(rows, dim=0)
        return table.view(*table.shape, *[1] * (weight.dim() - 2))
    shape = [1] * weight.dim()
    shape[axis] = -1
    return gain.view(shape)


def _set_bias(module: fx.GraphModule, layer: fx.Node, target: str, bias: Tensor) -> None:
    old = _bias(layer)
    set_tensor(module, target, bias)
    with module.graph.inserting_before(layer):
        node = module.graph.get_attr(target)
    if isinstance(old, fx.Node):
        node.meta = dict(old.meta)
    args: list[Any] = [*layer.args]
    if len(args) > 2:
        args[2] = node
    else:
        args.append(node)
    layer.args = tuple(args)
