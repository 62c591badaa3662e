"""The menu of a run solved, and its table measured on the calibration samples."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bitwright.allocation.devices import with_devices
from bitwright.allocation.latency_table import LatencyTable
from bitwright.allocation.menu import make_menu
from bitwright.allocation.table import Row, Table, make_table
from bitwright.engine.progress import Progress
from bitwright.graph.choice import Menus
from bitwright.graph.execute import bind
from bitwright.pipeline.affordable import check_latency
from bitwright.pipeline.job import Job, Prepared, edges_of, work_on
from bitwright.pipeline.menu_latency import time_menu
from bitwright.pipeline.plan import choices_of, stream
from bitwright.recipe.names import QUICK
from bitwright.recipe.values import Recipe
from bitwright.sensitivity.measure import loss_of_network
from bitwright.sensitivity.solutions import TABLE_BATCH, Bench, Solutions
from bitwright.sensitivity.table import Base, measure_menu
from bitwright.sensitivity.ties import groups_among, tie_rows
from bitwright.solving import solve
from bitwright.sources.batches import Batch, take
from bitwright.sources.lengths import batch_by_length


def solve_menu(job: Job, prepared: Prepared, menu: Menus, progress: Progress) -> Solutions:
    """Solve the choices of a menu, and those of the base; what the store holds is not solved again.

    Args:
        job: network, data, recipe, store.
        prepared: what one pass over the data told; it must have seen the choices of the menu.
        menu: the choices of every unit.
        progress: told of the stage.
    """
    recipe = job.recipe
    base = choices_of(prepared.graph, job.plan)
    wanted = {name: tuple(dict.fromkeys((base[name], *menu[name]))) for name in menu}
    work = work_on(job, prepared, wanted)
    edges = edges_of(job, prepared, base)
    with progress.stage("solve the menu", len(work.tasks())) as tick:
        found = solve(work, "parallel", edges, tick)
    bench = Bench(lambda: table_batches(job), recipe.table_samples, recipe.labels)
    loss = loss_of_network(work.placed, next(bench.opened()), recipe.labels)
    return Solutions(work, base, found.edges, found.solutions, loss, bench)


def table_batches(job: Job) -> Iterator[Batch]:
    """The calibration samples on which losses are measured, a few at a time.

    Beside a batch's values in the base network stand those of the variant that is run.
    """
    recipe = job.recipe
    counts = [n for n in (recipe.calib, recipe.table_samples) if n]
    data = take(job.data, min(counts)) if counts else job.data
    yield from batch_by_length(data, min(recipe.batch, TABLE_BATCH))


def solve_and_measure(job: Job, prepared: Prepared, progress: Progress) -> tuple[Base, Table]:
    """Solve every choice of every unit, and measure what each does to the loss."""
    groups = groups_in(prepared, job.recipe)
    started = time.perf_counter()
    solutions = solve_menu(job, prepared, prepared.menu, progress)
    seconds = (time.perf_counter() - started) / max(len(solutions.work.tasks()), 1)
    quick = job.recipe.table == QUICK
    flat = bind(prepared.graph, next(stream(job.data, job.recipe)))
    with progress.stage("table", sum(map(len, prepared.menu.values()))) as tick:
        base, table = measure_menu(solutions, prepared.menu, flat, seconds, tick, quick=quick)
    return base, tie_rows(table, groups)


def groups_in(prepared: Prepared, recipe: Recipe) -> dict[str, str]:
    """What every unit is tied to: by the user, and by a target whose values share a grid.

    Raises:
        RecipeError: a pattern that ties nothing.
        RunDirectoryError: tied units that have no choice in common.
    """
    own = groups_among(prepared.graph, prepared.target, prepared.sites, recipe, prepared.menu)
    # Whether tied units agree is told now, and not after minutes of solving.
    empty = [
        Row(unit.name, choice, 0.0, unit.params, 0, unit.macs, 0)
        for unit in prepared.graph.units
        for choice in prepared.menu[unit.name]
    ]
    make_menu(tie_rows(make_table(empty, "the menu"), own))
    return own


@dataclass(frozen=True, eq=False)
class MeasuredMenu:
    """A menu solved and measured, nothing chosen yet.

    Attributes:
        base: the network from which losses count, which runs any configuration of the menu.
        table: of the losses and costs of every choice.
        latency: what was timed, by measure, where a budget asked for it.
    """

    base: Base
    table: Table
    latency: Mapping[str, LatencyTable] = field(default_factory=dict)


def tabulate_menu(job: Job, prepared: Prepared, progress: Progress) -> MeasuredMenu:
    """The menu solved, its table, and latencies where the recipe asks for them."""
    # First, since it is what may fail: a network that cannot be exported is told at once.
    latency = time_menu(job, prepared, progress)
    if latency:
        check_latency(job, prepared.graph, prepared.menu, latency)
    base, table = solve_and_measure(job, prepared, progress)
    return MeasuredMenu(base, with_devices(table, latency), latency)
