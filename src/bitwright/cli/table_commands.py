"""Commands that need a run's table alone: neither its network nor torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitwright.allocation.allocate import Allocation, allocate
from bitwright.allocation.budget import parse_budgets
from bitwright.allocation.cost import UserTable, is_of_device, read_user_table
from bitwright.allocation.devices import parse_devices_text, read_devices, with_devices
from bitwright.allocation.explain import Explanation, explain
from bitwright.allocation.frontier import Frontier, trace
from bitwright.allocation.frontier_csv import frontier_csv
from bitwright.allocation.latencies import LATENCY
from bitwright.allocation.latency_csv import read_latencies
from bitwright.allocation.latency_table import LatencyTable
from bitwright.allocation.question import Question, ask
from bitwright.allocation.ran import Ran
from bitwright.allocation.record import read_allocation, write_allocation
from bitwright.allocation.shortfall import require
from bitwright.allocation.table import Row, Table, make_table, read_table
from bitwright.engine.texts import parse_toml
from bitwright.errors import RecipeError, RunDirectoryError
from bitwright.export import rundir
from bitwright.export.generation import change, update_run
from bitwright.export.rundir import RunDirectory
from bitwright.graph.choice import FLOAT, assign, parse_keep
from bitwright.report.chart import draw

ONE_POINT = "one point"
_DAY, _MOST_BUDGETS = 86_400, 10_000


@dataclass(frozen=True)
class Request:
    """What the options of a command ask for; what is empty is taken from the run's recipe.

    `costs` are NAME=FILE.csv of the user's own, `latencies` are DEVICE=FILE.csv.
    """

    budgets: tuple[str, ...] = ()
    minimize: str = ""
    solver: str = ""
    costs: tuple[str, ...] = ()
    seconds: float = 60.0
    latencies: str = ""


@dataclass(frozen=True)
class FrontierRequest:
    """What `frontier` is asked for.

    `budgets` are evenly spaced ones, of a long frontier. With `eval` the knees are run, with
    `beside` the greedy rules and uniform bits at no more cost too; `store` holds solutions.
    """

    cost: str = "size"
    costs: tuple[str, ...] = ()
    budgets: int = 100
    eval: str = ""
    metric: str = ""
    beside: bool = False
    store: Path | None = None


def _check_seconds(seconds: float) -> None:
    if not 0 < seconds <= _DAY:
        raise RecipeError(f"--seconds {seconds:g}: give a time above 0 and up to {_DAY} seconds.")


def run_allocate(path: Path, request: Request, out: Path | None) -> tuple[Allocation, Path]:
    """Allocate again from the table of a run; the allocation is written whatever it is.

    Raises:
        BudgetError: no allocation holds the budgets.
    """
    if out is not None:
        found = _allocate(path, request)
        write_allocation(out, found)
        return require(found), out
    with update_run(path) as directory:
        found = _allocate(path, request)
        if directory.has(rundir.MODEL):
            # The record of what the model holds is census.json; this answers another question.
            kept = (
                f"{rundir.MODEL} keeps the bits that {rundir.CENSUS} states until quantised again"
            )
            found = replace(found, note="; ".join(filter(None, (found.note, kept))))
        with change(directory) as new:
            write_allocation(new[rundir.ALLOCATION], found)
    return require(found), directory[rundir.ALLOCATION]


def _allocate(path: Path, request: Request) -> Allocation:
    _check_seconds(request.seconds)
    directory, table = _open(path)
    _require_menu(table, path)
    asked = _resolve(request, directory)
    table = _add_latencies(directory, table, _names(asked), asked.latencies)
    found = allocate(
        table,
        asked.budgets,
        minimize=asked.minimize,
        solver=asked.solver or "ip",
        tables=_tables(asked.costs),
        seconds=asked.seconds,
    )
    return replace(found, note="; ".join(filter(None, (found.note, table.note))))


def run_frontier(path: Path, asked: FrontierRequest) -> tuple[Frontier, list[Path]]:
    """The frontier of a run's table, as frontier.csv and frontier.svg in the run."""
    with update_run(path):
        found = trace_run(path, asked)
        return found.frontier, write_frontier(found)


