"""Which way to solve: by weights alone, in parallel, or in sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.engine.threads import use_threads
from bitwright.graph.choice import Choice
from bitwright.methods.portable import finish_solution
from bitwright.solving.configuration import Configuration
from bitwright.solving.parallel import SolvedTasks, solve_parallel
from bitwright.solving.sequential import solve_sequential
from bitwright.solving.work import Edges, Tick, Work, edges_into, problem_of


@dataclass(frozen=True, eq=False)
class Solving:
    """What solving found.

    Attributes:
        work: that was solved.
        solutions: of every (unit, choice) that is not float.
        edges: the grids of quantised edges, with those that units of one choice ask for.
    """

    work: Work
    solutions: SolvedTasks
    edges: Edges

    def configuration(self, choices: Mapping[str, Choice] | None = None) -> Configuration:
        """One choice a unit as a network; without `choices` those of a menu with one each."""
        own = choices or {name: menu[0] for name, menu in self.work.menu.items()}
        return Configuration.of(self.work, self.solutions, own, self.edges)


def solve(work: Work, mode: str, edges: Edges, tick: Tick) -> Solving:
    """Solve every (unit, choice) that is not float.

    Methods that need no data solve each unit on its weights alone, whatever the mode. The
    sequential mode takes one choice a unit.

    Args:
        work: the network, its menu, the method and the data.
        mode: `parallel` or `sequential`.
        edges: the grids of quantised edges as observed.
        tick: told how many are done.

    Returns:
        The solutions, and the edges with the grids that units of one choice ask for; those of a
        menu with several are left alone.
    """
    own = dict(edges)
    if not work.method.needs.data:
        solved = solve_units(work, tick)
    elif mode == "sequential":
        with use_threads(work.threads):
            solved, own = solve_sequential(work, edges, tick)
    else:
        # A method of gradients is many small steps in Python, which threads would wait for.
        in_turn = work.processes != 1 or work.method.needs.backward
        with use_threads(1 if in_turn else work.threads):
            solved = solve_parallel(work, edges, tick)
    for unit in work.graph.units:
        choices = [c for c in work.menu[unit.name] if not c.is_float]
        if len(choices) == 1:
            own.update(edges_into(work, unit, solved[unit.name, choices[0]]))
    return Solving(work, solved, own)


def solve_units(work: Work, tick: Tick) -> SolvedTasks:
    """Solve every unit on its weights alone, with the input grids as they are."""
    solved: SolvedTasks = {}
    for done, (name, choice) in enumerate(work.tasks(), 1):
        unit = work.graph.unit(name)
        made = problem_of(work, unit, choice, work.grids[name, choice], None)
        solved[name, choice] = finish_solution(work.method.solve(made), made)
        tick(done)
    return solved
