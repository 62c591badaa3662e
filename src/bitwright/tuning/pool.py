"""Calibration samples at hand one by one, with the float network's answers, for training."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bitwright.engine.limits import LIMITS
from bitwright.graph.answers import Compared, as_parts
from bitwright.graph.execute import Flat, Open, channels_last, walk
from bitwright.graph.model_graph import ModelGraph
from bitwright.solving.samples import bytes_of, has_fixed_batch, keys_of, size_of

POOL_BYTES = LIMITS.pool


@dataclass(frozen=True, eq=False)
class PoolEntry:
    """One sample (or one batch, where the network's batch size is fixed) and its float answer.

    The answer is None where the network's output has no line for each sample.
    """

    key: int
    flat: Flat
    answer: Compared | None

    @property
    def signature(self) -> tuple[object, ...]:
        """What must agree for samples to stand in one batch."""
        return tuple((tuple(t.shape[1:]), t.dtype) for t in self.flat if isinstance(t, Tensor))


def gather(graph: ModelGraph, batches: Open, budget: int = POOL_BYTES) -> list[PoolEntry]:
    """As many samples as fit into memory, chosen and ordered by their hash.

    So neither the order of the data nor the size of its batches changes the pool.
    """
    whole = has_fixed_batch(graph)
    heap: list[tuple[int, int, PoolEntry]] = []
    held = count = 0
    for flat in batches():
        answer = graph.answer.of(walk(graph.module, flat))
        for row, key in enumerate(keys_of(flat, whole)):
            entry = PoolEntry(key, *(_copy(flat, answer) if whole else _line(flat, answer, row)))
            heapq.heappush(heap, (-key, count, entry))
            count += 1
            held += _bytes(entry)
            while held > budget and len(heap) > 1:
                held -= _bytes(heapq.heappop(heap)[2])
    return [entry for _, _, entry in sorted(heap, key=lambda item: -item[0])]


def _bytes(entry: PoolEntry) -> int:
    return bytes_of((entry.flat, entry.answer))


def _copy(flat: Flat, answer: Compared) -> tuple[Flat, Compared]:
    copied: Compared = pytree.tree_map(Tensor.clone, answer)
    return tuple(t.clone() if isinstance(t, Tensor) else t for t in flat), copied


def _line(flat: Flat, answer: Compared, row: int) -> tuple[Flat, Compared | None]:
    """One sample of a batch, copied: a view would keep the whole batch in memory."""
    alike = all(part.dim() > 0 and part.shape[0] == size_of(flat) for part in as_parts(answer))
    own = tuple(t[row : row + 1].clone() if isinstance(t, Tensor) else t for t in flat)
    if not alike:
        return own, None
    line: Compared = pytree.tree_map(lambda part: part[row : row + 1].clone(), answer)
    return own, line


def minibatches(pool: list[PoolEntry], size: int, seed: int) -> Iterator[list[PoolEntry]]:
    """Endless batches of samples of one shape; every sample comes once before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    alike: dict[tuple[object, ...], list[PoolEntry]] = {}
    for entry in pool:
        alike.setdefault(entry.signature, []).append(entry)
    while True:
        cuts: list[list[PoolEntry]] = []
        for group in alike.values():
            order = torch.randperm(len(group), generator=generator).tolist()
            cuts += [
                [group[i] for i in order[start : start + size]]
                for start in range(0, len(order), size)
            ]
        for place in torch.randperm(len(cuts), generator=generator).tolist():
            yield cuts[place]


def join_entries(entries: list[PoolEntry]) -> tuple[Flat, Compared | None]:
    """Several samples as one batch, with their answers where all are known."""
    if len(entries) == 1:
        return entries[0].flat, entries[0].answer
    columns = zip(*(entry.flat for entry in entries), strict=True)
    flat = tuple(
        channels_last(torch.cat(column)) if isinstance(column[0], Tensor) else column[0]
        for column in columns
    )
    known = [entry.answer for entry in entries if entry.answer is not None]
    if len(known) < len(entries):
        return flat, None
    joined: Compared = pytree.tree_map(lambda *parts: torch.cat(parts), *known)
    return flat, joined
