"""Cuts through the float and the quantised network, kept where they fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from bitwright.graph.execute import run
from bitwright.graph.replay import Overrides, live_after, replay
from bitwright.solving.parallel import start
from bitwright.solving.work import Work

CUT_BYTES = 640 << 20
INPUT = -1


@dataclass
class Cut:
    """Values of both networks behind one unit, for all samples; at the input nothing is kept."""

    place: int = INPUT
    floats: list[dict[str, Any]] = field(default_factory=list)
    quants: list[dict[str, Any]] = field(default_factory=list)

    def batches(self, work: Work) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Pairs of stored values, or of the inputs themselves."""
        if self.place != INPUT:
            yield from zip(self.floats, self.quants, strict=True)
            return
        for flat in work.batches():
            begin = start(work.graph, flat)
            yield begin, begin

    def drained(self, work: Work) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """The same, each pair let go as it is taken."""
        if self.place == INPUT:
            yield from self.batches(work)
            return
        for index in range(len(self.floats)):
            pair = (self.floats[index], self.quants[index])
            self.floats[index] = self.quants[index] = {}
            yield pair


def fitting_places(work: Work) -> list[bool]:
    """Behind which units the values of both networks fit into memory, for all samples."""
    sizes: dict[str, int] = {}

    def visit(node: fx.Node, value: Any) -> None:
        if isinstance(value, Tensor):
            sizes[node.name] = value.numel() * value.element_size()

    run(work.graph, next(work.batches()), visit)
    batches = -(-work.samples // work.batch)
    return [
        2 * batches * sum(sizes.get(n, 0) for n in live_after(work.graph, unit.outputs[-1]))
        <= CUT_BYTES
        for unit in work.graph.units
    ]


def place_before(fits: list[bool], index: int) -> int:
    """The last unit before this one behind which a cut fits, or the input."""
    return max((i for i in range(index) if fits[i]), default=INPUT)


def moved(work: Work, cut: Cut, place: int, over: Overrides) -> Cut:
    """The cut at a later place; the old one is used up."""
    names = live_after(work.graph, work.graph.units[place].outputs[-1])
    fresh = Cut(place)
    for floats, quants in cut.drained(work):
        fresh.floats.append(replay(work.graph, floats, names))
        fresh.quants.append(replay(work.graph, quants, names, over))
    return fresh
