"""Cuts through the float and the quantised network, kept where they fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from bitwright.engine.limits import LIMITS
from bitwright.graph.execute import run
from bitwright.graph.kept import KeptPlace, Stored, name_inputs
from bitwright.graph.replay import Overrides, live_after, replay
from bitwright.solving.work import Work

CUT_BYTES = LIMITS.sequential_cut
WIDE_SAMPLES = 256
INPUT = -1


@dataclass
class Cut:
    """Values of both networks behind one unit; at the input nothing is kept.

    `whole` says that they are of all samples; else of the first few, where activations are wide.
    """

    kept: KeptPlace
    place: int = INPUT
    whole: bool = False

    @classmethod
    def at_inputs(cls, work: Work) -> Cut:
        """Before the first unit: both networks have the same inputs."""

        def opened() -> Iterator[Stored]:
            for flat in work.placed_batches():
                begin = name_inputs(work.placed, flat)
                yield begin, begin

        return cls(KeptPlace(opened))

    def move(self, work: Work, place: int, whole: bool, over: Overrides) -> None:
        """To a later place; from the inputs where too few samples are held."""
        graph = work.placed
        names = live_after(graph, graph.units[place].outputs[-1])
        if whole and not self.whole:
            self.kept.clear()
        forwards = (
            lambda values: replay(graph, values, names),
            lambda values: replay(graph, values, names, over),
        )
        self.kept.move(forwards, batches_of(work, whole))
        self.place, self.whole = place, whole


@dataclass(frozen=True)
class CutPlaces:
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


def places(work: Work) -> CutPlaces:
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
    return CutPlaces(
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
