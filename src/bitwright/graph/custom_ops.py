"""Three torch operators that mark quantisation in a graph and survive its export.

They call `numerics.affine` for their values. Each carries a name, so that what the simulation
calls a place is what the exported file and the verification call it too.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from bitwright.numerics import affine
from bitwright.numerics.grid import Grid

BIAS_BITS = 32


@torch.library.custom_op("bitwright::fake_quantize", mutates_args=())
def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bits: int,
    signed: bool,
    name: str,
    at_run: int = 0,
) -> Tensor:
    """An activation put on its grid: clamp(round(x / s) + z, qmin, qmax), then back to float.

    `at_run`: s and z are those given (0), of the tensor's own range (1), or of the range of each so
    many neighbours of a row.
    """
    return affine.fake_quantize(x, affine.QParams.of(Grid(bits, signed), scale, zero_point, at_run))


@fake_quantize.register_fake
def _(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bits: int,
    signed: bool,
    name: str,
    at_run: int = 0,
) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("bitwright::dequantize", mutates_args=())
def dequantize(
    q: Tensor, scale: Tensor, zero_point: Tensor, bits: int, signed: bool, name: str, points: int
) -> Tensor:
    """A stored integer tensor as float: (q - z) s. Biases are int32, beyond the grids.

    Of several points q holds their sum on its own grid; the export takes it apart.
    """
    if bits == BIAS_BITS:
        return q.float().mul_(scale)
    return affine.dequantize(q, affine.QParams(Grid(bits, signed), scale, zero_point))


@dequantize.register_fake
def _(
    q: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bits: int,
    signed: bool,
    name: str,
    points: int,
) -> Tensor:
    return torch.empty_like(q, dtype=torch.float32)


@torch.library.custom_op("bitwright::mark", mutates_args=())
def mark(x: Tensor, name: str) -> Tensor:
    """The value itself; names the result of a unit for the verification."""
    return x.clone()


@mark.register_fake
def _(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


FAKE_QUANTIZE = torch.ops.bitwright.fake_quantize.default
DEQUANTIZE = torch.ops.bitwright.dequantize.default
MARK = torch.ops.bitwright.mark.default


def is_stored_weight(node: fx.Node) -> bool:
    """Whether a node turns a stored tensor into numbers, not rows that were looked up in one."""
    return node.target is DEQUANTIZE and all(
        isinstance(part, fx.Node) and part.op == "get_attr" for part in node.args[:3]
    )
