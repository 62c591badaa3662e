"""Measuring losses: of every unit at every choice, of pairs of units and of whole allocations.

Everything is a variant of one base network, measured sample by sample on streamed batches (chunks).
Within a chunk the base is walked once and every group of variants starts from the activations that
are there (`graph.variants`): units inside, chunks outside, so nothing but losses outlives a chunk.

What is resumable is a `Part`: the losses of one group (a unit's choices, say) on one chunk. Each is
yielded as soon as it is known and depends on nothing but its inputs: the network, the base, the
group's changes and the chunk's samples. A caller stores the fresh ones under a digest of these and
gives them back through `have`; choices that are already there are not run, chunks that are complete
cost nothing, and a run that is killed loses the part in flight and at most one walk of the base.
Whole samples would be too coarse (a unit's entry would be there only after the last chunk), single
choices too fine (they share a pass).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx

from bitwright.errors import DataError
from bitwright.graph.answers import Compared
from bitwright.graph.change import Change
from bitwright.graph.choice import Choice
from bitwright.graph.execute import bind
from bitwright.graph.installed import Installed
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.placing import same_device
from bitwright.graph.simulate import Assignment
from bitwright.graph.variants import (
    BASE,
    Groups,
    PreparedVariants,
    answer_of_values,
    prepare,
    run_variants,
    values_of,
    wanted_nodes,
)
from bitwright.graph.work import OperationCount
from bitwright.sensitivity.sample_loss import (
    OwnSampleLoss,
    SampleLoss,
    choose_loss,
    choose_loss_of_several,
)
from bitwright.sources.batches import Batch

LossValues = NDArray[np.float64]
Have = Callable[[int, str], Mapping[Any, LossValues]]


@dataclass(frozen=True, eq=False)
class Subject:
    """What is measured: changes of a base network, by a loss of each sample.

    `stack_bytes` bounds the live activations of variants that share a pass: None as suits the
    device, 0 for one by one.
    """

    graph: ModelGraph
    base: Assignment
    loss: SampleLoss
    stack_bytes: int | None = None


@dataclass(frozen=True, eq=False)
class LossPart:
    """Losses and missed answers, [2 or 3, samples], of one group's variants on one chunk, by key.

    The base's own part is called `BASE`, and so is its one key. `fresh` tells that something of
    it was computed and not given by `have`.
    """

    chunk: int
    group: str
    values: Mapping[Any, LossValues]
    fresh: bool


@dataclass(frozen=True)
class Delta:
    """A mean difference over samples: of the loss, its standard error, and of missed answers.

    `stderr` is that of the paired difference, sd(l_i - l_base,i) / sqrt(n); None for one sample.
    `drop` is None where samples have no answers that could be missed.
    """

    loss: float
    stderr: float | None
    drop: float | None
    samples: int


@dataclass(frozen=True, eq=False)
class MeasuredLosses:
    """The per-sample values of the base and of every variant, over all chunks."""

    base: LossValues
    values: Mapping[str, Mapping[Any, LossValues]]
    has_answers: bool

    def delta(self, group: str, key: Hashable) -> Delta:
        """The change from the base to one variant."""
        return delta_of(self.values[group][key] - self.base, self.has_answers)

    def table(self) -> dict[str, dict[Any, Delta]]:
        """The change of every variant, by group and key."""
        return {
            name: {key: self.delta(name, key) for key in group}
            for name, group in self.values.items()
        }


def soften(measured: MeasuredLosses) -> MeasuredLosses:
    """The same with the less noisy loss in place of the loss, where there is one.

    See `SampleLoss`: its third row.
    """

    def soft(values: LossValues) -> LossValues:
        return values[[2, 1]] if len(values) > 2 else values

    of = {name: {k: soft(v) for k, v in group.items()} for name, group in measured.values.items()}
    return MeasuredLosses(soft(measured.base), of, measured.has_answers)


def delta_of(differences: LossValues, has_answers: bool) -> Delta:
    """Mean and standard error of per-sample differences of the loss, and of missed answers."""
    losses, missed = differences[:2]
    count = losses.size
    stderr = float(losses.std(ddof=1)) / math.sqrt(count) if count > 1 else None
    drop = float(missed.mean()) if has_answers else None
    return Delta(float(losses.mean()), stderr, drop, count)


def loss_of_network(graph: ModelGraph, batch: Batch, use_labels: bool) -> SampleLoss:
    """The loss that fits a network's outputs, found on one batch: the first, so that it is fixed.

    Raises:
        DataError: labels are to be used and the batch has none, or none that fit.
    """
    if use_labels and batch.labels is None:
        raise DataError(
            "the loss is to be taken with labels and the calibration data have none. Give labelled "
            "data, or leave the labels out: the float network then is the measure."
        )
    flat = same_device(graph, bind(graph, batch.inputs))
    wanted = wanted_nodes(graph, flat, OperationCount())
    values = values_of(graph, Installed(), flat, wanted, OperationCount())
    reference = answer_of_values(graph, wanted, values)
    labels = batch.labels if use_labels else None
    if graph.loss is not None:
        if labels is not None:
            raise DataError("--labels and --loss name two losses. Leave one of them out.")
        return OwnSampleLoss(graph.loss, graph.answer)
    if not isinstance(reference, Tensor):
        return choose_loss_of_several(graph.answer, reference, labels)
    return choose_loss(reference, labels, graph.answer.kind)


def unit_groups(changes: Mapping[str, Mapping[Choice, Change | None]]) -> Groups:
    """One group a unit, one variant a choice; None stands for the base's own choice."""
    return {
        unit: {choice: () if change is None else (change,) for choice, change in of_unit.items()}
        for unit, of_unit in changes.items()
    }


