"""`--portable`: solutions whose sums are the same on every processor, at the least loss.

Two neighbours of a channel may exceed 16 bits only where both are large. So the integers of a
solution nearly all stay: neighbours that exceed give up a little, and the other weights of the
channel make good for it, as far as second moments tell; where a coarser scale loses less, down to
the seven bits that can never exceed, the channel takes that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from bitwright.graph.rows import solvable
from bitwright.methods.problem import UnitProblem, UnitSolution, store_in_points
from bitwright.methods.quadratic import relative_loss
from bitwright.numerics.affine import QParams, dequantize, round_half_even
from bitwright.numerics.coordinate import Effort, Steps, descend
from bitwright.numerics.exact import significant_bits, snap
from bitwright.numerics.gram import Gram, Quadratic, centre_gram, regularise_problem, without_bias
from bitwright.numerics.grid import Grid
from bitwright.numerics.kernel_sums import (
    FLOAT_MOST,
    InputSpan,
    channel_rows,
    fit_pairs,
    from_channel_rows,
    neighbours_of,
    pair_bounds,
    pair_limit,
    pair_peaks,
    sum_peaks,
)

# Of a channel's scale: from weights that give way alone, to one bit less.
FACTORS = (1.0, 1.125, 1.25, 1.5, 2.0)
# The pull towards the float weights, as in the quadratic solver.
RIDGE, PRIOR, MOST_RIDGE = 0.003, 30.0, 3.0
# Mean squared over variance of a normal value behind a ReLU.
ONE_SIDED = 2.0 / (math.pi - 2.0)
# What tells one factor from another; at the best, bounds are set, descended within, and set anew.
TRIAL = Effort(2)
ROUNDS = 2
_BYTE = 8


def finish_solution(solution: UnitSolution, problem: UnitProblem) -> UnitSolution:
    """A method's solution as it is stored; where the problem asks for it, a portable one."""
    if problem.portable:
        solution = hold_sums(solution, problem)
    return store_in_points(solution, problem.choice)


def hold_sums(solution: UnitSolution, problem: UnitProblem) -> UnitSolution:
    """The solution itself where all its sums fit, else the nearest one whose sums do.

    What fits is said in `numerics.kernel_sums`: neighbours in 16 bits, and whole sums below 2^24,
    where a coarser scale can give that. Only weights of eight bits on a signed grid beside
    quantised inputs are looked at: narrower ones cannot exceed, others have no such kernel.
    """
    limits = _limits(solution, problem)
    if limits is None:
        return solution
    axis = problem.channel_axis
    rows = channel_rows(solution.q, axis).float()
    over = limits.find_exceeding(rows)
    if not over.any():
        return solution
    scale = solution.weight.scale
    wide = scale.expand_as(solution.q) if scale.numel() > 1 else scale.reshape(1)
    own = channel_rows(wide, axis) if scale.numel() > 1 else wide.expand(rows.shape[0], 1)
    free = scale.numel() == rows.shape[0] and not solution.channel_bits
    target = channel_rows(problem.weight.detach().float(), axis)
    start = _Channels(rows, own[:, :1] if free else own, target)
    judge = _judge_of(problem, over)
    found = _least(start.only(over), judge, limits, FACTORS if free else FACTORS[:1])
    k, scales = rows.clone(), own.clone()
    k[over] = found.k
    scales[over] = found.scale.expand_as(scales[over])
    q = from_channel_rows(k, solution.q, axis).to(solution.q.dtype)
    made = scale if not free else scales[:, 0].reshape(scale.shape)
    layout = torch.channels_last if q.dim() == 4 else torch.contiguous_format
    weight = QParams(solution.weight.grid, made, solution.weight.zero_point)
    changed = replace(solution, q=q.contiguous(memory_format=layout), weight=weight, moves=())
    return _measure_again(replace(changed, bias=judge.bias(solution.bias, k * scales)), problem)


