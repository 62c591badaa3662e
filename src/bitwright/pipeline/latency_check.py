"""Budgets of latency, held by the file itself and not by its prediction alone.

Speed depends on the bits and not on the numbers, so a file of the chosen bits, rounded to nearest,
is timed beside the float network before minutes are spent on solving. Where it breaks the budget by
more than timing's noise, the budget is tightened and the bits are chosen again, twice at most. The
finished file is timed the same way, and what it takes is told beside what was predicted.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from bitwright.allocation.budget import parse_budgets
from bitwright.allocation.latencies import LATENCY
from bitwright.allocation.latency_table import LatencyTable, predict
from bitwright.allocation.timed import FileTime, LatencyCheck, check_time, tighten
from bitwright.engine.code import code_version
from bitwright.engine.digest import digest
from bitwright.engine.progress import Progress
from bitwright.errors import BudgetError
from bitwright.export.runtimes import ONNX_RUNTIME
from bitwright.export.samples import flat_example
from bitwright.graph.choice import FLOAT, Choice
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.target import Target
from bitwright.latency.bench import Quartiles, take_turns
from bitwright.latency.measure import feed_of, file_writer
from bitwright.latency.profiles import load_deployed
from bitwright.latency.timing import conditions_here
from bitwright.pipeline.choose_bits import Searched, search_bits
from bitwright.pipeline.job import Job, Prepared
from bitwright.pipeline.menu_latency import SETTINGS
from bitwright.pipeline.plan import stream
from bitwright.pipeline.tabulate import MeasuredMenu
from bitwright.recipe.values import Recipe

# How often a budget is tightened, and how often both files are run by turns.
ROUNDS, TURNS = 2, 41
TRIAL, FINISHED = "a trial file of the same bits", "model.onnx"


def search_in_time(
    job: Job, prepared: Prepared, menu: MeasuredMenu, progress: Progress
) -> Searched:
    """The bits chosen so that a file of them holds the budget of this machine's latency.

    Raises:
        BudgetError: no choice of the menu holds the budgets as they were asked.
    """
    searched = search_bits(job, menu, progress)
    table = searched.latency.get(LATENCY)
    if table is None or not is_bounded(job, table):
        return searched
    under = job
    for rounds in range(ROUNDS + 1):
        with progress.stage("time the file"):
            took = time_choices(job, prepared, searched.choices)
        budgets = job.plan.budgets
        found = check_time(budgets, predict_time(table, searched.choices), took, rounds, TRIAL)
        assert found is not None
        searched = replace(searched, timed=found)
        if found.held or rounds == ROUNDS:
            break
        progress.note("time", f"{say_times(found)}: the budget is tightened.")
        plan = replace(under.plan, budgets=tighten(budgets, found))
        under = replace(under, plan=plan)
        try:
            searched = search_bits(under, menu, progress)
        except BudgetError:
            progress.note("time", "no choice of the menu holds anything tighter.")
            break
    return searched


def say_times(found: LatencyCheck) -> str:
    """What was asked, predicted and measured, in one line."""
    unit = " of float" if found.relative else " ms"
    return (
        f"{found.asked!r}: {found.predicted:.3g}{unit} predicted, {found.measured:.3g} measured "
        f"(+- {found.noise:.1g}, {found.file})"
    )


def is_bounded(job: Job, table: LatencyTable) -> bool:
    """Whether a budget bounds the latency of this machine, and the table is of it."""
    here = conditions_here(job.plan.target.name, SETTINGS.batch, SETTINGS.threads)
    bounded = any(budget.name == LATENCY for budget in job.plan.budgets)
    return bounded and not table.conditions.differences(here)


def predict_time(table: LatencyTable, choices: Mapping[str, Choice]) -> FileTime:
    """What the table says of a network."""
    ms = predict(table, choices)
    return FileTime(ms, ms / table.float_ms, 0.0)


def time_choices(job: Job, prepared: Prepared, choices: Mapping[str, Choice]) -> FileTime:
    """Time a file of given bits beside float; what the store holds is not timed again."""
    graph, target = prepared.graph, prepared.target
    conditions = conditions_here(target.name, SETTINGS.batch, SETTINGS.threads)
    bits = sorted((name, str(choice)) for name, choice in choices.items())
    key = digest(code_version(time_file), "time", graph.digest(), target, conditions, bits)
    entry = job.store.get(key)
    if entry is not None:
        return FileTime(**entry[1])
    example = flat_example(graph, next(stream(job.data, job.recipe)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.onnx"
        file_writer(graph, target, example)(choices, path)
        found = time_file(path, graph, target, example)
    job.store.put(key, {}, vars(found))
    return found


def time_file(
    path: Path, graph: ModelGraph, target: Target, example: tuple[Tensor, ...]
) -> FileTime:
    """Time a file beside the float network in ONNX Runtime: by turns, one thread, one sample.

    Raises:
        CaptureError: the float network cannot be exported.
    """
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / "float.onnx"
        choices = {unit.name: FLOAT for unit in graph.units}
        file_writer(graph, target, example)(choices, beside)
        feed = feed_of(graph, example, SETTINGS.batch)
        files = {"own": path, "float": beside}
        runs = {
            name: partial(load_deployed(ONNX_RUNTIME, file, SETTINGS.threads).run, feed)
            for name, file in files.items()
        }
        taken = take_turns(runs, TURNS, time.process_time)
    shares = Quartiles.of([o / f for o, f in zip(taken["own"], taken["float"], strict=True)])
    ms = 1000 * Quartiles.of(taken["own"]).median
    return FileTime(ms, shares.median, shares.noise(TURNS) / shares.median)


def check_finished(
    path: Path,
    network: tuple[ModelGraph, Target, tuple[Tensor, ...]],
    recipe: Recipe,
    told: FileTime,
    rounds: int,
) -> LatencyCheck | None:
    """The budget of latency, by the finished file; None where none bounds it.

    Args:
        path: model.onnx.
        network: the captured network, the target, and an example of its inputs.
        recipe: which has the budgets.
        told: what the table predicts.
        rounds: how often the budgets were tightened.
    """
    took = time_file(path, *network)
    return check_time(parse_budgets(recipe.budget), told, took, rounds, FINISHED)
