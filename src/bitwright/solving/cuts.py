"""Cuts through the float and the quantised network, kept where they fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import Tensor, fx

from bitwright.graph.execute import run
from bitwright.graph.replay import Overrides, live_after, replay
from bitwright.solving.parallel import start
from bitwright.solving.work import Work

CUT_BYTES = 400 << 20
WIDE_SAMPLES = 256
INPUT = -1


@dataclass
class Cut:
    """Values of both networks behind one unit; at the input nothing is kept.

    `whole` says that they are of all samples; else of the first few, where activations are wide.
    """

    place: int = INPUT
    whole: bool = True
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


@dataclass(frozen=True)
class Places:
    """Behind which units the values of both networks fit into memory: all samples, or some."""

    all_fit: tuple[bool, ...]
    some_fit: tuple[bool, ...]

    def before(self, index: int) -> tuple[int, bool]:
        """Where to cut for a unit, and whether with all samples.

        The last place with room for all; before there is one, the last with room for some.
        """
        for fits, whole in ((self.all_fit, True), (self.some_fit, False)):
            place = max((i for i in range(index) if fits[i]), default=INPUT)
            if place != INPUT:
                return place, whole
        return INPUT, False


def places(work: Work) -> Places:
    """Sizes of what lives behind every unit, from one batch."""
    sizes: dict[str, int] = {}

    def visit(node: fx.Node, value: Any) -> None:
        if isinstance(value, Tensor):
            sizes[node.name] = value.numel() * value.element_size()

    flat = next(work.batches())
    run(work.graph, flat, visit)
    own = next(t.shape[0] for t in flat if isinstance(t, Tensor) and t.dim())
    held = [
        2 / own * sum(sizes.get(name, 0) for name in live_after(work.graph, unit.outputs[-1]))
        for unit in work.graph.units
    ]
    clear = _clear_places(work)
    every, some = work.samples, min(work.samples, WIDE_SAMPLES)
    return Places(
        tuple(c and every * size <= CUT_BYTES for c, size in zip(clear, held, strict=True)),
        tuple(c and some * size <= CUT_BYTES for c, size in zip(clear, held, strict=True)),
    )


def _clear_places(work: Work) -> list[bool]:
    """Whether what lies before a unit's end stays as it is while later units are solved.

    It does not where a weight is used again later on, or an activation stands behind the next unit:
    a cut there would hold results of units that are still to be solved.
    """
    place = {name: i for i, name in enumerate(work.graph.nodes())}
    begins = [
        min(place[n] for n in (*unit.calls, *(s.reader for s in work.sites_of.get(unit.name, ()))))
        for unit in work.graph.units
    ]
    return [
        place[unit.outputs[-1]] < min(begins[index + 1 :], default=len(place))
        for index, unit in enumerate(work.graph.units)
    ]


def batches_of(work: Work, whole: bool) -> int:
    """How many batches all samples make, or those that serve where activations are wide."""
    share = 1.0 if whole else min(1.0, WIDE_SAMPLES / max(work.samples, 1))
    return max(1, math.ceil(share * work.passes))


def moved(work: Work, cut: Cut, place: int, whole: bool, over: Overrides) -> Cut:
    """The cut at a later place; the old one is used up, or the input run if it holds too little."""
    names = live_after(work.graph, work.graph.units[place].outputs[-1])
    source = Cut() if whole and not cut.whole else cut
    if source is not cut:
        cut.floats.clear()
        cut.quants.clear()
    fresh = Cut(place, whole)
    for floats, quants in islice(source.drained(work), batches_of(work, whole)):
        fresh.floats.append(replay(work.graph, floats, names))
        fresh.quants.append(replay(work.graph, quants, names, over))
    return fresh
