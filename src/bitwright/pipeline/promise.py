"""A promise kept or refused: the cheapest configuration whose file holds it, by samples kept apart.

With a menu the exact frontier of its table is walked from the cheapest configuration; with one
scheme the cheapest remedies are tried in turn. What is kept is no worse than what was before, on
calibration samples that nothing is solved on; what is proven is the file, in the runtime, by
samples that took no part in anything. Every look at those spends a share of the error that all
looks together may have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from bitwright.engine.progress import Progress
from bitwright.engine.random_state import own_random
from bitwright.evaluation.promised import Promised
from bitwright.export.runtimes import RUNTIMES, require_runtime
from bitwright.graph.choice import parse_scheme
from bitwright.graph.model_graph import ModelGraph
from bitwright.pipeline import rungs
from bitwright.pipeline.evaluate import evaluate_job, try_evaluation
from bitwright.pipeline.job import Job, capture_job
from bitwright.pipeline.ladder import Ascent, Attempt, Kept
from bitwright.pipeline.lossless import COMPLEXITY
from bitwright.pipeline.menu_walk import list_finer, walk_menu
from bitwright.pipeline.proof import Prover, part_samples, unpromised
from bitwright.pipeline.result import Result
from bitwright.pipeline.run import check_machinery, run
from bitwright.recipe.promises import Promise, parse_promise
from bitwright.recipe.values import Recipe
from bitwright.report.promise_words import word_promise

Remedy = tuple[str, dict[str, str]]


@dataclass(frozen=True, eq=False)
class _Climb:
    """What every rung is made from."""

    job: Job
    ladder: Ascent
    progress: Progress

    @property
    def settings(self) -> dict[str, str]:
        """What the kept rungs changed."""
        kept = self.ladder.kept
        return {} if kept is None else dict(kept.candidate.settings)

    @property
    def recipe(self) -> Recipe:
        """The recipe as the kept rungs changed it."""
        return replace(self.job.recipe, **self.settings)  # type: ignore[arg-type]

    @property
    def is_over(self) -> bool:
        """Whether the promise is kept, or nothing could show it any more."""
        return self.ladder.holds or self.ladder.is_hopeless

    def under(self, settings: dict[str, str]) -> Job | None:
        """The job with a remedy on top of what is kept, where they go together."""
        plan = self.job.plan
        changed = rungs.apply(self.recipe, settings, plan.target)
        return None if changed is None else replace(self.job, plan=plan.under(changed))

    def try_each(self, remedies: Iterable[Remedy]) -> None:
        """Remedies of one kind: each on top of what is kept by then."""
        for name, settings in remedies:
            if self.is_over:
                return
            changed = self.under(settings)
            if changed is not None:
                result = run(changed, self.progress)
                self.ladder.climb(Attempt(name, {**self.settings, **settings}, result))


def keep_promise(job: Job, progress: Progress) -> Result:
    """The cheapest configuration whose file keeps the job's promise, or the best that was found.

    Raises:
        RecipeError, DataError: the promise, or the samples, make none possible.
        InputError: the target's runtime is not installed.
    """
    check_machinery(job, progress)
    with own_random(job.recipe.device):
        require_runtime(job.plan.target.runtime)
        with progress.stage("capture"):
            captured, graph = capture_job(job)
        try_evaluation(captured, graph)
        promise = parse_promise(job.recipe.promise, job.plan.metric.name)
        prover = _prover(captured, graph, promise, progress)
        ladder = Ascent(prover)
        single = unpromised(job, prover.parts)
        climb = _Climb(single, ladder, progress)
        if job.plan.menu:
            walk_menu(ladder, single, "the menu's cheapest that may hold", {}, progress)
        else:
            climb_scheme(climb)
        return _finish(job, captured, graph, ladder)


def _prover(job: Job, graph: ModelGraph, promise: Promise, progress: Progress) -> Prover:
    parts = part_samples(job, promise)
    prover = Prover(promise, job, graph, parts, progress)
    progress.note(
        "promise",
        f"{promise.text}: proven by {parts.proof_samples} samples ({parts.proven}), chosen by "
        f"{parts.judged}; none of them solves or tunes anything.",
    )
    short = prover.can_show()
    if short is not None:
        some = "" if short.needed is None else f"; {short.needed} such samples could"
        progress.note("promise", f"so few samples show it not even of float itself{some}.")
    return prover


def climb_scheme(climb: _Climb) -> None:
    """The scheme as asked, then the remedies, until the promise holds."""
    recipe = climb.job.recipe
    climb.ladder.climb(Attempt(f"{recipe.scheme} as asked", {}, run(climb.job, climb.progress)))
    if climb.job.plan.objects.activation_range is None:
        climb.try_each(rungs.list_ranges(recipe))
    remedies: tuple[Callable[[Recipe], Remedy | None], ...] = (
        rungs.solve_rounding,
        rungs.equalize_and_correct,
    )
    for find in remedies:
        climb.try_each(filter(None, (find(climb.recipe),)))
    if climb.is_over:
        return
    kept = climb.ladder.kept
    assert kept is not None
    last = rungs.keep_finer(climb.recipe, kept.candidate.result.target)
    if last is None:
        return
    name, settings = last
    menu = replace(climb.recipe, **settings)  # type: ignore[arg-type]
    own = replace(climb.job, plan=climb.job.plan.under(menu))
    walk_menu(climb.ladder, own, name, {**climb.settings, **settings}, climb.progress)


def _finish(job: Job, captured: Job, graph: ModelGraph, ladder: Ascent) -> Result:
    """The kept result under the recipe that was asked for, with what became of the promise."""
    kept = ladder.end()
    result, progress = kept.candidate.result, ladder.prover.progress
    metrics = result.metrics
    if captured.evaluation is not None:
        found = evaluate_job(captured, graph, result.model, progress)
        metrics = replace(metrics, **vars(found))
    record = _record(job, ladder, kept)
    progress.note("promise", record.told)
    recipe = replace(job.recipe, target=result.recipe.target)
    return replace(result, recipe=recipe, metrics=replace(metrics, promise=record))


def _record(job: Job, ladder: Ascent, kept: Kept) -> Promised:
    prover, candidate, look = ladder.prover, kept.candidate, kept.look
    assert look is not None
    promise, result = prover.promise, candidate.result
    runtime = RUNTIMES[result.target.runtime].label
    searched = candidate.used is not None
    scheme = parse_scheme(job.recipe.scheme)
    fixed = not job.plan.menu and searched
    return Promised(
        asked=promise.text,
        holds=look.holds,
        look=look,
        judged=prover.parts.judged,
        proof=prover.parts.proven,
        runtime=runtime,
        rungs=tuple(ladder.rungs),
        settings=candidate.settings,
        cost=(candidate.settings.get("minimize") or job.recipe.minimize or COMPLEXITY)
        if searched
        else None,
        used=candidate.used,
        finer=list_finer(result.allocation.choices, scheme) if fixed else (),
        remedy=None if look.holds else _find_remedy(job, kept),
        told=word_promise(look, promise.text, promise.name, promise.falls, runtime),
        file=kept.file,
    )


def _find_remedy(job: Job, kept: Kept) -> str:
    """The cheapest thing that may help a promise that was not shown."""
    look = kept.look
    assert look is not None
    if look.needed is not None:
        return (
            f"about {look.needed} samples for the proof, {look.samples} were there: give more by "
            f"--eval ({'labelled, ' if job.evaluation is not None else ''}none of them in --data)."
        )
    if job.plan.menu:
        return "add finer choices to --menu, such as w8a16 or float, or promise what holds."
    return (
        "promise what holds, or give calibration data more like the samples of the proof: what "
        "was tried stands above."
    )
