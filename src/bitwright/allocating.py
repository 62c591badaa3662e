"""Mixed precision: solve the menu, measure the table, allocate, and keep the better of two."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bitwright.evaluation import compare
from bitwright.export.packed import save_packed
from bitwright.graph.change import Change, change_of
from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import Unit
from bitwright.graph.simulate import Assignment, sites_by_unit, stitch
from bitwright.methods.problem import UnitSolution
from bitwright.preparing import Job, Prepared, edges_of, work_on
from bitwright.run.digest import code_version, digest
from bitwright.run.progress import Progress
from bitwright.run.store import Entries
from bitwright.search.allocate import Allocation, allocate
from bitwright.search.cost import bops, weight_bits
from bitwright.search.sensitivity import (
    Measured,
    Part,
    Subject,
    Values,
    collect,
    loss_of_network,
    measure,
    unit_groups,
)
from bitwright.search.shortfall import require
from bitwright.search.smooth import Seen, smoothed
from bitwright.search.table import Row, Table, make_table
from bitwright.solving import Edges, Work, solve
from bitwright.solving.keys import run_key
from bitwright.solving.parallel import Solved
from bitwright.solving.work import install_edges
from bitwright.sources.batches import Batch, rebatch, take
from bitwright.stages import assemble, choices_of, forward_of

Changes = dict[str, dict[Choice, Change | None]]


@dataclass(frozen=True, eq=False)
class Searched:
    """A solved menu: every solution, the table, the allocation, and what was measured of it.

    `solved` are the solutions of every (unit, choice) on the float network's activations.
    `measured_loss` is the calibration loss of the allocation and of the best uniform
    configuration, whole networks run, not sums of single deltas.
    """

    solved: Solved
    table: Table
    allocation: Allocation
    choices: Mapping[str, Choice]
    measured_loss: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Base:
    """What configurations are made of: all solutions, and the edges at the base precision."""

    job: Job
    prepared: Prepared
    work: Work
    solved: Solved
    edges: Edges

    def kl(self, choices: Mapping[str, Choice]) -> float:
        """The divergence of a whole configuration on the table's samples."""
        graph = self.work.graph
        chosen, own = stitched(self.work, self.solved, choices, self.edges)
        module = stitch(graph, assemble(graph, chosen, own, self.prepared.target))
        forwards = (forward_of(graph, graph.module), forward_of(graph, module))
        return float(compare(*forwards, table_batches(self.job), None)["kl"])


def search_bits(job: Job, prepared: Prepared, progress: Progress) -> Searched:
    """Choose every unit's bits under the recipe's budgets.

    Raises:
        BudgetError: no choice of the menu holds the budgets.
    """
    base, table = measured_menu(job, prepared, progress)
    recipe = job.recipe
    with progress.stage("allocate"):
        found = allocate(table, recipe.budget, minimize=recipe.minimize, solver=recipe.solver)
    return better_measured(base, table, require(found), progress)


def measured_menu(job: Job, prepared: Prepared, progress: Progress) -> tuple[Base, Table]:
    """Solve every choice of every unit, and measure what each does to the loss."""
    recipe = job.recipe
    base = choices_of(prepared.graph, recipe)
    menu = {
        name: tuple(dict.fromkeys((base[name], *choices)))
        for name, choices in prepared.menu.items()
    }
    work = work_on(job, prepared, menu)
    edges = edges_of(job, prepared, base)
    tasks = len(work.tasks())
    started = time.perf_counter()
    with progress.stage("solve the menu", tasks) as tick:
        solved = solve(work, "parallel", edges, tick)
    seconds = (time.perf_counter() - started) / max(tasks, 1)
    with progress.stage("table", tasks) as tick:
        measured = measure_changes(job, prepared, work, solved, base, edges, tick)
    share = file_share(prepared, work, solved, base, edges)
    table = table_of(prepared, solved, measured, seconds, share)
    return Base(job, prepared, work, solved, edges), fitted(table, solved, base)


def fitted(table: Table, solved: Solved, base: Mapping[str, Choice]) -> Table:
    """The table with the measurement's noise taken out of every unit that has a choice."""
    base_errors = {name: _error(solved, name, choice) for name, choice in base.items()}

    def seen(row: Row) -> Seen:
        error, own = _error(solved, row.unit, row.choice), base_errors[row.unit]
        away = None if error is None or own is None else error - own
        return Seen(row.loss_delta or 0.0, row.loss_stderr or 0.0, away)

    free = {unit: table.of(unit) for unit in table.units if len(table.of(unit)) > 1}
    values = smoothed({unit: [seen(row) for row in rows] for unit, rows in free.items()})
    known = {
        (row.unit, row.choice): value
        for unit, rows in free.items()
        for row, value in zip(rows, values[unit], strict=True)
    }
    rows = [replace(r, loss_fitted=known.get((r.unit, r.choice))) for r in table.rows]
    return replace(table, rows=tuple(rows))


def _error(solved: Solved, name: str, choice: Choice) -> float | None:
    """The output error of a solution on held-out rows; nothing of float and where none is known."""
    solution = solved.get((name, choice))
    return 0.0 if choice.is_float else None if solution is None else solution.loss_after


def stitched(
    work: Work, solved: Solved, choices: Mapping[str, Choice], edges: Edges
) -> tuple[dict[str, UnitSolution], Edges]:
    """The solutions of one configuration and the edges that go with them."""
    own = dict(edges)
    chosen: dict[str, UnitSolution] = {}
    for unit in work.graph.units:
        choice = choices[unit.name]
        if choice.is_float:
            for site in work.sites_of.get(unit.name, ()):
                own.pop((site.source, site.reader), None)
            continue
        chosen[unit.name] = solved[unit.name, choice]
        install_edges(work, unit, chosen[unit.name], own)
    return chosen, own


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


