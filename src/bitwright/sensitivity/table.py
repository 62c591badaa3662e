"""The table of a run: the menu solved, and what each choice does to the loss and what it costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from bitwright.allocation.table import Row, Table
from bitwright.engine.code import code_version
from bitwright.engine.digest import digest
from bitwright.engine.memory import trim_heap
from bitwright.engine.store import Entries, NullStore
from bitwright.graph.change import Change, change_of
from bitwright.graph.choice import Choice
from bitwright.graph.execute import bind
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.simulate import Assignment, sites_by_unit
from bitwright.graph.variants import Groups
from bitwright.sensitivity.curvature import output_curvature
from bitwright.sensitivity.measure import (
    Delta,
    LossPart,
    LossValues,
    MeasuredLosses,
    Subject,
    collect,
    loss_of_network,
    measure_table,
    soften,
    unit_groups,
)
from bitwright.sensitivity.measure import measure as parts_of
from bitwright.sensitivity.prices import Prices, table_of
from bitwright.sensitivity.quick import QuickPlan, estimate_losses, plan_probes
from bitwright.sensitivity.smooth import Seen, smooth_losses
from bitwright.sensitivity.solutions import TABLE_BATCH, Solutions, figures
from bitwright.solving import Configuration, Edges, Work
from bitwright.solving.assembly import assemble
from bitwright.solving.keys import run_key
from bitwright.solving.parallel import SolvedTasks
from bitwright.sources.batches import rebatch
from bitwright.sources.data import as_dataset

# Small batches whose gradients tell the curvature.
GRADIENT_BATCHES = 4
Changes = dict[str, dict[Choice, Change | None]]


@dataclass(frozen=True, eq=False)
class Base:
    """The base network and what was measured of each choice alone.

    Attributes:
        solutions: of the whole menu.
        changes: of every choice of the menu; `subject` is the network that they change.
        single: the losses of every choice of every unit, sample by sample.
        scale: of the loss to the softened one, see `scale_of`.
        key: of what is kept of these measurements in the store.
        menu: the choices of every unit.
    """

    solutions: Solutions
    changes: Changes
    subject: Subject
    single: MeasuredLosses
    scale: float
    key: str
    menu: Mapping[str, tuple[Choice, ...]]

    @property
    def graph(self) -> ModelGraph:
        """The captured network."""
        return self.solutions.work.graph

    @property
    def figures(self) -> dict[str, float]:
        """Loss, and share of answers missed, at the base precision."""
        return figures(self.single.base)

    def run(self, choices: Mapping[str, Choice]) -> dict[str, float]:
        """Loss, and share of answers missed, of a whole configuration on the table's samples."""
        return self.solutions.run(choices)

    def measured(self, groups: Groups) -> MeasuredLosses:
        """Losses of groups of variants, on the samples of the table; kept in the store."""
        return _measure(self.solutions, self.subject, groups, self.key, lambda _: None)


def measure_menu(
    solutions: Solutions,
    menu: Mapping[str, tuple[Choice, ...]],
    flat: tuple[Any, ...],
    seconds: float,
    tick: Callable[[int], None],
    *,
    quick: bool = False,
) -> tuple[Base, Table]:
    """Measure what each choice of a solved menu does to the loss.

    Args:
        solutions: of every choice.
        menu: the choices that are measured.
        flat: a bound batch, for the sizes of inputs.
        seconds: that a solution took.
        tick: told how many choices are done.
        quick: measure one choice of every unit, and estimate the others (`quick`).
    """
    work, base = solutions.work, solutions.base
    network = solutions.assignment(base)
    subject = Subject(work.placed, network, solutions.loss)
    changes = changes_of(work, solutions.solved, base, menu)
    key = _key(solutions)
    plan = _plan_quick(solutions, menu) if quick else None
    measured = changes if plan is None else _only(changes, plan)
    single = _measure(solutions, subject, unit_groups(measured), key, tick)
    scale = scale_of(single)
    found = Base(solutions, changes, subject, single, scale, key, menu)
    prices = Prices.beside(work.graph, work.target, network, base, flat)
    if plan is None:
        table = table_of(prices, menu, solutions.solved, single.table(), seconds)
        return found, fit_losses(table, solutions, single, scale)
    batches = itertools.islice(solutions.bench.opened(), GRADIENT_BATCHES)
    temperature = getattr(solutions.loss, "temperature", 1.0)
    gradients = output_curvature(work.placed, batches, work.seed, temperature)
    soft = estimate_losses(plan, gradients, single)
    losses = {u: {c: _times(d, scale) for c, d in of.items()} for u, of in soft.items()}
    return found, table_of(prices, menu, solutions.solved, losses, seconds)


