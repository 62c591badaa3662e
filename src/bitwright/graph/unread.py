"""Outputs that no figure looks at, and the units that only they depend on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx
from torch.utils import _pytree as pytree

from bitwright.engine.note import Note
from bitwright.graph.model_graph import ModelGraph

_SHOWN = 5


@dataclass(frozen=True)
class Unread:
    """What losses, agreement and built-in metrics are blind to.

    Attributes:
        read: the outputs that are compared with the float network's.
        outputs: those that quantisation changes and nobody looks at.
        units: the units that reach none of the outputs that are read.
    """

    read: tuple[str, ...]
    outputs: tuple[str, ...]
    units: tuple[str, ...]


def unread_outputs(graph: ModelGraph) -> Unread:
    """The outputs that depend on some unit by a way that passes no output that is read.

    Where a network returns its scores and also their softmax, the softmax counts as read.
    """
    result = next(n for n in graph.module.graph.nodes if n.op == "output").args[0]
    leaves = pytree.tree_leaves(result)
    names = graph.outputs or tuple(f"output_{i}" for i in range(len(leaves)))
    read = {leaves[place] for place in graph.answer.leaves}
    calls = {call: unit.name for unit in graph.units for call in unit.calls}
    unread = [
        name
        for name, leaf in zip(names, leaves, strict=True)
        if isinstance(leaf, fx.Node) and _units_behind({leaf} - read, read, calls)
    ]
    seen = _units_behind(read, set(), calls)
    return Unread(
        tuple(names[place] for place in graph.answer.leaves),
        tuple(unread),
        tuple(unit.name for unit in graph.units if unread and unit.name not in seen),
    )


def unread_notes(graph: ModelGraph) -> tuple[Note, ...]:
    """What a user should know of outputs that nobody looks at; nothing where there are none."""
    found = unread_outputs(graph)
    if not found.outputs:
        return ()
    blind = ""
    if found.units:
        blind = (
            f"Only they depend on {_join_names(found.units)}: the loss of these units is 0 at any "
            "bits, so a budget takes the bits from them. "
        )
    remedy = f"--keep '{_some(found.units)}=w8a8', " if found.units else ""
    return (
        Note(
            f"outputs {_join_names(found.outputs)}",
            f"nobody looks at them: losses, agreement and the built-in metrics see "
            f"{_join_names(found.read)} alone. {blind}What to do: {remedy}a metric of your own, "
            "which is given the whole result, or --answer 'NAME=KIND' where it can be compared.",
        ),
    )


def output_notes(graph: ModelGraph) -> tuple[Note, ...]:
    """That several outputs count, and how each is read; nothing where there is one."""
    heads = graph.answer.heads
    if len(heads) < 2:
        return ()
    told = ", ".join(f"{head.name!r} as {head.kind}" for head in heads[:_SHOWN])
    more = f" and {len(heads) - _SHOWN} more" if len(heads) > _SHOWN else ""
    return (
        Note(
            "outputs",
            f"all of them count in losses and agreement, each by its own measure: {told}{more}. "
            "--answer 'NAME=KIND' says what one is, NAME=none leaves it out.",
        ),
    )


def _units_behind(start: set[fx.Node], stop: set[fx.Node], calls: dict[str, str]) -> set[str]:
    """The units that some values depend on, by ways that pass none of the others."""
    todo, done, found = list(start), set(stop), set()
    while todo:
        node = todo.pop()
        if node in done:
            continue
        done.add(node)
        if node.name in calls:
            found.add(calls[node.name])
        todo += node.all_input_nodes
    return found


def _join_names(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _SHOWN
    shown = ", ".join(map(repr, every[:_SHOWN]))
    return f"{shown} and {more} more" if more > 0 else shown


def _some(names: tuple[str, ...]) -> str:
    """Units as patterns of --keep."""
    return ",".join(names[:_SHOWN])
