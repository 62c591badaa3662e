"""The whole job, top to bottom: capture, observe, solve, stitch, evaluate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitwright.errors import DataError, RecipeError
from bitwright.evaluation import compare
from bitwright.graph.capture import Inputs, capture
from bitwright.graph.census import census
from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.observe import observe
from bitwright.graph.simulate import stitch
from bitwright.graph.sites import find_sites
from bitwright.graph.target import load_target
from bitwright.methods.catalogue import method
from bitwright.methods.problem import UnitSolution
from bitwright.metrics import metric
from bitwright.numerics.ranges import range_rule
from bitwright.recipe import BY_OUTPUT, Recipe, make_recipe, tensor_rule
from bitwright.result import Result
from bitwright.run.digest import digest, fingerprinted
from bitwright.run.memory import keep_heap
from bitwright.run.progress import Progress
from bitwright.run.store import Entries, NullStore, Store
from bitwright.solving import Work, bound_batches, solve
from bitwright.sources.batches import Dataset, rebatch, take
from bitwright.sources.data import as_dataset
from bitwright.sources.models import check_weights, example_inputs_of
from bitwright.stages import (
    active_sites,
    assemble,
    choices_of,
    forward_of,
    input_grids,
    stream,
    task_grids,
)


@dataclass(frozen=True)
class Job:
    """What a run works on: the network, its data, and how; where solutions are kept, and by whom.

    The store and the workers change no bit of the result, so they are not of the recipe.
    """

    model: nn.Module
    data: Dataset
    recipe: Recipe
    example_inputs: Inputs | None = None
    evaluation: Dataset | None = None
    store: Entries = field(default_factory=NullStore)
    workers: int | str = 1


def quantize(
    model: nn.Module,
    calibration: object,
    *,
    recipe: str = "fixed",
    evaluation: object | None = None,
    progress: Progress | None = None,
    store: str | Path | None = None,
    workers: int | str = 1,
    **options: Any,
) -> Result:
    """Quantise a trained network with a few hundred unlabelled samples.

    Args:
        model: a network in eval mode; it may carry `example_inputs`.
        calibration: batches: a DataLoader, a list, a tensor, a function that gives batches. A
            batch is inputs or (inputs, labels); labels are ignored.
        recipe: a built-in recipe's name or a TOML file.
        evaluation: labelled data to measure float and quantised on.
        progress: receives what happens.
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
    made = make_recipe(recipe, options)
    job = Job(
        model,
        as_dataset(calibration),
        made,
        example_inputs_of(model),
        None if evaluation is None else as_dataset(evaluation, name="the evaluation data"),
        NullStore() if store is None else Store(Path(store)),
        workers,
    )
    return run(job, progress or Progress())


def run(job: Job, progress: Progress) -> Result:
    """Run every stage of a job, in order."""
    keep_heap()
    recipe = job.recipe
    torch.manual_seed(recipe.seed)
    if job.data.is_none:
        raise DataError(
            f"--data none: the method {recipe.method!r} needs calibration data for the ranges of "
            "activations and for the verification. Give some samples."
        )
    target = load_target(recipe.target)
    with progress.stage("capture"):
        graph = capture_network(job)
    choices = choices_of(graph, recipe)
    sites = active_sites(find_sites(graph, target), graph, choices)
    seen: list[str] = []
    with progress.stage("observe", recipe.calib or None) as tick:
        inputs = fingerprinted(stream(job.data, recipe), seen)
        observation = observe(graph, inputs, {site.root for site in sites}, tick)
    for note in (*graph.notes, *observation.notes):
        progress.note("observe", f"{note.place}: {note.text}")
    rule = range_rule(tensor_rule(recipe))
    edges = input_grids(sites, observation.stats, choices, target, rule)
    menu = {name: (choice,) for name, choice in choices.items()}
    work = Work(
        graph=graph,
        menu=menu,
        grids=task_grids(graph, menu, sites, observation.stats, target, rule),
        target=target,
        method=method(recipe.method).configured(recipe.weight_range),
        sites=sites,
        stats=observation.stats,
        batches=bound_batches(graph, lambda: stream(job.data, recipe)),
        samples=observation.samples,
        batch=recipe.batch,
        seed=recipe.seed,
        by_output=recipe.activation_range == BY_OUTPUT,
        data=digest(*seen),
        store=job.store,
        workers=job.workers,
    )
    started = time.perf_counter()
    with progress.stage("solve", len(graph.units)) as tick:
        found_by_task = solve(work, recipe.mode, edges, tick)
    solved = {name: solution for (name, _), solution in found_by_task.items()}
    solve_seconds = time.perf_counter() - started
    assignment = assemble(graph, solved, edges, target)
    with progress.stage("stitch"):
        module = stitch(graph, assignment)
    metrics = evaluate_job(job, graph, module, progress)
    _warn_if_poor(metrics, recipe, progress)
    found = census(graph, target, choices, sites, observation.samples)
    found["notes"] += [{"place": n.place, "text": n.text} for n in observation.notes]
    return Result(
        model=module,
        graph=graph,
        assignment=assignment,
        recipe=recipe,
        metrics=metrics,
        census=found,
        table=_table(graph, choices, solved, solve_seconds),
        allocation=_allocation(choices),
        stats=observation.stats,
        errors={name: s.error for name, s in solved.items()},
        data=job.data,
        progress=progress,
    )


