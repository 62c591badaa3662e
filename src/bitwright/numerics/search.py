"""Search over clipping ranges: coarse to fine, all channels at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Scores of candidate ranges: (lo, hi), both [candidates, channels], to the same shape.
ErrorOf = Callable[[Tensor, Tensor], Tensor]

OFFSETS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def search_range(
    score: ErrorOf, lo: Tensor, hi: Tensor, candidates: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """The range inside [lo, hi] with the least score, one for each channel.

    Equation: minimise score(u^2 lo', v^2 hi') over u, v in (0, 1], where [lo', hi'] is [lo, hi]
    extended to zero (symmetric: both ends the largest magnitude, u = v).
    `candidates` points spread evenly in u, v (so that a far outlier can be cut off), then each
    round tries the neighbours of the best point at half the distance.
    Reference: none, written for this library.
    """
    low, high = lo.clamp(max=0.0), hi.clamp(min=0.0)
    if symmetric:
        low, high = -torch.maximum(-low, high), torch.maximum(-low, high)
    two_sided = not symmetric and bool((low < 0.0).any()) and bool((high > 0.0).any())
    side = math.ceil(math.sqrt(candidates)) if two_sided else candidates
    line = torch.arange(1, side + 1, dtype=torch.float32, device=lo.device) / side
    start = torch.cartesian_prod(line, line) if two_sided else torch.stack([line, line], dim=1)
    near = torch.tensor(OFFSETS, device=lo.device)
    moves = torch.cartesian_prod(near, near) if two_sided else torch.stack([near, near], dim=1)

    def evaluate(factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ranges and scores of [candidates, channels, 2] factors."""
        shrunk = factors.square()
        first = torch.minimum(torch.maximum(shrunk[..., 0] * low, lo), hi)
        second = torch.maximum(torch.minimum(shrunk[..., 1] * high, hi), lo)
        # Comparing NaN picks nothing sensible; an overflowed score is simply a bad one.
        return first, second, score(first, second).nan_to_num(nan=math.inf)

    # The observed range is the last of the first points, so the answer is never worse than it.
    points = start[:, None, :].expand(-1, lo.numel(), 2)
    best = _pick(points, *evaluate(points))
    step = 1.0 / side
    for _ in range(4 if two_sided else 3):
        points = (best[0] + step * moves[:, None, :]).clamp(min=0.1 * step, max=1.0)
        best = _pick(points, *evaluate(points))
        step *= 0.5
    return best[1], best[2]


def _pick(points: Tensor, lo: Tensor, hi: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best candidate of each channel: its factors and its range."""
    # Of equal scores the last, widest range wins: clipping must earn its place.
    index = scores.shape[0] - 1 - scores.flip(0).argmin(dim=0, keepdim=True)
    factors = points.gather(0, index[..., None].expand(-1, -1, 2))[0]
    return factors, lo.gather(0, index)[0], hi.gather(0, index)[0]
