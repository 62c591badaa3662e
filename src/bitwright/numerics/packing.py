"""Integers of few bits in as few bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bitwright.errors import DataError
from bitwright.numerics.grid import WIDTHS, Grid

INTEGER_TYPES = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64)


def pack(q: Tensor, bits: int) -> Tensor:
    """Bytes of the integers of q, `bits` bits each, first element in the lowest bits.

    Equation: bit j of element i is bit (i * bits + j) mod 8 of byte (i * bits + j) // 8.
    Two's complement truncated to `bits`; ceil(n * bits / 8) bytes, the last one padded with zeros.
    For 2 and 4 bits this is the layout of ONNX's INT2 / UINT2 / INT4 / UINT4.
    Reference: ONNX IR, TensorProto.
    """
    if bits not in WIDTHS:
        raise DataError(f"bits={bits!r} in pack: integers are stored in 2 to 8 bits, or 16.")
    if q.dtype not in INTEGER_TYPES:
        raise DataError(f"tensor of {q.dtype} in pack: quantise it to integers first.")
    group, group_bytes = _group(bits)
    count = q.numel()
    padded = torch.zeros(-(-count // group) * group, dtype=torch.int64, device=q.device)
    padded[:count] = q.reshape(-1).to(torch.int64) & ((1 << bits) - 1)
    fields = padded.reshape(-1, group)
    # A group fills at most 64 bits, so one int64 word holds it; the sign bit is a bit like others.
    word = fields[:, 0].clone()
    for index in range(1, group):
        word |= fields[:, index] << (index * bits)
    out = torch.stack([(word >> (8 * index)) & 255 for index in range(group_bytes)], dim=1)
    return out.to(torch.uint8).reshape(-1)[: _byte_count(count, bits)].clone()


def unpack(packed: Tensor, bits: int, signed: bool, shape: Sequence[int]) -> Tensor:
    """The integers that `pack` wrote, in the grid's container dtype and the given shape.

    Equation: unpack(pack(q, bits), bits, signed, q.shape) = q for q on the grid.
    Reference: ONNX IR, TensorProto.
    """
    grid = Grid(bits, signed)
    count = 1
    for size in shape:
        count *= size
    if packed.dtype != torch.uint8 or packed.numel() != _byte_count(count, bits):
        raise DataError(
            f"{packed.numel()} values of {packed.dtype} in unpack: shape {tuple(shape)} at {bits}"
            f" bits needs {_byte_count(count, bits)} values of torch.uint8."
        )
    group, group_bytes = _group(bits)
    padded = torch.zeros(-(-count // group) * group_bytes, dtype=torch.int64, device=packed.device)
    padded[: packed.numel()] = packed.reshape(-1).to(torch.int64)
    octets = padded.reshape(-1, group_bytes)
    word = octets[:, 0].clone()
    for index in range(1, group_bytes):
        word |= octets[:, index] << (8 * index)
    mask = (1 << bits) - 1
    fields = torch.stack([(word >> (index * bits)) & mask for index in range(group)], dim=1)
    values = fields.reshape(-1)[:count]
    if signed:
        values = values - ((values >> (bits - 1)) << bits)
    return values.reshape(tuple(shape)).to(grid.dtype)


def pack_channels(q: Tensor, widths: Sequence[int]) -> Tensor:
    """Bytes of a tensor whose slices along axis 0 have bits of their own.

    Equation: the slices of 2 bits by `pack`, then those of 3 bits, and so on; n_b slices of m
    elements at b bits take ceil(n_b m b / 8) bytes.
    Reference: none, written for this library.
    """
    rows = q.reshape(q.shape[0], -1)
    places = _places(widths)
    return torch.cat([pack(rows[at], bits) for bits, at in places.items()])


def unpack_channels(
    packed: Tensor, widths: Sequence[int], signed: bool, shape: Sequence[int]
) -> Tensor:
    """The integers that `pack_channels` wrote, in the container of the widest.

    Equation: unpack_channels(pack_channels(q, w), w, signed, q.shape) = q.
    Reference: none, written for this library.
    """
    size = math.prod(shape[1:])
    out = torch.empty(shape[0], size, dtype=Grid(max(widths), signed).dtype, device=packed.device)
    start = 0
    for bits, at in _places(widths).items():
        end = start + _byte_count(len(at) * size, bits)
        out[at] = unpack(packed[start:end], bits, signed, (len(at), size)).to(out.dtype)
        start = end
    return out.reshape(tuple(shape))


def _places(widths: Sequence[int]) -> dict[int, list[int]]:
    """The slices of each width, from the narrowest."""
    return {b: [i for i, w in enumerate(widths) if w == b] for b in sorted(set(widths))}


def _group(bits: int) -> tuple[int, int]:
    """The number of elements that end on a byte boundary within 64 bits, and their bytes."""
    count = 8 if bits <= 8 else 4
    return count, count * bits // 8


def _byte_count(count: int, bits: int) -> int:
    return (count * bits + 7) // 8
