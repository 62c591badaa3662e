"""An allocation as allocation.json holds it; what solves one is not needed to write it down."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitwright.allocation.advice import Attainable
    from bitwright.allocation.allocate import Allocation, Uniform


def as_record(allocation: Allocation) -> dict[str, Any]:
    """The allocation as allocation.json holds it."""
    return {
        "solver": allocation.solver,
        "status": allocation.status,
        "minimizes": allocation.minimizes,
        "objective": allocation.objective,
        "bound": allocation.bound,
        "gap": allocation.gap,
        "loss": allocation.loss,
        "loss_stderr": allocation.loss_stderr,
        "budgets": {
            spent.name: {
                "limit": spent.limit,
                "used": spent.used,
                "unit": spent.unit,
                "float": spent.whole,
                "asked": spent.asked,
                "binding": spent.binding,
                "price": spent.price,
            }
            for spent in allocation.budgets
        },
        "choices": {unit: choice.to_json() for unit, choice in allocation.choices.items()},
        "uniform": _uniform(allocation.uniform),
        "relaxations": [asdict(relaxation) for relaxation in allocation.relaxations],
        "infeasible": {found.name: _attainable(found) for found in allocation.infeasible} or None,
        "note": allocation.note,
    }


def _uniform(found: Uniform | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        **found.choice.to_json(),
        "loss": found.loss,
        "objective": found.objective,
        "used": dict(found.used),
    }


def _attainable(found: Attainable) -> dict[str, Any]:
    values = asdict(found)
    del values["name"]
    values["kept"] = [
        {"unit": unit, "choice": choice, "used": used} for unit, choice, used in found.kept
    ]
    return values
