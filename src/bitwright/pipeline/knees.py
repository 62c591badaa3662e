"""The knees of a frontier measured: stitched from the menu's solutions, and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from bitwright.allocation.allocate import SOLVERS, allocate
from bitwright.allocation.budget import Budget
from bitwright.allocation.cost import UserTable
from bitwright.allocation.frontier import Frontier, Point
from bitwright.allocation.question import NO_TABLES
from bitwright.allocation.ran import Ran
from bitwright.allocation.table import Table
from bitwright.engine.progress import Progress
from bitwright.graph.choice import Choice
from bitwright.pipeline.evaluate import evaluate_job
from bitwright.pipeline.job import Job, capture_job, prepare, rewrite_network, tell
from bitwright.pipeline.plan import choices_of
from bitwright.pipeline.tabulate import solve_menu
from bitwright.sensitivity.measure import LossValues, delta_of
from bitwright.sensitivity.solutions import Solutions

UNIFORM = "uniform"
_IP = "ip"
# A frontier without a bend has no knees: then so many of its points are run.
_FEW = 6


@dataclass(frozen=True, eq=False)
class Candidate:
    """A configuration to run: where it stands on its curve, and the choice of every unit."""

    method: str
    used: float
    share: float | None
    predicted: float
    choices: Mapping[str, Choice]


def candidates(
    table: Table,
    frontier: Frontier,
    beside: bool = False,
    tables: Mapping[str, UserTable] = NO_TABLES,
) -> tuple[Candidate, ...]:
    """The knees; with `beside` also what the greedy rules and uniform bits give at no more cost."""
    found: list[Candidate] = []
    knees = frontier.knees or tuple(p for p in frontier.points[:_FEW] if p.selection is not None)
    for knee in knees:
        found.append(_of_point(_IP, frontier, knee))
        found += _beside(table, frontier, knee, tables) if beside else []
    return tuple({(c.method, c.used): c for c in found}.values())


def _of_point(method: str, frontier: Frontier, point: Point) -> Candidate:
    rows = frontier.menu.rows_of(point.selection or ())
    choices = {unit: row.choice for unit, row in rows.items()}
    return Candidate(method, point.used, point.share, point.loss, choices)


def _beside(
    table: Table, frontier: Frontier, knee: Point, tables: Mapping[str, UserTable]
) -> Iterator[Candidate]:
    amount = Fraction(knee.steps, frontier.cost.scale)
    budget = Budget(frontier.cost.name, amount, relative=False, text="a knee")
    for rule in (solver for solver in SOLVERS if solver != _IP):
        made = allocate(table, (budget,), solver=rule, tables=tables)
        (spent,) = made.budgets
        if made.rows is not None and spent.used is not None and made.loss is not None:
            share = spent.used / spent.whole if spent.whole else None
            yield Candidate(rule, spent.used, share, made.loss, made.choices)
    held = [p for p in frontier.others[UNIFORM] if p.steps <= knee.steps]
    if held:
        yield _of_point(UNIFORM, frontier, min(held, key=lambda p: p.loss))


def run_candidates(job: Job, wanted: Sequence[Candidate], progress: Progress) -> tuple[Ran, ...]:
    """Stitch configurations and run them on the table's samples and on the evaluation data.

    Only the choices that occur are solved, and of these only what the job's store does not hold.
    Nothing is solved again in sequence or tuned: what is compared is the choice of bits.
    """
    with progress.stage("capture"):
        job, graph = capture_job(job)
    tell(graph.notes, "capture", progress)
    graph = rewrite_network(job, graph, progress)
    base = choices_of(graph, job.plan)
    menu = {
        name: tuple(dict.fromkeys((base[name], *(c.choices[name] for c in wanted))))
        for name in base
    }
    prepared = prepare(job, graph, menu, progress)
    solutions = solve_menu(job, prepared, menu, progress)
    start = solutions.losses(base)
    known: dict[tuple[Choice, ...], tuple[LossValues, dict[str, float]]] = {}
    found = []
    for place, candidate in enumerate(wanted):
        key = tuple(candidate.choices[name] for name in base)
        if key not in known:
            with progress.stage(f"run {place + 1} of {len(wanted)}"):
                known[key] = _run(job, solutions, candidate.choices)
        losses, evaluated = known[key]
        delta = delta_of(losses - start, solutions.loss.has_answers)
        found.append(
            Ran(
                candidate.method,
                candidate.used,
                candidate.share,
                candidate.predicted,
                delta.loss,
                delta.stderr,
                evaluated,
            )
        )
    return tuple(found)


def _run(
    job: Job, solutions: Solutions, choices: Mapping[str, Choice]
) -> tuple[LossValues, dict[str, float]]:
    graph = solutions.work.graph
    losses = solutions.losses(choices)
    if job.evaluation is None:
        return losses, {}
    found = evaluate_job(job, graph, solutions.module(choices), Progress())
    figures = {"agreement": found.agreement, "kl": found.kl}
    for name, value in found.after.items():
        figures |= {name: value, f"{name} of float": found.before[name]}
    return losses, figures
