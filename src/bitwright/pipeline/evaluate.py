"""What is measured of the deployed network: its answers beside float's, and its memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from bitwright.engine.progress import Progress
from bitwright.evaluation.compare import compare, try_metric
from bitwright.evaluation.figures import ActivationPeak, Comparison
from bitwright.evaluation.forward import outcome_of
from bitwright.graph.choice import Choice
from bitwright.graph.execute import bind
from bitwright.graph.live_memory import activation_peak, bits_of_edges, value_sizes
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.placing import module_on
from bitwright.graph.sites import Site
from bitwright.pipeline.distilled import DISTILLED
from bitwright.pipeline.job import Job
from bitwright.pipeline.plan import stream
from bitwright.recipe.values import Recipe
from bitwright.report.texts import percent
from bitwright.sources.batches import take
from bitwright.sources.lengths import batch_by_length


def try_evaluation(job: Job, graph: ModelGraph) -> None:
    """One batch through the float network and the metric: what is wrong is found before any work.

    Raises:
        DataError, RecipeError: the metric and the data do not go together.
    """
    if job.evaluation is not None:
        few = batch_by_length(take(job.evaluation, job.recipe.batch), job.recipe.batch)
        try_metric(job.plan.metric, outcome_of(graph, graph.module), few)


def evaluate_job(job: Job, graph: ModelGraph, module: nn.Module, progress: Progress) -> Comparison:
    """Float against quantised on the evaluation data, or label-free on the calibration data."""
    dataset = job.evaluation
    recipe = job.recipe
    chosen = job.plan.metric if dataset is not None else None
    if dataset is None:
        dataset = take(job.data, recipe.calib) if recipe.calib else job.data
    with progress.stage("evaluate") as tick:
        found = compare(
            outcome_of(graph, module_on(graph.module, recipe.device), recipe.device),
            outcome_of(graph, module_on(module, recipe.device), recipe.device),
            batch_by_length(dataset, recipe.batch),
            chosen,
            tick,
            graph.answer.kind,
        )
    made = DISTILLED if job.data.spec == DISTILLED else "calibration data"
    return replace(found, evaluated_on="evaluation data" if job.evaluation is not None else made)


def warn_if_poor(metrics: Comparison, recipe: Recipe, progress: Progress) -> None:
    """Say so where few answers are those of the float network, and what may help."""
    if metrics.agreement < 0.9:
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
) -> ActivationPeak:
    """Peak bytes of the live activations of one sample, in float and as quantised."""
    first = next(stream(job.data, job.recipe))
    sizes = value_sizes(graph, bind(graph, first))
    bits = bits_of_edges(sites, choices)
    return ActivationPeak(
        float_bytes=activation_peak(graph, sizes, {}).size,
        quantized_bytes=activation_peak(graph, sizes, bits).size,
    )
