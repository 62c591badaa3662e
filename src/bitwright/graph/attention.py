"""Fused attention as its parts: two products and a softmax, whose inputs a target can quantise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.model_graph import ModelGraph

aten = torch.ops.aten
FUSED = aten.scaled_dot_product_attention.default
SOFTMAX = (aten.softmax.int, aten._softmax.default)
_PRODUCTS = (aten.matmul.default, aten.bmm.default, aten.baddbmm.default)
# What may stand between a product of queries and keys and the mask that is added to it.
_SCALINGS = (
    aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.reshape.default,
    aten.view.default, aten.neg.default, aten.to.dtype,
)  # fmt: skip
_MASKED_FILLS = (aten.masked_fill.Scalar, aten.masked_fill.Tensor)


def decompose_attention(node: fx.Node) -> bool:
    """softmax(Q K^T s + M) V, as torch's own documentation writes it, in place of one operator.

    Equation: s = 1 / sqrt(E) unless given; M is the mask that is given, minus infinity where a
    Boolean one is false, or where `is_causal` hides later keys.
    """
    if node.target is not FUSED:
        return False
    given = dict(zip(_NAMES, node.args, strict=False)) | dict(node.kwargs)
    query, key, value = (given[name] for name in _NAMES[:3])
    width = _width(query)
    if width is None or given.get("dropout_p") or given.get("enable_gqa"):
        return False
    scale = given.get("scale")
    made: list[fx.Node] = []

    def call(target: Any, *args: Any) -> fx.Node:
        with node.graph.inserting_before(node):
            new = node.graph.call_function(target, args)
        made.append(new)
        _infer(new)
        return new

    turned = call(aten.transpose.int, key, -2, -1)
    scores = call(aten.matmul.default, query, turned)
    scores = call(aten.mul.Tensor, scores, 1 / math.sqrt(width) if scale is None else scale)
    mask = given.get("attn_mask")
    if given.get("is_causal"):
        sizes = [call(aten.sym_size.int, tensor, -2) for tensor in (query, key)]
        whole = call(aten.new_ones.default, query, sizes)
        later = call(aten.eq.Scalar, call(aten.tril.default, whole), 0)
        scores = call(aten.masked_fill.Scalar, scores, later, -math.inf)
    if isinstance(mask, fx.Node) and _is_bool(mask):
        hidden = call(aten.logical_not.default, mask)
        scores = call(aten.masked_fill.Scalar, scores, hidden, -math.inf)
    elif mask is not None:
        scores = call(aten.add.Tensor, scores, mask)
    weights = call(aten.softmax.int, scores, -1)
    result = call(aten.matmul.default, weights, value)
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)
    return True


_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def _width(query: object) -> int | None:
    """The length of a query, where it is a number."""
    value = query.meta.get("val") if isinstance(query, fx.Node) else None
    if not isinstance(value, Tensor) or value.dim() < 2 or not isinstance(value.shape[-1], int):
        return None
    return value.shape[-1]


def _is_bool(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.bool


def _infer(node: fx.Node) -> None:
    """The shape and type of a new node, from those of its inputs."""
    known = {n: n.meta["val"] for n in node.all_input_nodes if "val" in n.meta}
    if len(known) == len(node.all_input_nodes) and callable(node.target):
        node.meta["val"] = node.target(*fx.map_arg(node.args, known.__getitem__))


def scores_of(softmax: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """(scores, their reader) of a softmax over a product: before any mask comes to them.

    A mask's -1e38 would take up a whole grid, and a saturated mask would hide nothing; the scores
    without it are numbers like any other. None where the softmax is not over a product.
    """
    reader, value = softmax, softmax.args[0]
    while isinstance(value, fx.Node):
        if _from_product(value):
            return value, reader
        if value.target is aten.add.Tensor:
            both = [a for a in value.args[:2] if isinstance(a, fx.Node) and _leads(a)]
        elif value.target in _MASKED_FILLS:
            both = [a for a in value.args[:1] if isinstance(a, fx.Node)]
        elif value.target is aten.where.self:
            both = [a for a in value.args[1:3] if isinstance(a, fx.Node) and _leads(a)]
        else:
            return None
        if len(both) != 1:
            return None
        reader, value = value, both[0]
    return None


def _from_product(node: fx.Node) -> bool:
    """Whether a node is a product of two computed tensors, scaled at most."""
    while node.target in _SCALINGS and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node.target in _PRODUCTS


def find_attention_units(graph: ModelGraph) -> tuple[tuple[str, ...], ...]:
    """The units that make queries, keys and values, for each attention that has two or more.

    Found behind the operator of fused attention, and behind a softmax over a product and the
    product that it goes into; what lies between is reshaped, scaled or turned (rotary positions).
    """
    calls = {call: unit.name for unit in graph.units for call in unit.calls}
    found: dict[tuple[str, ...], None] = {}
    for node in graph.module.graph.nodes:
        sources = _attended(node)
        units = dict.fromkeys(u for s in sources if (u := _maker(s, calls)) is not None)
        if len(units) > 1:
            found[tuple(units)] = None
    return tuple(found)


def _attended(node: fx.Node) -> list[fx.Node]:
    """Queries, keys and values of the attention that a node stands for; nothing of others."""
    if node.target is FUSED:
        return [a for a in node.args[:3] if isinstance(a, fx.Node)]
    scores = scores_of(node) if node.target in SOFTMAX else None
    if scores is None:
        return []
    product = scores[0]
    while product.target in _SCALINGS and isinstance(product.args[0], fx.Node):
        product = product.args[0]
    reader: fx.Node = node
    while reader.target not in _PRODUCTS:
        users = list(reader.users)
        if len(users) != 1:
            return []
        reader = users[0]
    both = (*product.args[:3], *reader.args[:3])
    return [a for a in both if isinstance(a, fx.Node) and a is not node]


def _maker(source: fx.Node, calls: Mapping[str, str]) -> str | None:
    """The one unit whose result a value is, over operators without weights; None for several."""
    units: set[str] = set()
    todo, seen = [source], {source}
    while todo:
        node = todo.pop()
        if node.name in calls:
            units.add(calls[node.name])
            continue
        if node.target in SOFTMAX or node.target in _PRODUCTS:
            return None
        new = [n for n in node.all_input_nodes if n not in seen and n.op != "get_attr"]
        seen.update(new)
        todo += new
    return units.pop() if len(units) == 1 else None


def _leads(node: fx.Node) -> bool:
    """Whether a value is such a product, masks that were already added to it included."""
    while node.target in (aten.add.Tensor, *_MASKED_FILLS) and isinstance(node.args[0], fx.Node):
        if _from_product(node):
            break
        node = node.args[0]
    return _from_product(node)
