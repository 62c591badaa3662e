"""Many variants of one quantised network on one batch, each from where it begins to differ.

The base is walked once, in order. A group of variants that touch the same nodes runs as soon as
the walk has made every value that its suffix reads and does not change: these are kept, everything
before and beside them is not computed again. So a pass over L units with K choices each costs one
base pass and K suffixes a unit, about half of L K full passes on a network of even layers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from bitwright.errors import DataError
from bitwright.graph.answers import Compared
from bitwright.graph.batch_axes import BatchAxes, few_samples, find_batch_axes
from bitwright.graph.change import Change
from bitwright.graph.execute import NodeValues, interpret, outputs_of
from bitwright.graph.installed import (
    Installed,
    evaluate,
    find_touched,
    install,
    reinstall,
)
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.placing import device_of
from bitwright.graph.replay import plan
from bitwright.graph.simulate import Assignment
from bitwright.graph.suffix import Suffix, peak_bytes, run_suffix, stackable, suffix_of
from bitwright.graph.work import OperationCount

# A variant is the base with some units changed; none changed is the base itself.
Variant = tuple[Change, ...]
VariantKey = Hashable
Groups = Mapping[str, Mapping[Any, Variant]]
Outputs = dict[Any, Compared]

BASE = ""

# Bound on the live values of a stacked pass. On a CPU stacking saves the calls of operators, not
# their work: it makes passes over a sample or two twice as fast (ResNet-56), does nothing for
# batches of 25, and beyond the caches would only take memory. A GPU is filled by it.
STACK_BYTES = {"cpu": 8 << 20, "cuda": 2 << 30}


@dataclass(frozen=True, eq=False)
class PreparedVariants:
    """The base network and the plan of every group: made once, used for all batches.

    `sample_bytes` is what a sample takes in the suffix of a group, or None where variants cannot
    share a pass.
    """

    graph: ModelGraph
    base: Installed
    wanted: tuple[fx.Node, ...]
    groups: Groups
    suffixes: Mapping[str, Suffix]
    sample_bytes: Mapping[str, int | None]
    axes: BatchAxes | None
    stack_bytes: int


def prepare(
    graph: ModelGraph,
    base: Assignment,
    groups: Groups,
    flat: tuple[Any, ...],
    work: OperationCount,
    stack_bytes: int | None = None,
) -> PreparedVariants:
    """Plan the suffixes and find out, on the samples of a bound batch, what can be stacked.

    Args:
        graph: the captured network.
        base: the quantised network that every variant is a change of.
        groups: by name, the variants that are run together; by key within a group.
        flat: a bound batch, of which a few samples are used.
        work: counts the multiply-accumulates of that too.
        stack_bytes: bound on the live values of several variants in one pass; 0: one by one,
            None: what suits the device.
    """
    if stack_bytes is None:
        stack_bytes = STACK_BYTES.get(device_of(graph).type, STACK_BYTES["cpu"])
    wanted = wanted_nodes(graph, few_samples(graph, flat), work)
    axes = find_batch_axes(graph, flat, work) if stack_bytes else None
    suffixes = {}
    for name, group in groups.items():
        nodes = {node for variant in group.values() for node in find_touched(graph, variant)}
        suffixes[name] = suffix_of(graph, nodes, wanted)
    sample_bytes = {
        name: peak_bytes(suffix, axes) if axes is not None and stackable(suffix, axes) else None
        for name, suffix in suffixes.items()
    }
    installed = install(graph, base)
    return PreparedVariants(
        graph, installed, wanted, groups, suffixes, sample_bytes, axes, stack_bytes
    )


def wanted_nodes(
    graph: ModelGraph, flat: tuple[Any, ...], work: OperationCount
) -> tuple[fx.Node, ...]:
    """The nodes whose values the network's answer is made of, see `Answer.wanted`.

    Raises:
        DataError: that is a stored tensor, which no change of the network can reach.
    """
    output = next(node for node in graph.module.graph.nodes if node.op == "output")
    returned = tuple(n for n in output.all_input_nodes if n.op != "get_attr")
    values = values_of(graph, Installed(), flat, returned, work)
    stored = {n: graph.tensor(str(n.target)) for n in output.all_input_nodes if n not in values}
    result = fx.map_arg(output.args[0], {**values, **stored}.__getitem__)
    graph.answer.raw(outputs_of(graph, result))  # says where there is no tensor
    leaves = pytree.tree_leaves(outputs_of(graph, result))
    nodes = {id(value): node for node, value in values.items()}
    found = [nodes.get(id(leaves[place])) for place in graph.answer.wanted]
    if None in found:
        raise DataError(
            "the first output of the network is a stored tensor that does not depend on its input, "
            "so there is no loss to measure. Return the scores first, or as 'logits' in a "
            "dictionary."
        )
    return tuple(node for node in found if node is not None)


def answer_of_values(
    graph: ModelGraph, wanted: tuple[fx.Node, ...], values: Mapping[fx.Node, Any]
) -> Compared:
    """What is compared, from the values of the nodes it is made of."""
    return graph.answer.of_wanted([values[node] for node in wanted])


def values_of(
    graph: ModelGraph,
    installed: Installed,
    flat: tuple[Any, ...],
    wanted: tuple[fx.Node, ...],
    work: OperationCount,
) -> Mapping[fx.Node, Any]:
    """Some values of one network on a bound batch; with nothing installed, of the float network."""
    return next(_walk(graph, installed, flat, {BASE: wanted}, work))[1]


def run_variants(
    prepared: PreparedVariants,
    flat: tuple[Any, ...],
    todo: Mapping[str, Sequence[VariantKey]],
    work: OperationCount,
) -> Iterator[tuple[str, Outputs]]:
    """What the variants answer on one bound batch, group by group as they come.

    Args:
        prepared: what to run.
        flat: a bound batch.
        todo: the keys that are wanted of each group; groups without keys are left out.
        work: counts the multiply-accumulates.

    Yields:
        A group's name and the outputs of its variants by key.
    """
    starts = {name: prepared.suffixes[name].inputs for name, keys in todo.items() if keys}
    for name, start in _walk(prepared.graph, prepared.base, flat, starts, work):
        yield name, _outputs(prepared, name, todo[name], (start, _samples(flat)), work)


@torch.no_grad()
def _walk(
    graph: ModelGraph,
    installed: Installed,
    flat: tuple[Any, ...],
    starts: Mapping[str, tuple[fx.Node, ...]],
    work: OperationCount,
) -> Iterator[tuple[str, Mapping[fx.Node, Any]]]:
    """Walk one network; a group gets its values as soon as the last of them is there.

    A value is dropped once no node and no group needs it any more.
    """
    module = graph.module
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    given = dict(zip(placeholders, flat, strict=True))
    waiting = _Waiting(starts)
    order = [node for node in plan(graph, (), waiting.names()) if node.op != "get_attr"]

    def value(node: fx.Node, values: NodeValues) -> Any:
        if node.op == "placeholder":
            return given[node]
        return evaluate(module, node, values.__getitem__, installed, work)

    for node, made in interpret(order, {}, value):
        yield from waiting.take(node, made)


class _Waiting:
    """Groups that wait until the walk has made the values that they start from, and hold them."""

    def __init__(self, starts: Mapping[str, tuple[fx.Node, ...]]) -> None:
        self.missing = {name: set(sources) for name, sources in starts.items()}
        self.held: dict[str, NodeValues] = {name: {} for name in starts}
        self.readers: dict[fx.Node, list[str]] = {}
        for name, sources in self.missing.items():
            for source in sources:
                self.readers.setdefault(source, []).append(name)

    def names(self) -> set[str]:
        """The names of all values that some group starts from."""
        return {source.name for source in self.readers}

    def take(self, made: fx.Node, value: Any) -> Iterator[tuple[str, NodeValues]]:
        """The groups for which this was the last missing value, with all of theirs."""
        for name in self.readers.get(made, ()):
            self.held[name][made] = value
            self.missing[name].discard(made)
            if not self.missing[name]:
                yield name, self.held.pop(name)


def _samples(flat: tuple[Any, ...]) -> int:
    return next((t.shape[0] for t in flat if isinstance(t, Tensor) and t.dim()), 1)


def _outputs(
    prepared: PreparedVariants,
    name: str,
    keys: Sequence[VariantKey],
    given: tuple[Mapping[fx.Node, Any], int],
    work: OperationCount,
) -> Outputs:
    """The outputs of one group's variants, as many in one pass as the bytes allow.

    `given` are the values that the suffix starts from, and the samples in them.
    """
    start, samples = given
    size = _stack_size(prepared, name, len(keys), samples)
    found: Outputs = {}
    for first in range(0, len(keys), size):
        here = keys[first : first + size]
        variants = (prepared.groups[name][key] for key in here)
        networks = [reinstall(prepared.graph, prepared.base, variant) for variant in variants]
        suffix, axes = prepared.suffixes[name], prepared.axes
        made = run_suffix(prepared.graph, suffix, start, networks, axes, work)
        answers = map(prepared.graph.answer.of_wanted, made)
        found.update(zip(here, answers, strict=True))
    return found


def _stack_size(prepared: PreparedVariants, name: str, count: int, samples: int) -> int:
    """How many variants go into one pass, in stacks of about equal height."""
    sample_bytes = prepared.sample_bytes[name]
    if sample_bytes is None:
        return 1
    most = max(1, prepared.stack_bytes // max(1, sample_bytes * samples))
    return -(-count // -(-count // most))
