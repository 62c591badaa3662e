"""What tuning by gradients shares: the gradient of a step, in parts that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.engine.limits import LIMITS
from bitwright.errors import RecipeError
from bitwright.evaluation.judge import Judge
from bitwright.graph.answers import Compared
from bitwright.graph.custom_ops import is_stored_weight
from bitwright.graph.execute import walk
from bitwright.graph.model_graph import ModelGraph
from bitwright.methods.problem import UnitSolution
from bitwright.solving.samples import Samples, bytes_of, has_fixed_batch, size_of
from bitwright.tuning.pool import PoolEntry, gather, join_entries, minibatches
from bitwright.tuning.straight import differentiable, run_with

# What the values of one forward pass may take while they wait for the backward pass.
GRAD_BYTES = LIMITS.gradients
BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Descent:
    """How many steps of Adam, over how many samples each, and what of them is looked at.

    Attributes:
        iterations: steps of the optimiser; the paper takes 200.
        batch: samples a step.
        smoothing: what is judged and kept is a running mean with this memory.
        checks: how often the held-out samples are asked.
        seed: of the samples' order.
    """

    iterations: int = 200
    batch: int = 32
    smoothing: float = 0.9
    checks: int = 10
    seed: int = 0

    def check(self, place: str, **rates: float) -> None:
        """Refuse counts and rates that are not positive, and a memory without end."""
        counts = {"iterations": self.iterations, "batch": self.batch, "checks": self.checks}
        if min(counts.values()) < 1 or not min(rates.values()) > 0.0:
            said = ", ".join(f"{name}={value}" for name, value in (counts | rates).items())
            raise RecipeError(f"{said} in {place}: all must be positive.")
        if not 0.0 <= self.smoothing < 1.0:
            raise RecipeError(f"smoothing={self.smoothing} in {place}: use 0 up to below 1.")


@dataclass(frozen=True, eq=False)
class Learned:
    """Parameters that share a first rate, which falls as a cosine."""

    parameters: tuple[Tensor, ...]
    rate: float


def descend(
    graph: ModelGraph,
    network: fx.GraphModule,
    samples: Samples,
    judge: Judge,
    learned: Sequence[Learned],
    tensors: Callable[[], Mapping[str, Tensor]],
    how: Descent,
) -> Iterator[tuple[int, list[list[Tensor]]]]:
    """Train by Adam on the distillation loss; the iterations at which to judge, and the means then.

    Args:
        graph: the captured float network.
        network: the quantised one.
        samples: those to fit are trained on.
        judge: knows the temperature.
        learned: the parameters, in groups.
        tensors: what the network computes with, made of the parameters.
        how: steps, batches, and the memory of the running mean of each parameter.

    Yields:
        The step, and the running means of all parameters in their groups.
    """
    if not any(group.parameters for group in learned):
        return
    module = differentiable(network)
    pool = gather(graph, samples.fit)
    part = rows_at_once(graph, pool)
    groups = [{"params": list(g.parameters), "lr": g.rate, "rate": g.rate} for g in learned]
    optimizer = torch.optim.Adam([g for g in groups if g["params"]], betas=BETAS)
    means = [[torch.zeros_like(p) for p in group.parameters] for group in learned]
    every = max(1, how.iterations // how.checks)
    size = max(1, how.batch // (size_of(pool[0].flat) if has_fixed_batch(graph) else 1))
    batches = minibatches(pool, size, how.seed)
    for step in range(1, how.iterations + 1):
        for options in optimizer.param_groups:
            fraction = (step - 1) / how.iterations
            options["lr"] = options["rate"] * 0.5 * (1 + math.cos(math.pi * fraction))
        optimizer.zero_grad()
        backward(graph, module, tensors, next(batches), judge.loss, part)
        optimizer.step()
        for group, own in zip(learned, means, strict=True):
            for mean, parameter in zip(own, group.parameters, strict=True):
                mean.lerp_(parameter.detach(), 1.0 - how.smoothing)
        if step % every == 0 or step == how.iterations:
            known = 1.0 - how.smoothing**step
            yield step, [[mean / known for mean in own] for own in means]


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
    entries: list[PoolEntry],
    loss_of: Callable[[Compared, Compared], Tensor],
    part: int,
) -> None:
    """Add the gradient of a minibatch's distillation loss, `part` samples at a time.

    Args:
        graph: the float network, for answers that are not at hand.
        module: the quantised network with a gradient (`straight.differentiable`).
        tensors: what is learned, as the network computes with it, by attribute path.
        entries: the minibatch.
        loss_of: the mean loss of answers beside those of the float network.
        part: see `rows_at_once`.
    """
    for first in range(0, len(entries), part):
        some = entries[first : first + part]
        flat, answer = join_entries(some)
        if answer is None:
            answer = graph.answer.of(walk(graph.module, flat))
        with torch.enable_grad():
            output = graph.answer.of(run_with(module, flat, tensors()))
            loss = loss_of(answer, output)
            if loss.requires_grad:
                (loss * (len(some) / len(entries))).backward()  # type: ignore[no-untyped-call]


def rows_at_once(graph: ModelGraph, pool: list[PoolEntry]) -> int:
    """How many samples' values may wait for the backward pass together."""
    if has_fixed_batch(graph):
        return 1
    held = 0

    def visit(_: fx.Node, value: object) -> None:
        nonlocal held
        held += bytes_of(value)

    walk(graph.module, pool[0].flat, visit)
    # Twice: the quantised copy of each activation waits beside it.
    return max(1, GRAD_BYTES // max(2 * held, 1))
