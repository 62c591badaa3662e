"""One unit's other parameters, as data: what is swapped into a quantised network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from bitwright.graph.model_graph import Unit
from bitwright.graph.simulate import Assignment, IntegerBias, QuantizedTensor
from bitwright.graph.sites import Site
from bitwright.numerics.affine import QParams


@dataclass(frozen=True, eq=False)
class Change:
    """All of one unit's parameters, in place of those that it has; what is None is float.

    `edges` names every input edge of the unit, so that a change to float inputs takes a grid away.
    """

    unit: str
    weight: QuantizedTensor | None
    bias: Tensor | IntegerBias | None
    edges: Mapping[tuple[str, str], QParams | None]


def change_of(unit: Unit, assignment: Assignment, sites: Iterable[Site] = ()) -> Change:
    """What an assignment says of one unit; `sites` are the unit's own input edges."""
    return Change(
        unit.name,
        assignment.weights.get(unit.name),
        assignment.biases.get(unit.name),
        {
            (site.source, site.reader): assignment.edges.get((site.source, site.reader))
            for site in sites
            if site.unit == unit.name
        },
    )


def with_changes(base: Assignment, changes: Iterable[Change]) -> Assignment:
    """The assignment after the changes; the base is left as it was."""
    weights, biases, edges = dict(base.weights), dict(base.biases), dict(base.edges)
    for change in changes:
        _put(weights, change.unit, change.weight)
        _put(biases, change.unit, change.bias if change.weight is not None else None)
        for edge, grid in change.edges.items():
            _put(edges, edge, grid)
    return Assignment(weights, biases, edges)


def _put(values: dict, key: object, value: object) -> None:  # type: ignore[type-arg]
    values.pop(key, None)
    if value is not None:
        values[key] = value
