"""What to say where no allocation holds the budgets: what is attainable, and what is in the way."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from bitwright.allocation.advice import Attainable, Number
from bitwright.allocation.allocate import Allocation
from bitwright.allocation.solver.program import INFEASIBLE
from bitwright.errors import BudgetError


def require(allocation: Allocation) -> Allocation:
    """The allocation itself, if there is one.

    Raises:
        BudgetError: naming the least attainable value of every budget and what stands in the way.
    """
    if allocation.rows is not None:
        return allocation
    asked = " and ".join(spent.asked for spent in allocation.budgets)
    if allocation.status != INFEASIBLE:
        raise BudgetError(f"no allocation was found for {asked}: {allocation.note}.")
    lines = [f"no allocation holds {asked}."]
    lines += [_line(found, len(allocation.infeasible) > 1) for found in allocation.infeasible]
    lines.append(f"  Ask for what is attainable, for example --budget '{_remedy(allocation)}'.")
    raise BudgetError("\n".join(lines))


def _line(found: Attainable, several: bool) -> str:
    shown = f"{_amount(found.limit, found.unit)} asked"
    if found.least is not None:
        text = f"  {found.name}: least attainable {_amount(found.least, found.unit)}"
        text += f" ({found.share:.6g} of float)" if found.share is not None else ""
        text += " with the other budgets held" if several else ""
    else:
        text = f"  {found.name}: no value helps, the other budgets are too tight"
        if found.alone is not None:
            text += f" (least attainable without them: {_amount(found.alone, found.unit)})"
    return f"{text}, {shown}{_obstacles(found)}."


def _obstacles(found: Attainable) -> str:
    parts = []
    if found.kept:
        kept = ", ".join(f"{unit} at {choice} {used:g}" for unit, choice, used in found.kept)
        parts.append(f"kept units take part of it: {kept}")
    if found.untied is not None and found.alone is not None and found.untied < found.alone:
        parts.append(f"without the ties it would be {_amount(found.untied, found.unit)}")
    return "; " + "; ".join(parts) if parts else ""


def _amount(value: Number, unit: str) -> str:
    if unit == "bit":
        return f"{value} bit ({value / 8e6:.4g} MB)"
    return f"{value:.10g} {unit}".strip()


def _remedy(allocation: Allocation) -> str:
    """Budgets that can be held: the first that can be met alone raised, the others as asked."""
    raised = next((f for f in allocation.infeasible if f.least is not None), None)
    if raised is None:
        return " and ".join(
            attainable_budget(found, found.alone) for found in allocation.infeasible
        )
    return " and ".join(
        attainable_budget(raised, raised.least) if spent.name == raised.name else spent.asked
        for spent in allocation.budgets
    )


def attainable_budget(found: Attainable, value: Number | None) -> str:
    """A budget that a value holds, rounded up to few digits."""
    if value is None:
        return f"{found.name}<=..."
    share = found.share if value == found.least or found.least is None else None
    if share is not None and 0 < share <= 1:
        return f"{found.name}<={min(_ceil(share), 1.0):g}"
    units = {"bit": "bit", "BOP": "BOP", "ms": "ms", "pJ": "pJ", "units": "units"}
    return f"{found.name}<={_ceil(float(value)):.12g}{units.get(found.unit, '')}"


def _ceil(value: float, digits: int = 4) -> float:
    """A number of few digits that is not smaller."""
    if value == 0:
        return 0.0
    # The value itself is rounded: a hair more covers that.
    above = Decimal(repr(value + abs(value) * 1e-14))
    step = Decimal(1).scaleb(above.adjusted() - digits + 1)
    return float(above.quantize(step, rounding=ROUND_CEILING))
