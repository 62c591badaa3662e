"""The whole road of a run, top to bottom; every stage takes values and returns one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import fx

from bitwright.allocation.latencies import LATENCY
from bitwright.engine.address import check_address
from bitwright.engine.device import check_device
from bitwright.engine.progress import Progress
from bitwright.engine.random_state import own_random, seed_all
from bitwright.evaluation.figures import Figures
from bitwright.graph.census import census
from bitwright.graph.census_record import Census
from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.simulate import Assignment, stitch
from bitwright.graph.sites import Site
from bitwright.pipeline.affordable import check_budgets
from bitwright.pipeline.check import check_recipe
from bitwright.pipeline.choose_bits import Searched
from bitwright.pipeline.distilled import data_of
from bitwright.pipeline.evaluate import (
    activation_memory,
    evaluate_job,
    try_evaluation,
    warn_if_poor,
)
from bitwright.pipeline.forecast import forecast
from bitwright.pipeline.job import (
    Job,
    Prepared,
    capture_job,
    edges_of,
    prepare,
    rewrite_network,
    tell,
    work_on,
)
from bitwright.pipeline.latency_check import search_in_time
from bitwright.pipeline.lossless import keep_tuned, record_deployed, search_lossless
from bitwright.pipeline.plan import choices_of, menu_of
from bitwright.pipeline.records import bits_of, table_of_costs
from bitwright.pipeline.result import Result
from bitwright.pipeline.settle import settle
from bitwright.pipeline.tabulate import tabulate_menu
from bitwright.pipeline.within_time import settle_time
from bitwright.prepare.distil import Distillation
from bitwright.recipe.values import Recipe
from bitwright.report.unit_quality import SolvedNetwork, select_as_solved, with_quality
from bitwright.solving import Configuration, solve
from bitwright.solving.grids import sites_in_use
from bitwright.solving.portable import hold_configuration
from bitwright.tuning.steps import Tuned, tune


@dataclass(frozen=True, eq=False)
class Untuned:
    """The network solved, before tuning.

    Attributes:
        configuration: what every unit was solved to.
        seconds: that a unit took.
    """

    configuration: Configuration
    seconds: float


@dataclass(frozen=True, eq=False)
class Deployed:
    """The deployed network, and how it came about.

    Attributes:
        prepared: the float network and its statistics.
        start: before tuning.
        tuned: what tuning did, whether or not it is deployed.
        searched: how the bits were chosen, and what the deployed network does; None without a menu.
        configuration: what is deployed.
        assignment, module: its parameters, and the network that computes with them.
    """

    prepared: Prepared
    start: Untuned
    tuned: Tuned
    searched: Searched | None
    configuration: Configuration
    assignment: Assignment
    module: fx.GraphModule

    @property
    def choices(self) -> Mapping[str, Choice]:
        """The bits of every unit."""
        return self.start.configuration.choices

    @property
    def sites(self) -> tuple[Site, ...]:
        """The edges that are quantised."""
        menu = {name: (choice,) for name, choice in self.choices.items()}
        return sites_in_use(self.prepared.sites, menu)


@dataclass(frozen=True, eq=False)
class Begun:
    """A job on its way: the network captured and observed, no bits chosen.

    Attributes:
        given: the job as it was asked for.
        job: with what its network and data have settled.
        original: the float network before rewrites.
        prepared: the network that is quantised, and what one pass over the data told.
    """

    given: Job
    job: Job
    original: ModelGraph
    prepared: Prepared


def run(job: Job, progress: Progress) -> Result:
    """Run every stage of a job, in order."""
    check_machinery(job, progress)
    with own_random(job.recipe.device):
        begun = begin_run(job, progress)
        return end_run(begun, find_bits(begun.job, begun.prepared, progress), progress)


def begin_run(given: Job, progress: Progress) -> Begun:
    """The stages before bits are chosen."""
    seed_all(given.recipe.seed, given.recipe.device)
    job, original = begin(given, progress)
    job = with_data(job, original, progress)
    graph = rewrite_network(job, original, progress)
    return Begun(given, job, original, observe_edges(job, graph, progress))


def end_run(begun: Begun, searched: Searched | None, progress: Progress) -> Result:
    """The stages after bits were chosen; without a search they are those of the plan."""
    job, prepared = begun.job, begun.prepared
    choices = searched.choices if searched else choices_of(prepared.graph, job.plan)
    start = solve_configuration(job, prepared, choices, searched, progress)
    tuned = tune_job(job, prepared, start.configuration, progress)
    ended = deploy(job, prepared, start, tuned, searched, progress)
    metrics = measure_deployed(job, begun.original, ended, progress)
    return result_of(begun.given, job, ended, metrics, progress)


def check_machinery(job: Job, progress: Progress) -> None:
    """Learn before any work what the device or the workers would fail for at its end.

    Workers that have nothing to do are told of.
    """
    recipe, needs = job.recipe, job.plan.method.needs
    check_device(recipe.device)
    if job.workers is None:
        return
    check_address(job.workers)
    if job.workers == 1 or (recipe.menu and needs.data):
        return
    if not needs.data:
        why = f"--method {recipe.method} looks at no data and solves a unit in milliseconds"
    elif recipe.mode == "sequential" and not isinstance(job.workers, int):
        why = "--mode sequential solves each unit on what those before it give, in one process"
    else:
        return
    progress.note("solve", f"--workers {job.workers} is not used: {why}.")


def begin(job: Job, progress: Progress) -> tuple[Job, ModelGraph]:
    """The network captured, and what is to be known of it said; the evaluation tried."""
    began = time.perf_counter()
    with progress.stage("capture"):
        job, graph = capture_job(job)
        job = settle_time(settle(job, graph, progress), graph, progress, began)
        progress.forecast = forecast(graph, job.plan, job.data, job.evaluation)
    tell(graph.notes, "capture", progress)
    try_evaluation(job, graph)
    return job, graph


def with_data(job: Job, graph: ModelGraph, progress: Progress) -> Job:
    """The job with calibration data: made from the network where none are given."""
    if not job.data.is_none:
        return job
    with progress.stage("distil", Distillation.samples) as tick:
        return replace(job, data=data_of(graph, job.plan, tick))


def observe_edges(job: Job, graph: ModelGraph, progress: Progress) -> Prepared:
    """Every edge seen once, for all choices that the menu has and for the base.

    Raises:
        BudgetError: no choice of the menu holds a budget that is known already.
    """
    menu = menu_of(graph, job.plan)
    if not job.plan.menu:
        return prepare(job, graph, menu, progress)
    check_budgets(job, graph, menu)
    # The base precision is observed too, whether or not it can be chosen.
    base = choices_of(graph, job.plan)
    seen = {name: tuple(dict.fromkeys((base[name], *menu[name]))) for name in menu}
    return replace(prepare(job, graph, seen, progress), menu=menu)


def find_bits(job: Job, prepared: Prepared, progress: Progress) -> Searched | None:
    """The menu solved, each choice's loss measured, the bits allocated; None without a menu."""
    if not job.plan.menu:
        return None
    menu = tabulate_menu(job, prepared, progress)
    if job.recipe.lossless:
        return search_lossless(job, prepared, menu, progress)
    return search_in_time(job, prepared, menu, progress)


