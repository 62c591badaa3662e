"""The latency of a run's menu, measured on this machine where a budget asks for it."""

from __future__ import annotations

from bitwright.allocation.devices import parse_devices, read_devices
from bitwright.allocation.latencies import LATENCY
from bitwright.allocation.latency_csv import latency_text, parse_latencies
from bitwright.allocation.latency_table import LatencyTable
from bitwright.engine.code import code_version
from bitwright.engine.digest import digest
from bitwright.engine.progress import Progress
from bitwright.export.samples import flat_example
from bitwright.latency.measure import TimingSettings, latencies
from bitwright.latency.timing import conditions_here
from bitwright.pipeline.job import Job, Prepared
from bitwright.pipeline.plan import Plan, stream

# One sample and one thread: what a latency is usually asked of.
SETTINGS = TimingSettings(batch=1, threads=1, repetitions=25, checks=0)


def needs_latency(plan: Plan) -> bool:
    """Whether this machine's latency is bounded, or made small, and no table of it is given."""
    names = {budget.name for budget in plan.budgets}
    given = parse_devices(plan.recipe.latencies)
    return bool(plan.menu) and LATENCY in {*names, plan.recipe.minimize} - set(given)


def time_menu(job: Job, prepared: Prepared, progress: Progress) -> dict[str, LatencyTable]:
    """The latencies that a run's budgets are of, by measure: this machine's, and those given.

    Raises:
        RunDirectoryError: a given table that cannot be read.
        RecipeError: one that was measured for another target.
    """
    found = read_devices(job.recipe.latencies, job.plan.target.name)
    if needs_latency(job.plan):
        found[LATENCY] = menu_latency(job, prepared, progress)
    return found


def menu_latency(job: Job, prepared: Prepared, progress: Progress) -> LatencyTable:
    """Time every unit at every choice of the menu in ONNX Runtime, as `bitwright measure` does.

    What the store holds of the same network, menu and conditions is not timed again: a run that is
    taken up goes on with the same figures.

    Raises:
        CaptureError: a network cannot be exported.
        InputError: ONNX Runtime refuses one.
    """
    graph, target = prepared.graph, prepared.target
    conditions = conditions_here(target.name, SETTINGS.batch, SETTINGS.threads)
    menu = {name: tuple(choices) for name, choices in prepared.menu.items()}
    key = digest(
        code_version(latencies),
        LATENCY,
        graph.digest(),
        target,
        conditions,
        SETTINGS,
        [(name, [str(c) for c in choices]) for name, choices in menu.items()],
    )
    entry = job.store.get(key)
    if entry is not None:
        return parse_latencies(str(entry[1]["csv"]), "the store's table of latencies")
    example = flat_example(graph, next(stream(job.data, job.recipe)))
    found = latencies(graph, target, menu, example, SETTINGS, progress)
    job.store.put(key, {}, {"csv": latency_text(found.table)})
    return found.table
