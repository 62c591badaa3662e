"""Refinement: all units solved again in sequence, on what the quantised ones before them give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from bitwright.evaluation.judge import Judge
from bitwright.methods.problem import Method
from bitwright.solving.configuration import Configuration
from bitwright.solving.drive import solve
from bitwright.solving.samples import Samples
from bitwright.tuning.network import simulate
from bitwright.tuning.report import TuneReport, report_attempt
from bitwright.tuning.steps import TuningStep


@dataclass(frozen=True, eq=False)
class Refinement:
    """How a configuration is solved again.

    Attributes:
        method: of solving.
        begun: the configuration before any step: on its observed grids solving starts.
        earlier: the steps that were applied before; what is found goes through them as well.
    """

    name: ClassVar[str] = "refine"
    method: Method
    begun: Configuration
    earlier: tuple[TuningStep, ...] = ()

    def apply(self, start: Configuration, samples: Samples) -> tuple[Configuration, TuneReport]:
        """Solve in sequence; the held-out samples choose between that and what was there.

        Equation: each unit's min ||Y - Wq Xq||^2 with Y the float network's result and Xq what the
        quantised units before it give.
        Reference: Hubara et al. 2020 (arXiv 2006.10518), section 3.1.1, equations 3 and 4.
        """
        found, inner = self.solved_again(), list[TuneReport]()
        for step in self.earlier:
            found, report = step.apply(found, samples)
            inner.append(report)
        judge = Judge.of(start.graph, samples.held_out)
        before, after = (judge(simulate(made).module) for made in (start, found))
        kept = after.no_worse(before) and after != before
        report = report_attempt(
            self.name, (before, after), tuple(found.solved), kept, judge, samples
        )
        if not kept:
            return start, report
        return found, replace(report, inner=tuple(inner))

    def solved_again(self) -> Configuration:
        """The configuration of the same bits, solved in sequence."""
        choices = self.begun.choices
        menu = {name: (choice,) for name, choice in choices.items()}
        work = replace(self.begun.work, menu=menu, method=self.method)
        found = solve(work, "sequential", self.begun.observed(), lambda _: None)
        solved = {name: solution for (name, _), solution in found.solutions.items()}
        return Configuration(work, choices, solved, found.edges)
