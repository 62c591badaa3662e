"""Budgets that no choice of the menu can hold, told before anything is solved."""

from __future__ import annotations

from dataclasses import replace

import torch

from bitwright.allocation.allocate import allocate
from bitwright.allocation.budget import Budget
from bitwright.allocation.cost import DEGRADATIONS, kind_of
from bitwright.allocation.devices import Devices, with_devices
from bitwright.allocation.latencies import LATENCY
from bitwright.allocation.question import ask
from bitwright.allocation.shortfall import require
from bitwright.allocation.table import Table, make_table
from bitwright.graph.choice import FLOAT, Menus
from bitwright.graph.execute import bind
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.simulate import Assignment, sites_by_unit
from bitwright.graph.sites import find_sites
from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import UnitSolution, store_in_points
from bitwright.numerics.ranges import range_rule
from bitwright.numerics.stats import TensorStats
from bitwright.pipeline.job import Job
from bitwright.pipeline.plan import choices_of, stream
from bitwright.sensitivity.prices import Prices
from bitwright.sensitivity.ties import groups_among, tie_rows
from bitwright.solving.assembly import assemble
from bitwright.solving.grids import active_sites, input_grids
from bitwright.solving.work import problem

# Sizes do not depend on the numbers: the cheapest ranges and rounding do.
_RANGE = "minmax"


def check_budgets(job: Job, graph: ModelGraph, menu: Menus) -> None:
    """Whether some choice of the menu holds the budgets of what a captured network tells.

    That is size, BOPs and energy; latency is not known before it is timed, and losses not before
    they are measured.

    Raises:
        BudgetError: naming the least attainable of each.
    """
    budgets = job.plan.budgets
    known = tuple(b for b in budgets if kind_of(b.name) not in (*DEGRADATIONS, LATENCY))
    if known:
        _hold(costs_of(job, graph, menu), known)


def check_latency(job: Job, graph: ModelGraph, menu: Menus, latency: Devices) -> None:
    """The same with the latencies that were timed, all budgets of costs together.

    Raises:
        BudgetError: naming the least attainable of each.
    """
    budgets = tuple(b for b in job.plan.budgets if b.name not in DEGRADATIONS)
    if any(kind_of(b.name) == LATENCY for b in budgets):
        _hold(with_devices(costs_of(job, graph, menu), latency), budgets)


def _hold(costs: Table, budgets: tuple[Budget, ...]) -> None:
    ask(costs, budgets)
    require(allocate(costs, budgets, advise=False))


def costs_of(job: Job, graph: ModelGraph, menu: Menus) -> Table:
    """The table of a menu as it will be, with losses of nothing: what each choice costs."""
    target = job.plan.target
    base = choices_of(graph, job.plan)
    flat = bind(graph, next(iter(stream(job.data, job.recipe))))
    prices = Prices.beside(graph, target, _round_base(job, graph), base, flat)
    rows = []
    for unit in graph.units:
        choices = menu[unit.name]
        loss = 0.0 if len(choices) > 1 else None
        rows += [replace(prices.row(unit, choice), loss_delta=loss) for choice in choices]
        if FLOAT not in choices:
            rows.append(prices.row(unit, FLOAT))
    groups = groups_among(graph, target, find_sites(graph, target), job.recipe, menu)
    return tie_rows(make_table(rows, "the menu"), groups)


def _round_base(job: Job, graph: ModelGraph) -> Assignment:
    """The base network rounded to nearest, its inputs in some range: as large as any solution."""
    target = job.plan.target
    base = choices_of(graph, job.plan)
    sites = active_sites(find_sites(graph, target), graph, base)
    some = TensorStats.of(torch.tensor([[-1.0, 1.0]]))
    edges = input_grids(sites, {s.root: some for s in sites}, base, target, range_rule(_RANGE))
    by_unit = sites_by_unit(sites)
    solved: dict[str, UnitSolution] = {}
    for unit in graph.units:
        if base[unit.name].is_float:
            continue
        own = {s.call: edges.get((s.source, s.reader)) for s in by_unit.get(unit.name, ())}
        inputs = tuple(own.get(call) for call in range(len(unit.calls)))
        made = problem(graph, unit, base[unit.name], target, inputs, seed=0)
        solved[unit.name] = store_in_points(Nearest(_RANGE).solve(made), made.choice)
    return assemble(graph, solved, edges, target)
