"""The solver's answers are not taken on trust."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from allocation_cases import budget, configurations, least, random_table, value

from bitwright.allocation.allocate import allocate
from bitwright.allocation.question import ask
from bitwright.allocation.solver import scaled, solver
from bitwright.allocation.solver.bounds import drop_dominated, lagrangian
from bitwright.allocation.solver.hushed import hush_output
from bitwright.allocation.solver.program import OPTIMAL, ProgramOutcome
from bitwright.allocation.solver.proof import prove


def program_of(seed, names=("size",)):
    table = random_table(seed, units=5)
    every = list(configurations(table))
    middle = every[len(every) // 2]
    return ask(table, [budget(name, value(middle, name)) for name in names]).program


def test_a_wrong_answer_is_found_out(monkeypatch):
    """Whatever the solver says, a better selection is found where one can be looked for."""
    caught = 0
    for seed in range(60):
        program = program_of(seed)
        right = solver.solve(program)

        def wrong(program, *_):
            dearest = [
                max(options, key=lambda o: program.goal[o]) for options in program.menu.options_of
            ]
            held = program.holds(tuple(dearest))
            return (
                ProgramOutcome(OPTIMAL, tuple(dearest), 0.0)
                if held
                else ProgramOutcome("infeasible")
            )

        with monkeypatch.context() as patch:
            patch.setattr(solver, "_solve_on", wrong)
            found = solver.solve(program)
        assert found.status == OPTIMAL
        assert program.value(found.selection) == program.value(right.selection)
        caught += wrong(program).selection != found.selection
    assert caught > 30


def test_rows_so_large_that_the_solver_errs(monkeypatch):
    """With rows of this size HiGHS called worse selections optimal; the proof mends them."""
    monkeypatch.setattr(scaled, "ROW_SIZE", 1e7)
    for seed in range(200):
        table = random_table(seed, units=5, tied=0.0)
        every = list(configurations(table))
        limits = {"size": value(every[seed % len(every)], "size")}
        found = allocate(table, budget("size", limits["size"]), advise=False)
        assert value(found.rows, "loss") == least(table, "loss", limits)


def test_answers_that_overrun_a_limit_are_cut_off_and_asked_again(monkeypatch):
    monkeypatch.setattr(solver, "prove", lambda *_: prove.__globals__["Proof"](False))
    monkeypatch.setattr(scaled, "ROW_SIZE", 1e-3)  # so small that nothing looks overrun
    for seed in range(30):
        program = program_of(seed, ("size", "bops"))
        found = solver.solve(program)
        if found.selection is not None:
            assert program.holds(found.selection)


def test_the_bound_is_below_every_selection():
    for seed in range(40):
        program = program_of(seed)
        numbers = scaled.scale(program)
        kept = drop_dominated(program)
        for price in (0.0, 1.0, 50.0):
            gaps = lagrangian(
                program.menu, numbers.goal, numbers.uses, numbers.limits, np.array([price]), kept
            )
            floor = numbers.goal_offset + gaps.floor * numbers.goal_unit
            best = solver.solve(program)
            assert floor <= program.value(best.selection) + 1e-6 * abs(floor) + 1


def test_large_programs_are_solved_on_few_options_with_the_same_answer(monkeypatch):
    whole = [allocate(random_table(s, units=6), "size<=0.2", advise=False) for s in range(30)]
    monkeypatch.setattr(solver, "_SMALL", 1)
    few = [allocate(random_table(s, units=6), "size<=0.2", advise=False) for s in range(30)]
    assert [f.objective for f in whole] == [f.objective for f in few]
    assert [f.status for f in whole] == [f.status for f in few]


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are turned on POSIX alone")
def test_what_c_writes_is_hushed_and_what_python_writes_is_not():
    code = (
        "import ctypes, sys; from bitwright.allocation.solver.hushed import hush_output\n"
        "library = ctypes.CDLL(None)\n"
        "sys.stdout.write('before ')\n"
        "with hush_output(): library.puts(b'noise')\n"
        "library.puts(b'after'); library.fflush(None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "before after\n"


def test_hushing_gives_the_output_back_after_an_error(capfd):
    with pytest.raises(ValueError, match="inside"), hush_output():
        raise ValueError("inside")
    sys.stdout.write("heard")
    sys.stdout.flush()
    assert capfd.readouterr().out == "heard"
