"""What the gradient methods share: rows in minibatches, the loss behind the activation, the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bitwright.graph.activation import clamps_to
from bitwright.graph.model_graph import Unit
from bitwright.graph.rows import rows_weight, weight_rows
from bitwright.methods.problem import RowSamples, UnitProblem, UnitSolution
from bitwright.numerics.affine import QParams, dequantize, fake_quantize, quantize

MOST_MOVES = 8
# A minibatch of a grouped unit: as many rows as make so many numbers, and at least so many rows.
GROUPED_NUMBERS, GROUPED_ROWS = 1 << 18, 64


@dataclass(frozen=True, eq=False)
class Start:
    """A solution as rows: steps k = q - z, their scale and bounds [G, C, .], bias [G, 1, C]."""

    unit: Unit
    weight: Tensor
    k: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    bias: Tensor

    @classmethod
    def of(cls, problem: UnitProblem, unit: Unit, solution: UnitSolution) -> Start:
        """Rows of a solution that is already there."""
        weight = weight_rows(problem.weight.detach().float(), unit)
        groups, channels = weight.shape[:2]

        def spread(value: Tensor) -> Tensor:
            return value.reshape(-1).float().expand(groups * channels).reshape(groups, channels, 1)

        zero = spread(solution.weight.zero_point)
        k = weight_rows(solution.q.float(), unit) - zero
        grid = problem.grid
        bias = solution.bias
        if bias is None:
            bias = weight.new_zeros(groups * channels)
        return cls(
            unit,
            weight,
            k,
            spread(solution.weight.scale).clone(),
            grid.qmin - zero,
            grid.qmax - zero,
            bias.detach().float().reshape(groups, 1, channels).clone(),
        )


def trainable(problem: UnitProblem) -> bool:
    """Whether a unit has rows, and a scale for each row or one for all."""
    return problem.unit is not None and problem.samples is not None


def minibatches(rows: int, size: int, count: int, seed: int) -> Iterator[Tensor]:
    """Seeded row numbers: each epoch visits every row once; a batch may join two epochs."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, rows)
    order = torch.empty(0, dtype=torch.int64, device="cpu")
    for _ in range(count):
        if len(order) < size:
            # On the CPU whatever the rows are on: one seed means one order everywhere.
            epoch = torch.randperm(rows, generator=generator, device="cpu")
            order = torch.cat([order, epoch])
        yield order[:size]
        order = order[size:]


