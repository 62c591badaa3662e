"""The table of a run: the menu solved, and what each choice does to the loss and what it costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bitwright.export.packed import save_packed
from bitwright.graph.change import Change, change_of
from bitwright.graph.choice import FLOAT, Choice
from bitwright.graph.execute import bind
from bitwright.graph.live_memory import value_sizes
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.simulate import Assignment, sites_by_unit
from bitwright.graph.units import input_of
from bitwright.graph.variants import Groups
from bitwright.preparing import Job, Prepared
from bitwright.run.digest import code_version, digest
from bitwright.run.memory import trim_heap
from bitwright.run.progress import Progress
from bitwright.run.store import Entries
from bitwright.search.cost import bops, weight_bits
from bitwright.search.energy import energy_pj
from bitwright.search.sensitivity import (
    Measured,
    Part,
    Subject,
    Values,
    collect,
    measure,
    softened,
    unit_groups,
)
from bitwright.search.smooth import Seen, smoothed
from bitwright.search.table import Row, Table, make_table
from bitwright.solutions import TABLE_BATCH, Solutions, figures, solve_menu, table_batches
from bitwright.solving import Edges, Work
from bitwright.solving.keys import run_key
from bitwright.solving.parallel import Solved
from bitwright.stages import assemble, stream
from bitwright.tying import groups_in, tied

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
    """

    solutions: Solutions
    changes: Changes
    subject: Subject
    single: Measured
    scale: float
    key: str

    @property
    def job(self) -> Job:
        """What the run works on."""
        return self.solutions.job

    @property
    def prepared(self) -> Prepared:
        """The captured network and its menu."""
        return self.solutions.prepared

    @property
    def figures(self) -> dict[str, float]:
        """Loss, and share of answers missed, at the base precision."""
        return figures(self.single.base)

    def run(self, choices: Mapping[str, Choice]) -> dict[str, float]:
        """Loss, and share of answers missed, of a whole configuration on the table's samples."""
        return self.solutions.run(choices)

    def measured(self, groups: Groups) -> Measured:
        """Losses of groups of variants, on the samples of the table; kept in the store."""
        return _measure(self.job, self.subject, groups, self.key, lambda _: None)


def measured_menu(job: Job, prepared: Prepared, progress: Progress) -> tuple[Base, Table]:
    """Solve every choice of every unit, and measure what each does to the loss."""
    groups = groups_in(prepared, job.recipe)
    started = time.perf_counter()
    solutions = solve_menu(job, prepared, prepared.menu, progress)
    work, base = solutions.work, solutions.base
    seconds = (time.perf_counter() - started) / max(len(work.tasks()), 1)
    network = solutions.assignment(base)
    subject = Subject(work.graph, network, solutions.loss)
    changes = changes_of(work, solutions.solved, base, prepared.menu)
    key = _key(job, work, base, solutions.edges)
    with progress.stage("table", sum(map(len, prepared.menu.values()))) as tick:
        single = _measure(job, subject, unit_groups(changes), key, tick)
    share = file_share(prepared, work, network, base)
    sizes = input_sizes(prepared.graph, job)
    table = table_of(prepared, solutions.solved, single, seconds, share, sizes)
    scale = scale_of(single)
    table = fitted(tied(table, groups), solutions, single, scale)
    return Base(solutions, changes, subject, single, scale, key), table


def _key(job: Job, work: Work, base: Mapping[str, Choice], edges: Edges) -> str:
    """What every measurement of single choices and of their mixtures depends on."""
    # The digest of the data leaves labels out; here they count where they are looked at.
    labels = [batch.labels for batch in table_batches(job)] if job.recipe.labels else None
    return digest(
        code_version("search/sensitivity", "search/sample_loss"),
        run_key(work, "table", edges),
        [(name, str(choice)) for name, choice in base.items()],
        job.recipe.table_samples,
        TABLE_BATCH,
        labels,
    )


def _measure(
    job: Job, subject: Subject, groups: Groups, key: str, tick: Callable[[int], None]
) -> Measured:
    """The losses of all variants; parts that are stored are not run again."""
    kept = _Kept(job.store, key, groups)
    total = sum(map(len, groups.values()))
    parts: list[Part] = []
    for part in measure(subject, groups, table_batches(job), kept.have):
        if not parts or part.chunk != parts[-1].chunk:
            trim_heap()
        if part.fresh:
            kept.put(part)
        parts.append(part)
        tick(min(len(parts), total))
    return collect(groups, parts, subject.loss)


def scale_of(single: Measured) -> float:
    """How large the loss is beside the softened one, which tells choices apart with less noise.

    Equation: the sum of all changes of the one by that of the other; 1 where that says nothing.
    """
    soft = softened(single)
    totals = [
        sum(found.delta(unit, choice).loss for unit, own in found.values.items() for choice in own)
        for found in (single, soft)
    ]
    return totals[0] / totals[1] if min(totals) > 0 else 1.0


