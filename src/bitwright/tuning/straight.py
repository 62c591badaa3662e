"""The quantised network with a gradient: straight through its quantisers, weights constant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.custom_ops import FAKE_QUANTIZE, is_stored_weight
from bitwright.graph.execute import NodeValues, channels_last, compute, interpret
from bitwright.graph.model_graph import drop_unused_tensors, get_tensor, set_tensor, shallow_copy
from bitwright.numerics.affine import QParams, fake_quantize, range_at_hand
from bitwright.numerics.grid import Grid
from bitwright.tuning.pointwise import narrow_strides_apart


class _Through(torch.autograd.Function):
    """Forward: `fake_quantize`. Backward: see `straight_through`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, qparams: QParams) -> Tensor:
        ctx.save_for_backward(x)
        scale, zero = float(qparams.scale), int(qparams.zero_point)
        ctx.low = (qparams.grid.qmin - zero - 0.5) * scale
        ctx.high = (qparams.grid.qmax - zero + 0.5) * scale
        return fake_quantize(x, qparams)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        # One pass over memory: the gradient where low < x < high, else zero.
        return torch.ops.aten.hardtanh_backward(grad, x, ctx.low, ctx.high), None


class _ThroughWithScale(torch.autograd.Function):
    """Forward: `fake_quantize`. Backward: see `straight_through`; the scale has a gradient too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.grid = grid
        return fake_quantize(x, QParams(grid, scale, zero_point))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        step, zero = float(scale), int(zero_point)
        low, high = (ctx.grid.qmin - zero - 0.5) * step, (ctx.grid.qmax - zero + 0.5) * step
        grad_x = torch.ops.aten.hardtanh_backward(grad, x, low, high)
        # s dx^/ds is x^ - x inside and x^ outside, where grad_x is nought.
        made = fake_quantize(x, QParams(ctx.grid, scale, zero_point))
        slope = made.mul_(grad).addcmul_(grad_x, x, value=-1.0).sum() / step
        return grad_x, slope.reshape(scale.shape), None, None


def straight_through(x: Tensor, qparams: QParams) -> Tensor:
    """A quantised activation whose gradient ignores the rounding.

    Equation: x^ = clamp(round(x / s), qmin - z, qmax - z) s; dx^/dx = 1 where
    qmin - z - 1/2 < x / s < qmax - z + 1/2, so that rounding alone stays on the grid, else 0.
    Where the scale asks for a gradient: s dx^/ds = x^ - x inside, x^ outside.
    One scale for the whole tensor. What `numerics.affine.fake_quantize_ste` does, in half of its
    memory traffic.
    Reference: Bengio et al., arXiv 1308.3432; Hubara et al. 2020, section 3.3 (bias tuning).
    """
    with_scale: Callable[..., Tensor] = _ThroughWithScale.apply
    if qparams.scale.requires_grad:
        return with_scale(x, qparams.scale, qparams.zero_point, qparams.grid)
    apply: Callable[..., Tensor] = _Through.apply
    return apply(x, qparams)


def _quantizer(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bits: int,
    signed: bool,
    _: str,
    at_run: int = 0,
) -> Tensor:
    own = QParams.of(Grid(bits, signed), scale, zero_point, at_run)
    if own.block:  # no value lies outside its own range
        return x - x.detach() + fake_quantize(x, own)
    return straight_through(x, range_at_hand(x, own.grid) if at_run else own)


def differentiable(module: fx.GraphModule) -> fx.GraphModule:
    """A stitched network in which gradients pass the quantisers; its weights are plain numbers."""
    copy = shallow_copy(module)
    for node in list(copy.graph.nodes):
        if node.target is FAKE_QUANTIZE:
            node.target = _quantizer
        elif is_stored_weight(node):
            _put_numbers(copy, node)
    narrow_strides_apart(copy)
    copy.graph.eliminate_dead_code()
    drop_unused_tensors(copy)
    return copy


def _put_numbers(module: fx.GraphModule, node: fx.Node) -> None:
    q, scale, zero_point = (get_tensor(module, str(arg.target)) for arg in node.args[:3])  # type: ignore[union-attr]
    assert callable(node.target)
    target = f"{str(node.args[0].target).removesuffix('.q')}.numbers"  # type: ignore[union-attr]
    value = node.target(q, scale, zero_point, *node.args[3:])
    # Without this clone, numbers made under inference_mode could not take part in a gradient.
    set_tensor(module, target, channels_last(value.clone()))
    with module.graph.inserting_before(node):
        node.replace_all_uses_with(module.graph.get_attr(target))


def run_with(module: fx.GraphModule, flat: tuple[Any, ...], tensors: Mapping[str, Tensor]) -> Any:
    """The module's output with other tensors at some attribute paths, gradients recorded."""
    return run_part(module, module.graph.nodes, {}, tensors, flat)


def run_part(
    module: fx.GraphModule,
    nodes: Iterable[fx.Node],
    values: NodeValues,
    tensors: Mapping[str, Tensor],
    flat: tuple[Any, ...] = (),
) -> Any:
    """The value of the last of some nodes, from those that are there; as `run_with` else."""
    given = iter(flat)

    def evaluate(node: fx.Node, seen: NodeValues) -> Any:
        own = tensors.get(str(node.target)) if node.op == "get_attr" else None
        return compute(module, node, seen, given) if own is None else own

    value: Any = None
    for _, value in interpret(nodes, values, evaluate):  # noqa: B007
        pass
    return value
