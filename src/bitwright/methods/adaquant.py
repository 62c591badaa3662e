"""AdaQuant: weights, bias and both quantisers of one unit learned together on its output."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import Needs, UnitProblem, UnitSolution
from bitwright.methods.quadratic import QuadraticSolver
from bitwright.methods.training import (
    Start,
    as_solution,
    behind,
    minibatches,
    never_worse,
    row_loss,
    trainable,
)
from bitwright.numerics.affine import QParams, fake_quantize_ste, round_half_even
from bitwright.numerics.exact import significant_bits, snap

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
        iterations, rows: minibatches, and rows in each.
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
    weight_range: str = "mse"
    name: str = "adaquant"

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

    def configured(self, weight_range: str) -> AdaQuant:
        """With the recipe's rule for the ranges of the nearest rounding."""
        return replace(self, weight_range=weight_range)

    def solve(self, problem: UnitProblem) -> UnitSolution:
        """Solve one unit; the start instead, and why, where held-out rows do not agree."""
        plain = Nearest(self.weight_range).solve(problem)
        first = QuadraticSolver(weight_range=self.weight_range).solve(problem) if self.warm else plain
        if not trainable(problem) or problem.unit is None:
            return replace(plain, fallback="no calibration rows")
        if problem.unit.kind.startswith("conv_transpose") and problem.unit.groups > 1:
            return replace(plain, fallback="grouped transposed convolutions share their scales")
        return never_worse(problem, plain, self._learn(problem, first))

    def _learn(self, problem: UnitProblem, plain: UnitSolution) -> UnitSolution:
        assert problem.unit is not None and problem.samples is not None
        start = Start.of(problem, problem.unit, plain)
        inputs = plain.inputs[0]
        state = _State(self, problem, start, inputs)
        target = behind(problem, problem.samples.y)
        apart = problem.samples_apart or problem.samples
        best, kept = math.inf, state.deployed()
        check = max(1, round(self.iterations * (1 - self.settle) / CHECKS))
        settle = int(self.iterations * self.settle)
        picks = minibatches(target.shape[1], self.rows, self.iterations, problem.seed)
        for step, picked in enumerate(picks):
            if step == settle:
                state.settle()
            state.schedule(0.5 * (1 + math.cos(math.pi * step / self.iterations)))
            state.step(problem.samples.x[:, picked], target[:, picked])
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
        self.steps = steps.clone()
        self.bias = start.bias.clone()
        self.log_scale = torch.zeros_like(start.scale if problem.per_channel else torch.zeros(()))
        self.log_input = torch.zeros(())
        self.shift = torch.zeros(())
        self.scale, self.settled = start.scale, False
        self.input_scale = torch.ones(()) if inputs is None else inputs.scale.clone()
        self.input_zero = torch.zeros(()) if inputs is None else inputs.zero_point.float()
        groups = self._groups()
        self.rates = [float(g["lr"]) for g in groups]
        self.adam = torch.optim.Adam(groups)

    def _groups(self) -> list[dict[str, object]]:
        """Parameter groups of Adam, at the rates that the method asks for."""
        method, relative = self.method, self.method.relative
        assert self.problem.samples is not None
        spread = float(self.problem.samples.y.std().clamp_min(1e-12)) if relative else 1.0
        scale = float(self.begin.scale.mean())
        levels = self.problem.grid.levels - 1
        groups: list[dict[str, object]] = []

        def add(value: Tensor, rate: float) -> None:
            groups.append({"params": [value.requires_grad_()], "lr": rate})

        if "weight" in method.learned:
            # In the paper's own units a rate r moves a weight by r / s steps.
            add(self.steps, method.weight_rate if relative else method.weight_rate / scale)
        if "bias" in method.learned and self.begin.unit.kind != "matmul":
            add(self.bias, method.bias_rate * spread)
        if "weight_quantizer" in method.learned:
            rate = method.weight_range_rate
            add(self.log_scale, rate if relative else rate / (levels * scale))
        if self._input_learned():
            assert self.inputs is not None
            rate, width = method.input_range_rate, self.inputs.grid.levels - 1
            size = width * float(self.input_scale)
            add(self.log_input, rate if relative else min(rate / size, 0.05))
            if not relative:
                add(self.shift, min(rate / float(self.input_scale), 0.5))
        return groups

    def _input_learned(self) -> bool:
        free = self.problem.free_inputs and self.inputs is not None
        return "input_quantizer" in self.method.learned and free

    def schedule(self, factor: float) -> None:
        """Scale all rates; the paper's are constant."""
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * (factor if self.method.relative else 1.0)

    def step(self, x: Tensor, target: Tensor) -> None:
        """One minibatch."""
        if self.inputs is not None:
            scale, zero = self._input_quantizer()
            x = fake_quantize_ste(x, scale, zero, self.inputs.grid)
        weight = self._rounded() * self._scale()
        loss = (behind(self.problem, x @ weight.transpose(1, 2) + self.bias) - target).square()
        self.adam.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]
        self.adam.step()

    def _rounded(self) -> Tensor:
        """Steps rounded, the gradient straight through inside the grid and nothing outside."""
        clamped = torch.clamp(self.steps, self.begin.low - 0.5, self.begin.high + 0.5)
        whole = round_half_even(self.steps.detach()).clamp(self.begin.low, self.begin.high)
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
            self.steps *= self._scale() / new
            if self.inputs is not None and self._input_learned():
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
            k = round_half_even(self.steps.detach() * (self._scale() / scale))
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
