"""A menu walked from its cheapest configuration until a file keeps a promise."""

from __future__ import annotations

from collections.abc import Mapping

from bitwright.allocation.allocate import Allocation
from bitwright.allocation.frontier import Frontier, trace
from bitwright.engine.progress import Progress
from bitwright.graph.choice import Choice
from bitwright.pipeline.choose_bits import Searched
from bitwright.pipeline.job import Job
from bitwright.pipeline.ladder import Ascent, Attempt, Settings
from bitwright.pipeline.lossless import COMPLEXITY, allocate_at
from bitwright.pipeline.run import begin_run, end_run
from bitwright.pipeline.tabulate import MeasuredMenu, tabulate_menu

# How many files of a menu are looked at, and the share of the frontier that the first step takes.
LOOKS, STEPS = 4, 32


def walk_menu(ladder: Ascent, job: Job, name: str, settings: Settings, progress: Progress) -> bool:
    """Find the cheapest configuration of a menu whose file keeps the promise.

    The cheapest that calibration samples kept apart speak for is found by bisection over the exact
    frontier of the table, in the simulation; its file is looked at. At failure a dearer one is,
    each step twice as long as the last, for every look costs confidence.

    Args:
        ladder: of the promise.
        job: with the menu; without a promise.
        name: of the rung, in words.
        settings: the keys of the recipe that differ from what was asked for.
        progress: told of the stages.
    """
    begun = begin_run(job, progress)
    menu = tabulate_menu(begun.job, begun.prepared, progress)
    cost = job.recipe.minimize or COMPLEXITY
    with progress.stage("frontier"):
        frontier = trace(menu.table, cost)
    with progress.stage("bisect"):
        place = find_promising(ladder, menu, frontier)
    last, step = len(frontier.points) - 1, max(1, len(frontier.points) // STEPS)
    for _ in range(LOOKS):
        point = frontier.points[place]
        found = allocate_at(menu.table, frontier, point)
        result = end_run(begun, _search(menu, found), progress)
        share = "" if point.share is None else f" ({point.share:.3g} of float)"
        told = f"{name}: {cost} {point.used:.4g}{share}"
        if ladder.climb(Attempt(told, settings, result, point.used)):
            return True
        if place == last or ladder.is_hopeless:
            break
        place, step = min(place + step, last), 2 * step
    return False


def find_promising(ladder: Ascent, menu: MeasuredMenu, frontier: Frontier) -> int:
    """The place of the cheapest point of which the proof may succeed; the last if of none.

    What agrees is taken to go on agreeing along the frontier.
    """
    known: dict[int, bool] = {}

    def may_hold(place: int) -> bool:
        if place not in known:
            found = allocate_at(menu.table, frontier, frontier.points[place])
            module = menu.base.solutions.module(found.choices)
            known[place] = ladder.prover.judge(module).promising
        return known[place]

    low, high = -1, len(frontier.points) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if may_hold(middle) else (middle, high)
    return high


def _search(menu: MeasuredMenu, found: Allocation) -> Searched:
    base = menu.base
    losses = {"base": base.figures["loss"], "allocation": base.run(found.choices)["loss"]}
    return Searched(
        base.solutions.solved,
        menu.table,
        found,
        found.choices,
        losses,
        latency=menu.latency,
    )


def list_finer(choices: Mapping[str, Choice], scheme: Choice) -> tuple[str, ...]:
    """The units with more bits than a scheme, or in float."""
    return tuple(
        name
        for name, choice in choices.items()
        if choice.is_float or choice.sum_bits > scheme.sum_bits or choice.a_bits > scheme.a_bits > 0
    )
