"""The deployed network under `--portable`, whatever moved its integers after they were solved."""

from __future__ import annotations

from bitwright.methods.portable import hold_sums
from bitwright.solving.configuration import Configuration
from bitwright.solving.work import problem_of


def hold_configuration(configuration: Configuration) -> Configuration:
    """The configuration with all sums such that they fit; itself where they do.

    Solved units fit already (`methods.portable.finish_solution`); steps that learn weights or
    scales after them know nothing of it.
    """
    work, changed = configuration.work, {}
    for unit in work.graph.units:
        solution = configuration.solved.get(unit.name)
        if solution is None:
            continue
        choice = configuration.choices[unit.name]
        held = hold_sums(solution, problem_of(work, unit, choice, solution.inputs, None))
        if held is not solution:
            changed[unit.name] = held
    return configuration.changed(changed) if changed else configuration