def capture_network(job: Job) -> ModelGraph:
    """Capture the job's network on its own example inputs, or on the first batch of the data."""
    check_weights(job.model, type(job.model).__name__)
    example = job.example_inputs
    if example is None:
        example = next((batch.inputs for batch in take(job.data, 2)), None)
    if example is None:
        raise DataError("the calibration data are empty, so the shape of the inputs is not known.")
    graph = capture(job.model, example)
    if not graph.units:
        raise RecipeError(
            f"the network {type(job.model).__name__} has no convolution, linear layer or embedding "
            "with stored weights: there is nothing to quantise."
        )
    return graph


def evaluate_job(
    job: Job, graph: ModelGraph, module: nn.Module, progress: Progress
) -> dict[str, Any]:
    """Float against quantised on the evaluation data, or label-free on the calibration data."""
    dataset = job.evaluation
    recipe = job.recipe
    chosen = metric(recipe.metric) if dataset is not None else None
    if dataset is None:
        dataset = take(job.data, recipe.calib) if recipe.calib else job.data
    with progress.stage("evaluate") as tick:
        found = compare(
            forward_of(graph, graph.module.to(recipe.device), recipe.device),
            forward_of(graph, module.to(recipe.device), recipe.device),
            rebatch(dataset, recipe.batch),
            chosen,
            tick,
        )
    found["evaluated_on"] = "evaluation data" if job.evaluation is not None else "calibration data"
    return found


def _warn_if_poor(metrics: Mapping[str, Any], recipe: Recipe, progress: Progress) -> None:
    if metrics["agreement"] < 0.9:
        progress.note(
            "evaluate",
            f"only {metrics['agreement']:.1%} of the answers agree with the float network: "
            f"{recipe.scheme} by {recipe.method} rounding is too coarse here. Keep the first and "
            "last unit finer (--keep first,last=w8a8), or use more bits (--scheme w8a8).",
        )


def _table(
    graph: ModelGraph,
    choices: Mapping[str, Choice],
    solved: Mapping[str, UnitSolution],
    seconds: float,
) -> list[dict[str, Any]]:
    rows = []
    for unit in graph.units:
        choice = choices[unit.name]
        w_bits, a_bits = choice.w_bits or 32, choice.a_bits or 32
        rows.append(
            {
                "unit": unit.name,
                "w_bits": choice.w_bits,
                "a_bits": choice.a_bits,
                "points": choice.points,
                "params": unit.params,
                "weight_bits": unit.params * w_bits * choice.points,
                "macs": unit.macs,
                "bops": unit.macs * w_bits * a_bits * choice.points,
                "method": solved[unit.name].method if unit.name in solved else "float",
                "solve_seconds": round(seconds / max(len(solved), 1), 6),
            }
        )
    return rows


def _allocation(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """A fixed scheme is an allocation that nobody had to solve."""
    return {
        "solver": None,
        "status": "fixed",
        "objective": None,
        "bound": None,
        "gap": None,
        "budgets": {},
        "uniform": None,
        "choices": {
            name: {"w_bits": c.w_bits, "a_bits": c.a_bits, "points": c.points}
            for name, c in choices.items()
        },
    }