def find_nothing(chunk: int, group: str) -> Mapping[Any, LossValues]:
    """The `have` of a run that starts afresh."""
    del chunk, group
    return {}


def measure(
    subject: Subject,
    groups: Groups,
    chunks: Iterable[Batch],
    have: Have = find_nothing,
    work: OperationCount | None = None,
) -> Iterator[LossPart]:
    """Measure every variant on every chunk, part by part, in the order in which they come.

    Equation: l_i(v) = loss of sample i in the base with the changes of variant v, whatever was
    solved for them stitched in; a variant without changes is the base and is not run.

    Args:
        subject: network, base and loss.
        groups: the variants to measure, see `unit_groups`.
        chunks: small batches, the same in the same order whenever a run is resumed.
        have: (chunk, group) -> what is known already of it, by key.
        work: counts the multiply-accumulates of all passes.

    Yields:
        One part for each group and chunk, and one for the base; those complete in `have` too.
    """
    work = work or OperationCount()
    groups = {BASE: {BASE: ()}, **groups}
    prepared: PreparedVariants | None = None
    for index, batch in enumerate(chunks):
        known = {name: dict(have(index, name)) for name in groups}
        todo = {
            name: [k for k, variant in group.items() if k not in known[name] and _runs(k, variant)]
            for name, group in groups.items()
        }
        for name, keys in todo.items():
            if not keys:
                yield LossPart(index, name, known[name], fresh=False)
        if not any(todo.values()):
            continue
        flat = same_device(subject.graph, bind(subject.graph, batch.inputs))
        if prepared is None:
            prepared = prepare(subject.graph, subject.base, groups, flat, work, subject.stack_bytes)
        reference = _reference(subject, prepared.wanted, flat, work)
        for name, outputs in run_variants(prepared, flat, todo, work):
            made = {
                key: _values(subject.loss, reference, output, batch.labels)
                for key, output in outputs.items()
            }
            yield LossPart(index, name, {**known[name], **made}, fresh=True)


def _runs(key: Hashable, variant: tuple[Change, ...]) -> bool:
    return bool(variant) or key == BASE


def _reference(
    subject: Subject, wanted: tuple[fx.Node, ...], flat: tuple[Any, ...], work: OperationCount
) -> Compared | None:
    if not subject.loss.needs_float:
        return None
    found = values_of(subject.graph, Installed(), flat, wanted, work)
    return answer_of_values(subject.graph, wanted, found)


def _values(
    loss: SampleLoss, reference: Compared | None, output: Compared, labels: object
) -> LossValues:
    found: LossValues = loss.of(reference, output, labels).cpu().numpy()
    return found


def collect(groups: Groups, parts: Iterable[LossPart], loss: SampleLoss) -> MeasuredLosses:
    """All parts of a run as per-sample values over all chunks.

    Raises:
        DataError: no part at all: the data were empty.
    """
    found: dict[tuple[str, Any], dict[int, LossValues]] = {}
    for part in parts:
        for key, values in part.values.items():
            found.setdefault((part.group, key), {})[part.chunk] = values
    if (BASE, BASE) not in found:
        raise DataError("the calibration data are empty: no batch came to measure on.")

    def whole(group: str, key: Any) -> LossValues:
        by_chunk = found[group, key]
        return np.concatenate([by_chunk[chunk] for chunk in sorted(by_chunk)], axis=1)

    base = whole(BASE, BASE)
    of_groups = {
        name: {key: whole(name, key) if variant else base for key, variant in group.items()}
        for name, group in groups.items()
    }
    return MeasuredLosses(base, of_groups, loss.has_answers)


def measure_table(
    subject: Subject,
    changes: Mapping[str, Mapping[Choice, Change | None]],
    chunks: Iterable[Batch],
    have: Have = find_nothing,
    work: OperationCount | None = None,
) -> MeasuredLosses:
    """The loss change of every (unit, choice) with its solved parameters stitched into the base.

    Equation: delta_u,c = mean over samples of loss(base with u at c) - loss(base).
    Reference: Hubara et al., "Accurate Post Training Quantization with Small Calibration Sets",
    ICML 2021, section 3.2. Negative deltas are kept.

    Args:
        subject: network, base and loss.
        changes: by unit and choice, what `change_of` makes of the solution; None for the choice
            that the base has.
        chunks: small batches of calibration data, walked once.
        have: what is known already; a caller that stores parts goes through `measure` instead.
        work: counts the multiply-accumulates.
    """
    groups = unit_groups(changes)
    return collect(groups, measure(subject, groups, chunks, have, work), subject.loss)
