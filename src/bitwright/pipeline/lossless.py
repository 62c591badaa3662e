"""The least complexity at which a network still answers as the float one does.

The frontier of the table orders configurations: each point has the least predicted loss at its
cost. What they really do is measured on calibration rows that no solution has seen, and the border
between those that agree and those that do not is found by bisection: about log2 of the frontier's
length configurations are stitched and run, and none is solved again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import torch
from scipy.stats import beta
from torch import fx

from bitwright.allocation.allocate import Allocation, allocate
from bitwright.allocation.budget import Budget
from bitwright.allocation.chosen import LosslessRun, LosslessSearch
from bitwright.allocation.frontier import Frontier, Point, trace
from bitwright.allocation.menu import Selection
from bitwright.allocation.solver.program import FEASIBLE
from bitwright.allocation.table import Table
from bitwright.engine.progress import Progress
from bitwright.evaluation.compare import Tally
from bitwright.graph.answers import Outcome
from bitwright.graph.choice import Choice
from bitwright.graph.execute import walk
from bitwright.pipeline.choose_bits import Choices, Searched
from bitwright.pipeline.job import Job, Prepared
from bitwright.pipeline.tabulate import MeasuredMenu
from bitwright.recipe.values import Recipe
from bitwright.solving.configuration import Configuration

COMPLEXITY = "bops"
_SURE = 0.95
ChoiceKey = tuple[Choice, ...]


@dataclass(frozen=True)
class Agreement:
    """How often two networks gave the same answer on rows kept apart.

    Of embeddings, which have no one answer, `same` is the sum of the cosines.
    """

    same: float
    rows: int

    @property
    def share(self) -> float:
        """The part of the answers that are the same."""
        return self.same / max(self.rows, 1)

    @property
    def disagreement_bound(self) -> float:
        """What the true share of different answers is below, with 95 % confidence.

        Equation: the upper Clopper-Pearson bound, B(0.95; k + 1, n - k) for k of n different.
        """
        different = max(self.rows - self.same, 0.0)
        if different >= self.rows:
            return 1.0
        return float(beta.ppf(_SURE, different + 1, self.rows - different))

    def holds(self, tolerance: float) -> bool:
        """Whether no more answers differ than is tolerated."""
        return self.rows > 0 and self.rows - self.same <= tolerance * self.rows + 1e-9


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Networks compared with float on the rows kept apart, each once."""

    prepared: Prepared

    def __call__(self, module: fx.GraphModule) -> Agreement:
        """Run the rows through both networks."""
        graph = self.prepared.graph
        tally = Tally(None, graph.answer.kind)
        with torch.no_grad():
            for flat in self.prepared.samples.held_out():
                found = (graph.answer.of(walk(m, flat)) for m in (graph.module, module))
                reference, other = (Outcome(value, value, graph.answer) for value in found)
                tally.add(reference, other, None)
        tally.settle()
        return Agreement(tally.same, tally.rows)


@dataclass(frozen=True)
class Tried:
    """A configuration that was run."""

    used: float
    share: float | None
    agreement: Agreement


def allocate_at(table: Table, frontier: Frontier, point: Point) -> Allocation:
    """The allocation of least predicted loss at the cost of a frontier's point."""
    amount = Fraction(point.steps, frontier.cost.scale)
    text = f"{frontier.cost.name}<={point.used:g}"
    return allocate(table, (Budget(frontier.cost.name, amount, False, text),))


@dataclass(frozen=True, eq=False)
class Search:
    """Bisection over a frontier; `run` measures a configuration.

    `tried` holds what was run, in order.
    """

    table: Table
    frontier: Frontier
    tolerance: float
    run: Callable[[Choices], Agreement]
    tried: list[Tried] = field(default_factory=list)
    known: dict[ChoiceKey, Agreement] = field(default_factory=dict)

    def holds(self, point: Point, choices: Choices) -> bool:
        """Whether a configuration agrees with float."""
        key = tuple(choices[unit] for unit in self.table.units)
        if key not in self.known:
            self.known[key] = self.run(choices)
            self.tried.append(Tried(point.used, point.share, self.known[key]))
        return self.known[key].holds(self.tolerance)

    def at(self, point: Point) -> Allocation:
        """The allocation of least predicted loss at the cost of a point."""
        return allocate_at(self.table, self.frontier, point)

    def cheapest(self) -> tuple[Allocation, bool]:
        """The cheapest allocation found that agrees, or the best that was run; whether it agrees.

        Agreement is taken to rise along the frontier, and configurations of the same bits
        everywhere are tried as well. Where most bits do not agree those may: few answers that
        differ are chance.
        """
        points = self.frontier.points
        top = points[-1], self.at(points[-1])
        ends = [top] if self.holds(top[0], top[1].choices) else [top, *self._uniform(top[0])[::-1]]
        held = next((e for e in ends if self.holds(e[0], e[1].choices)), None)
        if held is None:
            return max((found for _, found in ends), key=self._share), False
        reached, best = held
        low, high = -1, sum(p.steps < reached.steps for p in points)
        while high - low > 1:
            middle = (low + high) // 2
            found = self.at(points[middle])
            if self.holds(points[middle], found.choices):
                high, reached, best = middle, points[middle], found
            else:
                low = middle
        same = (e for e in self._uniform(reached) if self.holds(e[0], e[1].choices))
        return next((found for _, found in same), best), True

    def _share(self, found: Allocation) -> float:
        return self.known[tuple(found.choices[unit] for unit in self.table.units)].share

    def _uniform(self, reached: Point) -> list[tuple[Point, Allocation]]:
        """Cheaper configurations of the same bits everywhere, the cheapest first."""
        cheaper = (p for p in self.frontier.others["uniform"] if p.steps < reached.steps)
        return [(p, self._same(p, p.selection)) for p in cheaper if p.selection is not None]

    def _same(self, point: Point, selection: Selection) -> Allocation:
        at_cost = self.at(point)
        return replace(
            at_cost,
            rows=self.frontier.menu.rows_of(selection),
            status=FEASIBLE,
            objective=point.loss,
            loss=point.loss,
            budgets=tuple(replace(s, used=point.used) for s in at_cost.budgets),
            note="the same bits everywhere agree with float at less cost than the frontier's",
        )


