"""Learning the factors of streams: the float network whose inputs pass quantisers that give way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.evaluation.judge import Judge
from bitwright.graph.model_graph import ModelGraph, set_tensor, shallow_copy
from bitwright.numerics.affine import QParams, round_half_even
from bitwright.numerics.exact import significant_bits, snap
from bitwright.prepare.channel_sets import FIXED
from bitwright.solving.grids import LearnedGrids
from bitwright.solving.samples import Samples
from bitwright.tuning.descent import Descent, Learned, descend
from bitwright.tuning.widths import FURTHEST, QuantisedInput, best_step

HIGHEST_TEMPERATURE = 4.0
_PLACE = "equalization.input"


@dataclass(frozen=True, eq=False)
class Student:
    """What learns: the network, its quantised inputs and the streams of their channels.

    Attributes:
        graph: the captured network.
        inputs: what is quantised.
        start: the logarithm of each stream's factor to begin with, float64; the first is nought.
    """

    graph: ModelGraph
    inputs: Sequence[QuantisedInput]
    start: Tensor


class _EvenThrough(torch.autograd.Function):
    """Forward: clamp(round(a x)) / a, a for each channel. Backward: straight through the rounding.

    dx^/dx = 1 inside the grid and 0 outside; dx^/dlog a = x - x^ inside and -x^ outside.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, low: int, high: int) -> Tensor:
        made = round_half_even(x * a).clamp_(low, high).div_(a)
        ctx.save_for_backward(x, a, made)
        ctx.bounds = (low - 0.5, high + 0.5)
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, made = ctx.saved_tensors
        low, high = ctx.bounds
        inside = torch.ops.aten.hardtanh_backward(grad, x * a, low, high)
        slope = torch.addcmul(inside * x, grad, made, value=-1.0)
        axes = [axis for axis in range(x.dim()) if a.shape[axis] == 1] if a.dim() else None
        total = slope.sum() if axes is None else slope.sum(axes, keepdim=True)
        return inside, total / a, None, None


def _even_quantizer(x: Tensor, a: Tensor, low: int, high: int) -> Tensor:
    apply: Callable[..., Tensor] = _EvenThrough.apply
    return apply(x, a, low, high)


def _with_quantizers(graph: ModelGraph, inputs: Sequence[QuantisedInput]) -> fx.GraphModule:
    """The float network, whose quantised values pass a quantiser with a factor to learn."""
    module = shallow_copy(graph.module)
    nodes = {node.name: node for node in module.graph.nodes}
    first = next(n for n in module.graph.nodes if n.op not in ("placeholder", "get_attr"))
    for index, given in enumerate(inputs):
        path = f"{_PLACE}{index}"
        set_tensor(module, path, torch.ones(()))
        with module.graph.inserting_before(first):
            factor = module.graph.get_attr(path)
        source = nodes[given.source]
        low, high = given.grid.qmin - given.zero, given.grid.qmax - given.zero
        after = source if source.op == "call_function" else factor
        with module.graph.inserting_after(after):
            made = module.graph.call_function(_even_quantizer, (source, factor, low, high))
        for reader in given.readers:
            nodes[reader].replace_input_with(source, made)
    module.graph.lint()
    module.recompile()
    return module


def learn_factors(
    student: Student, samples: Samples, judge: Judge, how: Descent, rate: float
) -> tuple[Tensor, LearnedGrids]:
    """The logarithms of the factors after learning, and the grids; as they began if not finite.

    Args:
        student: what learns.
        samples: those to fit are learned on.
        judge: knows how soft answers are to be taken.
        how: steps and batches.
        rate: of Adam, for logarithms.
    """
    inputs, start = student.inputs, student.start
    module = _with_quantizers(student.graph, inputs)
    ranks = {name: _rank(node) for name, node in student.graph.nodes().items()}
    logs = start.float().clone().requires_grad_()
    free = torch.ones(len(start))
    free[FIXED] = 0.0
    wide = {given.key: 0.0 for given in inputs}
    for given in inputs:
        wide[given.key] = max(wide[given.key], _start_scale(given, start))
    places = {key: place for place, key in enumerate(wide)}
    scales = torch.tensor(list(wide.values())).log().requires_grad_()

    def tensors() -> dict[str, Tensor]:
        own, found = logs * free, {}
        for index, given in enumerate(inputs):
            value = -scales[places[given.key]]
            if given.channels is not None:
                axis, rank = given.channels.axis, ranks[given.source]
                value = own[torch.from_numpy(given.channels.streams)] + value
                value = value.reshape([-1 if i == axis else 1 for i in range(rank)])
            found[f"{_PLACE}{index}"] = value.exp()
        return found

    softer = replace(judge, temperature=min(judge.temperature, HIGHEST_TEMPERATURE))
    learned = [Learned((logs,), rate), Learned((scales,), rate)]
    last, steps = start, scales.detach()
    for _, means in descend(student.graph, module, samples, softer, learned, tensors, how):
        last, steps = means[0][0].double(), means[1][0]
    if not bool(last.isfinite().all() & steps.isfinite().all()):
        return start, {}
    last[FIXED] = 0.0
    grids = {given.key: _make_grid(given, steps[places[given.key]].exp()) for given in inputs}
    # Values that share a grid and disagree about its zero point have it from their statistics.
    apart = {given.key for given in inputs if int(grids[given.key].zero_point) != given.zero}
    found = {g.root: grids[g.key] for g in inputs if g.key not in apart and not g.dynamic}
    return last.clamp(-FURTHEST, FURTHEST), found


def _make_grid(given: QuantisedInput, scale: Tensor) -> QParams:
    exact = snap(scale, significant_bits(given.grid), down=given.clamped)
    return QParams(given.grid, exact, torch.tensor(given.zero, dtype=torch.int32))


def _start_scale(given: QuantisedInput, logs: Tensor) -> float:
    """The step of an input once its channels have their first factors."""
    values = given.values
    if given.channels is not None:
        factors = logs[torch.from_numpy(given.channels.streams)].exp().float()
        values = values * factors.reshape(-1, 1)
    step, _ = best_step(values.reshape(1, -1), given.grid, given.symmetric, given.clamped)
    return float(step)


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else 0
