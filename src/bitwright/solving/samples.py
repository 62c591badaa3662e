"""Calibration samples in two parts, fit and held out, told apart by what they contain."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bitwright.engine.limits import LIMITS
from bitwright.errors import DataError
from bitwright.graph.execute import Flat, Open, channels_last
from bitwright.graph.model_graph import ModelGraph

HELD_OUT = 8
# To tell whether a network agrees with another takes more samples than to tell which is better.
LOSSLESS_SHARE = 4
KEEP_BYTES = LIMITS.split
_KEY_BYTES = 8


@dataclass(frozen=True, eq=False)
class Samples:
    """Two disjoint parts of the calibration set; each is opened anew for every pass."""

    fit: Open
    held_out: Open
    fit_count: int
    held_out_count: int


def split_samples(graph: ModelGraph, batches: Open, share: int = HELD_OUT) -> Samples:
    """One sample in `share` is held out: those whose hash is least.

    The hash is of the sample's own bytes, so neither order nor batch size decides who is judge,
    and copies of one sample never stand on both sides. A network whose batch size is fixed has
    whole batches held out. A set of one serves as both parts.

    Args:
        graph: the captured network, which knows whether its batches can be cut.
        batches: opens a pass over the calibration set as the graph's flat inputs.
        share: how many samples there are to one that is held out.

    Raises:
        DataError: there is no sample.
    """
    whole = has_fixed_batch(graph)
    counts: dict[int, int] = {}
    kept: list[Flat] | None = []
    held = 0
    for flat in batches():
        rows = size_of(flat) if whole else 1
        for key in keys_of(flat, whole):
            counts[key] = counts.get(key, 0) + rows
        held += bytes_of(flat)
        kept = [*kept, flat] if kept is not None and held <= KEEP_BYTES else None
    if not counts:
        raise DataError("the calibration data are empty: no batch came. Check --data.")
    total = sum(counts.values())
    ordered = sorted(counts)
    apart = max(1, len(ordered) // share)
    if apart == len(ordered):
        return _open_parts(kept, batches, total, total, lambda flat: (flat, flat))
    limit = ordered[apart - 1]
    judges = sum(counts[key] for key in ordered[:apart])

    def cut(flat: Flat) -> tuple[Flat | None, Flat | None]:
        out = torch.tensor([key <= limit for key in keys_of(flat, whole)])
        if whole:
            return (None, flat) if bool(out) else (flat, None)
        return take_rows(flat, ~out), take_rows(flat, out)

    return _open_parts(kept, batches, total - judges, judges, cut)


def _open_parts(
    kept: list[Flat] | None,
    batches: Open,
    fit: int,
    held_out: int,
    cut: Callable[[Flat], tuple[Flat | None, Flat | None]],
) -> Samples:
    """Both parts: from memory where the whole set is small, else the held-out part alone."""
    if kept is not None:
        pairs = [cut(flat) for flat in kept]
        parts = [[pair[side] for pair in pairs if pair[side] is not None] for side in (0, 1)]
        return Samples(lambda: iter(parts[0]), lambda: iter(parts[1]), fit, held_out)  # type: ignore[arg-type]

    def side(index: int) -> Iterator[Flat]:
        for flat in batches():
            part = cut(flat)[index]
            if part is not None:
                yield part

    return Samples(lambda: side(0), lambda: side(1), fit, held_out)


def has_fixed_batch(graph: ModelGraph) -> bool:
    """Whether some input does not grow with the batch, so that batches cannot be cut."""
    return any(not spec.shape or spec.shape[0] is not None for spec in graph.inputs)


def in_memory(samples: Samples) -> Samples:
    """The same, the held-out part read once and kept where it is small: it is passed over often."""
    judges: list[Flat] = []
    held = 0
    for flat in samples.held_out():
        judges.append(flat)
        held += bytes_of(flat)
        if held > KEEP_BYTES:
            return samples
    return Samples(samples.fit, lambda: iter(judges), samples.fit_count, samples.held_out_count)


def fewer(graph: ModelGraph, samples: Samples, most: int) -> Samples:
    """The same, with at most so many samples to fit on: those whose hash is least.

    What is held out stays. A network whose batch size is fixed loses whole batches; one is left.
    """
    if samples.fit_count <= most:
        return samples
    whole = has_fixed_batch(graph)
    rows: dict[int, int] = {}
    for flat in samples.fit():
        for key in keys_of(flat, whole):
            rows[key] = rows.get(key, 0) + (size_of(flat) if whole else 1)
    count, limit = 0, min(rows)
    for key in sorted(rows):
        if count and count + rows[key] > most:
            break
        count, limit = count + rows[key], key

    def fit() -> Iterator[Flat]:
        for flat in samples.fit():
            chosen = torch.tensor([key <= limit for key in keys_of(flat, whole)])
            part = (flat if bool(chosen) else None) if whole else take_rows(flat, chosen)
            if part is not None:
                yield part

    return Samples(fit, samples.held_out, count, samples.held_out_count)


def keys_of(flat: Flat, whole: bool = False) -> list[int]:
    """A hash of each sample's own bytes; of the whole batch where it cannot be cut."""
    columns = [_as_bytes(t, whole) for t in flat if isinstance(t, Tensor)]
    keys = []
    for row in range(columns[0].shape[0]):
        sha = hashlib.blake2b(digest_size=_KEY_BYTES)
        for column in columns:
            sha.update(column[row].numpy().data)
        keys.append(int.from_bytes(sha.digest(), "little"))
    return keys


def _as_bytes(tensor: Tensor, whole: bool) -> Tensor:
    """The bytes of a tensor, one line a sample; images as they lie in memory."""
    moved = tensor.detach().cpu()
    moved = moved.permute(0, 2, 3, 1) if moved.dim() == 4 else moved
    rows = 1 if whole else moved.shape[0]
    return moved.contiguous().reshape(-1).view(torch.uint8).reshape(rows, -1)


def take_rows(flat: Flat, chosen: Tensor) -> Flat | None:
    """Some samples of a batch, or None where it has none of them."""
    if not bool(chosen.any() if chosen.dtype == torch.bool else chosen.numel()):
        return None
    return tuple(
        channels_last(t[chosen.to(t.device)]) if isinstance(t, Tensor) else t for t in flat
    )


def size_of(flat: Flat) -> int:
    """How many samples a batch has."""
    return next((int(t.shape[0]) for t in flat if isinstance(t, Tensor) and t.dim()), 1)


def bytes_of(values: Any) -> int:
    """The memory of the tensors in a batch or in stored values."""
    leaves = pytree.tree_leaves(values)
    return sum(t.numel() * t.element_size() for t in leaves if isinstance(t, Tensor))
