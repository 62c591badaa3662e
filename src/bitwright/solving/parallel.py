"""The parallel mode: every unit on the float network's own activations.

Units are independent of one another, so any mixture of their solutions can be stitched, and any
worker can solve any of them. Passes over the data are cut into chunks of a fixed number of batches;
a worker sums up a chunk, and chunks are added in the order of the data: the same bits however many
workers there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from bitwright.engine.jobs import run_jobs
from bitwright.engine.limits import LIMITS
from bitwright.engine.memory import trim_heap
from bitwright.graph.kept import name_inputs
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.portable import PortableGraph, portable, restore_graph
from bitwright.graph.replay import replay
from bitwright.graph.rows import solvable
from bitwright.graph.units import input_of
from bitwright.methods.portable import finish_solution
from bitwright.methods.problem import Method, UnitProblem, UnitSolution
from bitwright.methods.stored import from_entry, to_entry
from bitwright.solving.collect import (
    SAMPLE_BYTES,
    CollectedPart,
    Collector,
    CollectPlan,
    Grids,
    collect_batch,
    plan_of,
)
from bitwright.solving.keys import run_key, unit_key
from bitwright.solving.ranges import grids_by_output
from bitwright.solving.spool import ByteBudget
from bitwright.solving.work import Edges, Task, Tick, Work, inputs_key, problem_of

# Four times as much is held at worst: fit and held-out sums, of a chunk and of those before.
GRAM_BYTES = LIMITS.sums
CHUNK = 4

SolvedTasks = dict[Task, UnitSolution]
Shared = tuple[PortableGraph, tuple[CollectPlan, ...]]


def solve_parallel(work: Work, edges: Edges, tick: Tick) -> SolvedTasks:
    """Solve every (unit, choice) of the menu in as few passes as memory allows."""
    grids = _grids(work)
    base = run_key(solve_parallel, work, "parallel", edges)
    units = {unit.name: unit for unit in work.graph.units}
    keys = {t: unit_key(base, units[t[0]], t[1], grids[t]) for t in work.tasks()}
    solved: SolvedTasks = {}
    todo: list[Task] = []
    for task, key in keys.items():
        entry = work.store.get(key)
        if entry is None:
            todo.append(task)
        else:
            solved[task] = from_entry(*entry)
    tick(len(solved))
    for group in _groups([units[n] for n in dict.fromkeys(n for n, _ in todo)], todo, grids):
        names = {unit.name for unit in group}
        for task, solution in _solve_group(work, group, [t for t in todo if t[0] in names], grids):
            work.store.put(keys[task], *to_entry(solution))
            solved[task] = solution
            tick(len(solved))
    return {task: solved[task] for task in keys}


def _grids(work: Work) -> dict[Task, Grids]:
    """The input grids of every task: as observed, or chosen at the output on the first batch."""
    grids = {task: work.grids[task] for task in work.tasks()}
    if not work.by_output:
        return grids
    flat = next(work.placed_batches())
    values = name_inputs(work.placed, flat)
    for name, choice in grids:
        unit = work.graph.unit(name)
        if solvable(unit):
            grids[name, choice] = grids_by_output(work, unit, choice, values, values, None)
    return grids


def _groups(
    units: Sequence[Unit], tasks: Sequence[Task], grids: dict[Task, Grids]
) -> Iterator[list[Unit]]:
    """Units whose sums fit into memory together: as few groups as may be, of about one size."""
    needs = [_sums_bytes(unit, tasks, grids) for unit in units]
    for size in _group_sizes(needs, GRAM_BYTES):
        yield list(units[:size])
        units = units[size:]


def _sums_bytes(unit: Unit, tasks: Sequence[Task], grids: dict[Task, Grids]) -> int:
    if not solvable(unit):
        return 0
    different = {inputs_key(grids[t]) for t in tasks if t[0] == unit.name}
    inputs = unit.params // max(unit.shape[unit.channel_axis], 1)
    return 8 * (unit.groups * inputs * inputs + unit.params) * len(different)


def _group_sizes(needs: Sequence[int], limit: int) -> list[int]:
    """How many of a row go together so that no sum is over the limit, unless one alone is.

    As few parts as that takes, and of those cuts one whose greatest sum is least: every part costs
    a pass over the data, and the greatest one the memory.
    """

    def cut(most: int) -> list[int]:
        sizes: list[int] = []
        held = 0
        for need in needs:
            if sizes and (held == 0 or need == 0 or held + need <= most):
                sizes[-1] += 1
                held += need
            else:
                sizes.append(1)
                held = need
        return sizes

    fewest, low, high = len(cut(limit)), 0, limit
    while low < high:
        middle = (low + high) // 2
        if len(cut(middle)) <= fewest:
            high = middle
        else:
            low = middle + 1
    return cut(high)


def _solve_group(
    work: Work, group: list[Unit], tasks: list[Task], grids: dict[Task, Grids]
) -> Iterator[tuple[Task, UnitSolution]]:
    batches = work.passes
    rows = work.method.needs.rows
    plans = tuple(
        plan_of(
            work.placed,
            unit,
            {inputs_key(grids[t]): grids[t] for t in tasks if t[0] == unit.name},
            batches,
            rows,
            work.seed,
        )
        for unit in group
        if solvable(unit)
    )
    collectors = _collect(work, plans)
    by_unit = [(unit, [t for t in tasks if t[0] == unit.name]) for unit in group]
    jobs = (_problems(work, unit, own, grids, collectors) for unit, own in by_unit)
    for index, solutions in run_jobs(
        solve_problems, jobs, work.processes, shared=work.method, name=lambda ps: str(ps[0].name)
    ):
        yield from zip(by_unit[index][1], solutions, strict=True)


def _problems(
    work: Work,
    unit: Unit,
    tasks: list[Task],
    grids: dict[Task, Grids],
    collectors: dict[str, Collector],
) -> list[UnitProblem]:
    """The problems of all choices of a unit; its rows are let go once they are read."""
    rows = collectors.pop(unit.name, None)
    # Holes that the passes over the data left behind, and the unit before.
    trim_heap()
    made = [
        problem_of(work, unit, choice, grids[n, choice], rows, work.samples) for n, choice in tasks
    ]
    if rows is not None:
        rows.close()
    return made


def solve_problems(method: Method, problems: list[UnitProblem]) -> list[UnitSolution]:
    """A job: solve the choices of one unit."""
    return [finish_solution(method.solve(p), p) for p in problems]


def _collect(work: Work, plans: tuple[CollectPlan, ...]) -> dict[str, Collector]:
    if not plans:
        return {}
    budget = ByteBudget(SAMPLE_BYTES)
    collectors = {plan.unit.name: Collector(plan, budget) for plan in plans}
    shared: Shared = (portable(work.placed), plans)
    waiting: dict[int, dict[str, CollectedPart]] = {}
    done = 0
    for index, parts in run_jobs(collect_chunk, _chunks(work), work.processes, shared=shared):
        waiting[index] = parts
        while done in waiting:
            for name, part in waiting.pop(done).items():
                collectors[name].absorb(part)
            done += 1
        # Before the next batches are read, which would not fit into the holes of this chunk.
        del parts
        trim_heap()
    return collectors


def _chunks(work: Work) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    first, chunk = 0, []
    for flat in work.placed_batches():
        chunk.append(flat)
        if len(chunk) == CHUNK:
            yield first, chunk
            first, chunk = first + CHUNK, []
    if chunk:
        yield first, chunk


def collect_chunk(
    shared: Shared, item: tuple[int, list[tuple[Any, ...]]]
) -> dict[str, CollectedPart]:
    """A job: the sums and rows of all units over a few batches."""
    carried, plans = shared
    graph = _graph(carried)
    nodes = graph.nodes()
    readers: dict[str, list[tuple[CollectPlan, int]]] = {}
    for plan in plans:
        for i, call in enumerate(plan.unit.products):
            readers.setdefault(input_of(nodes[call]).name, []).append((plan, i))
    parts = {plan.unit.name: CollectedPart({}) for plan in plans}
    first, chunk = item
    for index, flat in enumerate(chunk, first):
        # What a batch leaves behind in holes, beside sums that stay, is as much as it takes itself.
        trim_heap()

        # Units are summed up while their input lives: to keep the inputs of all at once would take
        # gigabytes where images are large.
        def visit(source: str, x: Any, index: int = index) -> None:
            for plan, i in readers[source]:
                collect_batch(plan, parts[plan.unit.name], index, i, x, x)

        replay(graph, name_inputs(graph, flat), readers, visit=visit)
    return parts


@lru_cache(maxsize=1)
def _graph(carried: PortableGraph) -> ModelGraph:
    return restore_graph(carried)