def search_lossless(
    job: Job, prepared: Prepared, menu: MeasuredMenu, progress: Progress
) -> Searched:
    """Of a menu that was solved and measured, the cheapest configuration that agrees."""
    recipe, base, table = job.recipe, menu.base, menu.table
    cost = recipe.minimize or COMPLEXITY
    with progress.stage("frontier"):
        frontier = trace(table, cost)
    judge = HeldOut(prepared)
    solutions = base.solutions
    search = Search(table, frontier, recipe.lossless, lambda c: judge(solutions.module(c)))
    with progress.stage("lossless"):
        found, attained = search.cheapest()
    record = _record(search, found, attained)
    progress.note("lossless", word_record(record))
    losses = {"base": base.figures["loss"], "allocation": base.run(found.choices)["loss"]}
    return Searched(
        solutions.solved,
        table,
        found,
        found.choices,
        losses,
        note=found.note,
        latency=menu.latency,
        lossless=record,
    )


def _record(search: Search, found: Allocation, attained: bool) -> LosslessSearch:
    """What was asked, found and tried."""
    key = tuple(found.choices[unit] for unit in search.table.units)
    agreement = search.known[key]
    spent = found.budgets[0].used
    assert spent is not None
    whole = search.frontier.cost.whole
    share = None if not whole else spent / search.frontier.cost.shown(whole)
    return LosslessSearch(
        tolerance=search.tolerance,
        cost=search.frontier.cost.name,
        attained=attained,
        used=spent,
        share=share,
        agreement=agreement.share,
        samples=agreement.rows,
        disagreement_bound=agreement.disagreement_bound,
        runs=tuple(
            LosslessRun(
                used=tried.used,
                share=tried.share,
                agreement=tried.agreement.share,
                samples=tried.agreement.rows,
                disagreement_bound=tried.agreement.disagreement_bound,
            )
            for tried in search.tried
        ),
    )


def word_record(found: LosslessSearch) -> str:
    """What lossless costs, or what it lacks, in a sentence."""
    share = "" if found.share is None else f" ({found.share:.4g} of float)"
    cost = f"{found.cost} {found.used:.4g}{share}"
    agree = (
        f"{found.agreement:.2%} of {found.samples} held-out answers agree with float (with "
        f"95 % confidence at most {found.disagreement_bound:.2%} of all differ)"
    )
    if found.attained:
        return f"lossless to {found.tolerance:g} at {cost}: {agree}."
    return (
        f"no choice of the menu is lossless to {found.tolerance:g}: the best has {cost}, and "
        f"{agree}. Add points or bits to --menu, or give a larger --lossless."
    )


def keep_tuned(
    prepared: Prepared, recipe: Recipe, start: Configuration, tuned: Configuration
) -> tuple[Configuration, Agreement]:
    """What tuning made of a lossless configuration, where it still agrees; else what it began with.

    Also the agreement of what is kept.
    """
    judge = HeldOut(prepared)

    found = judge(tuned.module())
    if tuned is start or found.holds(recipe.lossless):
        return tuned, found
    before = judge(start.module())
    return (start, before) if before.share > found.share else (tuned, found)


def record_deployed(record: LosslessSearch, found: Agreement) -> LosslessSearch:
    """The record with what the deployed network does, after tuning; `told` is it in words."""
    made = replace(
        record,
        agreement=found.share,
        samples=found.rows,
        disagreement_bound=found.disagreement_bound,
        attained=found.holds(record.tolerance),
    )
    return replace(made, told=word_record(made))
