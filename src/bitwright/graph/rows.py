"""A unit as a matrix product: its input as rows, its weight as a matrix, group by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from bitwright.graph.model_graph import Unit
from bitwright.graph.operators import WEIGHTED


@dataclass(frozen=True)
class Geometry:
    """How a convolution walks over its input; `transposed` ones spread it first."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, ...] = (0, 0)


def solvable(unit: Unit) -> bool:
    """Whether the unit is a plain matrix product over its inputs' rows."""
    return unit.kind in ("linear", "addmm", "matmul", "conv1d", "conv2d", "conv_transpose2d") and (
        unit.kind != "matmul" or len(unit.shape) == 2
    )


def geometry(unit: Unit, node: fx.Node) -> Geometry | None:
    """The geometry of a convolution, in two dimensions; None for linear units."""
    padding: Any
    groups: Any
    if not unit.kind.startswith("conv"):
        return None
    if WEIGHTED[node.target] == "convolution":
        _, _, _, stride, padding, dilation, _, output_padding, groups = node.args[:9]
    elif unit.kind.startswith("conv_transpose"):
        defaults = (None, None, None, 1, 0, 0, 1, 1)
        _, _, _, stride, padding, output_padding, groups, dilation = _fill(node, defaults)
    else:
        _, _, _, stride, padding, dilation, groups = _fill(node, (None, None, None, 1, 0, 1, 1))
        output_padding = 0
    kernel = unit.shape[2:]
    rank = len(kernel)
    wide = _pair(dilation, rank)
    if isinstance(padding, str):
        padding = [0] * rank if padding == "valid" else [
            d * (k - 1) // 2 for d, k in zip(wide, kernel, strict=True)
        ]  # fmt: skip
    made = [_pair(v, rank) for v in (kernel, stride, padding, wide, output_padding)]
    if rank == 1:
        ends = ((1,), (1,), (0,), (1,), (0,))
        made = [(*end, *value) for end, value in zip(ends, made, strict=True)]
    k, s, p, d, o = made
    return Geometry(k, s, p, d, int(groups), unit.kind.startswith("conv_transpose"), o)


def _fill(node: fx.Node, defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(node.args) + defaults[len(node.args) :]


def _pair(value: Any, rank: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * rank
    values = tuple(int(v) for v in value)
    return values * rank if len(values) == 1 else values


def weight_rows(weight: Tensor, unit: Unit) -> Tensor:
    """The weight as [G, C, N]: groups, output channels of a group, inputs of an output."""
    groups = unit.groups
    if unit.kind in ("addmm", "matmul"):
        return weight.t().unsqueeze(0)
    if unit.kind.startswith("conv_transpose"):
        spread = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        flipped = spread.flip(dims=tuple(range(3, spread.dim())))
        return flipped.transpose(1, 2).reshape(groups, weight.shape[1], -1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def rows_weight(rows: Tensor, unit: Unit) -> Tensor:
    """The inverse of `weight_rows`."""
    if unit.kind in ("addmm", "matmul"):
        return rows[0].t()
    if unit.kind.startswith("conv_transpose"):
        groups, outputs = rows.shape[0], rows.shape[1]
        spread = rows.reshape(groups, outputs, unit.shape[0] // groups, *unit.shape[2:])
        flipped = spread.flip(dims=tuple(range(3, spread.dim())))
        return flipped.transpose(1, 2).reshape(unit.shape)
    return rows.reshape(unit.shape)


def input_rows(x: Tensor, form: Geometry | None, limit: int, seed: int) -> Tensor:
    """Rows [G, R, N] of an input: im2col for convolutions, at most `limit` a batch.

    Where there are more positions than wanted, a seeded sample of them is taken before anything is
    copied; the same seed picks the same positions of the float and of the quantised input.
    """
    if form is None:
        rows = x.reshape(-1, x.shape[-1])
        return _pick(rows, limit, seed).unsqueeze(0)
    windows = _windows(x.unsqueeze(2) if x.dim() == 3 else x, form)
    batch, channels, height, width = windows.shape[:4]
    total = batch * height * width
    index = _indices(total, limit, seed).to(x.device)
    b, rest = index // (height * width), index % (height * width)
    rows = windows[b, :, rest // width, rest % width]
    grouped = rows.reshape(len(index), form.groups, channels // form.groups, -1)
    return grouped.permute(1, 0, 2, 3).reshape(form.groups, len(index), -1)


def _indices(total: int, limit: int, seed: int) -> Tensor:
    if total <= limit:
        return torch.arange(total)
    # One at random from each of `limit` equal stretches: evenly over samples and positions.
    generator = torch.Generator().manual_seed(seed)
    inside = torch.rand(limit, generator=generator, dtype=torch.float64)
    return ((torch.arange(limit) + inside) * (total / limit)).long().clamp_(max=total - 1)


def _pick(rows: Tensor, limit: int, seed: int) -> Tensor:
    if rows.shape[0] <= limit:
        return rows
    return rows[_indices(rows.shape[0], limit, seed).to(rows.device)]


def _windows(x: Tensor, form: Geometry) -> Tensor:
    """A view [B, C, H', W', kh, kw] of every patch that the kernel sees."""
    if form.transposed:
        x = _spread(x, form)
        padding = [
            d * (k - 1) - p
            for d, k, p in zip(form.dilation, form.kernel, form.padding, strict=True)
        ]
        after = [a + o for a, o in zip(padding, form.output_padding, strict=True)]
        stride: tuple[int, ...] = (1, 1)
    else:
        padding = after = list(form.padding)
        stride = form.stride
    x = F.pad(x, (padding[1], after[1], padding[0], after[0]))
    reach = [d * (k - 1) + 1 for d, k in zip(form.dilation, form.kernel, strict=True)]
    view = x.unfold(2, reach[0], stride[0]).unfold(3, reach[1], stride[1])
    return view[..., :: form.dilation[0], :: form.dilation[1]]


def _spread(x: Tensor, form: Geometry) -> Tensor:
    """Zeros between the values: what a transposed convolution convolves."""
    batch, channels, height, width = x.shape
    tall, wide = form.stride
    out = x.new_zeros(batch, channels, (height - 1) * tall + 1, (width - 1) * wide + 1)
    out[:, :, ::tall, ::wide] = x
    return out
