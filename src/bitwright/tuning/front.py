"""The values of both forms of a network in front of a block, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from bitwright.graph.execute import Flat, Open, walk
from bitwright.graph.kept import Forward, KeptPlace, Stored, name_inputs
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.replay import replay
from bitwright.solving.samples import bytes_of, has_fixed_batch, size_of, take_rows
from bitwright.tuning.descent import GRAD_BYTES


def keep_both(graph: ModelGraph, opened: Open) -> KeptPlace:
    """A place for the values of the float and of the quantised network, at the inputs yet.

    Args:
        graph: the float network.
        opened: opens a pass over the samples, in parts.
    """

    def begins() -> Iterator[Stored]:
        for flat in opened():
            begin = name_inputs(graph, flat)
            yield begin, begin

    return KeptPlace(begins)


def forwards(graph: ModelGraph, quantised: ModelGraph, names: set[str]) -> tuple[Forward, Forward]:
    """How the values of both networks come to a later place."""
    return (
        lambda values: replay(graph, values, names),
        lambda values: replay(quantised, values, names),
    )


def parts_of(graph: ModelGraph, flat: Flat, about: int | None = None) -> Iterator[Flat]:
    """A batch in equal parts, each so small that its values can wait for a backward pass together.

    Args:
        graph: the network; where its batch size is fixed, the batch stays whole.
        flat: the batch.
        about: so many samples in a part, as nearly as equal parts allow; fewer for want of memory.
    """
    if has_fixed_batch(graph):
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
