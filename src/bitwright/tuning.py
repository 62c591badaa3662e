"""The steps after the bits are chosen: the network is put right by its own statistics and answers.

A recipe's `tune` names them in order. Each is judged on calibration samples that neither solving
nor tuning has seen (`Prepared.samples.held_out`), and undone where they find it no better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bitwright.clip_search import search_clips
from bitwright.graph.choice import Choice
from bitwright.graph.ties import grid_classes
from bitwright.methods.catalogue import method
from bitwright.methods.problem import Method
from bitwright.numerics.affine import QParams
from bitwright.preparing import Job, Prepared, edges_of, work_on
from bitwright.run.progress import Progress
from bitwright.solving import Edges, Work, solve
from bitwright.solving.assembly import assemble
from bitwright.solving.grids import active_sites
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
from bitwright.tuners.analytic import correct_biases
from bitwright.tuners.bias import BiasTuning, tune_biases
from bitwright.tuners.bn import BatchNormTuning, tune_batchnorms
from bitwright.tuners.brecq import BlockReconstruction, reconstruct_blocks
from bitwright.tuners.judge import Judge, Loss
from bitwright.tuners.network import Deploy, Solved, simulate
from bitwright.tuners.qat import WeightTraining, train_weights
from bitwright.tuners.report import TuneReport, attempted
from bitwright.tuners.samples import Samples
from bitwright.tuners.scales import Grids, ScaleTuning, tune_scales

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
    work: Work,
    choices: Mapping[str, Choice],
    start: Configuration,
    samples: Samples,
    steps: str,
    *,
    refine: Method | None = None,
    progress: Progress | None = None,
) -> Configuration:
    """Apply tuning steps, in their order, to one solved configuration.

    Args:
        work: the network and how it was solved; its menu holds the choices.
        choices: the bits of every unit.
        start: the solved configuration.
        samples: calibration samples in two parts (`split_samples`): one to learn from, and one that
            judges every step and undoes what is no better.
        steps: such as "bn, bias".
        refine: the method of the step `refine`; the work's own where none is given.
        progress: told of every step.

    Raises:
        RecipeError: an unknown step.
    """
    edges = dict(start.edges)
    task = _Task(work, choices, samples, edges, refine or work.method, progress or Progress())
    return task.run(tuning_steps(steps), start)


def tune_job(
    job: Job,
    prepared: Prepared,
    choices: Mapping[str, Choice],
    start: Configuration,
    progress: Progress,
) -> Configuration:
    """The recipe's tuning steps."""
    recipe = job.recipe
    steps = tuning_steps(recipe.tune)
    if not steps:
        return start
    work = work_on(job, prepared, {name: (choice,) for name, choice in choices.items()})
    edges = edges_of(job, prepared, choices)
    again = work.method
    if recipe.refine_method:
        again = method(recipe.refine_method).configured(recipe.weight_range)
    task = _Task(work, choices, prepared.samples, edges, again, progress)
    return task.run(steps, start)


@dataclass(frozen=True, eq=False)
class _Task:
    """What all steps work on.

    Attributes:
        work, choices, samples, progress: see `tune`.
        edges: the grids as observed, on which `refine` starts.
        refine: the method of that step.
    """

    work: Work
    choices: Mapping[str, Choice]
    samples: Samples
    edges: Edges
    refine: Method
    progress: Progress

    def run(self, steps: tuple[str, ...], start: Configuration) -> Configuration:
        """All steps; those before `refine` are applied to what it finds as well."""
        done: list[str] = []
        found = start
        for step in steps:
            if step == REFINE:
                again = self.solved_again()
                for earlier in done:
                    again = self.step(earlier, again)
                found = self.better(found, again)
            else:
                found = self.step(step, found)
            done.append(step)
        return found

    def step(self, step: str, start: Configuration) -> Configuration:
        """One step; it leaves the configuration as it is where that is no better."""
        graph = self.work.graph
        edges: Mapping[tuple[str, str], QParams] = start.edges
        solved: Solved
        with self.progress.stage(f"tune {step}"):
            if step == LAPQ:
                given = (self.work, self.choices, start.solved, start.edges, self.samples)
                solved, edges, report = search_clips(*given)
            elif step == SCALES:
                options = ScaleTuning(seed=self.work.seed)
                parts = (graph, start.solved, self.grids(start), self.samples, options)
                solved, edges, report = tune_scales(*parts)
            else:
                solved, report = self.by_numbers(step, start)
        _say(self.progress, report, step)
        return Configuration(solved, dict(edges), (*start.reports, report))

    def by_numbers(self, step: str, start: Configuration) -> tuple[Solved, TuneReport]:
        """One step that leaves the grids of edges alone."""
        graph, seed = self.work.graph, self.work.seed
        given = (graph, start.solved, self.deploy(start.edges), self.samples)
        if step == BIAS:
            return tune_biases(*given, BiasTuning(seed=seed))
        if step == BIAS_ANALYTIC:
            return correct_biases(*given)
        if step == BRECQ:
            return reconstruct_blocks(*given, BlockReconstruction(seed=seed))
        if step in (QAT, QAT_LAST, QAT_PAPER):
            how = WeightTraining(early_stop=step == QAT, published=step == QAT_PAPER, seed=seed)
            return train_weights(*given, how)
        solved, report = tune_batchnorms(*given, NORMS[step])
        # The metrics name the step that was asked for.
        return solved, replace(report, stage=step)

    def grids(self, start: Configuration) -> Grids:
        """The grids of all edges, and which of them are one."""
        graph, target = self.work.graph, self.work.target
        sites = active_sites(self.work.sites, graph, self.choices)
        classes = grid_classes(graph, target, sites)
        return Grids(start.edges, sites, classes, lambda s, e: assemble(graph, s, e, target))

    def deploy(self, edges: Edges) -> Deploy:
        """How solutions become what is deployed."""
        return lambda solved: assemble(self.work.graph, solved, edges, self.work.target)

    def solved_again(self) -> Configuration:
        """The configuration solved in sequence, on what its own quantised units give.

        Equation: each unit's min ||Y - Wq Xq||^2 with Y the float network's result and Xq what the
        quantised units before it give.
        Reference: seed 002 (Hubara et al., arXiv 2006.10518), section 3.1.1, equations 3 and 4.
        """
        menu = {name: (choice,) for name, choice in self.choices.items()}
        work = replace(self.work, menu=menu, method=self.refine)
        edges = dict(self.edges)
        with self.progress.stage("refine", len(work.graph.units)) as tick:
            found = solve(work, "sequential", edges, tick)
        return Configuration({name: solution for (name, _), solution in found.items()}, edges)

    def better(self, old: Configuration, new: Configuration) -> Configuration:
        """The configuration that the held-out samples find nearer to the float network."""
        graph = self.work.graph
        with self.progress.stage("judge"):
            judge = Judge.of(graph, self.samples.held_out)
            before, after = (
                judge(simulate(graph, c.solved, self.deploy(c.edges)).module) for c in (old, new)
            )
        kept = after.no_worse(before) and after != before
        report = attempted(REFINE, (before, after), tuple(new.solved), kept, judge, self.samples)
        _tell(self.progress, "judge", report.before, report.after, len(report.units))
        if report.note:
            self.progress.note(REFINE, report.note)
        if not kept:
            return replace(old, reports=(*old.reports, report))
        return replace(new, reports=(*old.reports, *new.reports, report))


def _say(progress: Progress, report: TuneReport, step: str) -> None:
    _tell(progress, f"tune {step}", report.before, report.after, len(report.units))
    if report.note:
        progress.note(f"tune {step}", report.note)


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