def solve_configuration(
    job: Job,
    prepared: Prepared,
    choices: Mapping[str, Choice],
    searched: Searched | None,
    progress: Progress,
) -> Untuned:
    """One configuration solved; in the sequential mode again, on what its own units give."""
    started = time.perf_counter()
    work = work_on(job, prepared, {name: (choice,) for name, choice in choices.items()})
    edges = edges_of(job, prepared, choices)
    if searched is not None and not job.plan.sequential:
        found = Configuration.of(work, searched.solved, choices, edges)
    else:
        with progress.stage("solve", len(prepared.graph.units)) as tick:
            found = solve(work, job.recipe.mode, edges, tick).configuration()
    return Untuned(found, (time.perf_counter() - started) / max(len(found.solved), 1))


def tune_job(job: Job, prepared: Prepared, start: Configuration, progress: Progress) -> Tuned:
    """The plan's tuning steps."""
    return tune(start, prepared.samples, job.plan.tune, refine=job.plan.refine, progress=progress)


def deploy(
    job: Job,
    prepared: Prepared,
    start: Untuned,
    tuned: Tuned,
    searched: Searched | None,
    progress: Progress,
) -> Deployed:
    """The deployed network; a lossless one is tuned only where it still agrees afterwards."""
    final = hold_configuration(tuned.configuration) if job.recipe.portable else tuned.configuration
    if searched is not None and searched.lossless:
        final, agreement = keep_tuned(prepared, job.recipe, start.configuration, final)
        searched = replace(searched, lossless=record_deployed(searched.lossless, agreement))
    assignment = final.assignment()
    with progress.stage("stitch"):
        module = stitch(prepared.graph, assignment)
    return Deployed(prepared, start, tuned, searched, final, assignment, module)


def measure_deployed(
    job: Job, original: ModelGraph, ended: Deployed, progress: Progress
) -> Figures:
    """The figures of metrics.json that are known before files are written."""
    found = evaluate_job(job, original, ended.module, progress)
    warn_if_poor(found, job.recipe, progress)
    progress.figures("evaluate", loss=found.kl)
    graph = ended.prepared.graph
    timed = None if ended.searched is None else ended.searched.timed
    return Figures(
        **vars(found),
        tuning=ended.tuned.figures(),
        latency=timed,
        activation_peak=activation_memory(job, graph, ended.sites, ended.choices),
    )


def result_of(
    given: Job, job: Job, ended: Deployed, metrics: Figures, progress: Progress
) -> Result:
    """All that is known of a run; `given` is the job that makes it again under other bits."""
    prepared, searched, choices = ended.prepared, ended.searched, ended.choices
    start = ended.start
    table = (
        searched.table
        if searched
        else table_of_costs(job, prepared, start.configuration, start.seconds)
    )
    return Result(
        model=ended.module,
        graph=prepared.graph,
        assignment=ended.assignment,
        recipe=job.recipe,
        target=job.plan.target,
        metrics=metrics,
        census=census_of(job, ended),
        table=table,
        allocation=bits_of(searched, choices),
        stats=prepared.observation.stats,
        errors={name: s.error for name, s in ended.configuration.solved.items()},
        data=job.data,
        progress=progress,
        latency=None if searched is None else searched.latency.get(LATENCY),
        devices={} if searched is None else searched.latency,
        again=partial(run_under, given),
    )


def run_under(job: Job, recipe: Recipe) -> Result:
    """The same job under another recipe.

    Raises:
        RecipeError: bits that the target does not hold.
    """
    plan = job.plan.under(check_recipe(recipe, job.plan.target))
    return run(replace(job, plan=plan), Progress())


def census_of(job: Job, ended: Deployed) -> Census:
    """census.json: what became of every operation, and how well each unit was done."""
    prepared, final = ended.prepared, ended.configuration
    graph, seen = prepared.graph, prepared.observation
    found = census(graph, prepared.target, final.choices, ended.sites, seen.samples)
    found = replace(found, network=type(job.model).__name__, notes=(*found.notes, *seen.notes))
    shown = select_as_solved(ended.start.configuration.solved, final.solved)
    return with_quality(found, SolvedNetwork(graph, shown, final.edges, ended.sites, seen.stats))
