"""What units are tied to: by the user, and by a runtime whose values share a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bitwright.allocation.table import Row, Table
from bitwright.allocation.ties import INPUTS, groups_of, join_groups, parse_ties
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.sites import Site
from bitwright.graph.target import Target
from bitwright.graph.ties import find_tied_inputs
from bitwright.recipe.values import Recipe


def groups_among(
    graph: ModelGraph, target: Target, sites: tuple[Site, ...], recipe: Recipe
) -> dict[str, str]:
    """What every unit of a captured network is tied to, whatever the menu."""
    own = groups_of([unit.name for unit in graph.units], parse_ties(recipe.ties))
    for value, units in find_tied_inputs(graph, target, sites).items():
        own = join_groups(own, dict.fromkeys(units, f"{INPUTS}{value}"))
    return own


def tie_rows(table: Table, groups: Mapping[str, str]) -> Table:
    """The table with the groups of its units."""

    def grouped(row: Row) -> Row:
        return replace(row, group=groups.get(row.unit, ""))

    rows, references = (tuple(map(grouped, r)) for r in (table.rows, table.references))
    return replace(table, rows=rows, references=references)
