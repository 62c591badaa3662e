"""Values of networks at one place of the graph, kept so that passes go on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from bitwright.engine.threads import stream_out
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.replay import Values

Forward = Callable[[Values], Values]
# What one part of the samples has at the place: the values by name, network by network.
Stored = tuple[Values, ...]


@dataclass(eq=False)
class KeptPlace:
    """What one or several networks make up to a place, for as many samples as have room there.

    Early values are large and later ones small, so samples that have no room yet join further on:
    they are computed from the networks' inputs then. Where nothing is kept, passes begin at the
    inputs.

    Attributes:
        opened: opens a pass over the samples: the inputs of every network, in parts.
        parts: what is kept of each part.
        complete: whether every sample is there.
    """

    opened: Callable[[], Iterator[Stored]]
    parts: list[Stored] = field(default_factory=list)
    complete: bool = False

    def walk(self) -> Iterator[Stored]:
        """The values part by part, or the inputs where nothing is kept."""
        yield from self.parts or self.opened()

    def of(self, network: int) -> list[Values]:
        """What is kept of one network."""
        return [part[network] for part in self.parts]

    def move(self, forwards: Sequence[Forward], most: int) -> None:
        """To a later place, with so many parts at most; at least one.

        Args:
            forwards: of every network, from the values that are there to those at the new place.
            most: parts that have room.
        """
        most = max(1, most)
        self.complete &= len(self.parts) <= most
        del self.parts[most:]
        moved = stream_out(partial(_through, forwards), iter(self.parts))
        for index, part in enumerate(moved):
            self.parts[index] = part
        # A pass may read every sample from disk: none where nothing can join.
        if self.complete or len(self.parts) == most:
            return
        fresh = islice(self.opened(), len(self.parts), most)
        self.parts.extend(stream_out(partial(_through, forwards), fresh))
        self.complete = len(self.parts) < most

    def clear(self) -> None:
        """Let go of everything; the next pass begins at the inputs."""
        self.parts.clear()
        self.complete = False


def _through(forwards: Sequence[Forward], part: Stored) -> Stored:
    return tuple(forward(values) for forward, values in zip(forwards, part, strict=True))


def name_inputs(graph: ModelGraph, flat: tuple[Any, ...]) -> Values:
    """A bound batch as values of the network's inputs."""
    names = [n.name for n in graph.module.graph.nodes if n.op == "placeholder"]
    return dict(zip(names, flat, strict=True))
