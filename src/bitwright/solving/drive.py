"""Which way to solve: by weights alone, in parallel, or in sequence."""

from __future__ import annotations

from bitwright.methods.problem import solve_unit
from bitwright.solving.parallel import Solved, solve_parallel
from bitwright.solving.sequential import solve_sequential
from bitwright.solving.work import Edges, Tick, Work, install_edges, problem_of


def solve(work: Work, mode: str, edges: Edges, tick: Tick) -> Solved:
    """Solve every (unit, choice) that is not float; `edges` receives the grids that were chosen.

    Methods that need no data solve each unit on its weights alone, whatever the mode. The
    sequential mode takes one choice a unit. Edges of a menu with several are left alone.
    """
    if not work.method.needs.data:
        solved = solve_units(work, tick)
    elif mode == "sequential":
        solved = solve_sequential(work, edges, tick)
    else:
        solved = solve_parallel(work, edges, tick)
    for unit in work.graph.units:
        choices = [c for c in work.menu[unit.name] if not c.is_float]
        if len(choices) == 1:
            install_edges(work, unit, solved[unit.name, choices[0]], edges)
    return solved


def solve_units(work: Work, tick: Tick) -> Solved:
    """Solve every unit on its weights alone, with the input grids as they are."""
    solved: Solved = {}
    for done, (name, choice) in enumerate(work.tasks(), 1):
        unit = work.graph.unit(name)
        made = problem_of(work, unit, choice, work.grids[name, choice], None)
        solved[name, choice] = solve_unit(work.method, made)
        tick(done)
    return solved