def _plan_quick(solutions: Solutions, menu: Mapping[str, tuple[Choice, ...]]) -> QuickPlan:
    """What is measured of a menu; the base's own choice is among a unit's errors."""
    solved, base = solutions.solved, solutions.base
    errors = {
        unit: {c: _error(solved, unit, c) for c in dict.fromkeys((base[unit], *of))}
        for unit, of in menu.items()
        if len(of) > 1
    }
    return plan_probes(errors, base)


def _only(changes: Changes, plan: QuickPlan) -> Changes:
    """The changes that are measured."""
    return {
        unit: {c: change for c, change in of.items() if c in plan.probes.get(unit, ())}
        for unit, of in changes.items()
    }


def _times(delta: Delta, scale: float) -> Delta:
    stderr = None if delta.stderr is None else delta.stderr * scale
    return replace(delta, loss=delta.loss * scale, stderr=stderr)


def measure_losses(
    work: Work,
    solved: SolvedTasks,
    base: Mapping[str, Choice],
    edges: Edges,
    data: object,
    *,
    labels: bool = False,
) -> Table:
    """Measure what each choice does to the loss: the table that `allocate` chooses from.

    Equation: delta_u,c = mean over samples of loss(base with unit u at c) - loss(base), with the
    solved parameters of every choice stitched in.
    Reference: Hubara et al. 2020 (arXiv 2006.10518), section 3.2.

    Args:
        work: the network and its menu, as they were solved.
        solved: what `solve` made of every choice.
        base: the choice that every unit has while another one is measured; part of the menu.
        edges: the input grids of the base, see `input_grids`.
        data: samples as `quantize` takes them.
        labels: measure the loss against their labels, not against the float answers.

    Returns:
        Loss changes as measured, with their standard errors, and the costs of every choice.
    """
    dataset = rebatch(as_dataset(data), TABLE_BATCH)
    first = next(iter(dataset))
    network = Configuration.of(work, solved, base, edges).assignment()
    subject = Subject(work.placed, network, loss_of_network(work.placed, first, labels))
    changes = changes_of(work, solved, base, work.menu)
    single = measure_table(subject, changes, dataset)
    flat = bind(work.graph, first.inputs)
    prices = Prices.beside(work.graph, work.target, network, base, flat)
    return table_of(prices, work.menu, solved, single.table(), 0.0)


def _key(solutions: Solutions) -> str:
    """What every measurement of single choices and of their mixtures depends on."""
    bench, own = solutions.bench, solutions.work.graph.loss
    # The digest of the data leaves labels out; here they count where they are looked at.
    labels = [batch.labels for batch in bench.opened()] if bench.labels else None
    return digest(
        run_key(measure_menu, solutions.work, "table", solutions.edges),
        [(name, str(choice)) for name, choice in solutions.base.items()],
        bench.size,
        TABLE_BATCH,
        labels,
        solutions.work.graph.answer,
        # A function of which there is no file, such as a notebook's, needs none without a store.
        None if own is None or isinstance(solutions.work.store, NullStore) else code_version(own),
    )


def _measure(
    solutions: Solutions, subject: Subject, groups: Groups, key: str, tick: Callable[[int], None]
) -> MeasuredLosses:
    """The losses of all variants; parts that are stored are not run again."""
    kept = _Kept(solutions.work.store, key, groups)
    total = sum(map(len, groups.values()))
    parts: list[LossPart] = []
    for part in parts_of(subject, groups, solutions.bench.opened(), kept.have):
        if not parts or part.chunk != parts[-1].chunk:
            trim_heap()
        if part.fresh:
            kept.put(part)
        parts.append(part)
        tick(min(len(parts), total))
    return collect(groups, parts, subject.loss)


