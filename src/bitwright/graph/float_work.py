"""How much of a network's work is done by operators with weights that are no units."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import fx

from bitwright.graph.model_graph import ModelGraph, get_tensor
from bitwright.graph.operators import RECURRENT, STORED, plain_name

# Where a recurrent operator's argument stands that says which axis is time.
_BATCH_FIRST = 8


@dataclass(frozen=True)
class FloatWork:
    """Multiply-accumulates of one sample by operator, and the operators that are not counted."""

    macs: dict[str, int]
    uncounted: tuple[str, ...]


def float_work(graph: ModelGraph) -> FloatWork:
    """The work of operators with stored weights that stay in float.

    A recurrent layer multiplies by each of its matrices once a step: its work is the number of
    steps times the entries of its matrices. Where the number of steps is free, and of products of
    other forms, it is not counted.
    """
    units = {call for unit in graph.units for call in unit.calls}
    macs: Counter[str] = Counter()
    uncounted: set[str] = set()
    for node in graph.module.graph.nodes:
        if node.op != "call_function" or node.name in units:
            continue
        name = plain_name(node)
        entries = sum(_entries(graph, source) for source in node.all_input_nodes)
        if not entries or name not in STORED:
            continue
        steps = _steps(node, name)
        if steps is None:
            uncounted.add(name)
        else:
            macs[name] += steps * entries
    return FloatWork(dict(macs), tuple(sorted(uncounted)))


def _entries(graph: ModelGraph, node: fx.Node) -> int:
    """How many numbers a stored matrix holds; 0 for all else."""
    if node.op != "get_attr":
        return 0
    tensor = get_tensor(graph.module, str(node.target))
    return tensor.numel() if tensor.dim() >= 2 and tensor.dtype.is_floating_point else 0


def _steps(node: fx.Node, name: str) -> int | None:
    """How often each matrix of a recurrent operator is multiplied by; None where not known."""
    if name.endswith("_cell"):
        return 1
    if name not in RECURRENT or not str(node.target).endswith(".input"):
        return None
    first = node.args[0]
    value = first.meta.get("val") if isinstance(first, fx.Node) else None
    if value is None:
        return None
    steps = value.shape[1 if node.args[_BATCH_FIRST] else 0]
    return steps if isinstance(steps, int) else None
