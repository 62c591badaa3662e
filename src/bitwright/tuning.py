"""The steps after the bits are chosen: the network is put right by its own statistics and answers.

A recipe's `tune` names them in order. Each is judged on calibration samples that neither solving
nor tuning has seen (`Prepared.samples.held_out`), and undone where they find it no better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bitwright.clip_search import search_clips
from bitwright.graph.choice import Choice
from bitwright.graph.simulate import Assignment
from bitwright.graph.ties import grid_classes
from bitwright.methods.catalogue import method
from bitwright.methods.problem import UnitSolution
from bitwright.preparing import Job, Prepared, edges_of, work_on
from bitwright.run.progress import Progress
from bitwright.solving import Edges, solve
from bitwright.stages import active_sites, assemble
from bitwright.tune.analytic import correct_biases
from bitwright.tune.bias import BiasTuning, tune_biases
from bitwright.tune.bn import BatchNormTuning, tune_batchnorms
from bitwright.tune.brecq import BlockReconstruction, reconstruct_blocks
from bitwright.tune.judge import Judge, Loss
from bitwright.tune.network import Deploy, Solved, simulate
from bitwright.tune.qat import WeightTraining, train_weights
from bitwright.tune.report import TuneReport, attempted
from bitwright.tune.scales import Grids, ScaleTuning, tune_scales
from bitwright.tune_steps import (
    BIAS,
    BIAS_ANALYTIC,
    BIAS_EMPIRICAL,
    BN,
    BN_PAPER,
    BRECQ,
    LAPQ,
    QAT,
    QAT_LAST,
    QAT_PAPER,
    REFINE,
    SCALES,
    tuning_steps,
)

NORMS = {
    BN: BatchNormTuning(),
    BN_PAPER: BatchNormTuning(order="together", reference="record"),
    # Means alone put right is what the literature calls empirical bias correction.
    BIAS_EMPIRICAL: BatchNormTuning(scales=False),
}


@dataclass(frozen=True, eq=False)
class Configuration:
    """A solved network: every unit's solution, the grids of its edges, and what tuning did."""

    solved: Solved
    edges: Edges
    reports: tuple[TuneReport, ...] = ()


def tune(
    job: Job,
    prepared: Prepared,
    choices: Mapping[str, Choice],
    start: Configuration,
    progress: Progress,
) -> Configuration:
    """Apply the recipe's tuning steps, in their order, to one solved configuration."""
    done: list[str] = []
    found = start
    for step in tuning_steps(job.recipe.tune):
        if step == REFINE:
            again = _solved_again(job, prepared, choices, progress)
            for earlier in done:
                again = _step(job, prepared, choices, earlier, again, progress)
            found = _better(prepared, found, again, progress)
        else:
            found = _step(job, prepared, choices, step, found, progress)
        done.append(step)
    return found


def _step(
    job: Job,
    prepared: Prepared,
    choices: Mapping[str, Choice],
    step: str,
    start: Configuration,
    progress: Progress,
) -> Configuration:
    if step == LAPQ:
        return _clipped(prepared, choices, start, progress)
    if step == SCALES:
        return _rescaled(job, prepared, choices, start, progress)
    return _apply(job, prepared, step, start, progress)


def _clipped(
    prepared: Prepared, choices: Mapping[str, Choice], start: Configuration, progress: Progress
) -> Configuration:
    """All ranges chosen together by the network's loss; the edges' too."""
    with progress.stage("tune lapq"):
        solved, edges, report = search_clips(prepared, choices, start.solved, start.edges)
    _say(progress, report)
    return Configuration(solved, edges, (*start.reports, report))


def _rescaled(
    job: Job,
    prepared: Prepared,
    choices: Mapping[str, Choice],
    start: Configuration,
    progress: Progress,
) -> Configuration:
    """Scales and biases trained on the network's answers; the edges' too."""
    graph, target = prepared.graph, prepared.target
    sites = active_sites(prepared.sites, graph, choices)
    grids = Grids(
        start.edges,
        sites,
        grid_classes(graph, target, sites),
        lambda solved, edges: assemble(graph, solved, edges, target),
    )
    with progress.stage("tune scales"):
        options = ScaleTuning(seed=job.recipe.seed)
        solved, edges, report = tune_scales(graph, start.solved, grids, prepared.samples, options)
    _say(progress, report)
    return Configuration(solved, dict(edges), (*start.reports, report))