@dataclass(frozen=True, eq=False)
class Traced:
    """The frontier of a run, and what it was made of."""

    directory: RunDirectory
    table: Table
    tables: Mapping[str, UserTable]
    frontier: Frontier


def trace_run(path: Path, asked: FrontierRequest) -> Traced:
    """The frontier of a run's table."""
    if not 1 <= asked.budgets <= _MOST_BUDGETS:
        raise RecipeError(
            f"--budgets {asked.budgets}: the frontier is solved at 1 to {_MOST_BUDGETS} budgets."
        )
    directory, table = _open(path)
    tables = _tables(asked.costs)
    table = _add_latencies(directory, table, {asked.cost})
    found = trace(table, asked.cost, tables=tables, budgets=asked.budgets)
    single = single_point(table)
    if single is not None:
        beside = trace(single, asked.cost, tables=tables, budgets=asked.budgets)
        found = replace(found, others={**found.others, ONE_POINT: beside.points})
    return Traced(directory, table, tables, found)


def single_point(table: Table) -> Table | None:
    """The table without sums of several tensors; None where that is no other table."""
    kept = [row for row in table.rows if row.choice.points == 1]
    if len(kept) == len(table.rows) or {row.unit for row in kept} != set(table.units):
        return None
    return make_table([*kept, *table.references], table.place)


def write_frontier(found: Traced, ran: Sequence[Ran] = ()) -> list[Path]:
    """Write frontier.csv and frontier.svg into a run that this process holds."""
    directory = found.directory
    files = {
        rundir.FRONTIER_CSV: frontier_csv(found.frontier, ran),
        rundir.FRONTIER_SVG: draw(found.frontier, ran),
    }
    with change(directory) as new:
        for name, text in files.items():
            new.write(name, text.encode())
    return [directory[name] for name in files]


def run_explain(path: Path, unit: str, request: Request) -> tuple[Question, Explanation]:
    """Why a unit got its bits, under the budgets given or those of the run's allocation."""
    directory, table = _open(path)
    table.of(unit)
    _require_menu(table, path)
    asked = request
    if not asked.budgets and directory.has(rundir.ALLOCATION):
        written = read_allocation(directory.checked(rundir.ALLOCATION), table)
        asked = _of_allocation(written, asked)
    asked = _resolve(asked, directory)
    table = _add_latencies(directory, table, _names(asked))
    question = ask(table, asked.budgets, asked.minimize, _tables(asked.costs))
    return question, explain(question, unit, seconds=asked.seconds)


def units_below(path: Path, place: str) -> list[dict[str, str]]:
    """The units of a part of the network such as `layer1`, and their bits; none of a unit itself.

    The bits are those of allocation.json, where there is one.
    """
    directory, table = _open(path)
    within = [unit for unit in table.units if unit.startswith(f"{place}.")]
    if place in table.units or not within:
        return []
    taken: Mapping[str, Row] = {}
    if directory[rundir.ALLOCATION].is_file():
        taken = read_allocation(directory[rundir.ALLOCATION], table).rows or {}
    return [_describe_unit(unit, taken.get(unit), table) for unit in within]


def _describe_unit(unit: str, taken: Row | None, table: Table) -> dict[str, str]:
    rows = table.of(unit)
    loss = taken.loss_delta if taken else None
    return {
        "unit": unit,
        "bits": str(taken.choice) if taken else "",
        "loss": "" if loss is None else f"{loss:.4g}",
        "parameters": f"{rows[0].params:,}",
        "choices": " ".join(str(row.choice) for row in rows),
    }


def _of_allocation(found: Allocation, request: Request) -> Request:
    minimize = request.minimize or ("" if found.minimizes == "loss" else found.minimizes)
    budgets = tuple(spent.asked for spent in found.budgets if spent.asked)
    return replace(request, budgets=budgets, minimize=minimize)


def _open(path: Path) -> tuple[RunDirectory, Table]:
    directory = rundir.open_existing(path)
    table = read_table(directory.checked(rundir.TABLE))
    _check_units(directory, table)
    return directory, table


