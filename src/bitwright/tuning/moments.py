"""Mean and variance of every channel, in a stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PIECE = 1 << 17


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Count, mean and sum of squared deviations of each channel, in float64; they merge.

    Equation: mean = sum x / n, m2 = sum (x - mean)^2.
    Reference: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance".
    """

    count: int
    mean: Tensor
    m2: Tensor

    @classmethod
    def of(cls, x: Tensor, axis: int) -> ChannelMoments:
        """Read one tensor whose channels lie along an axis.

        Pieces that fit into the cache are summed in float32 about one of their own rows and added
        up in float64, which spares a float64 copy of everything.
        """
        rows = x.detach().movedim(axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        channels = rows.shape[1]
        found = cls(0, torch.zeros(channels).double(), torch.zeros(channels).double())
        step = max(1, PIECE // max(channels, 1))
        for start in range(0, rows.shape[0], step):
            piece = rows[start : start + step]
            near = piece[:1].float()
            apart = piece - near
            first = apart.sum(0).double() / piece.shape[0]
            second = apart.square_().sum(0).double() - piece.shape[0] * first.square()
            mean = (near.double()[0] + first).cpu()
            found = found.merge(cls(piece.shape[0], mean, second.clamp_min(0.0).cpu()))
        return found

    def merge(self, other: ChannelMoments) -> ChannelMoments:
        """Join two readings."""
        if not self.count or not other.count:
            return other if not self.count else self
        count = self.count + other.count
        gap = other.mean - self.mean
        # Written symmetrically, so that merging commutes bit for bit.
        mean = (self.count * self.mean + other.count * other.mean) / count
        m2 = (self.m2 + other.m2) + gap.square() * (self.count * other.count / count)
        return ChannelMoments(count, mean, m2)

    @property
    def var(self) -> Tensor:
        """The population variance of each channel."""
        return self.m2 / max(self.count, 1)