def _apply(
    job: Job, prepared: Prepared, step: str, start: Configuration, progress: Progress
) -> Configuration:
    """One step of batch-norm or bias tuning."""
    given = (prepared.graph, start.solved, _deploy(prepared, start.edges), prepared.samples)
    with progress.stage(f"tune {step}"):
        solved: Solved
        if step == BIAS:
            solved, report = tune_biases(*given, BiasTuning(seed=job.recipe.seed))
        elif step == BIAS_ANALYTIC:
            solved, report = correct_biases(*given)
        elif step == BRECQ:
            solved, report = reconstruct_blocks(*given, BlockReconstruction(seed=job.recipe.seed))
        elif step in (QAT, QAT_LAST, QAT_PAPER):
            how = WeightTraining(
                early_stop=step == QAT, published=step == QAT_PAPER, seed=job.recipe.seed
            )
            solved, report = train_weights(*given, how)
        else:
            solved, report = tune_batchnorms(*given, NORMS[step])
            # The metrics name the step that was asked for.
            report = replace(report, stage=step)
    _say(progress, report, step)
    return replace(start, solved=solved, reports=(*start.reports, report))


def _solved_again(
    job: Job, prepared: Prepared, choices: Mapping[str, Choice], progress: Progress
) -> Configuration:
    """The configuration solved in sequence, on what its own quantised units give.

    Equation: each unit's min ||Y - Wq Xq||^2 with Y the float network's result and Xq what the
    quantised units before it give.
    Reference: seed 002 (Hubara et al., arXiv 2006.10518), section 3.1.1, equations 3 and 4.
    """
    recipe = job.recipe
    work = work_on(job, prepared, {name: (choice,) for name, choice in choices.items()})
    if recipe.refine_method:
        chosen = method(recipe.refine_method).configured(recipe.weight_range)
        work = replace(work, method=chosen)
    edges = edges_of(job, prepared, choices)
    with progress.stage("refine", len(prepared.graph.units)) as tick:
        found = solve(work, "sequential", edges, tick)
    return Configuration({name: solution for (name, _), solution in found.items()}, edges)


def _better(
    prepared: Prepared, old: Configuration, new: Configuration, progress: Progress
) -> Configuration:
    """The configuration that the held-out samples find nearer to the float network."""
    with progress.stage("judge"):
        judge = Judge.of(prepared.graph, prepared.samples.held_out)
        before, after = (
            judge(simulate(prepared.graph, c.solved, _deploy(prepared, c.edges)).module)
            for c in (old, new)
        )
    kept = after.no_worse(before) and after != before
    report = attempted(REFINE, (before, after), tuple(new.solved), kept, judge, prepared.samples)
    _tell(progress, "judge", report.before, report.after, len(report.units))
    if report.note:
        progress.note(REFINE, report.note)
    if not kept:
        return replace(old, reports=(*old.reports, report))
    return replace(new, reports=(*old.reports, *new.reports, report))


def _deploy(prepared: Prepared, edges: Edges) -> Deploy:
    def deploy(solved: Mapping[str, UnitSolution]) -> Assignment:
        return assemble(prepared.graph, solved, edges, prepared.target)

    return deploy


def _say(progress: Progress, report: TuneReport, step: str = "") -> None:
    name = f"tune {step or report.stage}"
    _tell(progress, name, report.before, report.after, len(report.units))
    if report.note:
        progress.note(name, report.note)


def _tell(progress: Progress, stage: str, before: Loss, after: Loss, units: int) -> None:
    progress.figures(stage, loss_before=before.plain, loss=after.plain, units_changed=units)


def tuning_record(reports: tuple[TuneReport, ...]) -> list[dict[str, object]]:
    """What metrics.json says of tuning: losses on the samples held out from it."""
    return [
        {
            "step": report.stage,
            "kept": report.kept,
            "loss_before": report.before.plain,
            "loss_after": report.after.plain,
            "softened_before": report.before.soft,
            "softened_after": report.after.soft,
            "units": len(report.units),
            "fit_samples": report.fit,
            "held_out_samples": report.held_out,
            "note": report.note,
        }
        for report in reports
    ]
