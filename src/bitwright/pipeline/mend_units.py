"""One unit of a quantised file, solved again on what it reads there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor

from bitwright.diagnosis.file_graph import FileGraph, Tap, linear_chain, stored_array
from bitwright.diagnosis.file_match import Matching
from bitwright.engine.record import Record
from bitwright.graph.rows import Geometry, input_rows
from bitwright.latency.feeds import inputs_of
from bitwright.numerics.affine import round_half_even
from bitwright.numerics.gram import Gram
from bitwright.pipeline.file_data import FileData
from bitwright.pipeline.file_values import Arrays, load_tapped
from bitwright.pipeline.mend_parts import (
    StoredTensors,
    StoredUnit,
    as_rows,
    bias_numbers,
    bounds_of,
    by_channel,
    form_of,
    of_rows,
    store_bias,
)
from bitwright.solving.again import SolvedRows, StoredRows, solve_again

# Rows of a batch that a unit is solved on.
ROWS = 4096
# A value that is further off than this is not the float network's any more: a producer that moved
# scales between layers has values of its own.
APART = 0.7


@dataclass(frozen=True, eq=False, kw_only=True)
class MendedUnit(Record):
    """One unit: its output's squared error on the rows it was solved on, relative, and why not.

    `undone`: samples held out found no sure gain, so it stores what it did.
    """

    name: str
    before: float = 0.0
    after: float = 0.0
    left: str = ""
    undone: bool = False


def feed_both(feed: Arrays, matching: Matching, graph: FileGraph) -> tuple[Arrays, Arrays]:
    """A batch as the float network and as the file take it."""
    names = dict(matching.inputs)
    kinds = {spec.name: spec.dtype for spec in inputs_of(graph.model)}
    own = {names[k]: v for k, v in feed.items() if k in names}
    return feed, {k: v.astype(kinds[k], copy=False) for k, v in own.items()}


def mend_unit(
    reference: FileGraph,
    graph: FileGraph,
    tensors: StoredTensors,
    unit: StoredUnit,
    given: tuple[Mapping[str, str], Matching, FileData],
) -> MendedUnit:
    """Solve one unit on what it reads now; what it stores is written to the file."""
    targets, matching, fit = given
    target = targets.get(unit.result)
    if target is None or target in reference.inputs:
        return MendedUnit(name=unit.name, left="the float network has no such value")
    weight = tensors.read(unit.weight)
    try:
        form = form_of(unit, weight.shape)
    except ValueError as error:
        return MendedUnit(name=unit.name, left=str(error))
    groups = 1 if form is None else form.groups
    gram = _gram(reference, graph, unit, target, (matching, fit, form))
    if isinstance(gram, str):
        return MendedUnit(name=unit.name, left=gram)
    stored, bias = _stored_rows(tensors, unit, weight, groups)
    goal = _float_rows(reference, target, unit, stored, groups)
    found = solve_again(gram, goal, stored, bias, sum(fit.counts))
    if not found.before <= APART**2:
        return MendedUnit(name=unit.name, left="its values are not the float network's")
    if found.after < found.before:
        _store(tensors, unit, weight, found)
    return MendedUnit(name=unit.name, before=found.before, after=found.after)


def _gram(
    reference: FileGraph,
    graph: FileGraph,
    unit: StoredUnit,
    target: str,
    given: tuple[Matching, FileData, Geometry | None],
) -> Gram | str:
    """Sums over rows that a unit reads and the float network gives; a word where it cannot be."""
    matching, fit, form = given
    tap = graph.tap(unit.read) or Tap(unit.read)
    files = (
        load_tapped(reference.model, [target]),
        None if unit.read in graph.inputs else load_tapped(graph.model, [unit.read]),
    )
    total: Gram | None = None
    for index, feed in enumerate(fit.batches):
        mine, theirs = feed_both(feed, matching, graph)
        y = torch.from_numpy(np.asarray(files[0].run(mine)[0], np.float32))
        raw = theirs[unit.read] if files[1] is None else files[1].run(theirs)[0]
        x = torch.from_numpy(tap.numbers(raw).astype(np.float32))
        rows = input_rows(x, form, ROWS, index)
        wanted = _output_rows(y, form, ROWS, index)
        if rows.shape[1] != wanted.shape[1]:
            return "its output has another shape in the float network"
        here = Gram.of(rows, wanted)
        total = here if total is None else total.add_(here)
    assert total is not None
    return total


def _output_rows(y: Tensor, form: Geometry | None, limit: int, seed: int) -> Tensor:
    """Outputs as rows [G, R, C], the same positions as `input_rows` takes."""
    plain = Geometry((1, 1), (1, 1), (0, 0), (1, 1), form.groups) if form is not None else None
    return input_rows(y, plain, limit, seed)


def _stored_rows(
    tensors: StoredTensors, unit: StoredUnit, weight: np.ndarray, groups: int
) -> tuple[StoredRows, Tensor]:
    """What a unit stores as rows, and its bias as numbers."""
    scale = tensors.read(unit.scale).astype(np.float32)
    outputs = weight.shape[1] if unit.turned else weight.shape[0]
    zero = tensors.read(unit.zero) if unit.zero else np.zeros(1, np.int8)
    kind = zero.dtype if unit.zero and weight.dtype.kind == "f" else weight.dtype
    scales = by_channel(scale, groups, outputs)
    zeros = by_channel(zero.astype(np.float32), groups, outputs)
    rows = as_rows(weight, unit.turned, groups)
    centre = int(zero.reshape(-1)[0])
    if weight.dtype == np.float32:
        low, high = bounds_of(kind, np.inf, centre)
        k = (round_half_even(rows / scales) + zeros).clamp(low, high) - zeros
    else:
        k = rows - zeros
        low, high = bounds_of(kind, float(k.abs().max()), centre)
    # Integer kernels take a bias by the product of both scales, so both have to be the unit's own.
    tied = unit.bias is None or not unit.bias.scale or tensors.is_own(unit.bias.scale)
    free = scale.size == outputs and tensors.is_own(unit.scale) and tied
    bias = bias_numbers(tensors, unit, outputs)
    made = StoredRows(k, scales, low - zeros, high - zeros, free, unit.bias is not None)
    return made, torch.from_numpy(bias).reshape(groups, -1)


def _float_rows(
    reference: FileGraph, target: str, unit: StoredUnit, stored: StoredRows, groups: int
) -> Tensor:
    """The float network's weight, its batch norm folded; the stored one where there is no such."""
    own = stored.k * stored.scale
    step = reference.by_result.get(target)
    factor: np.ndarray = np.ones(1, np.float32)
    while step is not None and step.kind not in ("Conv", "MatMul"):
        if step.kind == "BatchNormalization":
            gamma, _, _, var = (stored_array(reference, n) for n in step.operands[1:5])
            if gamma is None or var is None:
                return own
            factor = (gamma / np.sqrt(var + _epsilon(step.node))).astype(np.float32)
        above = [n for n in step.operands if n not in reference.constants]
        step = reference.by_result.get(above[0]) if len(above) == 1 else None
    if step is None or step.kind != unit.step.kind:
        return own
    chain = [value for _, value in linear_chain(reference, step)]
    weight = stored_array(reference, step.operands[1]) if len(step.operands) > 1 else None
    if weight is None or target not in chain:
        return own
    turned = step.kind == "MatMul" and not any(
        a.name == "transB" and a.i for a in step.node.attribute
    )
    rows = as_rows(weight, turned, groups)
    if rows.shape != own.shape:
        return own
    rows = rows * by_channel(factor, groups, own.shape[0] * own.shape[1])
    far = float((rows - own).norm() / rows.norm().clamp_min(1e-30))
    return rows if far < APART else own


def _epsilon(node: onnx.NodeProto) -> float:
    return next((float(a.f) for a in node.attribute if a.name == "epsilon"), 1e-5)


def _store(tensors: StoredTensors, unit: StoredUnit, weight: np.ndarray, found: SolvedRows) -> None:
    """Write a unit's integers, scales and bias to the file."""
    outputs = found.k.shape[0] * found.k.shape[1]
    scale = found.scale.reshape(-1).numpy()
    stored = tensors.read(unit.scale)
    if stored.size == outputs:
        tensors.write(unit.scale, scale)
    if unit.bias is not None:
        own = found.bias
        numbers = bias_numbers(tensors, unit, outputs) if own is None else own.reshape(-1).numpy()
        store_bias(tensors, unit, numbers, outputs)
    if weight.dtype.kind == "f":
        tensors.write(unit.weight, of_rows(found.k * found.scale, weight, unit.turned))
        return
    zero = tensors.read(unit.zero) if unit.zero else np.zeros(1, np.int8)
    zeros = by_channel(zero.astype(np.float32), found.k.shape[0], outputs)
    tensors.write(unit.weight, of_rows(found.k + zeros, weight, unit.turned))
