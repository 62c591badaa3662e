"""What the gradient methods share: rows in minibatches, the loss behind the activation, the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.graph.activation import clamps_to
from bitwright.graph.model_graph import Unit
from bitwright.graph.rows import rows_weight, weight_rows
from bitwright.methods.problem import RowSamples, UnitProblem, UnitSolution
from bitwright.numerics.affine import QParams, dequantize, fake_quantize, quantize
from bitwright.numerics.gram import without_bias

# The slope of a loss by the weight [G, C, N], at a step.
Slopes = Callable[[Tensor, int], Tensor]
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


@dataclass(frozen=True, eq=False)
class Minibatches:
    """Rows in a seeded order, cut once: a minibatch is a view, and no row is copied in the loop.

    Every epoch visits every minibatch once, in the same order; rows that would make a smaller one
    are left out, whoever the seed has last.

    Attributes:
        x, target: rows [G, R, N] and [G, R, C].
        size: rows of a minibatch.
    """

    x: Tensor
    target: Tensor
    size: int

    @classmethod
    def of(cls, x: Tensor, target: Tensor, size: int, seed: int) -> Minibatches:
        """In the order of the seed, which is the same whatever device the rows are on."""
        order = torch.randperm(
            x.shape[1], generator=torch.Generator().manual_seed(seed), device="cpu"
        )
        order = order.to(x.device)
        return cls(x.index_select(1, order), target.index_select(1, order), min(size, len(order)))

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The rows of one step, and their targets."""
        first = step % (self.x.shape[1] // self.size) * self.size
        place = slice(first, first + self.size)
        return self.x[:, place], self.target[:, place]

    def quantise(self, inputs: QParams | None) -> Minibatches:
        """The same rows behind a quantiser that no longer changes."""
        return self if inputs is None else replace(self, x=fake_quantize(self.x, inputs))


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


def output_slope(problem: UnitProblem, out: Tensor, target: Tensor) -> Tensor:
    """f'(o) (f(o) - t), the slope of half the squared error by the output before the activation f.

    Where f only clamps, as most do, in place of `out`; else autograd differentiates f alone.
    """
    ends = clamps_to(problem.activation)
    if ends is None:
        with torch.enable_grad():
            value = out.detach().requires_grad_()
            made = behind(problem, value)
            (by_value,) = torch.autograd.grad(made, value, made.detach() - target)
        return by_value
    if math.inf in ends and -math.inf in ends:
        return out.sub_(target)
    error = torch.clamp(out, *ends).sub_(target)
    hardtanh = torch.ops.aten.hardtanh_backward
    hardtanh.grad_input(error, out, *ends, grad_input=out)
    return out


def tied_slope(problem: UnitProblem, weight: Tensor, target: Tensor) -> Tensor:
    """The slope by the weight of what its error as a table of embeddings adds to half the error.

    Equation: mean t^2 (W - W0) / ||W0||^2; see `table_error`.
    """
    assert problem.unit is not None
    true = weight_rows(problem.weight.detach().float(), problem.unit)
    energy = target.square().mean() / true.square().sum().clamp_min(1e-30)
    return (weight - true).mul_(energy)


def slope_from_rows(problem: UnitProblem, start: Start, rows: Minibatches, energy: float) -> Slopes:
    """The slope by the weight of a minibatch's mean squared error relative to an energy."""
    factor = 2 / (rows.target[:, : rows.size].numel() * energy)

    def slopes(weight: Tensor, step: int) -> Tensor:
        x, target = rows.at(step)
        out = torch.baddbmm(start.bias, x, weight.transpose(1, 2))
        made = torch.bmm(output_slope(problem, out, target).transpose(1, 2), x).mul_(factor)
        return (
            made.add_(tied_slope(problem, weight, target), alpha=2 / energy)
            if problem.tied
            else made
        )

    return slopes


def moments_suffice(problem: UnitProblem, inputs: int, rows: int) -> bool:
    """Whether second moments hold the loss, for less work than a minibatch of rows.

    Without an activation the error is a quadratic form of the weight, of all rows at once:
    C N^2 products a step in place of 2 R N C.
    """
    gram = problem.gram
    linear = clamps_to(problem.activation) == (-math.inf, math.inf)
    return linear and gram is not None and gram.count >= inputs and inputs <= 2 * rows


def slope_from_moments(problem: UnitProblem, start: Start) -> Slopes:
    """The slope by the weight of all rows' squared error relative to the output's energy.

    Equation: 2 (W H - C) / sum y^2, H = sum x x^T and C = sum (y - b) x^T (`numerics.gram`).
    """
    assert problem.gram is not None
    whole = without_bias(problem.gram, start.bias.squeeze(1))
    energy = float(problem.gram.yy.double().sum().clamp_min(1e-30))
    h, c = whole.h.mul(2 / energy), whole.c.mul(-2 / energy)
    true = start.weight
    tied = 2 / float(true.square().sum().clamp_min(1e-30)) if problem.tied else 0.0

    def slopes(weight: Tensor, step: int) -> Tensor:
        del step  # every step sees all rows
        made = torch.baddbmm(c, weight, h)
        return made.add_(weight - true, alpha=tied) if tied else made

    return slopes


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
    out = behind(problem, torch.baddbmm(bias, x, weight.transpose(1, 2)))
    true = behind(problem, samples.y)
    loss = float((out - true).square().sum() / true.square().sum().clamp_min(1e-30))
    return loss + float(table_error(problem, weight)) if problem.tied else loss


def quantise_samples(samples: RowSamples, inputs: QParams | None) -> RowSamples:
    """Samples whose x is behind its quantiser already."""
    return samples if inputs is None else replace(samples, x=fake_quantize(samples.x, inputs))


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