def scale_of(single: MeasuredLosses) -> float:
    """How large the loss is beside the softened one, which tells choices apart with less noise.

    Equation: the sum of all changes of the one by that of the other; 1 where that says nothing.
    """
    soft = soften(single)
    totals = [
        sum(found.delta(unit, choice).loss for unit, own in found.values.items() for choice in own)
        for found in (single, soft)
    ]
    return totals[0] / totals[1] if min(totals) > 0 else 1.0


def fit_losses(table: Table, solutions: Solutions, single: MeasuredLosses, scale: float) -> Table:
    """The table with the measurement's noise taken out of every unit that has a choice.

    Changes of the softened loss, drawn towards what the unit's curvature says (`search.smooth`),
    in the units of the loss.
    """
    soft = soften(single)
    solved, base = solutions.solved, solutions.base
    base_errors = {name: _error(solved, name, choice) for name, choice in base.items()}

    def seen(row: Row) -> Seen:
        error, own = _error(solved, row.unit, row.choice), base_errors[row.unit]
        away = None if error is None or own is None else error - own
        delta = soft.delta(row.unit, row.choice)
        return Seen(delta.loss, delta.stderr or 0.0, away)

    free = {unit: table.of(unit) for unit in table.units if len(table.of(unit)) > 1}
    values = smooth_losses({unit: [seen(row) for row in rows] for unit, rows in free.items()})
    known = {
        (row.unit, row.choice): scale * value
        for unit, rows in free.items()
        for row, value in zip(rows, values[unit], strict=True)
    }
    rows = [replace(r, loss_fitted=known.get((r.unit, r.choice))) for r in table.rows]
    return replace(table, rows=tuple(rows))


def _error(solved: SolvedTasks, name: str, choice: Choice) -> float | None:
    """The output error of a solution on held-out rows; nothing of float and where none is known."""
    solution = solved.get((name, choice))
    return 0.0 if choice.is_float else None if solution is None else solution.loss_after


def changes_of(
    work: Work,
    solved: SolvedTasks,
    base: Mapping[str, Choice],
    menu: Mapping[str, tuple[Choice, ...]],
) -> Changes:
    """What each choice changes in the base network; nothing for the base's own."""
    by_unit = sites_by_unit(work.sites)

    def change(unit: Unit, choice: Choice) -> Change | None:
        if choice == base[unit.name]:
            return None
        own = by_unit.get(unit.name, [])
        if choice.is_float:
            return change_of(unit, Assignment({}, {}, {}), work.sites)
        solution = solved[unit.name, choice]
        grids = {
            (s.source, s.reader): grid for s in own if (grid := solution.inputs[s.call]) is not None
        }
        made = assemble(work.graph, {unit.name: solution}, grids, work.target)
        return change_of(unit, made, work.sites)

    return {u.name: {c: change(u, c) for c in menu[u.name]} for u in work.graph.units}


@dataclass(frozen=True, eq=False)
class _Kept:
    """Measured parts in the store, by the names of their variants."""

    store: Entries
    base: str
    groups: Groups

    def key(self, chunk: int, group: str) -> str:
        names = [str(c) for c in self.groups.get(group, ())]
        return digest(self.base, "part", chunk, group, names)

    def have(self, chunk: int, group: str) -> Mapping[Any, LossValues]:
        entry = self.store.get(self.key(chunk, group))
        if entry is None:
            return {}
        known: dict[str, object] = {str(c): c for c in self.groups.get(group, ())}
        return {known.get(name, name): value.numpy() for name, value in entry[0].items()}

    def put(self, part: LossPart) -> None:
        tensors = {str(key): torch.from_numpy(value) for key, value in part.values.items()}
        self.store.put(self.key(part.chunk, part.group), tensors, {})
