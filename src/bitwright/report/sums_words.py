"""How a file's certificate is told: on which processors its sums fit."""

from __future__ import annotations

from bitwright.export.verified import Certificate
from bitwright.report.rates import say_count


def describe_sums(found: Certificate | None) -> str:
    """One line on the file's sums; empty where no unit has integers to add up."""
    if found is None or not found.units:
        return ""
    units = found.units
    over = sum((unit.pairs or 0.0) > 1 for unit in units.values())
    if over:
        return (
            f"{over} of {say_count(len(units), 'unit')} may exceed 16 bits on x86 without VNNI "
            "(--portable mends that)"
        )
    if not found.holds:
        return "some may exceed 32 bits"
    exact = "" if found.float_sums else "; not all of them in runtimes that add in float"
    return f"the same on every processor in all {say_count(len(units), 'unit')}{exact}"
