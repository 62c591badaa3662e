"""Batches of texts of equal length: nothing is padded, so padding enters nothing that is measured.

A padded position holds numbers like any other. Statistics of activations, second moments, losses
and metrics would have to know, at every node of the network, which rows stand for no token; shapes
alone do not tell once heads, windows or reshapes have mixed the axes. Taking the padding off before
the network runs is exact for every architecture, and the float work is less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import Tensor

from bitwright.graph.model_graph import InputSpec
from bitwright.sources.batches import Batch, Dataset, join, rebatch

MASK = "attention_mask"
# Samples among which equal lengths are looked for: the ids of so many are a few megabytes.
WINDOW = 4096


def take_off_padding(dataset: Dataset, inputs: Iterable[InputSpec]) -> Dataset:
    """The dataset, its padding to be taken off, where the network takes a mask of any length."""
    free = any(s.name == MASK and len(s.shape) == 2 and s.shape[1] is None for s in inputs)
    return replace(dataset, trim=free)


def batch_by_length(dataset: Dataset, size: int) -> Dataset:
    """The samples in batches of at most `size`: in order, or by length where padding comes off.

    Batches of texts come with the most tokens first, so that the first one is a good sample; the
    order depends on nothing but the data.
    """
    if not dataset.trim:
        return rebatch(dataset, size)

    def walk() -> Iterator[Batch]:
        held: list[Batch] = []
        for batch in dataset:
            held += _singles(batch)
            if len(held) >= WINDOW:
                yield from _by_length(held, size)
                held = []
        yield from _by_length(held, size)

    return replace(dataset, open=walk)


def _singles(batch: Batch) -> list[Batch]:
    """Every sample of a batch, cut to its own tokens."""
    return [_trim(batch.cut(i, i + 1)) for i in range(batch.size)]


def _trim(sample: Batch) -> Batch:
    """One sample without the positions that its mask leaves out at either end."""
    mask = sample.inputs.get(MASK) if isinstance(sample.inputs, dict) else None
    if mask is None or mask.dim() != 2:
        return sample
    places = mask[0].nonzero()
    if not len(places):
        return sample
    first, last, length = int(places[0]), int(places[-1]) + 1, mask.shape[1]

    def cut(value: Tensor) -> Tensor:
        along = value.dim() > 1 and value.shape[1] == length
        return value[:, first:last] if along else value

    assert isinstance(sample.inputs, dict)
    inputs = {
        name: value if name.startswith("decoder") else cut(value)
        for name, value in sample.inputs.items()
    }
    labels = cut(sample.labels) if isinstance(sample.labels, Tensor) else sample.labels
    return Batch(inputs, labels)


def _by_length(samples: list[Batch], size: int) -> Iterator[Batch]:
    groups: dict[tuple[object, ...], list[Batch]] = {}
    for sample in samples:
        groups.setdefault(tuple(tuple(t.shape) for t in sample.tensors), []).append(sample)
    cuts = [g[i : i + size] for g in groups.values() for i in range(0, len(g), size)]
    # Stable: batches of as many tokens stay in the order of the data.
    for cut in sorted(cuts, key=lambda c: -sum(s.tensors[0].numel() for s in c)):
        yield join(cut)
