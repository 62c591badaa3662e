"""What a file calls the values of a captured graph."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from bitwright.graph.interface import Interface
from bitwright.graph.opaque import NAME_VALUE

_KEY = "onnx_values"


def take_names(module: fx.GraphModule) -> None:
    """Take the operators out that name values, and keep each name at the node that makes it."""
    for node in list(module.graph.nodes):
        if node.target is NAME_VALUE:
            source, name = node.args
            assert isinstance(source, fx.Node)
            source.meta[_KEY] = (*source.meta.get(_KEY, ()), str(name))
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
    module.recompile()


def join_names(node: fx.Node, other: fx.Node) -> None:
    """A node that stands for another from now on has its names too."""
    names = other.meta.get(_KEY, ())
    if names:
        node.meta[_KEY] = (*node.meta.get(_KEY, ()), *names)


def pass_names(node: fx.Node, other: fx.Node) -> None:
    """A node that computes what another did has that one's names, and its own no more."""
    if _KEY in node.meta or _KEY in other.meta:
        node.meta[_KEY] = other.meta.get(_KEY, ())


def collect_names(
    module: fx.GraphModule, interface: Interface | None
) -> Mapping[str, tuple[str, ...]]:
    """The file's names of each node's value, by the node's name."""
    if interface is None:
        return {}
    found = {n.name: n.meta[_KEY] for n in module.graph.nodes if n.meta.get(_KEY)}
    given = (n for n in module.graph.nodes if n.op == "placeholder")
    for node, name in zip(given, interface.inputs, strict=False):
        found[node.name] = (name, *found.get(node.name, ()))
    return found
