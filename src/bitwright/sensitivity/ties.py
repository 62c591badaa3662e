"""What units are tied to: by the user, and by a runtime whose values share a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bitwright.allocation.table import Row, Table
from bitwright.allocation.ties import APART, INPUTS, groups_of, join_groups, parse_ties
from bitwright.graph.attention import find_attention_units
from bitwright.graph.choice import Menus
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.sites import Site
from bitwright.graph.target import Target
from bitwright.graph.ties import find_tied_inputs
from bitwright.recipe.values import Recipe


def groups_among(
    graph: ModelGraph, target: Target, sites: tuple[Site, ...], recipe: Recipe, menu: Menus
) -> dict[str, str]:
    """What every unit of a captured network is tied to: by the user, as attention, by the target.

    Queries, keys and values of one attention read one value and meet in one product: they take the
    same choice, where the user ties none of them and all have the same choices (`apart` in `ties`
    leaves them free).
    """
    ties = parse_ties(recipe.ties)
    names = [unit.name for unit in graph.units]
    own = groups_of(names, [tie for tie in ties if tie != APART])
    for units in () if APART in ties else find_attention_units(graph):
        same = len({menu[unit] for unit in units}) == 1
        if same and len(menu[units[0]]) > 1 and not own.keys() & set(units):
            own = join_groups(own, dict.fromkeys(units, f"attention:{units[0]}"))
    for value, readers in find_tied_inputs(graph, target, sites).items():
        own = join_groups(own, dict.fromkeys(readers, f"{INPUTS}{value}"))
    return own


def tie_rows(table: Table, groups: Mapping[str, str]) -> Table:
    """The table with the groups of its units."""

    def grouped(row: Row) -> Row:
        return replace(row, group=groups.get(row.unit, ""))

    rows, references = (tuple(map(grouped, r)) for r in (table.rows, table.references))
    return replace(table, rows=rows, references=references)
