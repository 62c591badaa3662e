"""What a recipe leaves to the network, decided once it is captured."""

from __future__ import annotations

from dataclasses import replace

from bitwright.engine.progress import Progress
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.suggest import suggest_target
from bitwright.pipeline.check import check_recipe
from bitwright.pipeline.job import Job
from bitwright.recipe.names import AUTO


def settle(job: Job, graph: ModelGraph, progress: Progress) -> Job:
    """The job with the target that its network suggests, where the recipe leaves it open.

    Raises:
        RecipeError: bits that this target does not hold.
    """
    if job.recipe.target != AUTO:
        return job
    name, reason = suggest_target(graph)
    progress.note("capture", f"target {name}: {reason} (--target says otherwise).")
    return replace(job, plan=job.plan.under(check_recipe(replace(job.recipe, target=name))))
