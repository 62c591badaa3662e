"""A user's graph as it is written to: values by name, and the marking operators put in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from bitwright.export.onnx_parts import DOMAIN


class OwnGraphRefusal(Exception):
    """A solution cannot be written into the user's graph; the message says why."""


def is_same(a: np.ndarray, b: np.ndarray | None) -> bool:
    """Whether numbers are those that are stored already."""
    return b is not None and a.shape == b.shape and bool(np.array_equal(a, b))


@dataclass(frozen=True, eq=False)
class OwnValues:
    """The values of a graph by their names, which stay theirs."""

    graph: ir.Graph
    known: dict[str, ir.Value] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    renamed: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: ir.Graph) -> OwnValues:
        """Of a graph; numbers of Constant nodes are known like stored ones."""
        known = {str(v.name): v for v in (*graph.inputs, *graph.initializers.values())}
        for node in graph:
            for value in node.outputs:
                if value.name:
                    known[value.name] = value
            if (number := _constant_of(node)) is not None:
                node.outputs[0].const_value = number
        return cls(graph, known)

    def value(self, name: str) -> ir.Value:
        """A value by its name."""
        if name not in self.known:
            raise OwnGraphRefusal(f"the file has no value {name!r} any more")
        return self.known[name]

    def maker(self, name: str) -> ir.Node:
        """The node that makes a value."""
        node = self.value(name).producer()
        if node is None:
            raise OwnGraphRefusal(f"nothing in the file's main graph makes {name!r}")
        return node

    def numbers(self, name: str) -> np.ndarray | None:
        """A stored tensor; None of what is computed."""
        value = self.known.get(name)
        stored = value.const_value if value is not None else None
        return None if stored is None else np.asarray(stored.numpy())

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """The shape of a stored tensor.

        Raises:
            OwnGraphRefusal: it is not of 32-bit floats.
        """
        numbers = self.numbers(name)
        if numbers is not None and numbers.dtype != np.float32:
            raise OwnGraphRefusal(f"the weights {name} are of {numbers.dtype} and not of float32")
        return None if numbers is None else tuple(numbers.shape)

    def store(self, numbers: np.ndarray, name: str) -> ir.Value:
        """A stored tensor under a name of its own."""
        own = self.fresh(name)
        value = ir.Value(name=own, const_value=ir.Tensor(numbers, name=own))
        value.dtype, value.shape = ir.DataType.from_numpy(numbers.dtype), ir.Shape(numbers.shape)
        self.graph.register_initializer(value)
        self.known[own] = value
        return value

    def fresh(self, name: str) -> str:
        """A name that no value has, and that nobody else is given."""
        number, own = 1, name
        while own in self.known or own in self.given:
            own, number = f"{name}.{number}", number + 1
        self.given.add(own)
        return own

    def insert(
        self, before: ir.Node, op: str, inputs: Sequence[ir.Value], called: str, **attributes: Any
    ) -> ir.Value:
        """A marking operator in front of a node; its result."""
        own = self.fresh(called)
        made = ir.node(op, inputs, attributes, domain=DOMAIN, name=own, num_outputs=1)
        made.outputs[0].name = own
        self.known[own] = made.outputs[0]
        self.graph.insert_before(before, made)
        return made.outputs[0]


def _constant_of(node: ir.Node) -> ir.TensorProtocol | None:
    """What a node gives that copies or casts a stored number."""
    if node.op_type == "Constant" and "value" in node.attributes:
        return node.attributes["value"].as_tensor()
    stored = node.inputs[0].const_value if node.inputs and node.inputs[0] is not None else None
    if stored is None or node.op_type not in ("Identity", "Cast"):
        return None
    if node.op_type == "Identity":
        return stored
    kind = ir.DataType(node.attributes["to"].as_int())
    return ir.Tensor(stored.numpy().astype(kind.numpy()), dtype=kind)
