"""An ONNX file without the package onnx: its operators, and which unit each of them belongs to.

ONNX Runtime fuses, renames and converts before it runs a file. Names survive in parts: a fused
operator keeps the name of one of those it was made of, or its output's, and integer kernels keep
the names of their stored weights. What it inserts between kernels (transposes, reordering of
channels, conversions) has no name of ours: that belongs to the unit that reads the result, or else
to the unit that made it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REST = "rest"
# What the optimiser adds to an operator's name: a counter, a layout, the name of a fusion.
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|_nhwc|/.*|_pre_q|_q_to_dq|_(post_)?dq\d*)$")
CONVERSIONS = {
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


@dataclass(frozen=True)
class PlainNode:
    """An operator of a file."""

    name: str
    op_type: str
    input: tuple[str, ...]
    output: tuple[str, ...]


@dataclass(frozen=True)
class PlainGraph:
    """The operators of a file, and the names of its stored tensors."""

    node: tuple[PlainNode, ...]
    stored: frozenset[str]


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers as they are, all else as bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def read_graph(content: bytes) -> PlainGraph:
    """The graph of an ONNX file: field 7 of the model, its nodes 1, its stored tensors 5."""
    graph = next(value for number, value in _fields(memoryview(content)) if number == 7)
    nodes, stored = [], set()
    for number, value in _fields(graph):
        if number == 1:
            texts: dict[int, list[str]] = defaultdict(list)
            for inner, text in _fields(value):
                if inner in (1, 2, 3, 4):
                    texts[inner].append(str(text, "utf-8"))
            name, kind = ("".join(texts[i][:1]) for i in (3, 4))
            nodes.append(PlainNode(name, kind, tuple(texts[1]), tuple(texts[2])))
        elif number == 5:
            stored |= {str(text, "utf-8") for inner, text in _fields(value) if inner == 8}
    return PlainGraph(tuple(nodes), frozenset(stored))


def attribute(optimized: PlainGraph, owners: Owners) -> dict[str, str]:
    """The unit, or `REST`, of every operator of the file as ONNX Runtime runs it, by name."""
    makers = {value: i for i, node in enumerate(optimized.node) for value in node.output}
    readers: dict[str, list[int]] = defaultdict(list)
    for i, node in enumerate(optimized.node):
        for value in node.input:
            readers[value].append(i)
    found = _Found(optimized.node, makers, readers, {})
    for i, node in enumerate(optimized.node):
        owner = _by_name(node, owners, optimized.stored)
        if owner is not None:
            found.known[i] = owner
    result: dict[str, str] = {}
    for i, node in enumerate(optimized.node):
        owner = found.known.get(i)
        if owner is None and node.op_type in CONVERSIONS:
            owner = found.reader(i) or found.maker(i)
        result.setdefault(node.name, owner or REST)
    return result


@dataclass(frozen=True)
class _Found:
    """Operators by position, who makes and reads their values, and whose they are so far."""

    nodes: Sequence[PlainNode]
    makers: Mapping[str, int]
    readers: Mapping[str, list[int]]
    known: dict[int, str]

    def reader(self, i: int) -> str | None:
        """The first unit that reads a conversion's result, through further ones and moves."""
        for value in self.nodes[i].output:
            for reader in self.readers.get(value, ()):
                owner = self.known.get(reader)
                kind = self.nodes[reader].op_type
                if (owner is None and kind in CONVERSIONS) or (owner == REST and kind in _MOVES):
                    owner = self.reader(reader)
                if owner is not None and owner != REST:
                    return owner
        return None

    def maker(self, i: int) -> str | None:
        """The unit that made what a conversion takes, through further conversions."""
        for value in self.nodes[i].input:
            if value in self.makers:
                source = self.makers[value]
                owner = self.known.get(source)
                if owner is None and self.nodes[source].op_type in CONVERSIONS:
                    return self.maker(source)
                return owner
        return None


def _by_name(node: PlainNode, owners: Owners, stored: Iterable[str]) -> str | None:
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
