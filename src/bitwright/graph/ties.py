"""Values that share a grid because a runtime wants it, and the units that read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.operators import CHAIN
from bitwright.graph.sites import Site, root_of
from bitwright.graph.target import READS, Target
from bitwright.graph.units import activation_after


def find_shared_grids(graph: ModelGraph, target: Target) -> tuple[tuple[str, ...], ...]:
    """Nodes whose values share one grid, each once; those that share with nothing are left out.

    Where the target ties the operands of an operator (a sum, a concatenation), its operands and its
    result, after the activation that follows, are one class.
    """
    joins = set(target.ties) - {READS}
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.setdefault(name, name) != name:
            name = root[name]
        return name

    for node in graph.module.graph.nodes:
        if CHAIN.get(node.target) not in joins:
            continue
        values = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if len(values) < 2:
            continue
        result = activation_after(node) or node
        for value in (*values[1:], result):
            root[find(root_of(value).name)] = find(root_of(values[0]).name)
    classes: dict[str, list[str]] = {}
    for node in graph.module.graph.nodes:
        if node.name in root:
            classes.setdefault(find(node.name), []).append(node.name)
    return tuple(tuple(names) for names in classes.values() if len(names) > 1)


def grid_classes(graph: ModelGraph, target: Target, sites: Iterable[Site]) -> dict[str, str]:
    """Which values share one grid: a name for each root of the sites."""
    found = {site.root: site.root for site in sites}
    for names in find_shared_grids(graph, target):
        found |= {name: min(names) for name in names if name in found}
    return found


def find_tied_inputs(
    graph: ModelGraph, target: Target, sites: Iterable[Site]
) -> Mapping[str, Sequence[str]]:
    """Units that must take the same input bits, by a name of what they read.

    Units that read values of one class of `shared_grids`; and where the target has one grid for
    whoever reads a value, units that read the same.
    """
    classes = {name: own[0] for own in find_shared_grids(graph, target) for name in own}
    found: dict[str, dict[str, None]] = {}
    for site in sites:
        if site.unit is None or (site.root not in classes and READS not in target.ties):
            continue
        found.setdefault(classes.get(site.root, site.root), {})[site.unit] = None
    return {name: tuple(units) for name, units in found.items() if len(units) > 1}
