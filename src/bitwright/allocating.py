"""Mixed precision: solve the menu, measure the table, allocate, and keep the better of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bitwright.export.latency import LatencyTable
from bitwright.graph.choice import Choice
from bitwright.menu_latency import menu_latency, needs_latency
from bitwright.preparing import Job, Prepared
from bitwright.run.progress import Progress
from bitwright.search.allocate import Allocation, allocate
from bitwright.search.latency import with_latencies
from bitwright.search.shortfall import require
from bitwright.search.table import Table
from bitwright.solving.parallel import Solved
from bitwright.tabulating import Base, measured_menu


@dataclass(frozen=True, eq=False)
class Searched:
    """A solved menu: every solution, the table, the allocation, and what was measured of it.

    `solved` are the solutions of every (unit, choice) on the float network's activations.
    `measured_loss` is the calibration loss of the allocation and of the best uniform
    configuration, whole networks run, not sums of single deltas; and of the base, from which the
    table counts. `latency` is what was timed, where a budget asked for it.
    """

    solved: Solved
    table: Table
    allocation: Allocation
    choices: Mapping[str, Choice]
    measured_loss: Mapping[str, float]
    note: str = ""
    latency: LatencyTable | None = None


def search_bits(job: Job, prepared: Prepared, progress: Progress) -> Searched:
    """Choose every unit's bits under the recipe's budgets.

    Raises:
        BudgetError: no choice of the menu holds the budgets.
    """
    recipe = job.recipe
    # First, since it is what may fail: a network that cannot be exported is told at once.
    latency = menu_latency(job, prepared, progress) if needs_latency(recipe) else None
    base, table = measured_menu(job, prepared, progress)
    if latency is not None:
        table = with_latencies(table, latency)
    with progress.stage("allocate"):
        found = allocate(table, recipe.budget, minimize=recipe.minimize, solver=recipe.solver)
    searched = better_measured(base, table, require(found), progress)
    return replace(searched, latency=latency)


def better_measured(
    base: Base, table: Table, allocation: Allocation, progress: Progress
) -> Searched:
    """The allocation, or the uniform configuration if that is better where both are run."""
    menu = base.prepared.menu
    choices = dict(allocation.choices)
    losses = {"base": base.base_loss, "allocation": base.loss(choices)}
    searched = Searched(base.solved, table, allocation, choices, losses)
    if allocation.uniform is None or allocation.minimizes != "loss":
        return searched
    wanted = allocation.uniform.choice
    same = {
        name: next((c for c in (wanted, replace(wanted, a_bits=0)) if c in menu[name]), choice)
        for name, choice in choices.items()
    }
    if same == choices:
        return searched
    losses["uniform"] = base.loss(same)
    if losses["allocation"] <= losses["uniform"]:
        return searched
    note = (
        f"the sum of single losses misled: {wanted} everywhere has a measured loss of "
        f"{losses['uniform']:.4g}, the allocation {losses['allocation']:.4g}. The uniform "
        "configuration is taken."
    )
    progress.note("allocate", note)
    return replace(searched, choices=same, note=note)