def measure_changes(
    job: Job,
    prepared: Prepared,
    work: Work,
    solved: Solved,
    base: Mapping[str, Choice],
    edges: Edges,
    tick: Any,
) -> Measured:
    """The loss change of every choice of every unit; parts that are stored are not run again."""
    chosen, own = stitched(work, solved, base, edges)
    network = assemble(work.graph, chosen, own, work.target)
    changes = changes_of(work, solved, base, prepared.menu)
    groups = unit_groups(changes)
    first = next(iter(table_batches(job)))
    subject = Subject(work.graph, network, loss_of_network(work.graph, first, use_labels=False))
    whole = digest(
        code_version(),
        run_key(work, "table", edges),
        [(name, str(choice)) for name, choice in base.items()],
        job.recipe.table_samples,
    )
    kept = _Kept(work.store, whole, {name: tuple(prepared.menu[name]) for name in prepared.menu})
    parts: list[Part] = []
    for part in measure(subject, groups, table_batches(job), kept.have):
        if part.fresh:
            kept.put(part)
        parts.append(part)
        tick(min(len(parts), sum(len(c) for c in prepared.menu.values())))
    return collect(groups, parts, subject.loss)


def table_batches(job: Job) -> Iterator[Batch]:
    """The calibration samples on which losses are measured."""
    recipe = job.recipe
    counts = [n for n in (recipe.calib, recipe.table_samples) if n]
    data = take(job.data, min(counts)) if counts else job.data
    yield from rebatch(data, recipe.batch)


@dataclass(frozen=True, eq=False)
class _Kept:
    """Measured parts in the store, by choice."""

    store: Entries
    base: str
    menu: Mapping[str, tuple[Choice, ...]]

    def key(self, chunk: int, group: str) -> str:
        names = [str(c) for c in self.menu.get(group, ())]
        return digest(self.base, "part", chunk, group, names)

    def have(self, chunk: int, group: str) -> Mapping[Any, Values]:
        entry = self.store.get(self.key(chunk, group))
        if entry is None:
            return {}
        known: dict[str, Any] = {str(c): c for c in self.menu.get(group, ())}
        return {known.get(name, name): value.numpy() for name, value in entry[0].items()}

    def put(self, part: Part) -> None:
        tensors = {str(key): torch.from_numpy(value) for key, value in part.values.items()}
        self.store.put(self.key(part.chunk, part.group), tensors, {})


def file_share(
    prepared: Prepared, work: Work, solved: Solved, base: Mapping[str, Choice], edges: Edges
) -> int:
    """Bits of model.safetensors that no choice changes, for each unit: biases, names, the rest.

    With them in the table a budget of the size is one of the file as it lies on the disk.
    """
    chosen, own = stitched(work, solved, base, edges)
    assignment = assemble(work.graph, chosen, own, prepared.target)
    with tempfile.TemporaryDirectory() as folder:
        size = save_packed(Path(folder) / "base", work.graph, assignment)
    plain = sum(_weight_bits(prepared, unit, base[unit.name]) for unit in work.graph.units)
    return max(0, -(-(8 * size - plain) // len(work.graph.units)))


def _weight_bits(prepared: Prepared, unit: Unit, choice: Choice) -> int:
    channels = unit.shape[unit.channel_axis]
    return weight_bits(unit.params, channels, choice, not prepared.target.weight_symmetric)


def table_of(
    prepared: Prepared, solved: Solved, measured: Measured | None, seconds: float, share: int = 0
) -> Table:
    """The table: what each choice does to the loss, and what it costs; `share`: `file_share`."""
    rows = []
    for unit in prepared.graph.units:
        choices = prepared.menu[unit.name]
        for choice in choices:
            solution = solved.get((unit.name, choice))
            delta = None
            if measured is not None and len(choices) > 1:
                delta = measured.delta(unit.name, choice)
            # A kept unit has one row, whose loss is nobody's choice.
            rows.append(
                Row(
                    unit=unit.name,
                    choice=choice,
                    loss_delta=None if delta is None else delta.loss,
                    params=unit.params,
                    weight_bits=_weight_bits(prepared, unit, choice) + share,
                    macs=unit.macs,
                    bops=bops(unit.macs, choice),
                    method="float" if solution is None else solution.method,
                    solve_seconds=round(seconds, 6),
                    loss_stderr=None if delta is None else delta.stderr,
                    drop=None if delta is None else delta.drop,
                )
            )
    return make_table(rows)


def better_measured(
    base: Base, table: Table, allocation: Allocation, progress: Progress
) -> Searched:
    """The allocation, or the uniform configuration if that is better where both are run."""
    menu = base.prepared.menu
    choices = dict(allocation.choices)
    losses = {"allocation": base.kl(choices)}
    searched = Searched(base.solved, table, allocation, choices, losses)
    if allocation.uniform is None or allocation.minimizes != "loss":
        return searched
    wanted = allocation.uniform.choice
    same = {
        name: next((c for c in (wanted, replace(wanted, a_bits=0)) if c in menu[name]), choice)
        for name, choice in choices.items()
    }
    if same == choices:
        return searched
    losses["uniform"] = base.kl(same)
    if losses["allocation"] <= losses["uniform"]:
        return searched
    note = (
        f"the sum of single losses misled: {wanted} everywhere has a measured loss of "
        f"{losses['uniform']:.4g}, the allocation {losses['allocation']:.4g}. The uniform "
        "configuration is taken."
    )
    progress.note("allocate", note)
    return replace(searched, choices=same, note=note)
