"""Mixed precision: solve the menu, measure the table, allocate, and keep what runs best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from bitwright.allocation.allocate import Allocation, allocate
from bitwright.allocation.budget import Budget
from bitwright.allocation.chosen import LosslessSearch, Pairwise
from bitwright.allocation.cost import DEGRADATIONS
from bitwright.allocation.latency_table import LatencyTable
from bitwright.allocation.shortfall import require
from bitwright.allocation.table import Table
from bitwright.allocation.timed import LatencyCheck
from bitwright.engine.progress import Progress
from bitwright.graph.choice import Choice
from bitwright.pipeline.job import Job
from bitwright.pipeline.plan import Plan
from bitwright.pipeline.tabulate import MeasuredMenu
from bitwright.recipe.values import Recipe
from bitwright.sensitivity.pairs import allocate_paired, choose_around, pairs_record, with_pairs
from bitwright.sensitivity.table import Base
from bitwright.solving.parallel import SolvedTasks

Choices = Mapping[str, Choice]
# How often a budget of the loss is tightened where whole networks lose more than was predicted.
_ROUNDS = 4


@dataclass(frozen=True, eq=False)
class Searched:
    """A solved menu: every solution, the table, the allocation, and what was measured of it.

    Attributes:
        solved: of every (unit, choice), on the float network's activations.
        table: of the losses and costs.
        allocation: with its certificate; of what `choices` are, unless uniform bits are taken.
        choices: what is taken.
        measured_loss: calibration losses of whole networks, not sums of single deltas: of the base,
            from which the table counts, of the allocation, of the one corrected by pairs, and of
            the best uniform configuration.
        note: why another than the allocation is taken.
        latency: what was timed, by measure, where a budget asked for it.
        pairwise: what the pairwise correction measured and gained.
        lossless: what a search for a lossless configuration tried and found.
        timed: what a file of these bits took beside float, where a budget asks for it.
    """

    solved: SolvedTasks
    table: Table
    allocation: Allocation
    choices: Choices
    measured_loss: Mapping[str, float]
    note: str = ""
    latency: Mapping[str, LatencyTable] = field(default_factory=dict)
    pairwise: Pairwise | None = None
    lossless: LosslessSearch | None = None
    timed: LatencyCheck | None = None


def search_bits(job: Job, menu: MeasuredMenu, progress: Progress) -> Searched:
    """Choose every unit's bits under the recipe's budgets.

    Raises:
        BudgetError: no choice of the menu holds the budgets.
    """
    recipe, base, table = job.recipe, menu.base, menu.table
    with progress.stage("allocate"):
        found = _solve(table, recipe, job.plan.budgets)
    trial = Trial(base, progress)
    if found.minimizes not in DEGRADATIONS:
        found = hold_where_run(trial, table, job.plan, found)
    searched = (
        _count_pairs(trial, table, found, job.plan)
        if recipe.pairwise
        else _plain(trial, table, found)
    )
    return replace(keep_better_measured(trial, searched), latency=menu.latency)


def _solve(table: Table, recipe: Recipe, budgets: Iterable[Budget]) -> Allocation:
    return require(allocate(table, tuple(budgets), minimize=recipe.minimize, solver=recipe.solver))


@dataclass(frozen=True, eq=False)
class Trial:
    """Whole configurations, each run once on the table's samples."""

    base: Base
    progress: Progress
    known: dict[tuple[tuple[str, Choice], ...], dict[str, float]] = field(default_factory=dict)

    def __call__(self, choices: Choices) -> dict[str, float]:
        """The loss, and the share of answers missed."""
        key = tuple(sorted(choices.items(), key=lambda item: item[0]))
        if key not in self.known:
            self.known[key] = self.base.run(choices)
        return self.known[key]