def fitted(table: Table, solutions: Solutions, single: Measured, scale: float) -> Table:
    """The table with the measurement's noise taken out of every unit that has a choice.

    Changes of the softened loss, drawn towards what the unit's curvature says (`search.smooth`),
    in the units of the loss.
    """
    soft = softened(single)
    solved, base = solutions.solved, solutions.base
    base_errors = {name: _error(solved, name, choice) for name, choice in base.items()}

    def seen(row: Row) -> Seen:
        error, own = _error(solved, row.unit, row.choice), base_errors[row.unit]
        away = None if error is None or own is None else error - own
        delta = soft.delta(row.unit, row.choice)
        return Seen(delta.loss, delta.stderr or 0.0, away)

    free = {unit: table.of(unit) for unit in table.units if len(table.of(unit)) > 1}
    values = smoothed({unit: [seen(row) for row in rows] for unit, rows in free.items()})
    known = {
        (row.unit, row.choice): scale * value
        for unit, rows in free.items()
        for row, value in zip(rows, values[unit], strict=True)
    }
    rows = [replace(r, loss_fitted=known.get((r.unit, r.choice))) for r in table.rows]
    return replace(table, rows=tuple(rows))


def _error(solved: Solved, name: str, choice: Choice) -> float | None:
    """The output error of a solution on held-out rows; nothing of float and where none is known."""
    solution = solved.get((name, choice))
    return 0.0 if choice.is_float else None if solution is None else solution.loss_after


def changes_of(
    work: Work, solved: Solved, base: Mapping[str, Choice], menu: Mapping[str, tuple[Choice, ...]]
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

    def have(self, chunk: int, group: str) -> Mapping[Any, Values]:
        entry = self.store.get(self.key(chunk, group))
        if entry is None:
            return {}
        known: dict[str, Any] = {str(c): c for c in self.groups.get(group, ())}
        return {known.get(name, name): value.numpy() for name, value in entry[0].items()}

    def put(self, part: Part) -> None:
        tensors = {str(key): torch.from_numpy(value) for key, value in part.values.items()}
        self.store.put(self.key(part.chunk, part.group), tensors, {})


def file_share(
    prepared: Prepared, work: Work, network: Assignment, base: Mapping[str, Choice]
) -> int:
    """Bits of model.safetensors that no choice changes, for each unit: biases, names, the rest.

    With them in the table a budget of the size is one of the file as it lies on the disk.
    """
    with tempfile.TemporaryDirectory() as folder:
        size = save_packed(Path(folder) / "base", work.graph, network)
    plain = sum(_weight_bits(prepared, unit, base[unit.name]) for unit in work.graph.units)
    return max(0, -(-(8 * size - plain) // len(work.graph.units)))


def input_sizes(graph: ModelGraph, job: Job) -> dict[str, int]:
    """Numbers that each unit reads for one sample, over all its calls."""
    sizes = value_sizes(graph, bind(graph, next(stream(job.data, job.recipe))))
    nodes = graph.nodes()
    return {
        unit.name: sum(sizes[input_of(nodes[call]).name].elements for call in unit.calls)
        for unit in graph.units
    }


def _weight_bits(prepared: Prepared, unit: Unit, choice: Choice) -> int:
    channels = unit.shape[unit.channel_axis]
    return weight_bits(unit.params, channels, choice, not prepared.target.weight_symmetric)


def table_of(
    prepared: Prepared,
    solved: Solved,
    measured: Measured | None,
    seconds: float,
    share: int = 0,
    inputs: Mapping[str, int] | None = None,
) -> Table:
    """The table: what each choice does to the loss, and what it costs.

    Args:
        prepared: network and menu.
        solved: the solutions.
        measured: the losses; with them come lines that tell what float costs.
        seconds: of a solution.
        share: see `file_share`.
        inputs: numbers that each unit reads, for the energy.
    """
    rows = []
    for unit in prepared.graph.units:
        choices = prepared.menu[unit.name]
        for choice in choices:
            solution = solved.get((unit.name, choice))
            row = _row_of(prepared, unit, choice, share, inputs)
            method = "float" if solution is None else solution.method
            row = replace(row, method=method, solve_seconds=round(seconds, 6))
            # A kept unit has one row, whose loss is nobody's choice.
            if measured is not None and len(choices) > 1:
                delta = measured.delta(unit.name, choice)
                row = replace(row, loss_delta=delta.loss, loss_stderr=delta.stderr, drop=delta.drop)
            rows.append(row)
        if measured is not None and FLOAT not in choices:
            rows.append(replace(_row_of(prepared, unit, FLOAT, share, inputs), method="float"))
    return make_table(rows)


def _row_of(
    prepared: Prepared, unit: Unit, choice: Choice, share: int, inputs: Mapping[str, int] | None
) -> Row:
    """What a choice costs."""
    bits = _weight_bits(prepared, unit, choice)
    energy = None
    if inputs is not None:
        energy = round(energy_pj(unit.macs, bits, choice, inputs[unit.name]), 3)
    return Row(
        unit=unit.name,
        choice=choice,
        loss_delta=None,
        params=unit.params,
        weight_bits=bits + share,
        macs=unit.macs,
        bops=bops(unit.macs, choice),
        energy_pj=energy,
    )
