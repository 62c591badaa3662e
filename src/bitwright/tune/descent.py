"""What tuning by gradients shares: the gradient of a step, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx

from bitwright.graph.custom_ops import is_stored_weight
from bitwright.graph.execute import walk
from bitwright.graph.model_graph import ModelGraph
from bitwright.methods.problem import UnitSolution
from bitwright.tune.judge import distillation
from bitwright.tune.pool import Entry, joined
from bitwright.tune.samples import bytes_of, fixed_batch
from bitwright.tune.straight import run_with

# What the values of one forward pass may take while they wait for the backward pass.
GRAD_BYTES = 512 << 20


def weight_paths(stitched: fx.GraphModule) -> dict[str, str]:
    """Where `straight.differentiable` will keep the numbers of each quantised weight, by unit."""
    return {
        str(node.args[5]): f"{str(node.args[0].target).removesuffix('.q')}.numbers"
        for node in stitched.graph.nodes
        if is_stored_weight(node)
    }


def is_plain(solution: UnitSolution) -> bool:
    """Whether a weight is stored as one tensor on one grid, and so can be learned as one."""
    return solution.points == 1 and not solution.channel_bits


def backward(
    graph: ModelGraph,
    module: fx.GraphModule,
    tensors: Callable[[], Mapping[str, Tensor]],
    entries: list[Entry],
    temperature: float,
    part: int,
) -> None:
    """Add the gradient of a minibatch's distillation loss, `part` samples at a time.

    Args:
        graph: the float network, for answers that are not at hand.
        module: the quantised network with a gradient (`straight.differentiable`).
        tensors: what is learned, as the network computes with it, by attribute path.
        entries: the minibatch.
        temperature: of the softened answers.
        part: see `rows_at_once`.
    """
    for first in range(0, len(entries), part):
        some = entries[first : first + part]
        flat, answer = joined(some)
        if answer is None:
            answer = graph.answer.of(walk(graph.module, flat))
        with torch.enable_grad():
            output = graph.answer.of(run_with(module, flat, tensors()))
            loss = distillation(answer, output, temperature)
            if loss.requires_grad:
                (loss * (len(some) / len(entries))).backward()  # type: ignore[no-untyped-call]


def rows_at_once(graph: ModelGraph, pool: list[Entry]) -> int:
    """How many samples' values may wait for the backward pass together."""
    if fixed_batch(graph):
        return 1
    held = 0

    def visit(_: fx.Node, value: object) -> None:
        nonlocal held
        held += bytes_of(value)

    walk(graph.module, pool[0].flat, visit)
    # Twice: the quantised copy of each activation waits beside it.
    return max(1, GRAD_BYTES // max(2 * held, 1))
