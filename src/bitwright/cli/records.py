"""What the commands on tables found, as plain values for `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.allocation.allocate import Allocation
from bitwright.allocation.as_json import as_record
from bitwright.allocation.explain import Exchange, Explanation
from bitwright.allocation.frontier import Frontier, Point
from bitwright.allocation.question import Question
from bitwright.allocation.ran import Ran

if TYPE_CHECKING:
    from bitwright.latency.measure import MeasuredLatency

Printed = dict[str, object]


def allocation_record(found: Allocation, path: Path) -> Printed:
    """As allocation.json, with the file that it is in."""
    return {**as_record(found), "file": str(path)}


def frontier_record(found: Frontier, files: Sequence[Path], ran: Sequence[Ran] = ()) -> Printed:
    """Every curve, what was run, and the files that they are in."""
    curves = {"ip": found.points, **found.others}
    return {
        "cost": found.cost.name,
        "unit": found.cost.unit,
        "complete": found.complete,
        "proven": found.proven,
        "curves": {name: [_point(point) for point in points] for name, points in curves.items()},
        "ran": [asdict(one) for one in ran],
        "files": [str(file) for file in files],
    }


def _point(point: Point) -> Printed:
    keys = ("used", "share", "loss", "hull", "knee")
    return {key: getattr(point, key) for key in keys}


def explanation_record(question: Question, found: Explanation) -> Printed:
    """One unit: its choices under the budgets, and when it would change."""
    names = [cap.name for cap in question.caps]
    return {
        "unit": found.unit,
        "minimizes": question.goal.name,
        "budgets": [cap.text for cap in question.caps],
        "choice": next((str(a.row.choice) for a in found.alternatives if a.taken), None),
        "tied": list(found.tied),
        "prices": dict(found.prices),
        "choices": [
            {
                "choice": str(a.row.choice),
                "loss_delta": a.row.loss_delta,
                "loss_stderr": a.row.loss_stderr,
                "used": dict(zip(names, a.used, strict=True)),
                "priced": a.priced,
                "forced": a.forced,
                "taken": a.taken,
            }
            for a in found.alternatives
        ],
        "below": _change(found.below),
        "above": _change(found.above),
    }


def _change(found: Exchange | None) -> Printed | None:
    if found is None:
        return None
    return {"cost": found.cost, "at": found.at, "choice": str(found.row.choice)}


def latency_record(found: MeasuredLatency, path: Path) -> Printed:
    """Milliseconds of units and of whole networks, and what they hold for."""
    table = found.table
    return {
        "conditions": asdict(table.conditions),
        "units": [
            {"unit": unit, "choice": str(choice), **asdict(cell)}
            for (unit, choice), cell in table.cells.items()
        ],
        "rest": {str(choice): ms for choice, ms in table.rest.items()},
        "networks": [
            {"label": c.label, "predicted": c.predicted, "measured": c.measured, "error": c.error}
            for c in (*found.uniform, *found.checks)
        ],
        "file": str(path),
    }
