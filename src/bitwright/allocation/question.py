"""What is asked of a table: which measure to make small, and which budgets to hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

from bitwright.allocation.budget import Budget, Cap, cap, parse_budgets
from bitwright.allocation.cost import COSTS, DEGRADATIONS, Measure, UserTable, measure
from bitwright.allocation.menu import Menu, Selection, make_menu
from bitwright.allocation.solver.program import GOAL, PairTerm, Program
from bitwright.allocation.solver.terms import Corrections, correct_choice
from bitwright.allocation.table import Table
from bitwright.errors import RecipeError, unknown

NO_TABLES: Mapping[str, UserTable] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Question:
    """A goal and budgets over the menu of a table.

    Attributes:
        menu: what can be chosen.
        goal: the measure to make small.
        loss: the predicted loss, whatever the goal is.
        caps: the budgets.
        corrections: by measure, (option, option, steps) that the two add where both are taken.
    """

    menu: Menu
    goal: Measure
    loss: Measure
    caps: tuple[Cap, ...]
    corrections: Mapping[str, Corrections] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        """The table that is asked."""
        return self.menu.table

    @property
    def minimizes_cost(self) -> bool:
        """Whether the goal is a cost under a budget of the loss, not the other way round."""
        return self.goal.name not in DEGRADATIONS

    @cached_property
    def program(self) -> Program:
        """The integer program."""
        spread = self.menu.spread
        rows = [(m, c.name) for m, c in enumerate(self.caps)]
        rows.append((GOAL, self.goal.name))
        return Program(
            self.menu,
            spread(self.goal),
            tuple(spread(c.measure) for c in self.caps),
            tuple(c.limit for c in self.caps),
            tuple(
                PairTerm(row, *own) for row, name in rows for own in self.corrections.get(name, ())
            ),
        )

    def least_loss(self, goal: int) -> Program:
        """The program that makes the loss small with the goal at most so large."""
        # A budget of the loss is held by whatever has the least: it held one with the same goal.
        program = self.program
        for m in reversed(range(len(self.caps))):
            if self.caps[m].name == "loss":
                program = program.without(m)
        bounded = program.below(goal)
        pairs = [p for p in bounded.pairs if p.row != GOAL]
        pairs += [PairTerm(GOAL, *own) for own in self.corrections.get("loss", ())]
        return replace(bounded, goal=self.losses, pairs=tuple(pairs))

    @cached_property
    def losses(self) -> tuple[int, ...]:
        """The loss of every option, whatever the goal is."""
        return self.menu.spread(self.loss)

    def loss_of(self, selection: Selection) -> float:
        """The predicted loss of a selection."""
        taken = set(selection)
        pairs = self.corrections.get("loss", ())
        steps = sum(self.losses[i] for i in selection)
        steps += sum(value for a, b, value in pairs if a in taken and b in taken)
        return float(self.loss.shown(steps))


def ask(
    table: Table,
    budgets: str | Iterable[str] | Iterable[Budget],
    minimize: str = "",
    tables: Mapping[str, UserTable] = NO_TABLES,
) -> Question:
    """Resolve budgets against a table; of two budgets on one measure the tighter counts.

    Raises:
        RecipeError: no budget, an unknown cost, or a loss budget without the cost to minimise.
        RunDirectoryError: the table does not hold what is asked for.
    """
    given = _parse(budgets, {*COSTS, *DEGRADATIONS, *tables, *table.more})
    if not given:
        raise RecipeError("no --budget: say what may be spent, for example 'size<=0.13'.")
    goal = _goal(given, minimize, {*COSTS, *DEGRADATIONS, *tables, *table.more})
    menu = make_menu(table)
    names = dict.fromkeys([goal, "loss", *(budget.name for budget in given)])
    measures = {name: measure(name, table, tables) for name in names}
    corrections: dict[str, Corrections] = {}
    for name in names:
        if table.terms.get(name):
            measures[name], corrections[name] = correct_choice(
                menu, measures[name], table.terms[name]
            )
    caps: dict[str, Cap] = {}
    for budget in given:
        found = cap(budget, measures[budget.name], table.place)
        if budget.name not in caps or found.limit < caps[budget.name].limit:
            caps[budget.name] = found
    return Question(menu, measures[goal], measures["loss"], tuple(caps.values()), corrections)


def _parse(
    budgets: str | Iterable[str] | Iterable[Budget], known: Iterable[str]
) -> tuple[Budget, ...]:
    found: list[Budget] = []
    for budget in [budgets] if isinstance(budgets, str) else budgets:
        found += [budget] if isinstance(budget, Budget) else parse_budgets(budget, known=known)
    return tuple(found)


def _goal(budgets: tuple[Budget, ...], minimize: str, known: set[str]) -> str:
    bounded = [b for b in budgets if b.name in DEGRADATIONS]
    if minimize and minimize not in known:
        raise RecipeError(unknown("cost", minimize, known, "--minimize"))
    if minimize in DEGRADATIONS or (not minimize and not bounded):
        return minimize or "loss"
    if not minimize:
        raise RecipeError(
            f"budget {bounded[0].text!r} bounds how bad the network may get: name the cost to "
            f"make small under it, for example --minimize size. Known: {', '.join(sorted(known))}."
        )
    if not bounded:
        raise RecipeError(
            f"--minimize {minimize} has nothing to hold it: every unit would take its cheapest "
            "choice. Add a budget of the loss, such as --budget 'loss<=0.05'."
        )
    return minimize