@dataclass(frozen=True)
class _Limits:
    """What a unit's sums must keep to, and its weight's grid."""

    pairs: tuple[tuple[Tensor, Tensor], ...]
    most: int
    span: InputSpan
    grid: Grid

    def find_exceeding(self, rows: Tensor) -> Tensor:
        """The rows [C, N] that exceed one of them."""
        return (pair_peaks(rows, self.pairs) > self.most) | self.too_long(rows)

    def bounds(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds for each weight within which rows that fit go on to fit."""
        low, high = pair_bounds(rows, self.pairs, self.most)
        return low.clamp_min(self.grid.qmin), high.clamp_max(self.grid.qmax)

    def too_long(self, rows: Tensor) -> Tensor:
        """The rows whose sums float32 cannot hold."""
        return sum_peaks(rows, self.span) >= FLOAT_MOST


def _limits(solution: UnitSolution, problem: UnitProblem) -> _Limits | None:
    grid = solution.weight.grid
    known = [qp for qp in solution.inputs if qp is not None]
    apart = bool(solution.weight.zero_point.any()) or problem.choice.points > 1
    if not known or apart or not grid.signed or grid.bits != _BYTE or solution.q.dim() < 2:
        return None
    widest = max(known, key=lambda qp: qp.grid.bits)
    span = InputSpan(widest.grid.qmin, widest.grid.qmax, int(widest.zero_point.reshape(-1)[0]))
    pairs = neighbours_of(solution.q, problem.channel_axis)
    return _Limits(pairs, pair_limit(widest.grid), span, grid)


@dataclass(frozen=True, eq=False)
class _Channels:
    """Integers, scales and float weights of some channels: [C, N], [C, 1 or N], [C, N]."""

    k: Tensor
    scale: Tensor
    target: Tensor

    def only(self, chosen: Tensor) -> _Channels:
        return _Channels(self.k[chosen], self.scale[chosen], self.target[chosen])


def _least(
    start: _Channels, judge: _Judge, limits: _Limits, factors: tuple[float, ...]
) -> _Channels:
    """Each channel at the factor of its scale that loses least and fits, settled there."""
    found, least = (
        start,
        torch.full(start.k.shape[:1], torch.inf, dtype=torch.float64, device=start.k.device),
    )
    # Of a method that has looked at data its own weights count, of others the float ones.
    wanted = start.target if judge.moments is None else start.k * start.scale
    for factor in factors:
        scale, k = start.scale, start.k
        if factor > 1:
            scale = snap(scale * factor, significant_bits(limits.grid))
            k = round_half_even(wanted / scale).clamp_(limits.grid.qmin, limits.grid.qmax)
        here = replace(start, k=fit_pairs(k, limits.pairs, limits.most), scale=scale)
        here = judge.settle(here, limits, TRIAL)
        # A sum too long is worse than any loss, but better than none at all.
        loss = judge.loss(here) + 1e30 * limits.too_long(here.k).double()
        better = loss < least
        least = torch.where(better, loss, least)
        take = better.unsqueeze(-1)
        found = replace(
            start,
            k=torch.where(take, here.k, found.k),
            scale=torch.where(take, here.scale, found.scale),
        )
    for _ in range(ROUNDS):
        found = judge.settle(found, limits, Effort())
    return found


class _Judge(Protocol):
    """What a channel's loss is, and how its weights make good for one another."""

    @property
    def moments(self) -> Quadratic | None:
        """The unit's objective, where its data are known."""

    def settle(self, rows: _Channels, limits: _Limits, effort: Effort, /) -> _Channels:
        """The rows moved to less loss within the limits."""

    def loss(self, rows: _Channels) -> Tensor:
        """The loss of each row."""

    def bias(self, own: Tensor | None, weight: Tensor, /) -> Tensor | None:
        """The unit's bias with these weights."""


def _judge_of(problem: UnitProblem, over: Tensor) -> _Judge:
    unit, gram = problem.unit, problem.gram
    product = unit is not None and solvable(unit) and "transpose" not in unit.kind
    if gram is not None and product and gram.count > 1:
        return _ByMoments.of(problem, gram, over)
    known = [qp for qp in problem.inputs if qp is not None]
    one_sided = all(bool((qp.zero_point == qp.grid.qmin).all()) for qp in known)
    return _ByWeights(ONE_SIDED if one_sided else 0.0)


@dataclass(frozen=True)
class _ByWeights:
    """Without data: what can be known of an output whose inputs were not seen.

    Equation: E (d x)^2 = v (|d|^2 + r (sum d)^2) for changes d of the weights and inputs of equal
    mean and variance v, independent of each other; `ratio` r = mean^2 / v is that of a ReLU's
    results where the input has one sign, else 0.
    """

    ratio: float
    moments: Quadratic | None = None

    def settle(self, rows: _Channels, limits: _Limits, _effort: Effort, /) -> _Channels:
        """Steps of one weight each that bring the sum back, those that cost least first.

        Equation: of a step of weight i towards its float value, e_i of a step away, |d|^2 changes
        by 1 - 2 e_i and (sum d)^2 = S^2 by 1 - 2 S.
        """
        away = (rows.target - rows.k * rows.scale) / rows.scale
        total = away.sum(-1, keepdim=True)
        side = total.sign()
        low, high = limits.bounds(rows.k)
        room = torch.where(side > 0, rows.k + 1 <= high, rows.k - 1 >= low)
        costs = torch.where(room, 1 - 2 * away * side, torch.inf)
        order = costs.argsort(stable=True, dim=-1)
        taken = torch.arange(costs.shape[-1], device=costs.device)
        pays = costs.gather(-1, order) < self.ratio * (2 * (total.abs() - taken) - 1)
        steps = torch.zeros_like(rows.k).scatter_(-1, order, pays.to(rows.k.dtype))
        return replace(rows, k=rows.k + steps * side)

    def loss(self, rows: _Channels) -> Tensor:
        moved = (rows.target - rows.k * rows.scale).double()
        return moved.square().sum(-1) + self.ratio * moved.sum(-1).square()

    def bias(self, own: Tensor | None, _weight: Tensor, /) -> Tensor | None:
        return own


@dataclass(frozen=True, eq=False)
class _ByMoments:
    """With data: the output's error, as the quadratic solver has it.

    `moments` is the part of the objective with the channels that are looked at; of units with
    groups, with all channels of their groups. `chosen` says which of all channels they are.
    """

    moments: Quadratic
    exact: Quadratic
    chosen: Tensor
    free_bias: bool

    @classmethod
    def of(cls, problem: UnitProblem, gram: Gram, over: Tensor) -> _ByMoments:
        """The objective of a problem, regularised as its number of samples asks."""
        free = problem.kind != "matmul"
        exact = centre_gram(gram) if free else without_bias(gram, torch.zeros_like(gram.y))
        rows = channel_rows(problem.weight.detach().float(), problem.channel_axis)
        few = min(PRIOR / problem.sample_count, MOST_RIDGE) if problem.sample_count else 0.0
        target = rows.reshape(exact.h.shape[0], -1, exact.h.shape[-1])
        return cls(
            _part(regularise_problem(exact, target, max(RIDGE, few)), over), exact, over, free
        )

    def settle(self, rows: _Channels, limits: _Limits, effort: Effort) -> _Channels:
        """After a descent with bounds that keep what fits."""
        parts = (rows.k, rows.scale, *limits.bounds(rows.k))
        steps = Steps(*(self._spread(part) for part in parts))
        return replace(rows, k=self._gather(descend(self.moments, steps, False, effort)[0].k))

    def loss(self, rows: _Channels) -> Tensor:
        loss = self.moments.loss(self._spread(rows.k * rows.scale))
        return self._gather(loss.unsqueeze(-1))[:, 0]

    def bias(self, own: Tensor | None, weight: Tensor) -> Tensor | None:
        """Of the channels that were changed the best one."""
        if own is None or not self.free_bias:
            return own
        groups, inputs = self.exact.h.shape[0], self.exact.h.shape[-1]
        best = self.exact.bias(weight.reshape(groups, -1, inputs)).reshape(-1)
        return torch.where(self.chosen, best.to(own.dtype), own)

    def _spread(self, rows: Tensor) -> Tensor:
        """Rows of the chosen channels as the part of the problem has them: [G, C, N]."""
        groups, channels = self.moments.c.shape[:2]
        if groups == 1:
            return rows.unsqueeze(0)
        made = rows[:1].expand(groups * channels, -1).clone()
        made[self._inside(channels)] = rows
        return made.reshape(groups, channels, -1)

    def _gather(self, spread: Tensor) -> Tensor:
        groups, channels = spread.shape[:2]
        flat = spread.reshape(groups * channels, -1)
        return flat if groups == 1 else flat[self._inside(channels)]

    def _inside(self, channels: int) -> Tensor:
        """Which rows of the groups that have any are chosen."""
        spread = self.chosen.reshape(-1, channels)
        return spread[spread.any(1)].reshape(-1)


def _part(problem: Quadratic, over: Tensor) -> Quadratic:
    """The channels that are over; of units with groups, the groups that have any."""
    groups = problem.h.shape[0]
    if groups == 1:
        own = {name: getattr(problem, name)[:, over] for name in ("c", "constant", "y_mean")}
        return replace(problem, **own)
    chosen = over.reshape(groups, -1).any(1)
    names = ("h", "c", "constant", "x_mean", "y_mean")
    return replace(problem, **{name: getattr(problem, name)[chosen] for name in names})


def _measure_again(solution: UnitSolution, problem: UnitProblem) -> UnitSolution:
    """The solution with the figures of what it is now."""
    weight = problem.weight.detach().float()
    energy = weight.double().square().sum().clamp_min(1e-30)
    error = (weight - dequantize(solution.q, solution.weight)).double().square().sum() / energy
    solution = replace(solution, error=float(error))
    gram = problem.held_out or problem.gram
    if solution.loss_after is None or gram is None or problem.unit is None:
        return solution
    loss = relative_loss(gram, solution, problem.unit)
    return replace(solution, loss_after=loss + (solution.error if problem.tied else 0.0))
