"""What integer kernels add up, and whether it fits: closed bounds on the integers of a weight.

A kernel multiplies unsigned bytes x by signed bytes w. x86 processors without VNNI add two such
products in signed 16 bits and cut the sum off at the ends; every processor adds all of them in 32
bits; runtimes that emulate integers add them in float32. Each bound below is the greatest that any
input in the range can reach, so where it holds all of them give the same sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from bitwright.numerics.grid import Grid

PAIR_MOST = 2**15 - 1
FLOAT_MOST = 2**24
INT_MOST = 2**31
# Inputs of more bits reach such kernels in parts of a byte, or not at all.
_BYTE = 255


def pair_limit(inputs: Grid) -> int:
    """What the magnitudes of two weights of one sign may come to, for 16 bits to hold their sum.

    Equation: x (|a| + |b|) <= 2^15 - 1 for every x; weights of two signs cancel, and a single one
    never exceeds it. Signed inputs reach such a kernel moved up, to begin at zero.

    >>> pair_limit(Grid(8)), pair_limit(Grid(7))
    (128, 258)
    """
    return PAIR_MOST // min(inputs.levels - 1, _BYTE)


def channel_rows(q: Tensor, axis: int) -> Tensor:
    """Integers as [channels, weights of a channel], in the order in which they are stored."""
    return q.movedim(axis, 0).flatten(1)


def from_channel_rows(rows: Tensor, like: Tensor, axis: int) -> Tensor:
    """The inverse of `channel_rows`."""
    moved = like.movedim(axis, 0).shape
    return rows.reshape(moved).movedim(0, axis)


@lru_cache(maxsize=64)
def neighbours(inputs: int, positions: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """The weights of a channel that a kernel may multiply side by side, as pairs of columns.

    ONNX Runtime's kernels (MLAS) take weights 2i and 2i + 1 of a channel as one pair, in the order
    (position, input) of images whose channels come last, which is how convolutions run with all
    optimisations on, and (input, position) with fewer. Others (oneDNN, FBGEMM) take two inputs of
    one position, beginning anew at each, which differs where the number of inputs is odd.

    Args:
        inputs: input channels of an output channel.
        positions: places of the kernel; 1 for linear layers.

    Returns:
        Sets of pairs, no column twice in one set, so that each can be handled at once.
    """
    stored = torch.arange(inputs * positions)
    orders = [stored]
    if inputs > 1 and positions > 1:
        by_position = stored.reshape(inputs, positions).t()
        orders.append(by_position.reshape(-1))
        if inputs % 2:
            orders.append(by_position[:, :-1].reshape(-1))
    whole = [order[: len(order) // 2 * 2].reshape(-1, 2) for order in orders]
    return tuple((pairs[:, 0], pairs[:, 1]) for pairs in whole if len(pairs))


def neighbours_of(q: Tensor, axis: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """The neighbours in a weight of this shape."""
    tail = q.movedim(axis, 0).shape[1:]
    inputs = int(tail[0]) if tail else 1
    return neighbours(inputs, max(int(tail.numel()) // max(inputs, 1), 1) if tail else 1)


def pair_peaks(rows: Tensor, pairs: tuple[tuple[Tensor, Tensor], ...]) -> Tensor:
    """The greatest |a| + |b| of two neighbours of one sign, for each row [..., C, N] -> [..., C].

    Where a row has no neighbours it is the greatest magnitude alone.
    """
    wide = rows.to(torch.int32)
    peak = wide.abs().amax(-1)
    for part in (wide.clamp_min(0), (-wide).clamp_min(0)):
        for left, right in pairs:
            peak = torch.maximum(peak, (part[..., left] + part[..., right]).amax(-1))
    return peak


def any_pair_peaks(rows: Tensor) -> Tensor:
    """The same for any two weights of a row: what holds for whatever order of the kernel."""
    wide = rows.to(torch.int32)
    sides = (wide.clamp_min(0), (-wide).clamp_min(0))
    count = min(2, rows.shape[-1])
    return torch.stack([side.topk(count, -1).values.sum(-1) for side in sides]).amax(0)


@dataclass(frozen=True)
class InputSpan:
    """The integers that an input may be, and the one that stands for zero."""

    low: int
    high: int
    zero: int = 0


def sum_peaks(rows: Tensor, span: InputSpan, zero: Tensor | int = 0) -> Tensor:
    """The greatest magnitude of a sum of products, or of a part of one, for each row.

    Equation: max over x of |sum (x_i - z_x) (w_i - z_w)|, which is b W+ - a W- or b W- - a W+ with
    a <= x - z_x <= b and W+, W- the sums of the positive weights and of the magnitudes of the
    negative ones; no part of the sum is greater, in whatever order it is added up. Kernels add x w
    and correct for the zero points afterwards: their own sums are bounded in the same way, and the
    greater of the two counts.
    """
    centred = rows.double() - zero
    ends = (min(span.low - span.zero, 0), max(span.high - span.zero, 0))
    found = _peak(centred, *ends)
    return torch.maximum(found, _peak(rows.double(), min(span.low, 0), max(span.high, 0)))


def _peak(rows: Tensor, low: int, high: int) -> Tensor:
    above, below = rows.clamp_min(0).sum(-1), (-rows).clamp_min(0).sum(-1)
    return torch.maximum(high * above - low * below, high * below - low * above)


def fit_pairs(rows: Tensor, pairs: tuple[tuple[Tensor, Tensor], ...], most: int) -> Tensor:
    """Rows in which no two neighbours of one sign come to more than `most`; the others as they are.

    Each pair that is over gives up half of the excess on either side, the greater one the odd step:
    the nearest pair that fits. What is shortened never makes another pair exceed, so one pass over
    the sets is enough.
    """
    found = rows.clone()
    for left, right in pairs:
        a, b = found[..., left], found[..., right]
        excess = (a.abs() + b.abs() - most).clamp_min(0) * (a.sign() == b.sign())
        half = torch.div(excess, 2, rounding_mode="floor")
        more = excess - half
        greater = a.abs() >= b.abs()
        found[..., left] = a - a.sign() * torch.where(greater, more, half)
        found[..., right] = b - b.sign() * torch.where(greater, half, more)
    return found


def pair_bounds(
    rows: Tensor, pairs: tuple[tuple[Tensor, Tensor], ...], most: int
) -> tuple[Tensor, Tensor]:
    """Bounds for each weight within which rows that fit go on to fit, whatever moves.

    Equation: a weight beyond most / 2 keeps its place and its neighbours the rest of `most`; all
    others may go to most / 2. So of two neighbours the bounds never come to more than `most`.
    """
    ends = []
    for side in (-rows, rows):
        own = side.clamp_min(0)
        room = torch.full_like(own, most // 2)
        for left, right in pairs:
            room[..., left] = torch.minimum(room[..., left], most - own[..., right])
            room[..., right] = torch.minimum(room[..., right], most - own[..., left])
        ends.append(torch.where(own > most // 2, own, room))
    return -ends[0], ends[1]
