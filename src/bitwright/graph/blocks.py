"""Blocks of a network, found from its graph: where one value is all that goes on, a block ends."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.operators import ACTIVATIONS, WEIGHTED


@dataclass(frozen=True)
class Block:
    """A part of the network between two places where one value alone goes on.

    Attributes:
        begin: the values that it reads from before it; one, and what depends on no unit and on no
            input of floats, such as an attention mask.
        end: the value that it makes.
        units: the units in it, in order of execution.
    """

    begin: tuple[str, ...]
    end: str
    units: tuple[str, ...]


def find_blocks(graph: ModelGraph) -> tuple[Block, ...]:
    """The blocks of a network, in order; together they hold every unit.

    A residual block is one block: while its shortcut is open, two values go on. So is what lies
    between two transitions of a dense network. A layer of a plain chain is a block by itself. A
    block ends behind the activation that follows it. A weight with several calls joins all blocks
    from its first call to its last.
    """
    nodes = list(graph.module.graph.nodes)
    order = {node: i for i, node in enumerate(nodes)}
    calls = {call: unit.name for unit in graph.units for call in unit.calls}
    spans = [
        (min(places), max(places))
        for places in ([order[n] for n in nodes if n.name in unit.calls] for unit in graph.units)
    ]
    touched = _find_touched(nodes, set(calls))
    open_until: dict[int, int] = {}
    blocks: list[Block] = []
    own: list[str] = []
    begin_at = -1
    for i, node in enumerate(nodes):
        if node.op == "output":
            break
        if node in touched:
            open_until[i] = max((order[user] for user in node.users), default=i)
        if node.name in calls and calls[node.name] not in own:
            own.append(calls[node.name])
        live = [made for made, last in open_until.items() if last > i]
        inside = any(first <= i < last for first, last in spans)
        if own and live == [i] and not inside and not _goes_on(node):
            blocks.append(Block(_list_reads(nodes, begin_at, i), node.name, tuple(own)))
            own, begin_at = [], i
    if own:
        # What several outputs need to the very end.
        last = len(nodes) - 2
        blocks.append(Block(_list_reads(nodes, begin_at, last), nodes[last].name, tuple(own)))
    return tuple(blocks)


def _find_touched(nodes: list[fx.Node], calls: set[str]) -> set[fx.Node]:
    """The values that depend on some unit, or on an input of floats."""
    found: set[fx.Node] = set()
    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, (int, torch.SymInt)):
            continue  # a size, read from an early value and used at the very end, tells no number
        floats = isinstance(value, Tensor) and value.dtype.is_floating_point
        begins = node.name in calls or (node.op == "placeholder" and floats)
        if begins or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _goes_on(node: fx.Node) -> bool:
    """Whether a block does not end here: before an activation, or at a look-up.

    A table's rows are no computed value: the quantised network makes them of looked-up integers.
    """
    users = list(node.users)
    activated = len(users) == 1 and users[0].target in ACTIVATIONS
    return activated or WEIGHTED.get(node.target) == "embedding"


def _list_reads(nodes: list[fx.Node], begin: int, end: int) -> tuple[str, ...]:
    """The values made up to one place that nodes after it, up to another, read."""
    place = {node: i for i, node in enumerate(nodes)}
    return tuple(
        node.name
        for node in nodes[: begin + 1]
        if node.op != "get_attr" and any(begin < place[user] <= end for user in node.users)
    ) or tuple(n.name for n in nodes if n.op == "placeholder" and begin < 0)
