"""Whose the operators of an exported file are, before ONNX Runtime optimises it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import onnx

from bitwright.graph.model_graph import Unit
from bitwright.latency.plain_graph import CONVERSIONS, REST, Owners


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
        if node.op_type not in CONVERSIONS:
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
        alone = len(readers) == 1 and self.nodes[readers[0]].op_type not in CONVERSIONS - {"Clip"}
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
