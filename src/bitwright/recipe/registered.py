"""What other distributions register by entry points; asked for where a name is not built in."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from bitwright.errors import RecipeError

# What is registered, and the group of entry points that it is registered in.
GROUPS: Mapping[str, str] = {
    "method": "bitwright.methods",
    "target": "bitwright.targets",
    "metric": "bitwright.metrics",
    "tuning step": "bitwright.tuning",
    "source": "bitwright.sources",
}


def find_registered(kind: str) -> dict[str, EntryPoint]:
    """The entry points of a kind, by name; nothing of them is imported."""
    group = GROUPS.get(kind)
    return {} if group is None else {point.name: point for point in entry_points(group=group)}


def load_registered(kind: str, name: str) -> Any:
    """What a distribution registers under a name, a class made with its defaults; or None.

    Raises:
        RecipeError: it cannot be imported.
    """
    point = find_registered(kind).get(name)
    if point is None:
        return None
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"the {kind} {name!r} is registered as {point.value!r}, which cannot be imported: "
            f"{error}. Repair or remove the package that registers it."
        ) from error
    # A metric's class is made anew for every pass.
    return found() if isinstance(found, type) and kind != "metric" else found
