"""Distilled data: inputs under which every batch-norm sees what it saw in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.engine.limits import LIMITS
from bitwright.errors import DataError, RecipeError
from bitwright.graph.execute import NodeValues, channels_last, compute, interpret, walk
from bitwright.graph.model_graph import ModelGraph

# What the values of one forward pass may take while they wait for the backward pass.
GRAD_BYTES = LIMITS.distilled_gradients
# Channels that a batch-norm switched off have no statistics to match.
DEAD = 1e-3


@dataclass(frozen=True)
class Distillation:
    """How inputs are distilled.

    Attributes:
        samples: how many, in batches of at most `batch`.
        batch: samples whose statistics are taken together; fewer where memory asks for it.
        iterations: steps of Adam for each batch.
        rate: its first learning rate; falls as a cosine.
        seed: of the noise that they begin with.
    """

    samples: int = 32
    batch: int = 32
    iterations: int = 200
    rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.samples, self.iterations) < 1 or self.batch < 2 or not self.rate > 0.0:
            raise RecipeError(
                f"samples={self.samples}, batch={self.batch}, iterations={self.iterations}, "
                f"rate={self.rate} in Distillation: all must be positive, a batch has two samples."
            )


@dataclass(frozen=True, eq=False)
class Wanted:
    """Mean and deviation of each channel of a unit's output, and which channels count."""

    mean: Tensor
    std: Tensor
    alive: Tensor


def distil(
    graph: ModelGraph, options: Distillation, tick: Callable[[int], None] = lambda _: None
) -> list[Tensor]:
    """Batches of inputs that match the statistics of all folded batch-norms.

    Equation: min over x of sum_l mean_c ((E[o] - beta) / sigma)^2 + (std[o] / sigma - 1)^2, o the
    output of a unit with a folded batch-norm, sigma = |gamma| sqrt(var / (var + eps)) the deviation
    that it had in training; and the input itself with mean 0 and deviation 1 in each channel. By
    Adam from Gaussian noise. Relative to sigma, so that every layer weighs the same.
    Reference: Cai et al., arXiv 2001.00281, section 3.1.

    Args:
        graph: a captured network with folded batch-norms and one input of floats.
        options: how.
        tick: told the number of samples after each batch.

    Raises:
        DataError: a network without batch-norms, or with other inputs: it does not say what its
            training data were like.
    """
    shape = input_shape(graph)
    wanted = list_wanted_outputs(graph)
    generator = torch.Generator().manual_seed(options.seed)
    size = _batch_size(graph, shape, options)
    made: list[Tensor] = []
    done = 0
    while done < options.samples:
        count = min(size, max(2, options.samples - done))
        noise = torch.randn(count, *shape, generator=generator)
        made.append(_descend(graph, noise, wanted, options))
        done += count
        tick(done)
    return made


def input_shape(graph: ModelGraph) -> tuple[int, ...]:
    """The shape of one sample.

    Raises:
        DataError: several inputs, integers, or sizes that are free.
    """
    specs = graph.inputs
    sizes = specs[0].shape[1:] if len(specs) == 1 else ()
    if len(specs) != 1 or not specs[0].dtype.is_floating_point or None in sizes or not sizes:
        shown = "; ".join(str(spec) for spec in specs)
        raise DataError(
            f"--data none: data are distilled for networks with one input of floats of known size, "
            f"this one takes {shown}. Give some samples with --data."
        )
    return tuple(int(size) for size in sizes if size is not None)


def list_wanted_outputs(graph: ModelGraph) -> dict[str, Wanted]:
    """What the output of every unit with a folded batch-norm should be like, by its call."""
    found = {}
    for unit in graph.units:
        record = graph.folded.get(unit.name)
        if record is None or len(unit.calls) != 1:
            continue
        std = record.gamma.abs() * torch.sqrt(record.var / (record.var + record.eps))
        alive = std > DEAD * std.median()
        if bool(alive.any()):
            found[unit.calls[0]] = Wanted(record.beta, std, alive)
    if not found:
        raise DataError(
            "--data none: the network has no batch-norm that was folded into a layer, so nothing "
            "tells what its data were like. Give some samples with --data."
        )
    return found


def _batch_size(graph: ModelGraph, shape: tuple[int, ...], options: Distillation) -> int:
    """As many samples at once as fit into memory with all that waits for the backward pass."""
    held = 0

    def visit(_: fx.Node, value: object) -> None:
        nonlocal held
        held += value.numel() * value.element_size() if isinstance(value, Tensor) else 0

    walk(graph.module, (torch.zeros(2, *shape),), visit)
    return max(2, min(options.batch, int(GRAD_BYTES / max(held / 2, 1))))


def _descend(
    graph: ModelGraph, noise: Tensor, wanted: dict[str, Wanted], options: Distillation
) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x = noise.clone().requires_grad_()
        adam = torch.optim.Adam([x], lr=options.rate)
        for step in range(options.iterations):
            fraction = step / options.iterations
            adam.param_groups[0]["lr"] = options.rate * 0.5 * (1 + math.cos(math.pi * fraction))
            adam.zero_grad()
            loss = mismatch(graph, channels_last(x), wanted)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    return x.detach()


def mismatch(graph: ModelGraph, x: Tensor, wanted: dict[str, Wanted]) -> Tensor:
    """How far the statistics are from those of training; differentiable."""
    axes = [0, *range(2, x.dim())] if x.dim() > 2 else [0]
    own = x.mean(axes).square().mean() + (_std(x, axes) - 1.0).square().mean()
    terms = [own]
    for name, output in outputs(graph, x, set(wanted)):
        goal = wanted[name]
        axes = [i for i in range(output.dim()) if i != 1]
        # Dead channels are left out before anything is divided: their gradient would be no number.
        live = goal.alive
        mean = (output.mean(axes)[live] - goal.mean[live]) / goal.std[live]
        std = _std(output, axes)[live] / goal.std[live] - 1.0
        terms.append((mean.square() + std.square()).mean())
    return torch.stack(terms).sum()


def _std(value: Tensor, axes: list[int]) -> Tensor:
    return (value.var(axes, correction=0) + 1e-12).sqrt()


def outputs(graph: ModelGraph, x: Tensor, names: set[str]) -> Iterator[tuple[str, Tensor]]:
    """Some values of the graph as they are made, gradients recorded; stops after the last."""
    left = set(names)
    given = iter((x,))

    def evaluate(node: fx.Node, values: NodeValues) -> object:
        return compute(graph.module, node, values, given)

    for node, value in interpret(graph.module.graph.nodes, {}, evaluate):
        if node.name in left and isinstance(value, Tensor):
            left.discard(node.name)
            yield node.name, value
        if not left:
            return
