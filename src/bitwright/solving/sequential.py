"""The sequential mode: each unit on what the quantised units before it give."""

from __future__ import annotations

import math
from itertools import islice

from torch import fx

from bitwright.engine.threads import stream_out
from bitwright.graph.kept import Stored
from bitwright.graph.model_graph import Unit
from bitwright.graph.operators import WEIGHTED
from bitwright.graph.placing import device_of
from bitwright.graph.replay import Overrides, replay
from bitwright.graph.rows import solvable
from bitwright.graph.units import input_of
from bitwright.methods.portable import finish_solution
from bitwright.methods.problem import UnitSolution
from bitwright.methods.stored import from_entry, to_entry
from bitwright.numerics.affine import dequantize
from bitwright.solving.assembly import deploy, deploy_bias
from bitwright.solving.collect import CollectedPart, Collector, Grids, collect_batch, plan_of
from bitwright.solving.cuts import Cut, CutPlaces, batches_of, places
from bitwright.solving.keys import run_key, unit_key
from bitwright.solving.parallel import SolvedTasks
from bitwright.solving.ranges import grids_by_output
from bitwright.solving.work import Edges, Task, Tick, Work, edges_into, inputs_key, problem_of


def solve_sequential(work: Work, edges: Edges, tick: Tick) -> tuple[SolvedTasks, Edges]:
    """Solve units in the network's order, their targets the float network's outputs.

    Float and quantised values walk through the graph side by side: about two passes over the data
    in all. A cut through both is kept for all samples behind the last unit where it fits into
    memory; from there to the unit a few operators are computed again. Before there is such a place,
    in the wide first layers, the cut holds a part of the samples, and they serve.

    A stored solution moves nothing: the walk begins again before the first unit that is missing.
    """
    # An edge into a unit comes with the unit's solution: methods choose it on unquantised inputs.
    later = {(site.source, site.reader) for site in work.sites if site.unit is not None}
    over = Overrides(edges={edge: qp for edge, qp in edges.items() if edge not in later})
    solved: SolvedTasks = {}
    found: CutPlaces | None = None
    cut = Cut.at_inputs(work)
    key = run_key(solve_sequential, work, "sequential", edges)
    for index, unit in enumerate(work.graph.units):
        choice = work.menu[unit.name][0]
        if not choice.is_float:
            task = (unit.name, choice)
            key = unit_key(key, unit, choice, work.grids[task])
            entry = work.store.get(key)
            if entry is None:
                found = found or places(work)
                place, whole = found.before(index)
                if place != cut.place or whole != cut.whole:
                    cut.move(work, place, whole, over)
                solution = _solve_unit(work, unit, task, cut, over)
                work.store.put(key, *to_entry(solution))
            else:
                solution = from_entry(*entry)
            solved[task] = solution
            _install(work, unit, solution, over)
        tick(index + 1)
    return solved, {**edges, **over.edges}


def _solve_unit(work: Work, unit: Unit, task: Task, cut: Cut, over: Overrides) -> UnitSolution:
    choice = task[1]
    if not solvable(unit):
        made = problem_of(work, unit, choice, work.grids[task], None)
        return finish_solution(work.method.solve(made), made)
    batches = batches_of(work, cut.whole)
    grids, rows = _stream(work, unit, task, batches, cut, over)
    seen = min(work.samples, math.ceil(work.samples * batches / work.passes))
    made = problem_of(work, unit, choice, grids, rows, seen)
    rows.close()
    return finish_solution(work.method.solve(made), made)


def _stream(
    work: Work, unit: Unit, task: Task, batches: int, cut: Cut, over: Overrides
) -> tuple[Grids, Collector]:
    graph = work.placed
    nodes = graph.nodes()
    sources = [input_of(nodes[call]).name for call in unit.products]
    grids = work.grids[task]
    if work.by_output:
        true, seen = next(cut.kept.walk())
        grids = grids_by_output(work, unit, task[1], true, seen, over)
    wanted = {inputs_key(grids): grids}
    plan = plan_of(graph, unit, wanted, batches, work.method.needs.rows, work.seed)
    rows = Collector(plan)

    def collect(item: tuple[int, Stored]) -> CollectedPart:
        index, (floats, quants) = item
        true = replay(graph, floats, set(sources))
        seen = replay(graph, quants, set(sources), over)
        part = CollectedPart({})
        for call, source in enumerate(sources):
            collect_batch(plan, part, index, call, true[source], seen[source])
        return part

    # Each batch on one thread, added in the order of the data.
    for part in stream_out(collect, islice(enumerate(cut.kept.walk()), batches)):
        rows.absorb(part)
    return grids, rows


def _install(work: Work, unit: Unit, solution: UnitSolution, over: Overrides) -> None:
    stored = deploy(solution, work.target)
    device = device_of(work.placed)
    over.tensors[unit.weight] = dequantize(stored.q, stored.weight).to(device)
    if solution.bias is not None and unit.bias is not None:
        over.tensors[unit.bias] = deploy_bias(solution, work.target).to(device)
    elif solution.bias is not None:
        nodes = work.graph.nodes()
        bias = deploy_bias(solution, work.target).to(device)
        for call in unit.products:
            over.biases[call] = (_bias_axis(nodes[call]), bias)
    over.edges.update(edges_into(work, unit, solution))


def _bias_axis(node: fx.Node) -> int:
    return 1 if WEIGHTED[node.target].startswith("conv") else -1
