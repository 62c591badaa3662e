"""AdaRound: each weight learns whether to round up or down, on the unit's output."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import Needs, UnitProblem, UnitSolution
from bitwright.methods.training import (
    Start,
    as_solution,
    batch_rows,
    behind,
    minibatches,
    never_worse,
    pick_rows,
    squared_error,
    trainable,
)
from bitwright.numerics.affine import fake_quantize, round_half_even
from bitwright.numerics.ranges import RangeRule
from bitwright.numerics.soft_rounding import begin_at, pull, slope, soft_rounding


@dataclass(frozen=True)
class AdaRound:
    """min over V of || f(Y) - f(Wq X) ||^2 + lambda sum (1 - |2 h(V) - 1|^beta).

    Equations 21 to 25 of Nagel et al., arXiv 2004.10568: Wq = s clamp(floor(W / s) + h(V)), h the
    rectified sigmoid. beta is annealed from high to low, after a warm-up without the regulariser.
    Scales, bias and inputs stay as nearest rounding has them: the comparator of every other method.

    Attributes:
        iterations, rows: minibatches, and rows in each; fewer where a unit has groups.
        rate: of Adam.
        weight: lambda.
        warm_up: share of the iterations without the regulariser.
        beta: its exponent at the start and at the end.
    """

    iterations: int = 1000
    rows: int = 1024
    rate: float = 1e-2
    weight: float = 0.01
    warm_up: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)
    weight_range: str | RangeRule = "mse"
    name: str = "adaround"

    @property
    def needs(self) -> Needs:
        """Unlabelled data, and a backward pass through one unit at a time."""
        return Needs(
            data=True,
            labels=False,
            backward=True,
            paper="arXiv 2004.10568",
            cost="two forward passes and 6 R N C operations a unit and iteration",
            rows=1 << 15,
        )

    def configured(self, weight_range: str | RangeRule) -> AdaRound:
        """With the recipe's rule for ranges."""
        return replace(self, weight_range=weight_range)

    def solve(self, problem: UnitProblem) -> UnitSolution:
        """Solve one unit; nearest rounding instead, and why, where held-out rows do not agree."""
        plain = Nearest(self.weight_range).solve(problem)
        if not trainable(problem) or problem.unit is None:
            return replace(plain, fallback="no calibration rows")
        if problem.unit.kind.startswith("conv_transpose") and problem.unit.groups > 1:
            return replace(plain, fallback="grouped transposed convolutions share their scales")
        return never_worse(problem, plain, self._learn(problem, plain))

    # The caller may compute without gradients, as everything else here does.
    @torch.enable_grad()
    def _learn(self, problem: UnitProblem, plain: UnitSolution) -> UnitSolution:
        assert problem.unit is not None and problem.samples is not None
        start = Start.of(problem, problem.unit, plain)
        inputs = plain.inputs[0]
        target = behind(problem, problem.samples.y)
        # The loss is relative to the output's energy, so that lambda means the same everywhere.
        unit_loss = float(target.square().mean().clamp_min(1e-30))
        steps = start.weight / start.scale
        floor = steps.floor()
        v = begin_at(steps - floor)
        adam = torch.optim.Adam([v], lr=self.rate)
        warm = int(self.iterations * self.warm_up)
        size = batch_rows(problem.samples, self.rows)
        share = self.weight / (v.shape[0] * v.shape[1])
        picks = minibatches(target.shape[1], size, self.iterations, problem.seed)
        for step, picked in enumerate(picks):
            x = pick_rows(problem.samples.x, picked)
            if inputs is not None:
                x = fake_quantize(x, inputs)
            h = soft_rounding(v).requires_grad_()
            weight = (floor + h).clamp(start.low, start.high) * start.scale
            goal = pick_rows(target, picked)
            loss = squared_error(problem, x, weight, start.bias, goal) / unit_loss
            (grad,) = torch.autograd.grad(loss, h)
            with torch.no_grad():
                if step >= warm:
                    done = (step - warm) / max(self.iterations - warm, 1)
                    power = self.beta[1] + (self.beta[0] - self.beta[1]) * (1 - done)
                    grad += pull(h, power, share)
                v.grad = slope(v, grad)
            adam.step()
        up = round_half_even(soft_rounding(v))
        k = (floor + up).clamp(start.low, start.high)
        return as_solution(problem, start, k, start.scale, start.bias, inputs, self.name)
