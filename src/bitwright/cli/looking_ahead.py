"""What `doctor` says of a run before it is made: its stages, their time and memory, and --time."""

from __future__ import annotations

import math
import time

from bitwright.cli.outcomes import Estimate
from bitwright.graph.float_work import float_work
from bitwright.graph.model_graph import ModelGraph, name_tensors
from bitwright.pipeline.job import Job
from bitwright.pipeline.outlook import foretell
from bitwright.pipeline.within_time import choose, scene_of, word_choice
from bitwright.recipe.durations import parse_duration


def estimate(job: Job, graph: ModelGraph, counted: int | None) -> Estimate:
    """A run of the job foretold: a little of everything is done, some seconds where it is large.

    Args:
        job: of the default recipe, its target settled.
        graph: its captured network.
        counted: how many samples there are; None where they were not counted.
    """
    recipe, work = job.recipe, float_work(graph)
    tensors = name_tensors(graph.module).values()
    samples = counted or recipe.calib
    began = time.perf_counter()
    scene = scene_of(job, graph)
    found = foretell(scene, job.plan, samples)
    within = ""
    if recipe.time:
        left = parse_duration(recipe.time) - (time.perf_counter() - began)
        within = word_choice(recipe, choose(scene, job.plan, samples, left))
    return Estimate(
        macs_per_sample=sum(unit.macs for unit in graph.units),
        float_macs=work.macs,
        uncounted=tuple(work.uncounted),
        float_mb=sum(t.numel() * t.element_size() for t in tensors) / 1e6,
        calibration_samples=samples,
        samples_counted=counted is not None,
        estimated_seconds=max(1, math.ceil(found.seconds)),
        estimated_memory_mb=math.ceil(found.peak_mb),
        processor_seconds=found.processor_s,
        stages=found.stages,
        within=within,
    )
