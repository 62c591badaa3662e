"""AdaRound: each weight learns whether to round up or down, on the unit's output."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import Needs, UnitProblem, UnitSolution
from bitwright.methods.training import (
    Minibatches,
    Slopes,
    Start,
    as_solution,
    batch_rows,
    behind,
    moments_suffice,
    never_worse,
    slope_from_moments,
    slope_from_rows,
    trainable,
)
from bitwright.numerics.affine import QParams
from bitwright.numerics.ranges import RangeRule
from bitwright.numerics.soft_rounding import Press, SoftWeight


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
    rows: int = 256
    rate: float = 2e-2
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

    @torch.no_grad()
    def _learn(self, problem: UnitProblem, plain: UnitSolution) -> UnitSolution:
        assert problem.unit is not None
        start = Start.of(problem, problem.unit, plain)
        inputs = plain.inputs[0]
        learned = SoftWeight(start.weight / start.scale, start.scale, start.low, start.high)
        slopes = self._slopes(problem, start, inputs)
        press = Press(self.weight, self.warm_up, self.beta)
        share = self.weight / (start.weight.shape[0] * start.weight.shape[1])
        for step in range(self.iterations):
            power = press.power(step, self.iterations)
            learned.step(slopes(learned.weight, step), self.rate, power, share)
        k, bias = learned.steps(), start.bias
        return as_solution(problem, start, k, start.scale, bias, inputs, self.name)

    def _slopes(self, problem: UnitProblem, start: Start, inputs: QParams | None) -> Slopes:
        """The slope of the loss by the weight at a step, by rows or, with no f, by their moments.

        The loss is relative to the output's energy, so that lambda means the same everywhere.
        """
        samples = problem.samples
        assert samples is not None
        size = batch_rows(samples, self.rows)
        if moments_suffice(problem, start.weight.shape[-1], size):
            return slope_from_moments(problem, start)
        target = behind(problem, samples.y)
        energy = float(target.square().mean().clamp_min(1e-30))
        rows = Minibatches.of(samples.x, target, size, problem.seed).quantise(inputs)
        return slope_from_rows(problem, start, rows, energy)
