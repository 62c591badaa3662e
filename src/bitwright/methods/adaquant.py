"""AdaQuant: weights, bias and both quantisers of one unit learned together on its output."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.errors import RecipeError, unknown
from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import Needs, UnitProblem, UnitSolution
from bitwright.methods.quadratic import QuadraticSolver
from bitwright.methods.training import (
    Minibatches,
    Start,
    as_solution,
    batch_rows,
    behind,
    better_apart,
    moves,
    never_worse,
    output_slope,
    quantise_samples,
    row_loss,
    tied_slope,
    trainable,
)
from bitwright.numerics.adam import Adam
from bitwright.numerics.affine import QParams, half_step, round_half_even
from bitwright.numerics.exact import significant_bits, snap
from bitwright.numerics.ranges import RangeRule

LEARNED = ("weight", "bias", "weight_quantizer", "input_quantizer")
CELL = 0.45
CHECKS = 8
# The share of a minibatch that the input's scale learns from: one number, where a weight is one of
# thousands, so that a quarter of the rows tells it as well.
INPUT_SHARE = 0.25


@dataclass(frozen=True)
class AdaQuant:
    """min over s_w, s_x, z_x, V, b of || f(Y) - f(Q(W + V) Q(X) + b) ||^2 by Adam.

    Equation 2 of Hubara et al., arXiv 2006.10518 (section 3.1; sequential: equations 3 and 4), f
    the fused activation; gradients pass straight through the rounding (appendix D.1). A weight may
    move by more than one step. All quantities are learned relative to their own step: V in steps of
    the weight's grid, scales as logarithms, so that the rates fit every layer; the preset `paper`
    learns in the tensors' own units at the paper's rates, from nearest rounding.

    Attributes:
        iterations, rows: minibatches, and rows in each; fewer where a unit has groups.
        weight_rate, bias_rate, weight_range_rate, input_range_rate: learning rates of Adam: in
            steps, in standard deviations of the output, and of log-scales.
        relative: whether rates are relative to each tensor's own scale.
        warm: begin at the quadratic solution.
        learned: what is optimised (figure 2b): weight, bias, weight_quantizer, input_quantizer.
        settle: share of the iterations after which scales are fixed to what a file can hold.
    """

    iterations: int = 500
    rows: int = 256
    weight_rate: float = 0.002
    bias_rate: float = 1e-3
    weight_range_rate: float = 3e-4
    input_range_rate: float = 5e-4
    relative: bool = True
    warm: bool = True
    learned: tuple[str, ...] = LEARNED
    settle: float = 0.7
    weight_range: str | RangeRule = "mse"
    name: str = "adaquant"

    def __post_init__(self) -> None:
        for part in self.learned:
            if part not in LEARNED:
                raise RecipeError(unknown("quantity to learn", part, LEARNED))

    @property
    def needs(self) -> Needs:
        """Unlabelled data, and a backward pass through one unit at a time."""
        return Needs(
            data=True,
            labels=False,
            backward=True,
            paper="arXiv 2006.10518",
            cost="two forward passes and 6 R N C operations a unit and iteration",
            rows=1 << 15,
        )

    def configured(self, weight_range: str | RangeRule) -> AdaQuant:
        """With the recipe's rule for the ranges of the nearest rounding."""
        return replace(self, weight_range=weight_range)

    def solve(self, problem: UnitProblem) -> UnitSolution:
        """Solve one unit; nearest rounding instead, and why, where held-out rows do not agree."""
        plain = Nearest(self.weight_range).solve(problem)
        first = (
            QuadraticSolver(weight_range=self.weight_range).solve(problem) if self.warm else plain
        )
        if not trainable(problem) or problem.unit is None:
            return replace(plain, fallback="no calibration rows")
        if problem.unit.kind.startswith("conv_transpose") and problem.unit.groups > 1:
            return replace(plain, fallback="grouped transposed convolutions share their scales")
        learned = self._learn(problem, first)
        if self.warm and first.fallback is None:
            # Learning that does not carry over to rows kept apart leaves the start as it was.
            own = moves(problem.weight.detach().float(), first.q, first.weight)
            first = replace(first, moves=own, method=self.name)
            learned = better_apart(problem, first, learned)
        return never_worse(problem, plain, learned)

    @torch.no_grad()
    def _learn(self, problem: UnitProblem, first: UnitSolution) -> UnitSolution:
        assert problem.unit is not None and problem.samples is not None
        start = Start.of(problem, problem.unit, first)
        inputs = first.inputs[0]
        state = _State(self, problem, start, inputs)
        target = behind(problem, problem.samples.y)
        apart = problem.samples_apart or problem.samples
        size = batch_rows(problem.samples, self.rows)
        rows = Minibatches.of(problem.samples.x, target, size, problem.seed)
        best, kept = math.inf, state.deployed()
        check = max(1, round(self.iterations * (1 - self.settle) / CHECKS))
        settle = int(self.iterations * self.settle)
        if not state.input_learned:
            rows = rows.quantise(inputs)
        for step in range(self.iterations):
            if step == settle:
                state.settle()
                # From here on the input's grid stays: what it makes of the rows is made once.
                rows = rows.quantise(state.deployed()[3]) if state.input_learned else rows
                seen = quantise_samples(apart, state.deployed()[3])
            factor = 0.5 * (1 + math.cos(math.pi * step / self.iterations))
            state.step(*rows.at(step), factor if self.relative else 1.0)
            if step >= settle and ((step + 1 - settle) % check == 0 or step + 1 == self.iterations):
                k, scale, bias, _ = found = state.deployed()
                loss = row_loss(problem, seen, None, k * scale, bias)
                if loss < best:
                    best, kept = loss, found
        k, scale, bias, qx = kept
        return as_solution(problem, start, k, scale, bias, qx, self.name)


