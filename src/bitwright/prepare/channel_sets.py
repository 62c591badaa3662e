"""Channels as numbers, and which of them are one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
FIXED = 0


@dataclass(frozen=True, eq=False)
class ChannelStreams:
    """The stream that each channel of a value belongs to, and the axis that the channels lie on."""

    axis: int
    streams: Numbers


class NumberSets:
    """Disjoint sets of numbers, the least of each its name: so what is joined with 0 is 0."""

    def __init__(self) -> None:
        self._parent = [FIXED]

    def new(self, count: int) -> Numbers:
        """So many sets of one number."""
        start = len(self._parent)
        self._parent += range(start, start + count)
        return np.arange(start, start + count)

    def find(self, number: int) -> int:
        """The name of the set of a number."""
        root = number
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[number] != root:
            self._parent[number], number = root, self._parent[number]
        return root

    def join(self, left: Numbers, right: Numbers) -> None:
        """Make one set of the sets of each pair."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            one, other = sorted((self.find(a), self.find(b)))
            self._parent[other] = one

    def fix(self, numbers: Numbers) -> None:
        """Join all with 0."""
        self.join(numbers, np.full_like(numbers, FIXED))

    def names(self, numbers: Numbers) -> Numbers:
        """The names of the sets of many."""
        return np.array([self.find(number) for number in numbers.tolist()], dtype=np.int64)
