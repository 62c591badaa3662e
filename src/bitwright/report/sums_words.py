"""How a file's certificate is told: on which processors its sums fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitwright.report.rates import say_count
from bitwright.report.texts import number, read_mapping


def describe_sums(verify: Mapping[str, Any] | None) -> str:
    """One line on the file's sums; empty where no unit has integers to add up."""
    found = read_mapping((verify or {}).get("portable"))
    units = read_mapping(found.get("units"))
    if not units:
        return ""
    pairs = [number(read_mapping(unit).get("pairs")) or 0.0 for unit in units.values()]
    over = sum(share > 1 for share in pairs)
    if over:
        return (
            f"{over} of {say_count(len(units), 'unit')} may exceed 16 bits on x86 without VNNI "
            "(--portable mends that)"
        )
    if not found.get("holds"):
        return "some may exceed 32 bits"
    exact = "" if found.get("float_sums") else "; not all of them in runtimes that add in float"
    return f"the same on every processor in all {say_count(len(units), 'unit')}{exact}"
