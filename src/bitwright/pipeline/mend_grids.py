"""Scales and zero points of a file's activations, chosen again for the float network's values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.diagnosis.file_graph import FileGraph
from bitwright.diagnosis.file_match import Matching
from bitwright.pipeline.file_data import FileData
from bitwright.pipeline.file_values import load_tapped
from bitwright.pipeline.mend_parts import StoredTensors, StoredUnit, bias_numbers, store_bias

# Ranges that are tried, of the least and the largest value seen; and values looked at in a batch.
SHRINK = tuple(1.0 - 0.04 * i for i in range(16))
VALUES = 20_000
# A choice has to gain so much of the squared error: less is the samples'.
GAIN = 0.02
_RESULTS = {"QLinearConv": 6, "QLinearMatMul": 6, "QLinearAdd": 6, "QLinearMul": 6, "QGemm": 7}


@dataclass(frozen=True, eq=False)
class _Grid:
    """One pair of stored scale and zero point, and the float network's values that it is for."""

    scale: str
    zero: str
    names: tuple[str, ...]
    zero_is_own: bool


def choose_grids(
    reference: FileGraph,
    graph: FileGraph,
    tensors: StoredTensors,
    matching: Matching,
    given: tuple[FileData, Sequence[StoredUnit]],
) -> int:
    """Write better scales and zero points of activations to the file; returns how many.

    Equation: min over s, z of ||x - s (clamp(round(x / s) + z) - z)||^2 over the float network's
    values x, among ranges that are shares of theirs.
    """
    fit, units = given
    fixed = _fixed_scales(tensors, units)
    moved = 0
    for grid in _find_grids(graph, tensors, matching):
        if grid.scale in fixed:
            continue
        values = _values(reference, grid.names, fit)
        scale, zero = (tensors.read(name).reshape(()) for name in (grid.scale, grid.zero))
        found = _best(values, scale, zero, grid.zero_is_own)
        if found is None:
            continue
        readers = [u for u in units if u.bias is not None and u.input_scale == grid.scale]
        sizes = {u.name: tensors.read(u.bias.name).size for u in readers if u.bias is not None}
        before = {u.name: bias_numbers(tensors, u, sizes[u.name]) for u in readers}
        tensors.write(grid.scale, np.asarray(found[0]))
        if grid.zero_is_own:
            tensors.write(grid.zero, np.asarray(found[1]))
        for unit in readers:
            store_bias(tensors, unit, before[unit.name], sizes[unit.name])
        moved += 1
    return moved


def _fixed_scales(tensors: StoredTensors, units: Sequence[StoredUnit]) -> set[str]:
    """Scales of inputs whose units' biases would not follow."""
    return {
        unit.input_scale
        for unit in units
        if unit.bias is not None and unit.bias.scale and not tensors.is_own(unit.bias.scale)
    }


def _find_grids(graph: FileGraph, tensors: StoredTensors, matching: Matching) -> list[_Grid]:
    """The grids of activations whose values are known."""
    sources: dict[tuple[str, str], list[str]] = defaultdict(list)
    for node in graph.model.graph.node:
        place = 1 if node.op_type == "QuantizeLinear" else _RESULTS.get(node.op_type, 0)
        if not place or len(node.input) < place + 2:
            continue
        scale, zero = node.input[place], node.input[place + 1]
        value = node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]
        if tensors.holds(scale, zero) and tensors.read(scale).size == 1 and (
            value not in graph.constants
        ):  # fmt: skip
            sources[scale, zero].append(value)
    zeros = defaultdict(set)
    for scale, zero in sources:
        zeros[zero].add(scale)
    known = _known(graph, matching)
    found = []
    for (scale, zero), values in sources.items():
        names = tuple(dict.fromkeys(known[v] for v in values if v in known))
        alone = sum(1 for other, _ in sources if other == scale) == 1
        if alone and len(names) == len(set(values)):
            found.append(_Grid(scale, zero, names, len(zeros[zero]) == 1))
    return found


def _known(graph: FileGraph, matching: Matching) -> Mapping[str, str]:
    """What each value of the file should be, behind the clamp where its quantiser clamps."""
    back = {read: source for source, read in graph.as_read.items()}
    found: dict[str, str] = {}
    for one in matching.tensors:
        value = one.taps[1].value
        if value in back:
            found[back[value]] = one.name
        else:
            found.setdefault(value, one.name)
    return found


def _values(reference: FileGraph, names: Sequence[str], fit: FileData) -> np.ndarray:
    """Some of the float network's values at these places, the least and the largest among them."""
    inner = [name for name in names if name not in reference.inputs]
    file = load_tapped(reference.model, inner) if inner else None
    kept = []
    for index, feed in enumerate(fit.batches):
        values = [feed[name] for name in names if name in reference.inputs]
        values += file.run(feed) if file is not None else []
        for value in values:
            flat = np.asarray(value, np.float32).reshape(-1)
            if flat.size > VALUES:
                random = np.random.default_rng(index)
                ends = np.array([flat.min(), flat.max()], np.float32)
                flat = np.concatenate([random.choice(flat, VALUES, replace=False), ends])
            kept.append(flat)
    return np.concatenate(kept)


def _best(
    values: np.ndarray, scale: np.ndarray, zero: np.ndarray, free_zero: bool
) -> tuple[np.float32, int] | None:
    """A scale and zero point that gain on those that are stored; None where none does."""
    info = np.iinfo(zero.dtype) if zero.dtype.kind in "iu" else None
    if info is None or not np.isfinite(values).all() or not values.size:
        return None
    low, high, now = int(info.min), int(info.max), int(zero)
    least, most = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    known = _error(values, float(scale), now, (low, high))
    best, found = known * (1 - GAIN), None
    for share in SHRINK:
        if now in (low, (low + high + 1) // 2) or not free_zero:
            reach = max(most / max(high - now, 1), -least / max(now - low, 1))
            one, middle = np.float32(share * reach), now
        else:
            one = np.float32(share * (most - least) / (high - low))
            middle = int(np.clip(np.rint(low - share * least / max(float(one), 1e-30)), low, high))
        if not one > 0:
            continue
        error = _error(values, float(one), middle, (low, high))
        if error < best:
            best, found = error, (one, middle)
    return found


def _error(values: np.ndarray, scale: float, zero: int, ends: tuple[int, int]) -> float:
    whole = np.clip(np.rint(values / np.float32(scale)) + zero, *ends)
    return float(np.square((whole - zero) * np.float32(scale) - values).sum(dtype=np.float64))
