"""The whole job, top to bottom: capture, observe, solve, stitch, evaluate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitwright.allocation.record import as_record
from bitwright.allocation.table import Table
from bitwright.engine.address import check_address
from bitwright.engine.device import check_device
from bitwright.engine.memory import keep_heap
from bitwright.engine.progress import Progress
from bitwright.engine.showing import progress_for
from bitwright.errors import ModelError
from bitwright.evaluation.compare import compare, try_metric
from bitwright.evaluation.forward import outcome_of
from bitwright.evaluation.metrics import metric
from bitwright.graph.census import census
from bitwright.graph.choice import Choice
from bitwright.graph.execute import bind
from bitwright.graph.live_memory import activation_peak, bits_of_edges, value_sizes
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.simulate import stitch
from bitwright.graph.sites import Site
from bitwright.methods.catalogue import method
from bitwright.methods.problem import UnitSolution
from bitwright.pipeline.affordable import check_budgets
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.choose_bits import Searched, search_bits
from bitwright.pipeline.distilled import DISTILLED, data_of
from bitwright.pipeline.forecast import forecast
from bitwright.pipeline.job import (
    Job,
    Prepared,
    captured,
    edges_of,
    prepare,
    rewritten,
    store_at,
    tell,
    work_on,
)
from bitwright.pipeline.lossless import deployed, kept, search_lossless
from bitwright.pipeline.plan import choices_of, menu_of, stream
from bitwright.pipeline.repeat import as_words, of_python
from bitwright.pipeline.result import Result
from bitwright.prepare.distil import Distillation
from bitwright.recipe.values import Recipe
from bitwright.report.texts import percent
from bitwright.report.unit_quality import SolvedNetwork, as_solved, with_quality
from bitwright.sensitivity.prices import Prices, table_of
from bitwright.solving import Configuration, solve
from bitwright.solving.grids import sites_in_use
from bitwright.sources.arity import arity_of
from bitwright.sources.batches import take
from bitwright.sources.data import as_dataset
from bitwright.sources.images import ImageOptions
from bitwright.sources.lengths import batched
from bitwright.sources.models import example_inputs_of
from bitwright.tuning.steps import Tuned, tune


def quantize(
    model: nn.Module,
    calibration: object,
    *,
    recipe: str = "fixed",
    evaluation: object | None = None,
    progress: Progress | bool | None = None,
    store: str | Path | None = None,
    workers: int | str = 1,
    **options: Any,
) -> Result:
    """Quantise a trained network with a few hundred unlabelled samples.

    Args:
        model: a network; it may carry `example_inputs`. One in training mode is taken in eval
            mode, in a copy, with a note.
        calibration: batches: a DataLoader, a list, a tensor, a function that gives batches. A
            batch is inputs or (inputs, labels); labels are ignored.
        recipe: a built-in recipe's name or a TOML file.
        evaluation: labelled data to measure float and quantised on.
        progress: whether to show what happens; by default in IPython and notebooks alone. A
            Progress of your own receives it.
        store: a directory where solved units are kept: running again takes up what is there.
        workers: processes for the parallel mode; the result is the same, bit for bit.
        options: any key of a recipe, such as scheme="w4a8" or target="ort-cpu".

    Returns:
        The result: `result.model` is an ordinary nn.Module with the same inputs and outputs.

    Example:
        >>> import torch, bitwright as bw
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU()).eval()
        >>> result = bw.quantize(net, [torch.randn(16, 8)], scheme="w8a8")
        >>> result.metrics["agreement"] > 0.8
        True
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the network is of type {type(model).__name__}: pass a torch.nn.Module in eval mode. "
            "Of an exported program that is program.module(); files are for the command."
        )
    wanted = options.get("metric")
    made = make_recipe(recipe, as_words(options))
    example = example_inputs_of(model)
    takes = arity_of(model, example)
    image = ImageOptions.stated(made.size, made.mean, made.std, made.crop)
    data = as_dataset(calibration, takes=takes, image=image)
    job = Job(
        model,
        data,
        of_python(made, data.is_none),
        example,
        None
        if evaluation is None
        else as_dataset(evaluation, name="the evaluation data", takes=takes, image=image),
        store_at(store),
        workers,
        None if wanted is None or isinstance(wanted, str) else metric(wanted),
    )
    return run(job, progress_for(progress))