def _check_units(directory: RunDirectory, table: Table) -> None:
    """Whether the table's units are those of the run: of its census, and of what its recipe keeps.

    Raises:
        RunDirectoryError: naming a unit that one has and the other has not.
    """
    place = directory[rundir.TABLE]
    if directory.has(rundir.CENSUS):
        listed = directory.read_json(rundir.CENSUS).get("units")
        rows = listed if isinstance(listed, list) else []
        names = [row["name"] for row in rows if isinstance(row, dict) and "name" in row]
        lacking = next((name for name in names if name not in table.spans), None)
        foreign = next((unit for unit in table.units if unit not in names), None)
        if lacking is not None or foreign is not None:
            told = (
                f"holds no unit {lacking!r}, which {rundir.CENSUS} lists"
                if lacking is not None
                else f"holds the unit {foreign!r}, which {rundir.CENSUS} does not list"
            )
            raise RunDirectoryError(
                f"{place} {told}: it was cut short, or is of another network. Let 'bitwright "
                "quantize' write it again."
            )
    keep = _settings(directory).get("keep", "")
    try:
        assign(table.units, FLOAT, parse_keep(keep) if isinstance(keep, str) else ())
    except RecipeError as error:
        raise RunDirectoryError(
            f"{place} is not of the run's recipe, whose keep is {keep!r}: {error}"
        ) from error


def _require_menu(table: Table, path: Path) -> None:
    """Whether any unit has something to choose from.

    Raises:
        RecipeError: none has.
    """
    if len(table.rows) == len(table.units):
        raise RecipeError(
            f"the run {str(path)!r} was quantised without a menu: each unit has one choice, so "
            "there is nothing to allocate. Quantise with a menu and a budget, for example --menu "
            "'w8a8,w4a8' --budget 'size<=0.2'."
        )


def _names(asked: Request) -> set[str]:
    """The measures that are bounded or made small."""
    return {budget.name for budget in parse_budgets(asked.budgets)} | {asked.minimize}


def _add_latencies(
    directory: RunDirectory, table: Table, names: set[str], given: str = ""
) -> Table:
    """The table with latencies and what borders add, where latency is asked for.

    They are the run's own, of this machine and of other devices; tables that are given come first.
    """
    found: dict[str, LatencyTable] = {}
    if LATENCY in names and directory.has(rundir.LATENCY):
        found[LATENCY] = read_latencies(directory.checked(rundir.LATENCY))
    if any(map(is_of_device, names)) and directory.has(rundir.DEVICES):
        place = str(directory[rundir.DEVICES])
        found |= parse_devices_text(directory.read_text(rundir.DEVICES), place)
    if given:
        found |= read_devices(given, str(_settings(directory).get("target", "")))
    return with_devices(table, {name: t for name, t in found.items() if name in names})


def _resolve(request: Request, directory: RunDirectory) -> Request:
    """Options first, then the recipe of the run."""
    settings = _settings(directory)
    stated = settings.get("budget", ())
    budgets = request.budgets or ((stated,) if isinstance(stated, str) else tuple(stated))
    given = bool(request.budgets)
    minimize = request.minimize or ("" if given else settings.get("minimize", ""))
    solver = request.solver or ("" if given else settings.get("solver", ""))
    if not any(map(str.strip, budgets)):
        raise RecipeError(
            f"no --budget, and {directory[rundir.RECIPE]} has none: say what may be spent, for "
            "example --budget 'size<=0.13'."
        )
    return replace(request, budgets=budgets, minimize=minimize, solver=solver)


def _settings(directory: RunDirectory) -> Mapping[str, Any]:
    text = directory.read_text(rundir.RECIPE)
    return parse_toml(text, str(directory[rundir.RECIPE]), RunDirectoryError)


def _tables(costs: Sequence[str]) -> dict[str, UserTable]:
    found = {}
    for text in costs:
        name, equals, file = text.partition("=")
        if not (name.strip() and equals and file.strip()):
            raise RecipeError(
                f"--cost-table {text!r} is not NAME=FILE.csv, for example dsp=cycles.csv with the "
                "columns unit, w_bits, a_bits, points, value."
            )
        found[name.strip()] = read_user_table(name.strip(), Path(file.strip()))
    return found
