"""The input grids of quantised edges, and which edges are quantised at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import reduce
from types import MappingProxyType

from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.sites import Site
from bitwright.graph.target import Target
from bitwright.graph.ties import find_shared_grids
from bitwright.numerics.affine import QParams
from bitwright.numerics.exact import exact_range, round_alike
from bitwright.numerics.ranges import RangeRule
from bitwright.numerics.stats import TensorStats

CHAIN_BITS = 8
LearnedGrids = Mapping[tuple[str, int], QParams]


def input_grids(
    sites: Iterable[Site],
    stats: Mapping[str, TensorStats],
    choices: Mapping[str, Choice],
    target: Target,
    rule: RangeRule,
    learned: LearnedGrids = MappingProxyType({}),
) -> dict[tuple[str, str], QParams]:
    """The grid of every quantised edge, learned or from the statistics of its root."""
    made: dict[tuple[str, int, int], QParams] = {(*key, 0): qp for key, qp in learned.items()}
    edges: dict[tuple[str, str], QParams] = {}
    for site in sites:
        bits = CHAIN_BITS if site.unit is None else choices[site.unit].a_bits
        block = choices[site.unit].group if target.blocks and site.unit is not None else 0
        if not bits or site.root not in stats:
            continue
        key = (site.root, bits, block)
        if key not in made:
            grid = target.input_grid(bits)
            low, high = rule.of_stats(stats[site.root], grid, target.input_symmetric)
            own = exact_range(low, high, grid, target.input_symmetric, site.clamped)
            own = round_alike(own) if target.adds else own
            made[key] = replace(own, dynamic=target.dynamic, block=block)
        edges[site.source, site.reader] = made[key]
    return edges


def share_stats(
    graph: ModelGraph, target: Target, stats: Mapping[str, TensorStats]
) -> dict[str, TensorStats]:
    """Statistics in which values that share a grid have those of all of them together."""
    found = dict(stats)
    for names in find_shared_grids(graph, target):
        own = [stats[name] for name in names if name in stats]
        if own:
            whole = reduce(TensorStats.merge, own)
            found |= {name: whole for name in names if name in stats}
    return found


def task_grids(
    graph: ModelGraph,
    menu: Mapping[str, tuple[Choice, ...]],
    sites: Iterable[Site],
    stats: Mapping[str, TensorStats],
    target: Target,
    rule: RangeRule,
) -> dict[tuple[str, Choice], tuple[QParams | None, ...]]:
    """The input grids of every choice of every unit, one a call; None where the input is float."""
    own = [site for site in sites if site.unit is not None]
    places = {(s.unit, s.call): (s.source, s.reader) for s in own}
    by_bits: dict[tuple[int, int], dict[tuple[str, str], QParams]] = {}
    asked = {_inputs_of(c, target) for choices in menu.values() for c in choices if c.a_bits}
    for bits, block in sorted(asked):
        same = {unit.name: Choice(8, bits, group=block) for unit in graph.units}
        wanted = [
            s for s in own if (bits, block) in {_inputs_of(c, target) for c in menu[str(s.unit)]}
        ]
        by_bits[bits, block] = input_grids(wanted, stats, same, target, rule, graph.grids)
    return {
        (unit.name, choice): tuple(
            by_bits.get(_inputs_of(choice, target), {}).get(places.get((unit.name, call), ("", "")))
            for call in range(len(unit.calls))
        )
        for unit in graph.units
        for choice in menu[unit.name]
    }


def _inputs_of(choice: Choice, target: Target) -> tuple[int, int]:
    """The bits of a choice's inputs and, where a kernel takes them in blocks, the size of these."""
    return choice.a_bits, choice.group if target.blocks else 0


def sites_in_use(sites: Iterable[Site], menu: Mapping[str, tuple[Choice, ...]]) -> tuple[Site, ...]:
    """The sites that matter: none of float units, and no chain where nothing is quantised."""
    if all(choice.is_float for choices in menu.values() for choice in choices):
        return ()
    quantized = {name for name, choices in menu.items() if not all(c.is_float for c in choices)}
    return tuple(s for s in sites if s.unit is None or s.unit in quantized)


def active_sites(
    sites: Iterable[Site], graph: ModelGraph, choices: Mapping[str, Choice]
) -> tuple[Site, ...]:
    """The sites in use under one configuration."""
    return sites_in_use(sites, {unit.name: (choices[unit.name],) for unit in graph.units})