def batch_rows(samples: RowSamples, most: int) -> int:
    """How many rows a minibatch has; a group of few unknowns settles on few.

    Each row of a depthwise unit is a line for every channel, and 64 of them are several times a
    channel's nine unknowns.
    """
    groups, _, inputs = samples.x.shape
    if groups == 1:
        return most
    return min(most, max(GROUPED_ROWS, GROUPED_NUMBERS // (groups * inputs)))


def behind(problem: UnitProblem, value: Tensor) -> Tensor:
    """The output behind the fused activation."""
    return value if problem.activation is None else problem.activation(value)


def pick_rows(values: Tensor, picked: Tensor) -> Tensor:
    """Some rows of [G, R, N]; indexing with brackets would visit number by number."""
    return values.index_select(1, picked)


class _ClampedError(torch.autograd.Function):
    """See `squared_error`; the output, its error and the error's gradient share two buffers."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, ends: tuple[float, float]
    ) -> Tensor:
        out = (x @ weight.transpose(1, 2)).add_(bias)
        if math.inf in ends and -math.inf in ends:
            error = out.sub_(target)
        else:
            error = torch.clamp(out, *ends).sub_(target)
        flat = error.reshape(-1)
        loss = torch.dot(flat, flat) / flat.numel()
        if error is not out:
            error = torch.ops.aten.hardtanh_backward(error, out, *ends)
        ctx.save_for_backward(x, weight, error)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, error = ctx.saved_tensors
        error = error * (2 * (grad / error.numel()))
        grad_x = error @ weight if ctx.needs_input_grad[0] else None
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            grad_weight = (x.transpose(1, 2) @ error).transpose(1, 2)
        if ctx.needs_input_grad[2]:
            grad_bias = error.sum(1, keepdim=True)
        return grad_x, grad_weight, grad_bias, None, None


def squared_error(
    problem: UnitProblem, x: Tensor, weight: Tensor, bias: Tensor, target: Tensor
) -> Tensor:
    """Mean squared error behind the activation, with its gradient.

    Equation: mean (f(x W^T + b) - t)^2 with f the fused activation. Where f only clamps, as most
    do, what autograd would compute in a dozen passes over the outputs takes five, to the same bits.
    A weight that is a table of embeddings too adds its own error, at the output's energy.
    """
    ends = clamps_to(problem.activation)
    if ends is None:
        out = behind(problem, x @ weight.transpose(1, 2) + bias)
        loss = (out - target).square().mean()
    else:
        apply: Callable[..., Tensor] = _ClampedError.apply
        loss = apply(x, weight, bias, target, ends)
    return loss + target.square().mean() * table_error(problem, weight) if problem.tied else loss


def table_error(problem: UnitProblem, weight: Tensor) -> Tensor:
    """Squared error of a tied weight's rows [G, C, N] relative to its energy."""
    assert problem.unit is not None
    true = weight_rows(problem.weight.detach().float(), problem.unit)
    return (weight - true).square().sum() / true.square().sum().clamp_min(1e-30)


def row_loss(
    problem: UnitProblem, samples: RowSamples, inputs: QParams | None, weight: Tensor, bias: Tensor
) -> float:
    """Mean squared error behind the activation, relative to the output's energy.

    Of a weight that is a table of embeddings too, with that of its rows.
    """
    x = samples.x if inputs is None else fake_quantize(samples.x, inputs)
    out = behind(problem, x @ weight.transpose(1, 2) + bias)
    true = behind(problem, samples.y)
    loss = float((out - true).square().sum() / true.square().sum().clamp_min(1e-30))
    return loss + float(table_error(problem, weight)) if problem.tied else loss


def loss_of(problem: UnitProblem, samples: RowSamples, solution: UnitSolution) -> float:
    """`row_loss` of a solution as it will be deployed."""
    assert problem.unit is not None
    start = Start.of(problem, problem.unit, solution)
    return row_loss(problem, samples, solution.inputs[0], start.k * start.scale, start.bias)


def as_solution(
    problem: UnitProblem,
    start: Start,
    k: Tensor,
    scale: Tensor,
    bias: Tensor,
    inputs: QParams | None,
    name: str,
) -> UnitSolution:
    """Rows of steps as integers in the weight's own shape."""
    grid = problem.grid
    zero = grid.qmin - start.low
    q = rows_weight(k + zero, start.unit).to(grid.dtype)
    shape: list[int] = []
    scale, zero = scale.reshape(-1), zero.reshape(-1)
    if problem.per_channel:
        shape = [1] * problem.weight.dim()
        shape[problem.channel_axis] = -1
    else:
        scale, zero = scale[0], zero[0]
    layout = q.contiguous(memory_format=torch.channels_last) if q.dim() == 4 else q.contiguous()
    qparams = QParams(grid, scale.reshape(shape), zero.reshape(shape).to(torch.int32))
    weight = problem.weight.detach().float()
    change = (dequantize(layout, qparams) - weight).double().square().sum()
    error = float(change / weight.double().square().sum().clamp_min(1e-30))
    given = problem.inputs if inputs is None else (inputs, *problem.inputs[1:])
    own = None if start.unit.kind == "matmul" else bias.reshape(-1)
    return UnitSolution(
        layout, qparams, own, given, name, error, moves=moves(weight, layout, qparams)
    )


def moves(weight: Tensor, q: Tensor, qparams: QParams) -> tuple[int, ...]:
    """How many weights lie 0, 1, 2 ... grid steps from their nearest rounding (figure 2a)."""
    far = (q.int() - quantize(weight, qparams).int()).abs().clamp_max(MOST_MOVES)
    counts = torch.bincount(far.reshape(-1), minlength=MOST_MOVES + 1).tolist()
    while len(counts) > 1 and counts[-1] == 0:
        counts.pop()
    return tuple(counts)


def better_apart(problem: UnitProblem, one: UnitSolution, other: UnitSolution) -> UnitSolution:
    """Of two solutions the one with the smaller error on rows kept apart; the first at a tie."""
    apart = problem.samples_apart or problem.samples
    assert apart is not None
    return other if loss_of(problem, apart, other) < loss_of(problem, apart, one) else one


def never_worse(problem: UnitProblem, plain: UnitSolution, solved: UnitSolution) -> UnitSolution:
    """The solution, or the plain one and why, by the error on rows kept apart."""
    apart = problem.samples_apart or problem.samples
    assert apart is not None
    before, after = loss_of(problem, apart, plain), loss_of(problem, apart, solved)
    if not after <= before:
        text = f"held-out error {after:.3g} is above that of {plain.method}: {before:.3g}"
        return replace(plain, fallback=text, loss_before=before, loss_after=before)
    return replace(solved, loss_before=before, loss_after=after)
