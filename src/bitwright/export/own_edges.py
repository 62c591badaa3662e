"""Quantisers of activations in the user's graph: for readers that the simulation gives one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from torch import fx

from bitwright.export.onnx_parts import DOMAIN
from bitwright.export.own_changes import readable
from bitwright.export.own_values import OwnGraphRefusal, OwnValues
from bitwright.graph.custom_ops import FAKE_QUANTIZE, MARK
from bitwright.graph.model_graph import ModelGraph, get_tensor


def put_edges(own: OwnValues, graph: ModelGraph, marked: fx.GraphModule) -> None:
    """Put a quantiser in front of every reader that has one in the simulation.

    Args:
        own: the user's graph, its units already marked.
        graph: the network, which knows what the file calls its values.
        marked: the simulation.

    Raises:
        OwnGraphRefusal: a reader is not to be found in the file.
    """
    reading = _Readers(graph, marked)
    order = {node: index for index, node in enumerate(own.graph)}
    for quantizer in [n for n in marked.graph.nodes if n.target is FAKE_QUANTIZE]:
        source = _source(quantizer)
        names = [n for n in graph.values.get(source.name, ()) if n in own.known]
        if not names:
            raise OwnGraphRefusal(f"the file has no value for {source.name}")
        found = [
            (name, user, place)
            for name in names
            for user, place in list(readable(own, name).uses())
            if user.domain != DOMAIN and reading.reads(user, quantizer)
        ]
        if not found:
            readers = ", ".join(user.name for user in quantizer.users)
            raise OwnGraphRefusal(f"no operator of the file is {readers}, which reads {names[0]}")
        first = min((user for _, user, _ in found), key=lambda user: order.get(user, 0))
        value = _insert(own, marked, quantizer, found[0][0], first)
        for _, user, place in found:
            user.replace_input_with(place, value)


def _source(quantizer: fx.Node) -> fx.Node:
    source = quantizer.args[0]
    assert isinstance(source, fx.Node)
    if source.target is MARK:
        source = source.args[0]
    assert isinstance(source, fx.Node)
    return source


def _insert(
    own: OwnValues, marked: fx.GraphModule, quantizer: fx.Node, source: str, first: ir.Node
) -> ir.Value:
    _, scale, zero, bits, signed, _ = quantizer.args[:6]
    dynamic = bool(quantizer.args[6]) if len(quantizer.args) > 6 else False
    name = own.fresh(f"{source}.quantized")
    stored = [
        own.store(np.asarray(get_tensor(marked, str(part.target)).cpu()), f"{name}.{leaf}~")
        for part, leaf in ((scale, "scale"), (zero, "zero"))
        if isinstance(part, fx.Node)
    ]
    return own.insert(
        first, "FakeQuantize", [readable(own, source), *stored], f"{name}~", bits=bits,
        signed=int(bool(signed)), name=name, dynamic=int(dynamic),
    )  # fmt: skip


class _Readers:
    """Which operators of a file read a value behind its quantiser.

    An operator of the file stands for one or several of the simulation, and the other way round;
    what both know are the values with names. So an operator is followed to the named values that
    come of it, and from these the simulation back to the quantiser or past it.
    """

    def __init__(self, graph: ModelGraph, marked: fx.GraphModule) -> None:
        self.names: Mapping[str, str] = {
            name: node for node, names in graph.values.items() for name in names
        }
        self.nodes: Mapping[str, fx.Node] = {n.name: n for n in marked.graph.nodes}
        self.named = {node for node, names in graph.values.items() if names}

    def reads(self, user: ir.Node, quantizer: fx.Node) -> bool:
        """Whether an operator of the file reads what a quantiser gives."""
        results = [self.nodes[n] for n in self._named_after(user) if n in self.nodes]
        return any(self._behind(result, quantizer) for result in results)

    def _named_after(self, user: ir.Node) -> Iterator[str]:
        """Nodes of the simulation whose values come of an operator, the nearest."""
        todo: list[ir.Value] = list(user.outputs)
        seen: set[ir.Value] = set()
        while todo:
            value = todo.pop()
            if value in seen:
                continue
            seen.add(value)
            if value.name in self.names:
                yield self.names[value.name]
                continue
            for reader, _ in value.uses():
                todo += reader.outputs

    def _behind(self, node: fx.Node, quantizer: fx.Node) -> bool:
        """Whether a value is made of what a quantiser gives, by nodes that have no name."""
        todo: Sequence[fx.Node] = list(node.all_input_nodes)
        seen: set[fx.Node] = set()
        while todo:
            (*rest, last) = todo
            todo = rest
            if last is quantizer:
                return True
            if last in seen or last.name in self.named or last.target is FAKE_QUANTIZE:
                continue
            seen.add(last)
            todo = [*todo, *last.all_input_nodes]
        return False
