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
    Start,
    as_solution,
    batch_rows,
    behind,
    better_apart,
    minibatches,
    moves,
    never_worse,
    pick_rows,
    row_loss,
    squared_error,
    trainable,
)
from bitwright.numerics.affine import QParams, fake_quantize_ste, round_half_even
from bitwright.numerics.exact import significant_bits, snap
from bitwright.numerics.ranges import RangeRule

LEARNED = ("weight", "bias", "weight_quantizer", "input_quantizer")
CELL = 0.45
CHECKS = 8


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
    rows: int = 1024
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
            rows=1 << 16,
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

    # The caller may compute without gradients, as everything else here does.
    @torch.enable_grad()
    def _learn(self, problem: UnitProblem, first: UnitSolution) -> UnitSolution:
        assert problem.unit is not None and problem.samples is not None
        start = Start.of(problem, problem.unit, first)
        inputs = first.inputs[0]
        state = _State(self, problem, start, inputs)
        target = behind(problem, problem.samples.y)
        apart = problem.samples_apart or problem.samples
        best, kept = math.inf, state.deployed()
        check = max(1, round(self.iterations * (1 - self.settle) / CHECKS))
        settle = int(self.iterations * self.settle)
        size = batch_rows(problem.samples, self.rows)
        picks = minibatches(target.shape[1], size, self.iterations, problem.seed)
        for step, picked in enumerate(picks):
            if step == settle:
                state.settle()
            state.schedule(0.5 * (1 + math.cos(math.pi * step / self.iterations)))
            state.step(pick_rows(problem.samples.x, picked), pick_rows(target, picked))
            if step >= settle and ((step + 1 - settle) % check == 0 or step + 1 == self.iterations):
                k, scale, bias, qx = found = state.deployed()
                loss = row_loss(problem, apart, qx, k * scale, bias)
                if loss < best:
                    best, kept = loss, found
        k, scale, bias, qx = kept
        return as_solution(problem, start, k, scale, bias, qx, self.name)


class _State:
    """The learned quantities of one unit and their optimiser."""

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
        self.bias = start.bias.clone()
        one = start.scale.new_ones(())
        self.log_scale = torch.zeros_like(start.scale if problem.per_channel else one)
        self.log_input, self.shift = torch.zeros_like(one), torch.zeros_like(one)
        self.scale, self.settled = start.scale, False
        self.input_scale = one if inputs is None else inputs.scale.clone()
        self.input_zero = one if inputs is None else inputs.zero_point.float()
        free = problem.free_inputs and inputs is not None
        self.input_learned = "input_quantizer" in method.learned and free
        groups = self._groups()
        self.rates = [rate for _, rate in groups]
        given = [{"params": [value], "lr": rate} for value, rate in groups]
        self.adam = torch.optim.Adam(given) if given else None

    def _groups(self) -> list[tuple[Tensor, float]]:
        """What Adam moves, at the rates that the method asks for."""
        method, relative = self.method, self.method.relative
        assert self.problem.samples is not None
        spread = 1.0
        if relative:
            spread = float(self.problem.samples.y.std(correction=0).clamp_min(1e-12))
        scale = float(self.begin.scale.mean())
        levels = self.problem.grid.levels - 1
        groups: list[tuple[Tensor, float]] = []

        def add(value: Tensor, rate: float) -> None:
            groups.append((value.requires_grad_(), rate))

        if "weight" in method.learned:
            add(self.free, method.weight_rate)
        if "bias" in method.learned and self.begin.unit.kind != "matmul":
            add(self.bias, method.bias_rate * spread)
        if "weight_quantizer" in method.learned:
            rate = method.weight_range_rate
            add(self.log_scale, rate if relative else rate / (levels * scale))
        if self.input_learned:
            assert self.inputs is not None
            rate, width = method.input_range_rate, self.inputs.grid.levels - 1
            size = width * float(self.input_scale)
            add(self.log_input, rate if relative else min(rate / size, 0.05))
            if not relative:
                add(self.shift, min(rate / float(self.input_scale), 0.5))
        return groups

    def schedule(self, factor: float) -> None:
        """Scale all rates; the paper's are constant."""
        groups = self.adam.param_groups if self.adam is not None else ()
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * (factor if self.method.relative else 1.0)

    def step(self, x: Tensor, target: Tensor) -> None:
        """One minibatch."""
        if self.inputs is not None:
            scale, zero = self._input_quantizer()
            x = fake_quantize_ste(x, scale, zero, self.inputs.grid)
        weight = self._rounded() * self._scale()
        loss = squared_error(self.problem, x, weight, self.bias, target)
        if self.adam is None or not loss.requires_grad:
            return  # only quantisers are learned, and they are settled
        self.adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()

    def _steps(self) -> Tensor:
        return self.free if self.method.relative else self.free / self._scale()

    def _rounded(self) -> Tensor:
        """Steps rounded, the gradient straight through inside the grid and nothing outside."""
        steps = self._steps()
        clamped = torch.clamp(steps, self.begin.low - 0.5, self.begin.high + 0.5)
        whole = round_half_even(steps.detach()).clamp(self.begin.low, self.begin.high)
        return clamped + (whole - clamped).detach()

    def _scale(self) -> Tensor:
        return self.scale if self.settled else self.scale * self.log_scale.exp()

    def _input_quantizer(self) -> tuple[Tensor, Tensor]:
        if self.settled:
            return self.input_scale, self.input_zero
        return self.input_scale * self.log_input.exp(), self.input_zero + self.shift

    def settle(self) -> None:
        """Fix the scales to few significant bits; weights and bias go on learning with them."""
        with torch.no_grad():
            new = snap(self._scale(), significant_bits(self.problem.grid))
            if self.method.relative:
                self.free *= self._scale() / new
            if self.inputs is not None and self.input_learned:
                grid = self.inputs.grid
                scale, zero = self._input_quantizer()
                self.input_scale = snap(scale, significant_bits(grid))
                self.input_zero = round_half_even(zero).clamp(grid.qmin, grid.qmax)
            self.scale, self.settled = new, True
        for value in (self.log_scale, self.log_input, self.shift):
            value.requires_grad_(False)
            value.grad = None

    def deployed(self) -> tuple[Tensor, Tensor, Tensor, QParams | None]:
        """Integers, scale, bias and input grid as a file would hold them."""
        with torch.no_grad():
            scale = snap(self._scale(), significant_bits(self.problem.grid))
            k = round_half_even(self._steps() * (self._scale() / scale))
            k = k.clamp(self.begin.low, self.begin.high)
            inputs = self.inputs
            if inputs is not None and self.settled:
                zero = self.input_zero.to(torch.int32)
                inputs = QParams(inputs.grid, self.input_scale.detach().clone(), zero)
            return k, scale.expand_as(self.begin.scale), self.bias.detach().clone(), inputs


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
