"""How much of a network stays in float, and in which operators: what a file can win at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from bitwright.graph.census_record import FloatWeights
from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import ModelGraph, name_tensors
from bitwright.graph.operators import plain_name


def float_weights(graph: ModelGraph, choices: Mapping[str, Choice]) -> FloatWeights:
    """The share of the stored numbers that stay float, by the operator that reads them."""
    quantised = {u.weight: choices[u.name] for u in graph.units if not choices[u.name].is_float}
    readers = {
        str(node.target): plain_name(next(iter(node.users)))
        for node in graph.module.graph.nodes
        if node.op == "get_attr" and node.users
    }
    counts: Counter[str] = Counter()
    total, bits = 0, 0
    for target, tensor in name_tensors(graph.module).items():
        if not tensor.dtype.is_floating_point:
            continue
        total += tensor.numel()
        choice = quantised.get(target)
        bits += tensor.numel() * (32 if choice is None else choice.sum_bits)
        if choice is None:
            counts[readers.get(target, "other")] += tensor.numel()
    whole = max(total, 1)
    return FloatWeights(
        share=sum(counts.values()) / whole,
        operators={name: count / whole for name, count in counts.most_common()},
        size=bits / (32 * whole),
    )
