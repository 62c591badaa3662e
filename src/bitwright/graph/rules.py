"""Rewrites of a captured graph, as data: a list of named rules and one engine that applies them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.engine.note import Note
from bitwright.graph.attention import decompose_attention
from bitwright.graph.fold import fold_batch_norm
from bitwright.graph.model_graph import FoldedBatchNorm, attribute, get_tensor, set_tensor
from bitwright.graph.products import linear_from_einsum, linear_from_product
from bitwright.graph.value_names import join_names

aten = torch.ops.aten


@dataclass
class Rewriting:
    """What the rules share while they run: the module, the notes and the folded batch-norms.

    `stems` tells what a folded constant should be called once its parts are gone.
    """

    module: fx.GraphModule
    notes: list[Note] = field(default_factory=list)
    folded: dict[str, FoldedBatchNorm] = field(default_factory=dict)
    stems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RewriteRule:
    """One rewrite: `apply` edits the graph at a node and says whether it did."""

    name: str
    apply: Callable[[Rewriting, fx.Node], bool]


_DROPOUT = {
    aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default, aten.dropout_.default,
}  # fmt: skip
_IDENTITY = {
    aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default, aten.detach_.default,
    aten.clone.default, aten.contiguous.default,
}  # fmt: skip
_VIEWS = {
    "view", "reshape", "slice", "select", "transpose", "permute", "t", "expand", "unsqueeze",
    "squeeze", "flatten", "unflatten", "split", "split_with_sizes", "chunk", "unbind", "narrow",
    "as_strided", "diagonal", "unfold", "alias", "detach", "movedim", "swapaxes", "view_as",
    "expand_as", "contiguous", "unsafe_split", "unsafe_chunk",
}  # fmt: skip


def rewrite(module: fx.GraphModule) -> tuple[list[Note], dict[str, FoldedBatchNorm]]:
    """Apply every rule at every node, in order, until none applies; return notes and records."""
    state = Rewriting(module)
    _unify_aliases(module)
    for rule in RULES:
        for node in list(module.graph.nodes):
            if node.op == "call_function" and not node._erased:
                rule.apply(state, node)
        module.graph.eliminate_dead_code()
        _name_constants(state)
    module.recompile()
    return state.notes, state.folded


def _unify_aliases(module: fx.GraphModule) -> None:
    """One name for one tensor: tied weights are read under the name that comes first."""
    first: dict[tuple[object, ...], fx.Node] = {}
    for node in list(module.graph.nodes):
        if node.op != "get_attr" or not node.users:
            continue
        value = attribute(module, str(node.target))
        if not isinstance(value, Tensor) or not value.numel():
            continue
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if key in first:
            node.replace_all_uses_with(first[key])
            module.graph.erase_node(node)
        first.setdefault(key, node)


def needs_functional_form(graph: fx.Graph) -> bool:
    """Whether an in-place operator writes into a view, which only torch can make functional."""
    return any(_mutates(node) and not _simple_in_place(node) for node in graph.nodes)


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _base_name(node: fx.Node) -> str:
    return str(node.target).split(".")[1] if str(node.target).startswith("aten.") else ""


def _functional(node: fx.Node) -> Any:
    packet, _, overload = str(node.target).removeprefix("aten.").partition(".")
    if not packet.endswith("_"):
        return None
    return getattr(getattr(aten, packet[:-1], None), overload, None)


def _simple_in_place(node: fx.Node) -> bool:
    """Whether the written tensor is a whole value that nothing else looks into."""
    if _functional(node) is None or not isinstance(node.args[0], fx.Node):
        return False
    written = node.args[0]
    if written.op == "get_attr" or _base_name(written) in _VIEWS:
        return False
    return not any(_base_name(user) in _VIEWS and user < node for user in written.users)


def _make_functional(state: Rewriting, node: fx.Node) -> bool:
    if not _mutates(node) or not _simple_in_place(node):
        return False
    written = node.args[0]
    assert isinstance(written, fx.Node)
    node.target = _functional(node)
    written.replace_all_uses_with(node, delete_user_cb=lambda user: user > node)
    return True


def _drop_dropout(state: Rewriting, node: fx.Node) -> bool:
    if node.target not in _DROPOUT:
        return False
    return _replace(node, node.args[0])


def _drop_identity(state: Rewriting, node: fx.Node) -> bool:
    if node.target not in _IDENTITY:
        return False
    return _replace(node, node.args[0])


def _replace(node: fx.Node, by: object) -> bool:
    assert isinstance(by, fx.Node)
    join_names(by, node)
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
    return True


def _reshape_views(state: Rewriting, node: fx.Node) -> bool:
    """A view demands one memory layout; a reshape computes the same in any."""
    if node.target not in (aten.view.default, aten._unsafe_view.default):
        return False
    node.target = aten.reshape.default
    return True


def _rewrite_pooling(state: Rewriting, node: fx.Node) -> bool:
    """Adaptive pooling to one pixel is a mean, which every exporter knows."""
    if node.target is not aten.adaptive_avg_pool2d.default or node.args[1] not in ([1, 1], (1, 1)):
        return False
    node.target = aten.mean.dim
    node.args = (node.args[0], [2, 3], True)
    return True


def _plain_batch_norm(state: Rewriting, node: fx.Node) -> bool:
    """The functional form (values, mean, rstd)[0] back to the plain batch_norm."""
    if node.target is not aten._native_batch_norm_legit_no_training.default:
        return False
    x, gamma, beta, mean, var, momentum, eps = node.args
    with node.graph.inserting_before(node):
        plain = node.graph.call_function(
            aten.batch_norm.default, (x, gamma, beta, mean, var, False, momentum, eps, False)
        )
    plain.meta = dict(node.meta)
    for user in list(node.users):
        if len(user.args) > 1 and user.args[1] == 0:
            user.replace_all_uses_with(plain)
            node.graph.erase_node(user)
    return True


def _fold_constant(state: Rewriting, node: fx.Node) -> bool:
    """An expression over parameters alone (weight norm, standardised weights) is evaluated now."""
    inputs = node.all_input_nodes
    if not inputs or any(i.op != "get_attr" for i in inputs) or _mutates(node):
        return False
    if not all(isinstance(attribute(state.module, str(i.target)), Tensor) for i in inputs):
        return False
    if not isinstance(node.target, torch._ops.OpOverload) or node.target in _RANDOM:
        return False
    tensors = {i: get_tensor(state.module, str(i.target)) for i in inputs}
    value = node.target(
        *fx.map_arg(node.args, tensors.__getitem__), **fx.map_arg(node.kwargs, tensors.__getitem__)
    )
    limit = 4 * sum(t.numel() for t in tensors.values()) + 4096
    if not isinstance(value, Tensor) or value.numel() > limit:
        return False
    source = str(inputs[0].target)
    stem = state.stems.get(source) or _constant_stem(source)
    target = _free_name(state.module, stem)
    state.stems[target] = stem
    set_tensor(state.module, target, value.detach().clone())
    with node.graph.inserting_before(node):
        constant = node.graph.get_attr(target)
    constant.meta = dict(node.meta)
    return _replace(node, constant)


_RANDOM = {aten.rand_like.default, aten.randn_like.default, aten.bernoulli.default}


def _constant_stem(path: str) -> str:
    """What an expression over a parameter is: `conv.weight` for the parts of its weight norm."""
    owner, _, leaf = path.rpartition(".")
    if ".parametrizations." in path:
        owner, _, rest = path.partition(".parametrizations.")
        leaf = rest.split(".")[0]
    elif leaf.endswith(("_g", "_v")):
        leaf = leaf[:-2]
    return f"{owner}.{leaf}" if owner else leaf


def _free_name(module: fx.GraphModule, stem: str) -> str:
    """The stem, or the stem with a number where a tensor that is still read has that name."""
    taken = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    name, count = stem, 1
    while name in taken:
        name, count = f"{stem}_{count}", count + 1
    return name


def _name_constants(state: Rewriting) -> None:
    """Give folded constants the name of what they were made of, once that is no longer read."""
    for target, stem in list(state.stems.items()):
        nodes = [n for n in state.module.graph.nodes if n.op == "get_attr" and n.target == target]
        if not nodes or target == stem or _free_name(state.module, stem) != stem:
            continue
        set_tensor(state.module, stem, get_tensor(state.module, target))
        for node in nodes:
            node.target = stem
        state.stems[stem] = state.stems.pop(target)


def _plain_attention(state: Rewriting, node: fx.Node) -> bool:
    return decompose_attention(node)


def _plain_linear(state: Rewriting, node: fx.Node) -> bool:
    return linear_from_product(state.module, node) or linear_from_einsum(state.module, node)


def _plain_subtraction(state: Rewriting, node: fx.Node) -> bool:
    """s - x of integers (1.0 - mask) as -x + s: torch.onnx fails on the reversed form."""
    if node.target is not aten.rsub.Scalar or len(node.args) != 2 or node.kwargs:
        return False
    x, value = node.args
    kind = x.meta.get("val") if isinstance(x, fx.Node) else None
    if not isinstance(kind, Tensor) or kind.dtype.is_floating_point or kind.dtype == torch.bool:
        return False
    with node.graph.inserting_before(node):
        turned = node.graph.call_function(aten.neg.default, (x,))
    turned.meta = {"val": kind}
    node.target = aten.add.Tensor
    node.args = (turned, value)
    return True


def _fuse_zero_padding(state: Rewriting, node: fx.Node) -> bool:
    """A symmetric zero padding before a convolution becomes the convolution's own."""
    if node.target is not aten.conv2d.default or not isinstance(node.args[0], fx.Node):
        return False
    pad = node.args[0]
    if pad.target not in (aten.pad.default, aten.constant_pad_nd.default) or len(pad.users) > 1:
        return False
    amounts = pad.args[1]
    mode_or_value = pad.args[2:] + tuple(pad.kwargs.values())
    if any(v not in ("constant", 0, 0.0, None) for v in mode_or_value):
        return False
    if not isinstance(amounts, (list, tuple)) or len(amounts) != 4:
        return False
    left, right, top, bottom = amounts
    if left != right or top != bottom or not all(isinstance(a, int) and a >= 0 for a in amounts):
        return False
    full = _with_defaults(node.args, (None, None, None, [1, 1], [0, 0], [1, 1], 1))
    own = full[4]
    node.args = (pad.args[0], *full[1:4], [own[0] + top, own[1] + left], *full[5:])
    return True


def _with_defaults(args: tuple[Any, ...], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    return args + defaults[len(args) :]


def _fold_norm(state: Rewriting, node: fx.Node) -> bool:
    if node.target is not aten.batch_norm.default:
        return False
    outcome = fold_batch_norm(state.module, node)
    if isinstance(outcome, Note):
        state.notes.append(outcome)
        return False
    unit, record = outcome
    state.folded[unit] = record
    return True


RULES = (
    RewriteRule("make in-place operators functional", _make_functional),
    RewriteRule("plain batch-norm", _plain_batch_norm),
    RewriteRule("attention in its parts", _plain_attention),
    RewriteRule("views are reshapes", _reshape_views),
    RewriteRule("adaptive pooling is a mean", _rewrite_pooling),
    RewriteRule("drop dropout", _drop_dropout),
    RewriteRule("drop identities", _drop_identity),
    RewriteRule("plain subtractions", _plain_subtraction),
    RewriteRule("linear layers written as products", _plain_linear),
    RewriteRule("fold constants", _fold_constant),
    RewriteRule("fuse zero padding", _fuse_zero_padding),
    RewriteRule("fold batch-norm", _fold_norm),
)
