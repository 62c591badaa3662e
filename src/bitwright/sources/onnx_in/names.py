"""What the parts of a file are called in the network that is made of it.

Names travel into the code of a graph, into files and tables, so only plain characters are let
through; what the file says is kept beside them.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

import onnx

_LONGEST = 200
_ODD = re.compile(r"[^\w/:.\-+@$#~=,;!&^%()<>|\[\]{} ]", re.ASCII)


def unit_names(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """A name for each node, as a module path: its own where it has one, made plain and single.

    A node without one is called by its operator and its place among those, `Conv_3`.

    >>> [unit_names([onnx.helper.make_node("Conv", [], ["y"], name=n)]) for n in ("a/b", "", "x.1")]
    [['a/b'], ['Conv_0'], ['x.1']]
    """
    found: list[str] = []
    taken: set[str] = set()
    counts: dict[str, int] = {}
    nodes = list(nodes)
    own = {plain(node.name) for node in nodes if node.name}
    for node in nodes:
        place = counts.get(node.op_type, 0)
        counts[node.op_type] = place + 1
        name = plain(node.name) if node.name else plain(f"{node.op_type}_{place}")
        if not node.name and name in own:
            name = f"{name}_unnamed"
        found.append(_single(name, taken))
        taken.add(found[-1])
    return found


def plain(name: str) -> str:
    """The name with odd characters as underscores, and no empty part between dots."""
    text = _ODD.sub("_", name)[:_LONGEST]
    parts = [part for part in text.split(".") if part.strip()]
    return ".".join(parts) or "node"


def _single(name: str, taken: set[str]) -> str:
    """The name, with a number behind it where it is taken or lies inside of another's path."""
    made, number = name, 2
    while made in taken:
        made, number = f"{name}_{number}", number + 1
    return made


def identifiers(names: Iterable[str]) -> list[str]:
    """Names that can stand in a function's signature, single and in the same order.

    >>> identifiers(["images", "input.1", "x:0", "x_0", "class"])
    ['images', 'input_1', 'x_0', 'x_0_2', 'class_']
    """
    found: list[str] = []
    for name in names:
        text = re.sub(r"\W", "_", name, flags=re.ASCII)[:_LONGEST] or "input"
        if text[0].isdigit():
            text = f"input_{text}"
        if keyword.iskeyword(text) or text in ("self", "torch"):
            text += "_"
        made, number = text, 2
        while made in found:
            made, number = f"{text}_{number}", number + 1
        found.append(made)
    return found