class _State:
    """The learned quantities of one unit, their slopes in closed form, and their optimisers.

    Biases and logarithms of scales are parts of one vector: they are few, and each of them would
    cost a step as many calls as all weights do.
    """

    def __init__(
        self, method: AdaQuant, problem: UnitProblem, start: Start, inputs: QParams | None
    ) -> None:
        self.method, self.problem, self.begin, self.inputs = method, problem, start, inputs
        steps = start.weight / start.scale
        if method.warm:
            # Every weight as near to its float value as the start's integer allows.
            steps = torch.minimum(torch.maximum(steps, start.k - CELL), start.k + CELL)
        # In steps, which follow the scale; or, as the paper has it, in the weight's own units.
        self.free = steps.clone() if method.relative else steps * start.scale
        self.scale, self.settled = start.scale, False
        self.input_learned = (
            "input_quantizer" in method.learned and problem.free_inputs and inputs is not None
        )
        self.input_scale = 1.0 if inputs is None else float(inputs.scale)
        self.input_zero = 0.0 if inputs is None else float(inputs.zero_point)
        scales = start.scale.shape if problem.per_channel else (1, 1, 1)
        sizes = (start.bias.numel(), math.prod(scales), 1, 1)
        self.few = start.bias.new_zeros(sum(sizes))
        bias, log_scale, self.log_input, self.shift = torch.split(self.few, list(sizes))
        self.bias, self.log_scale = bias.view_as(start.bias), log_scale.view(scales)
        self.bias.copy_(start.bias)
        self.rates = torch.cat(
            [self.few.new_full((n,), r) for n, r in zip(sizes, self._rates(), strict=True)]
        )
        self._scales_begin = start.bias.numel()
        self._adam, self._adam_few = Adam(self.free), Adam(self.few)

    def _rates(self) -> tuple[float, ...]:
        """Of the bias, the weight's scales, the input's scale and zero point; 0: not learned."""
        method, relative = self.method, self.method.relative
        assert self.problem.samples is not None
        bias = scale = log_input = shift = 0.0
        if "bias" in method.learned and self.begin.unit.kind != "matmul":
            spread = self.problem.samples.y.std(correction=0).clamp_min(1e-12)
            bias = method.bias_rate * (float(spread) if relative else 1.0)
        if "weight_quantizer" in method.learned:
            size = (self.problem.grid.levels - 1) * float(self.begin.scale.mean())
            scale = method.weight_range_rate / (1.0 if relative else size)
        if self.input_learned:
            assert self.inputs is not None
            log_input = rate = method.input_range_rate
            if not relative:
                size = (self.inputs.grid.levels - 1) * self.input_scale
                log_input, shift = min(rate / size, 0.05), min(rate / self.input_scale, 0.5)
        return bias, scale, log_input, shift

    def step(self, x: Tensor, target: Tensor, factor: float = 1.0) -> None:
        """One minibatch; all rates times a factor.

        Rows come quantised where the input's grid is not learned, or no longer.
        """
        by_weight, by_few = self.slopes(x, target)
        if "weight" in self.method.learned:
            self._adam.step(by_weight, self.method.weight_rate * factor)
        self._adam_few.step(by_few, self.rates * factor)

    def slopes(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Of the mean squared error, by the weights and by what there are few of.

        Equation: with o = x^ W^T + b and e = 2 f'(o) (f(o) - t) / numel: dL/dW = e^T x^,
        dL/db = sum e, and through the quantisers as `fake_quantize_ste` has it.
        """
        learns_input = self.input_learned and not self.settled
        given = _LearnedInput(self, x) if learns_input else None
        x = x if given is None else given.x
        scale = self._scale()
        steps = self.steps()
        whole = round_half_even(steps).clamp_(self.begin.low, self.begin.high)
        weight = whole * scale
        out = torch.baddbmm(self.bias, x, weight.transpose(1, 2))
        error = output_slope(self.problem, out, target).mul_(2 / target.numel())
        by_weight = torch.bmm(error.transpose(1, 2), x)
        if self.problem.tied:
            by_weight += tied_slope(self.problem, weight, target).mul_(2)
        by_bias = error.sum(1)
        inside = steps == steps.clamp(self.begin.low - 0.5, self.begin.high + 0.5)
        if self.method.relative:
            by_scale = by_weight * weight
            by_free = by_weight.mul_(inside).mul_(scale)
        else:
            by_scale = by_weight * weight.addcmul_(steps * scale, inside, value=-1)
            by_free = by_weight.mul_(inside)
        by_scale = by_scale.sum(-1) if self.problem.per_channel else by_scale.sum()
        nothing = self.few.new_zeros(2)
        by_input = nothing if given is None else given.slopes(error, whole * scale)
        return by_free, torch.cat([by_bias.reshape(-1), by_scale.reshape(-1), by_input])

    def steps(self) -> Tensor:
        """The weights in steps of their grid, which are not whole."""
        return self.free if self.method.relative else self.free / self._scale()

    def _scale(self) -> Tensor:
        return self.scale if self.settled else self.scale * self.log_scale.exp()

    def input_quantizer(self) -> tuple[float, float]:
        """Scale and zero point, which need not be whole before they settle."""
        if self.settled or not self.input_learned:
            return self.input_scale, self.input_zero
        return self.input_scale * float(self.log_input.exp()), self.input_zero + float(self.shift)

    def settle(self) -> None:
        """Fix the scales to few significant bits; weights and bias go on learning with them."""
        new = snap(self._scale(), significant_bits(self.problem.grid))
        if self.method.relative:
            self.free *= self._scale() / new
        if self.inputs is not None and self.input_learned:
            grid = self.inputs.grid
            scale, zero = (self.inputs.scale.new_tensor(v) for v in self.input_quantizer())
            self.input_scale = float(snap(scale, significant_bits(grid)))
            self.input_zero = float(round_half_even(zero).clamp(grid.qmin, grid.qmax))
        self.scale, self.settled = new, True
        self.rates[self._scales_begin :] = 0.0

    def deployed(self) -> tuple[Tensor, Tensor, Tensor, QParams | None]:
        """Integers, scale, bias and input grid as a file would hold them."""
        scale = snap(self._scale(), significant_bits(self.problem.grid))
        k = round_half_even(self.steps() * (self._scale() / scale))
        k = k.clamp(self.begin.low, self.begin.high)
        inputs = self.inputs
        if inputs is not None and self.settled and self.input_learned:
            scales, zeros = inputs.scale, inputs.zero_point
            zero = zeros.new_tensor(int(self.input_zero))
            scale_in = scales.new_tensor(self.input_scale)
            inputs = replace(inputs, scale=scale_in, zero_point=zero, dynamic=False)
        return k, scale.expand_as(self.begin.scale), self.bias.clone(), inputs


class _LearnedInput:
    """Rows behind a quantiser that is learned, and its two slopes.

    Equation: with r = x / s and D = clamp(round(r)), dL/d(log s) = s sum g (D - r), r only where it
    rounds into the grid, and dL/dz = -s sum g outside of it; g = e W.
    """

    def __init__(self, state: _State, x: Tensor) -> None:
        assert state.inputs is not None
        grid, self._shift = state.inputs.grid, not state.method.relative
        self._scale, zero = state.input_quantizer()
        whole = min(max(round(zero), grid.qmin), grid.qmax)
        low, high = grid.qmin - whole, grid.qmax - whole
        self._ends = (half_step(low, -1), half_step(high, 1))
        # Two numbers of all: a part of the rows tells them.
        self._count = max(1, round(x.shape[1] * INPUT_SHARE))
        part = slice(0, self._count)
        self._rows = x.shape[1]
        scale = x.new_tensor(self._scale)
        steps = torch.div(x, scale)
        self._ratio = steps[:, part].clone()
        steps = round_half_even(steps).clamp_(low, high)
        self._steps = steps[:, part].clone()
        self.x = steps.mul_(scale)

    def slopes(self, error: Tensor, weight: Tensor) -> Tensor:
        """By the logarithm of the scale and by the zero point."""
        by_input = torch.bmm(error[:, : self._count], weight)
        ratio = self._ratio
        inside = torch.ops.aten.hardtanh_backward(ratio, ratio, *self._ends)
        share = self._scale * self._rows / self._count
        by_log = (self._steps - inside).mul_(by_input).sum() * share
        if not self._shift:
            return torch.stack([by_log, torch.zeros_like(by_log)])
        outside = (ratio <= self._ends[0]) | (ratio >= self._ends[1])
        return torch.stack([by_log, (by_input * outside).sum() * -share])


def paper(weight_range: str = "minmax") -> AdaQuant:
    """The paper's own setting: section 4 and appendix D.1; rates in tensor units, no warm start."""
    return AdaQuant(
        iterations=100,
        rows=2048,
        weight_rate=1e-5,
        bias_rate=1e-3,
        weight_range_rate=1e-3,
        input_range_rate=1e-1,
        relative=False,
        warm=False,
        settle=0.9,
        weight_range=weight_range,
        name="adaquant-paper",
    )