def begin(job: Job, progress: Progress) -> tuple[Job, ModelGraph]:
    """Capture the network, say what is to be known of it, and try the evaluation on one batch.

    The batch goes through the float network and the metric: what is wrong with them, or with the
    data, is found before any work.
    """
    with progress.stage("capture"):
        job, graph = captured(job)
        progress.forecast = forecast(graph, job.recipe, job.data, job.evaluation)
    tell(graph.notes, "capture", progress)
    if job.evaluation is not None:
        few = batched(take(job.evaluation, job.recipe.batch), job.recipe.batch)
        try_metric(job.measure(), outcome_of(graph, graph.module), few)
    return job, graph


def run(given: Job, progress: Progress) -> Result:
    """Run every stage of a job, in order."""
    keep_heap()
    job, recipe = given, given.recipe
    _check_machinery(job, progress)
    torch.manual_seed(recipe.seed)
    job, original = begin(job, progress)
    if job.data.is_none:
        with progress.stage("distil", Distillation.samples) as tick:
            job = replace(job, data=data_of(original, recipe, tick))
    graph = rewritten(job, original, progress)
    menu = menu_of(graph, recipe)
    if recipe.menu:
        check_budgets(job, graph, menu)
        # The base precision is observed too, whether or not it can be chosen.
        base = choices_of(graph, recipe)
        seen = {name: tuple(dict.fromkeys((base[name], *menu[name]))) for name in menu}
        prepared = prepare(job, graph, seen, progress)
        prepared = replace(prepared, menu=menu)
        search = search_lossless if recipe.lossless else search_bits
        searched = search(job, prepared, progress)
        choices = dict(searched.choices)
    else:
        prepared, searched = prepare(job, graph, menu, progress), None
        choices = choices_of(graph, recipe)
    started = time.perf_counter()
    start = solve_configuration(job, prepared, choices, searched, progress)
    seconds = (time.perf_counter() - started) / max(len(start.solved), 1)
    tuned = tune_job(job, prepared, start, progress)
    final = tuned.configuration
    if searched is not None and searched.lossless:
        final, agreement = kept(prepared, recipe, start, final)
        searched = replace(searched, lossless=deployed(searched.lossless, agreement))
    assignment = final.assignment()
    with progress.stage("stitch"):
        module = stitch(graph, assignment)
    metrics = evaluate_job(job, original, module, progress)
    _warn_if_poor(metrics, recipe, progress)
    sites = sites_in_use(prepared.sites, {name: (c,) for name, c in choices.items()})
    progress.figures("evaluate", loss=metrics["kl"])
    metrics["tuning"] = tuned.records()
    metrics["activation_peak"] = activation_memory(job, graph, sites, choices)
    return Result(
        model=module,
        graph=graph,
        assignment=assignment,
        recipe=recipe,
        metrics=metrics,
        census=_census(job, prepared, sites, start, final),
        table=searched.table if searched else _costs(prepared, choices, start.solved, seconds),
        allocation=_fixed(choices) if searched is None else _record(searched),
        stats=prepared.observation.stats,
        errors={name: s.error for name, s in final.solved.items()},
        data=job.data,
        progress=progress,
        latency=None if searched is None else searched.latency,
        again=partial(_again, given),
    )


def _again(job: Job, recipe: Recipe) -> Result:
    """The same job under another recipe."""
    return run(replace(job, recipe=recipe), Progress())


def _census(
    job: Job,
    prepared: Prepared,
    sites: tuple[Site, ...],
    start: Configuration,
    final: Configuration,
) -> dict[str, Any]:
    """census.json: what became of every operation, and how well each unit was done."""
    graph, seen = prepared.graph, prepared.observation
    found = census(graph, prepared.target, final.choices, sites, seen.samples)
    found["network"] = type(job.model).__name__
    found["notes"] += [{"place": n.place, "text": n.text} for n in seen.notes]
    shown = as_solved(start.solved, final.solved)
    return with_quality(found, SolvedNetwork(graph, shown, final.edges, sites, seen.stats))


def _check_machinery(job: Job, progress: Progress) -> None:
    """Learn before any work what the device, the metric or the workers would fail for at its end.

    Workers that have nothing to do are told of.
    """
    recipe = job.recipe
    check_device(recipe.device)
    job.measure()
    check_address(job.workers)
    if job.workers == 1 or (recipe.menu and method(recipe.method).needs.data):
        return
    if not method(recipe.method).needs.data:
        why = f"--method {recipe.method} looks at no data and solves a unit in milliseconds"
    elif recipe.mode == "sequential":
        why = "--mode sequential solves each unit on what those before it give; parallel uses them"
    else:
        return
    progress.note("solve", f"--workers {job.workers} is not used: {why}.")


