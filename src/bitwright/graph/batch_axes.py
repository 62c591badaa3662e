"""Where the batch stands in every value of a graph, found by trying: what may be stacked and cut.

Whether samples are independent of one another, and along which axis of a value they lie, cannot be
read off the operators (views merge the batch with windows or heads, attention puts it second). So
the float network runs on two halves of a few samples and on the whole, node by node side by side,
and each value of the whole is compared with its two halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from bitwright.graph.execute import NodeValues, interpret
from bitwright.graph.installed import Installed, evaluate
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.work import OperationCount

# Markers beside the axes 0, 1, ...: a tensor that is the same for all samples, an integer in
# proportion to the batch (its size, as views take it), another number that never changes.
SHARED, COUNTED, CONSTANT = -1, -2, -3

HALF = 2
# An operator that mixes samples moves values far more than float rounding does.
TOLERANCE = 1e-3

# What torch raises where a network cannot run at another batch size than its own.
_WRONG_SIZE = (RuntimeError, IndexError, ValueError)


@dataclass(frozen=True, eq=False)
class BatchAxes:
    """The axis of the batch in each leaf of each node's value, or a marker, or None: not separable.

    `sample_bytes` is what one sample's part of the value takes.
    """

    leaves: Mapping[str, tuple[int | None, ...]]
    sample_bytes: Mapping[str, int]

    def can_be_stacked(self, computed: Iterable[str], given: Iterable[str]) -> bool:
        """Whether several networks may share one pass over some nodes, from given values on.

        Every computed tensor must carry the batch: one that is the same for all samples would
        still differ from network to network.
        """
        own = [leaf for name in computed for leaf in self.leaves.get(name, (None,))]
        other = [leaf for name in given for leaf in self.leaves.get(name, (None,))]
        return all(leaf is not None and leaf != SHARED for leaf in own) and None not in other


def find_batch_axes(
    graph: ModelGraph, flat: tuple[Any, ...], work: OperationCount
) -> BatchAxes | None:
    """Find the batch in every value of the float network, on a few samples of a bound batch.

    Returns:
        The axes, or None for a network that cannot run at other batch sizes than its own.
    """
    if _has_fixed_batch(graph):
        return None
    samples = list(few_samples(graph, flat))
    runs = (_slice_samples(samples, 0, HALF), _slice_samples(samples, HALF, 2 * HALF), samples)
    try:
        with torch.no_grad():
            return _compare(graph, runs, work)
    except _WRONG_SIZE:
        return None


def few_samples(graph: ModelGraph, flat: tuple[Any, ...]) -> tuple[Any, ...]:
    """Four samples of a bound batch, or all of them where the network's batch is fixed."""
    if _has_fixed_batch(graph):
        return flat
    return tuple(_some(t) if isinstance(t, Tensor) else t for t in flat)


def _has_fixed_batch(graph: ModelGraph) -> bool:
    return any(spec.shape and spec.shape[0] is not None for spec in graph.inputs)


def _some(tensor: Tensor) -> Tensor:
    """Four different samples; where there are fewer, the same ones rolled along their last axis."""
    rounds = -(-2 * HALF // max(1, tensor.shape[0]))
    rolled = [tensor.roll(k, -1) for k in range(rounds)]
    if tensor.dtype.is_floating_point:
        rolled = [t * (1 - 0.1 * k) for k, t in enumerate(rolled)]
    return torch.cat(rolled)[: 2 * HALF]


def _slice_samples(samples: list[Any], start: int, stop: int) -> list[Any]:
    return [t[start:stop] if isinstance(t, Tensor) else t for t in samples]


def _compare(graph: ModelGraph, runs: tuple[list[Any], ...], work: OperationCount) -> BatchAxes:
    nodes = [n for n in graph.module.graph.nodes if n.op not in ("get_attr", "output")]
    axes: dict[str, tuple[int | None, ...]] = {}
    sizes: dict[str, int] = {}
    float_network = Installed()

    def values_of(inputs: list[Any]) -> Iterator[tuple[fx.Node, Any]]:
        given = iter(inputs)

        def value(node: fx.Node, values: NodeValues) -> Any:
            if node.op == "placeholder":
                return next(given)
            return evaluate(graph.module, node, values.__getitem__, float_network, work)

        return interpret(nodes, {}, value)

    for made in zip(*map(values_of, runs), strict=True):
        node = made[0][0]
        leaves = [pytree.tree_leaves(value) for _, value in made]
        axes[node.name] = tuple(_axis_of(*triple) for triple in zip(*leaves, strict=True))
        sizes[node.name] = sum(
            leaf.numel() * leaf.element_size() // (2 * HALF)
            for leaf, axis in zip(leaves[2], axes[node.name], strict=True)
            if isinstance(leaf, Tensor) and axis != SHARED
        )
    return BatchAxes(axes, sizes)


def _axis_of(first: Any, second: Any, both: Any) -> int | None:
    if isinstance(first, Tensor):
        return _axis_of_tensors(first, second, both)
    if first == second == both:
        return CONSTANT
    counts = isinstance(first, int) and not isinstance(first, bool)
    return COUNTED if counts and first == second and both == 2 * first else None


def _axis_of_tensors(first: Tensor, second: Tensor, both: Tensor) -> int | None:
    if first.shape == both.shape:
        return SHARED if _close(first, both) and _close(second, both) else None
    if first.dim() != both.dim():
        return None
    differing = [d for d in range(both.dim()) if first.shape[d] != both.shape[d]]
    if len(differing) != 1 or first.shape != second.shape:
        return None
    axis = differing[0]
    if both.shape[axis] != 2 * first.shape[axis]:
        return None
    return axis if _close(torch.cat([first, second], dim=axis), both) else None


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    finite = b[b.isfinite()]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * size, equal_nan=True)


def widen(value: Any, axes: tuple[int | None, ...], times: int) -> Any:
    """A value as it is for so many networks at once: the batch repeated network by network."""

    def repeat(leaf: Any, axis: int | None) -> Any:
        if isinstance(leaf, Tensor) and axis is not None and axis >= 0:
            return torch.cat([leaf] * times, dim=axis)
        return leaf * times if axis == COUNTED else leaf

    return _map(repeat, value, axes) if times > 1 else value


def part(value: Any, axes: tuple[int | None, ...], index: int, times: int) -> Any:
    """The part of one network in a value of several; the tensors are views."""

    def cut(leaf: Any, axis: int | None) -> Any:
        if isinstance(leaf, Tensor) and axis is not None and axis >= 0:
            size = leaf.shape[axis] // times
            return leaf.narrow(axis, index * size, size)
        return leaf // times if axis == COUNTED else leaf

    return _map(cut, value, axes) if times > 1 else value


def join(values: list[Any], axes: tuple[int | None, ...]) -> Any:
    """One value from those of several networks."""
    if len(values) == 1:
        return values[0]
    first, spec = pytree.tree_flatten(values[0])
    columns = zip(*(pytree.tree_leaves(value) for value in values), strict=True)
    joined = [
        torch.cat(list(column), dim=axis)
        if isinstance(leaf, Tensor) and axis is not None
        else widen(leaf, (axis,), len(values))
        for leaf, column, axis in zip(first, columns, axes, strict=True)
    ]
    return pytree.tree_unflatten(joined, spec)


def _map(apply: Callable[[Any, int | None], Any], value: Any, axes: tuple[int | None, ...]) -> Any:
    leaves, spec = pytree.tree_flatten(value)
    made = [apply(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True)]
    return pytree.tree_unflatten(made, spec)
