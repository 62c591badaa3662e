"""Which unit each operator that ONNX Runtime executes belongs to.

ONNX Runtime fuses, renames and converts before it runs a file. Names survive in parts: a fused
operator keeps the name of one of those it was made of, or its output's, and integer kernels keep
the names of their stored weights. What it inserts between kernels (transposes, reordering of
channels, conversions) has no name of ours: that belongs to the unit that reads the result, or else
to the unit that made it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from bitwright.graph.model_graph import Unit

REST = "rest"
# What the optimiser adds to an operator's name: a counter, a layout, the name of a fusion.
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|_nhwc|/.*|_pre_q|_q_to_dq|_(post_)?dq\d*)$")
_CONVERSIONS = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Transpose", "ReorderInput",
    "ReorderOutput", "Cast", "Clip", "MemcpyFromHost", "MemcpyToHost",
}  # fmt: skip


# Operators that only move values: the optimiser pushes a quantisation up through them.
_MOVES = {"Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose", "Identity"}


@dataclass(frozen=True)
class Owners:
    """Whose the operators, values and stored tensors of an exported file are.

    A conversion that several units or none could claim is in none of the three.
    """

    nodes: Mapping[str, str]
    values: Mapping[str, str]
    weights: Mapping[str, str]


def owners_of(
    model: onnx.ModelProto, places: Mapping[str, tuple[str, str]], units: Iterable[Unit]
) -> Owners:
    """Whose everything in a file is, before ONNX Runtime optimises it.

    A unit owns what lies between its input and its result: the quantisation of its input, the
    dequantisation of its weights, its own operators, its activation. All other operators are the
    rest, but conversions between them and units stay open.

    Args:
        model: the exported file.
        places: (input value, output value) of every mark, `onnx_file.unit_values`.
        units: of the network.
    """
    links = _Links(model.graph)
    nodes: dict[int, str] = {}
    for unit in units:
        for index, result in enumerate(unit.outputs):
            mark = unit.name if index == 0 else f"{unit.name}#{index + 1}"
            if mark in places:
                start, end = places[mark]
                found = links.between(start, end)
                if unit.activation is not None:
                    found |= links.activation(end, result)
                for node in found:
                    nodes.setdefault(node, unit.name)
    for index, node in enumerate(model.graph.node):
        if node.op_type not in _CONVERSIONS:
            nodes.setdefault(index, REST)
    named = {model.graph.node[i].name: owner for i, owner in nodes.items()}
    values = {v: owner for i, owner in nodes.items() for v in model.graph.node[i].output}
    return Owners(named, values, links.weights(nodes))


class _Links:
    """Makers and readers of the values of a graph, by the positions of its nodes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: Sequence[onnx.NodeProto] = graph.node
        self.stored = {tensor.name for tensor in graph.initializer}
        self.weighty = {t.name for t in graph.initializer if len(t.dims) > 1}
        self.maker = {value: i for i, node in enumerate(graph.node) for value in node.output}
        self.readers: dict[str, list[int]] = defaultdict(list)
        for i, node in enumerate(graph.node):
            for value in node.input:
                self.readers[value].append(i)
        self.constant = self._constants()

    def _constants(self) -> set[int]:
        """Nodes that depend on stored tensors alone."""
        found: set[int] = set()
        for i, node in enumerate(self.nodes):
            if all(not v or v in self.stored or self.maker.get(v) in found for v in node.input):
                found.add(i)
        return found

    def between(self, start: str, end: str) -> set[int]:
        """Nodes on the ways from one value to another, with those that prepare their weights."""
        below, todo = set(), [start]
        while todo:
            for i in self.readers[todo.pop()]:
                if i not in below:
                    below.add(i)
                    todo += self.nodes[i].output
        found: set[int] = set()
        todo = [end]
        while todo:
            value = todo.pop()
            i = self.maker.get(value, -1)
            # A stored table that is looked up has nothing above it: its unit has no other input.
            if value != start and i >= 0 and i not in found and (i in below or i in self.constant):
                found.add(i)
                todo += self.nodes[i].input
        return found

    def activation(self, end: str, result: str) -> set[int]:
        """The operators of an activation: up to its result where that kept its name."""
        if result in self.maker:
            return self.between(end, result) if result != end else set()
        readers = self.readers[end]
        alone = len(readers) == 1 and self.nodes[readers[0]].op_type not in _CONVERSIONS - {"Clip"}
        return set(readers) if alone else set()

    def weights(self, owners: Mapping[int, str]) -> dict[str, str]:
        """Stored tensors of two axes or more that one unit alone reads.

        Scales and zero points are not among them: equal ones become one tensor of the file.
        """
        found: dict[str, set[str]] = defaultdict(set)
        for i, owner in owners.items():
            for value in self.nodes[i].input:
                if value in self.weighty:
                    found[value].add(owner)
        return {
            name: next(iter(who))
            for name, who in found.items()
            if len(who) == 1 and REST not in who
        }


def attribute(optimized: onnx.ModelProto, owners: Owners) -> dict[str, str]:
    """The unit, or `REST`, of every operator of the file as ONNX Runtime runs it, by name."""
    links = _Links(optimized.graph)
    known = {
        i: owner
        for i, node in enumerate(links.nodes)
        if (owner := _by_name(node, owners, links.stored)) is not None
    }
    result: dict[str, str] = {}
    for i, node in enumerate(links.nodes):
        owner = known.get(i)
        if owner is None and node.op_type in _CONVERSIONS:
            owner = _reader(links, known, i) or _maker(links, known, i)
        result.setdefault(node.name, owner or REST)
    return result


def _reader(links: _Links, known: Mapping[int, str], i: int) -> str | None:
    """The first unit that reads a conversion's result, through further ones and through moves."""
    for value in links.nodes[i].output:
        for reader in links.readers[value]:
            owner = known.get(reader)
            kind = links.nodes[reader].op_type
            if (owner is None and kind in _CONVERSIONS) or (owner == REST and kind in _MOVES):
                owner = _reader(links, known, reader)
            if owner is not None and owner != REST:
                return owner
    return None


def _maker(links: _Links, known: Mapping[int, str], i: int) -> str | None:
    """The unit that made what a conversion takes, through further conversions."""
    for value in links.nodes[i].input:
        if value in links.maker:
            source = links.maker[value]
            owner = known.get(source)
            if owner is None and links.nodes[source].op_type in _CONVERSIONS:
                return _maker(links, known, source)
            return owner
    return None


def _by_name(node: onnx.NodeProto, owners: Owners, stored: set[str]) -> str | None:
    """The owner that an operator's weights, name or results tell; None where they tell nothing."""
    for value in node.input:
        if value in stored and value in owners.weights:
            return owners.weights[value]
    for name in _stems(node.name):
        if name in owners.nodes:
            return owners.nodes[name]
        if name in owners.values:
            return owners.values[name]
    for value in node.output:
        if value in owners.values:
            return owners.values[value]
    return None


def _stems(name: str) -> Iterable[str]:
    """A name with ever less of what the optimiser may have added to it.

    >>> list(_stems("hardtanh_1_nchwc_token_3"))
    ['hardtanh_1_nchwc_token_3', 'hardtanh_1_nchwc', 'hardtanh_1']
    """
    while name:
        yield name
        shorter = _SUFFIX.sub("", name)
        if shorter == name:
            return
        name = shorter
