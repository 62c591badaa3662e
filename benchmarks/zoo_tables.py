"""docs/zoo.md from the results of `zoo.py`."""

from __future__ import annotations

from typing import Any

Rows = dict[tuple[str, str], dict[str, Any]]


def page(rows: Rows, names: list[str], chain: list[str], known: dict[str, str]) -> str:
    """The whole page."""
    return "\n".join(f"{k}: {r.get('verified')}" for k, r in rows.items()) + "\n**x**\n"
