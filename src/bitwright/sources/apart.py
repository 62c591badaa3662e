"""Samples set apart from others of the same data, and those that are the same told apart."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import replace
from functools import partial

from bitwright.sources.batches import Batch, Dataset, digest


def skip(dataset: Dataset, n: int) -> Dataset:
    """All samples of `dataset` but the first `n`."""

    def walk() -> Iterator[Batch]:
        left = n
        for batch in dataset:
            if left < batch.size:
                yield batch.cut(left, batch.size) if left else batch
            left = max(left - batch.size, 0)

    return replace(dataset, open=walk)


def key_of(sample: Batch) -> str:
    """A digest of one sample's inputs; equal samples have the same, however they were batched."""
    return digest(Dataset("a sample", partial(iter, (sample,))))


def keys_of(dataset: Dataset) -> list[str]:
    """The digest of every sample, in order."""
    return [key_of(batch.cut(i, i + 1)) for batch in dataset for i in range(batch.size)]


def without(dataset: Dataset, known: Set[str]) -> Dataset:
    """The samples of `dataset` whose digests are not known."""

    def walk() -> Iterator[Batch]:
        for batch in dataset:
            singles = [batch.cut(i, i + 1) for i in range(batch.size)]
            fresh = [single for single in singles if key_of(single) not in known]
            if len(fresh) == batch.size:
                yield batch
            else:
                yield from fresh

    return replace(dataset, open=walk)
