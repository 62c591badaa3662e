"""What a run does when it is told how long it may take: of what fits, that which earns most.

Chosen once, from a forecast for this machine, and written into the recipe: the recipe that a run
leaves behind says what was chosen and no longer how long it may take, so it gives the same bits
wherever it is run again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from bitwright.engine.digest import digest
from bitwright.engine.progress import Progress
from bitwright.errors import RecipeError
from bitwright.graph.execute import bind
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.sites import find_sites
from bitwright.pipeline.check import check_recipe
from bitwright.pipeline.forecast import count_samples
from bitwright.pipeline.job import Job
from bitwright.pipeline.outlook import Outlook, Scene, foretell
from bitwright.pipeline.pace import measure_pace
from bitwright.pipeline.plan import Plan, stream
from bitwright.recipe.durations import parse_duration, word_duration
from bitwright.recipe.names import QUICK
from bitwright.recipe.values import SETTLED_BY_TIME, Recipe, update
from bitwright.tuning.catalogue import ABOUT, REFINE, find_tuning_steps

# Fewer samples earn less, and little less down to some hundreds; below that methods with data lose
# more than a cheaper method does.
SAMPLES = (1000, 512, 256, 128, 64, 32)
ENOUGH, LEAST_SOLVED = 256, 64
TABLE_SAMPLES = (256, 128, 64)
# The end of a run is no surprise: forecasts are off by so much.
MARGIN = 1.15

Words = Mapping[str, str | int]


@dataclass(frozen=True, eq=False)
class Affordable:
    """The settings that earn most within a time, and what a run under them will take."""

    settings: Words
    outlook: Outlook
    fits: bool


def settle_time(job: Job, graph: ModelGraph, progress: Progress, began: float) -> Job:
    """The job with what its time allows, said in one line; itself where no time is given.

    What an interrupted run has chosen stands in its store, and is taken up again.

    Args:
        job: with its target settled.
        graph: its captured network.
        progress: told.
        began: when the run began, by `time.perf_counter`.
    """
    asked = job.recipe
    if not asked.time:
        return job
    key = digest("time", {k: v for k, v in vars(asked).items() if k != "model"}, graph.digest())
    entry = job.store.get(key)
    if entry is None:
        left = parse_duration(asked.time) - (time.perf_counter() - began)
        samples = count_samples(job.data, asked.calib) or asked.calib or max(SAMPLES)
        found = choose(scene_of(job, graph), job.plan, samples, left)
        settings = dict(found.settings)
        progress.note("capture", word_choice(asked, found))
        job.store.put(key, {}, settings)
    else:
        settings = dict(entry[1])
        progress.note("capture", f"--time {asked.time}: as chosen before: {_word(settings)}.")
    settled = update(asked, {**settings, "time": ""}, "--time")
    return replace(job, plan=job.plan.under(check_recipe(settled, job.plan.target)))


def scene_of(job: Job, graph: ModelGraph) -> Scene:
    """What an outlook on a job looks at."""
    started = time.process_time()
    inputs = next(stream(job.data, job.recipe))
    flat = bind(graph, inputs)
    size = next((len(t) for t in flat if t is not None and t.dim()), 1)
    read = (time.process_time() - started) / max(size, 1)
    sites = find_sites(graph, job.plan.target)
    labelled = 0 if job.evaluation is None else count_samples(job.evaluation) or max(SAMPLES)
    pace = measure_pace(graph, sites, flat, job.recipe.batch)
    workers = job.workers if isinstance(job.workers, int) else None
    return Scene(graph, sites, flat, pace, read, labelled, workers)


def choose(scene: Scene, plan: Plan, samples: int, seconds: float) -> Affordable:
    """The first of the candidates, best first, whose forecast fits; else the quickest of them."""
    quickest: Affordable | None = None
    for settings in list_candidates(plan, samples):
        recipe = update(plan.recipe, {**settings, "time": ""}, "--time")
        try:
            own = plan.under(check_recipe(recipe, plan.target))
        except RecipeError:  # settings that do not go together are no candidate
            continue
        outlook = foretell(scene, own, recipe.calib)
        if MARGIN * outlook.seconds <= seconds:
            return Affordable(settings, outlook, fits=True)
        if quickest is None or outlook.seconds < quickest.outlook.seconds:
            quickest = Affordable(settings, outlook, fits=False)
    assert quickest is not None
    return quickest


def list_candidates(plan: Plan, samples: int) -> Iterator[Words]:
    """What a run may do, what earns most first; nothing is dearer than what was asked for.

    As asked; with fewer samples, and a table of fewer of them; the quick table in place of the
    measured one; without steps of gradients; nearest rounding.
    """
    for least, change in _ways(plan):
        for count in dict.fromkeys(min(samples, n) for n in (samples, *SAMPLES)):
            if count < min(least, samples):
                continue
            of_table: tuple[int, ...] = (plan.recipe.table_samples,)
            if plan.menu and change.get("table", plan.recipe.table) != QUICK:
                of_table = (*of_table, *(n for n in TABLE_SAMPLES if n < (of_table[0] or count)))
            for table in of_table:
                yield {**change, "calib": count, "table_samples": table}


def _ways(plan: Plan) -> Iterator[tuple[int, Words]]:
    """How units are solved and tuned, and the fewest samples that this makes sense with."""
    recipe, objects = plan.recipe, plan.objects
    yield ENOUGH, {}
    if plan.menu and recipe.table != QUICK:
        yield ENOUGH, {"table": QUICK}
    plain = _without_gradients(plan)
    if plain:
        yield LEAST_SOLVED, plain
    base = plain or {}
    if plan.menu and recipe.table != QUICK:
        yield LEAST_SOLVED, {**base, "table": QUICK}
    elif not plain:
        yield LEAST_SOLVED, {}
    if objects.method is None:
        nearest = {**base, "method": "nearest", "tune": "", "refine_method": ""}
        yield min(SAMPLES), {**nearest, **({"table": "measured"} if plan.menu else {})}


def _without_gradients(plan: Plan) -> Words | None:
    """The recipe without backward passes: rounding solved in their place. None: it has none."""
    recipe, objects = plan.recipe, plan.objects
    steps = [s for s in find_tuning_steps(recipe.tune) if s in ABOUT]
    slow = [s for s in steps if ABOUT[s].backward or (s == REFINE and _learns(plan))]
    if objects.method is not None or objects.tune or not (slow or plan.method.needs.backward):
        return None
    found: dict[str, str] = {"tune": ",".join(s for s in steps if s not in slow)}
    if REFINE in slow:
        found["refine_method"] = ""
    if plan.method.needs.backward or not plan.method.needs.data:
        found |= {"method": "quadratic", "mode": "sequential"}
    return found


def _learns(plan: Plan) -> bool:
    return (plan.refine or plan.method).needs.backward


def word_choice(asked: Recipe, found: Affordable) -> str:
    """The line that says what was chosen."""
    changed = {k: v for k, v in found.settings.items() if v != getattr(asked, k)}
    took = word_duration(found.outlook.seconds)
    told = _word(changed) if changed else "all that was asked for"
    if found.fits:
        return f"--time {asked.time}: {told}; that takes about {took}."
    return f"--time {asked.time} is too little: even {told} takes about {took}."


def _word(settings: Words) -> str:
    words = {"calib": "{} samples", "table_samples": "a table of {} samples", "table": "{} table"}
    own = {k: v for k, v in settings.items() if k in SETTLED_BY_TIME}
    return ", ".join(words.get(key, key + " {!r}").format(value) for key, value in own.items())
