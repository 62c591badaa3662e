"""Values in front of a place in the network, of its float and its quantised form, kept in parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import fx

from bitwright.graph.execute import walk
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.replay import Values, replay
from bitwright.solving.samples import Flat, Open, bytes_of, fixed_batch, size_of, take_rows
from bitwright.tuning.descent import GRAD_BYTES


@dataclass(eq=False)
class Front:
    """What a part of the network reads, for as many samples as fit into memory there.

    Early values are large and later ones small, so samples that have no room yet join further on:
    they are computed from the network's inputs then.

    Attributes:
        graph: the float network.
        opened: opens a pass over the samples, in parts.
        floats, quants: for each part the values by name.
        complete: whether every sample is there.
    """

    graph: ModelGraph
    opened: Open
    floats: list[Values] = field(default_factory=list)
    quants: list[Values] = field(default_factory=list)
    complete: bool = False

    def move(self, quantised: ModelGraph, names: set[str], most: int) -> None:
        """To a later place, with so many parts at most; at least one."""
        most = max(1, most)
        self.complete &= len(self.floats) <= most
        del self.floats[most:], self.quants[most:]
        for index, (true, got) in enumerate(zip(self.floats, self.quants, strict=True)):
            self.floats[index] = replay(self.graph, true, names)
            self.quants[index] = replay(quantised, got, names)
        # A pass may read every sample from disk: none where nothing can join.
        if self.complete or len(self.floats) == most:
            return
        for flat in islice(self.opened(), len(self.floats), most):
            given = named(self.graph, flat)
            self.floats.append(replay(self.graph, given, names))
            self.quants.append(replay(quantised, given, names))
        self.complete = len(self.floats) < most


def named(graph: ModelGraph, flat: Flat) -> Values:
    """A batch as values of the network's inputs."""
    names = [n.name for n in graph.module.graph.nodes if n.op == "placeholder"]
    return dict(zip(names, flat, strict=True))


def parts_of(graph: ModelGraph, flat: Flat, about: int | None = None) -> Iterator[Flat]:
    """A batch in equal parts, each so small that its values can wait for a backward pass together.

    Args:
        graph: the network; where its batch size is fixed, the batch stays whole.
        flat: the batch.
        about: so many samples in a part, as nearly as equal parts allow; fewer for want of memory.
    """
    if fixed_batch(graph):
        yield flat
        return
    first = take_rows(flat, torch.arange(1))
    assert first is not None
    held = 0

    def visit(_: fx.Node, value: object) -> None:
        nonlocal held
        held += bytes_of(value)

    walk(graph.module, first, visit)
    size = size_of(flat)
    count = -(-size // max(1, GRAD_BYTES // max(held, 1)))
    count = max(count, round(size / about) if about else 1)
    for rows in torch.arange(size).tensor_split(count):
        part = take_rows(flat, rows)
        if part is not None:
            yield part