def hold_where_run(trial: Trial, table: Table, plan: Plan, found: Allocation) -> Allocation:
    """An allocation that holds its budget of the loss, or of the drop, where it is run.

    The sum of single losses predicts, and may mislead: where the whole network loses more than the
    budget, the budget is tightened by as much and the bits are chosen again.
    """
    recipe, asked = plan.recipe, plan.budgets
    start, tightened = trial.base.figures, asked
    for _ in range(_ROUNDS):
        figures = trial(found.choices)
        over = {
            budget.name: (figures[budget.name] - start[budget.name], float(budget.amount))
            for budget in asked
            if budget.name in DEGRADATIONS
            and figures[budget.name] - start[budget.name] > float(budget.amount)
        }
        if not over:
            break
        told = ", ".join(f"{n} {x:.4g}, {limit:g} is allowed" for n, (x, limit) in over.items())
        trial.progress.note("allocate", f"run as a whole the allocation has {told}: tightened.")
        tightened = tuple(_tighter(b, over.get(b.name)) for b in tightened)
        again = allocate(table, tightened, minimize=recipe.minimize, solver=recipe.solver)
        if again.rows is None:
            note = f"run as a whole it has {told}, and nothing tighter is attainable"
            return replace(found, note="; ".join(filter(None, (found.note, note))))
        found = again
    return found


def _tighter(budget: Budget, over: tuple[float, float] | None) -> Budget:
    """A budget lowered by the share by which it was overrun, and a little more."""
    if over is None:
        return budget
    measured, limit = over
    if limit <= 0:
        return replace(budget, amount=budget.amount - Fraction(measured - limit))
    return replace(budget, amount=budget.amount * Fraction(0.95 * limit / measured))


def _plain(trial: Trial, table: Table, found: Allocation) -> Searched:
    losses = {"base": trial.base.figures["loss"], "allocation": trial(found.choices)["loss"]}
    return Searched(trial.base.solutions.solved, table, found, found.choices, losses)


def _count_pairs(trial: Trial, table: Table, found: Allocation, plan: Plan) -> Searched:
    """The allocation with pairs counted, if it is better where both are run."""
    base, progress = trial.base, trial.progress
    plain = _plain(trial, table, found)
    with progress.stage("pairs"):
        paired = with_pairs(base, table, choose_around(table, found), plan.recipe.pairwise)
        other = allocate_paired(paired, plan.budgets, plan.recipe)
    if other.rows is None:
        progress.note("pairs", f"no allocation was found with pairs counted: {other.status}")
        return plain
    losses = {**plain.measured_loss, "pairwise": trial(other.choices)["loss"]}
    record = pairs_record(paired, losses, {"allocation": found.loss, "pairwise": other.loss})
    better = losses["pairwise"] <= losses["allocation"]
    progress.note(
        "pairs",
        f"{paired.pairs} pairs of units measured: run as a whole, the allocation corrected by them "
        f"has a loss of {losses['pairwise']:.4g}, the additive one {losses['allocation']:.4g}; "
        f"the {'corrected' if better else 'additive'} one is taken.",
    )
    taken = other if better else found
    return replace(
        plain, allocation=taken, choices=taken.choices, measured_loss=losses, pairwise=record
    )


def keep_better_measured(trial: Trial, searched: Searched) -> Searched:
    """The allocation, or the uniform configuration if that is better where both are run."""
    allocation, choices = searched.allocation, searched.choices
    if allocation.uniform is None or allocation.minimizes != "loss":
        return searched
    menu = trial.base.menu
    wanted = allocation.uniform.choice
    same = {
        name: next((c for c in (wanted, replace(wanted, a_bits=0)) if c in menu[name]), choice)
        for name, choice in choices.items()
    }
    if same == choices:
        return searched
    uniform, own = trial(same)["loss"], trial(choices)["loss"]
    searched = replace(searched, measured_loss={**searched.measured_loss, "uniform": uniform})
    if own <= uniform:
        return searched
    note = (
        f"the sum of single losses misled: {wanted} everywhere has a measured loss of "
        f"{uniform:.4g}, the allocation {own:.4g}. The uniform configuration is taken."
    )
    trial.progress.note("allocate", note)
    return replace(searched, choices=same, note=note)
