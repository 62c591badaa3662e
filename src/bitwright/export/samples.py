"""The samples that a file is exported with, and those that it is verified on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bitwright.graph.execute import bind
from bitwright.graph.model_graph import ModelGraph
from bitwright.sources.batches import Dataset, rebatch, take
from bitwright.sources.lengths import batch_by_length

VERIFY_BATCH = 8


def verification_batches(dataset: Dataset, limit: int) -> Iterator[Any]:
    """The inputs of a verification, few at a time: two runtimes hold activations beside us.

    Texts come by turns padded, as they will be in use, and without: many lengths and sizes, one
    among them.
    """
    for index, batch in enumerate(rebatch(take(dataset, limit), VERIFY_BATCH)):
        if index % 2 and dataset.trim:
            alone = Dataset(dataset.spec, partial(iter, (batch,)), trim=True)
            yield from (part.inputs for part in batch_by_length(alone, VERIFY_BATCH))
        else:
            yield batch.inputs


def flat_example(graph: ModelGraph, inputs: Any) -> tuple[Tensor, ...]:
    """Two samples as the graph's flat inputs, for export."""
    flat = [t for t in bind(graph, inputs) if isinstance(t, Tensor)]
    pairs = zip(flat, graph.inputs, strict=True)
    return tuple(_samples(t, spec.shape[0] if graph.interface else None) for t, spec in pairs)


def _samples(tensor: Tensor, fixed: int | None) -> Tensor:
    """Two samples, or as many as the network of a file takes."""
    count = fixed or 2
    return torch.cat([tensor] * 2)[:count] if tensor.shape[0] < count else tensor[:count]