def _costs(
    prepared: Prepared,
    choices: Mapping[str, Choice],
    solved: Mapping[str, UnitSolution],
    seconds: float,
) -> Table:
    """The table of a run with one choice a unit: what it costs, no losses."""
    by_task = {(name, choices[name]): solution for name, solution in solved.items()}
    prices = Prices(prepared.graph, prepared.target)
    return table_of(prices, prepared.menu, by_task, None, seconds)


def solve_configuration(
    job: Job,
    prepared: Prepared,
    choices: Mapping[str, Choice],
    searched: Searched | None,
    progress: Progress,
) -> Configuration:
    """One configuration solved; in the sequential mode again, on what its own units give."""
    menu = {name: (choice,) for name, choice in choices.items()}
    work = work_on(job, prepared, menu)
    edges = edges_of(job, prepared, choices)
    # A lossless configuration is deployed as it was measured.
    sequential = job.recipe.mode == "sequential" and method(job.recipe.method).needs.data
    sequential = sequential and not job.recipe.lossless
    if searched is not None and not sequential:
        return Configuration.of(work, searched.solved, choices, edges)
    with progress.stage("solve", len(prepared.graph.units)) as tick:
        return solve(work, job.recipe.mode, edges, tick).configuration()


def tune_job(job: Job, prepared: Prepared, start: Configuration, progress: Progress) -> Tuned:
    """The recipe's tuning steps."""
    recipe = job.recipe
    refine = recipe.refine_method and method(recipe.refine_method).configured(recipe.weight_range)
    return tune(start, prepared.samples, recipe.tune, refine=refine or None, progress=progress)


def evaluate_job(
    job: Job, graph: ModelGraph, module: nn.Module, progress: Progress
) -> dict[str, Any]:
    """Float against quantised on the evaluation data, or label-free on the calibration data."""
    dataset = job.evaluation
    recipe = job.recipe
    chosen = job.measure() if dataset is not None else None
    if dataset is None:
        dataset = take(job.data, recipe.calib) if recipe.calib else job.data
    with progress.stage("evaluate") as tick:
        found = compare(
            outcome_of(graph, graph.module.to(recipe.device), recipe.device),
            outcome_of(graph, module.to(recipe.device), recipe.device),
            batched(dataset, recipe.batch),
            chosen,
            tick,
            graph.answer.kind,
        )
    made = DISTILLED if job.data.spec == DISTILLED else "calibration data"
    found["evaluated_on"] = "evaluation data" if job.evaluation is not None else made
    return found


def _warn_if_poor(metrics: Mapping[str, Any], recipe: Recipe, progress: Progress) -> None:
    if metrics["agreement"] < 0.9:
        tuned = f" and {recipe.tune}" if recipe.tune else ""
        bits = "what was chosen from the menu" if recipe.menu else recipe.scheme
        more = "a larger budget (--budget)" if recipe.menu else "more bits (--scheme w8a8)"
        finer = "Keep the first and last unit finer (--keep first,last=w8a8), or use"
        progress.note(
            "evaluate",
            f"only {percent(metrics['agreement'])} of the answers agree with the float network: "
            f"{bits} by {recipe.method} rounding{tuned} is too coarse here. "
            f"{'Use' if recipe.keep else finer} {more}.",
        )


def activation_memory(
    job: Job, graph: ModelGraph, sites: tuple[Site, ...], choices: Mapping[str, Choice]
) -> dict[str, int]:
    """Peak bytes of the live activations of one sample, in float and as quantised."""
    first = next(stream(job.data, job.recipe))
    sizes = value_sizes(graph, bind(graph, first))
    bits = bits_of_edges(sites, choices)
    return {
        "float_bytes": activation_peak(graph, sizes, {}).size,
        "quantized_bytes": activation_peak(graph, sizes, bits).size,
    }


def _bits(choices: Mapping[str, Choice]) -> dict[str, dict[str, int]]:
    return {name: choice.record() for name, choice in choices.items()}


def _record(searched: Searched) -> dict[str, Any]:
    """The allocation that was taken, with what was measured of it."""
    found = as_record(searched.allocation)
    found["choices"] = _bits(searched.choices)
    found["measured_loss"] = dict(searched.measured_loss)
    found |= {"pairwise": dict(searched.pairwise)} if searched.pairwise else {}
    found |= {"lossless": dict(searched.lossless)} if searched.lossless else {}
    found["note"] = searched.note or found["note"]
    return found


def _fixed(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """A fixed scheme is an allocation that nobody had to solve."""
    return {
        "solver": None,
        "status": "fixed",
        "objective": None,
        "bound": None,
        "gap": None,
        "budgets": {},
        "uniform": None,
        "choices": _bits(choices),
    }
