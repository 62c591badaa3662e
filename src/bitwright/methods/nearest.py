"""Nearest rounding: each weight to the closest point of its grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitwright.methods.problem import Needs, UnitProblem, UnitSolution
from bitwright.numerics.affine import dequantize, quantize
from bitwright.numerics.blocks import find_grouped_qparams, turn_to_channels
from bitwright.numerics.ranges import RangeRule, range_rule, weight_qparams


@dataclass(frozen=True)
class Nearest:
    """q = clamp(round(W / s) + z): the baseline of every comparison, and enough at eight bits.

    Attributes:
        weight_range: how s and z are chosen for each channel: minmax, mse, lp, percentile or kl.
    """

    weight_range: str | RangeRule = "mse"
    name: str = "nearest"

    @property
    def needs(self) -> Needs:
        """Nothing but the weights."""
        return Needs(
            data=False, labels=False, backward=False, paper="arXiv 1806.08342", cost="milliseconds"
        )

    def configured(self, weight_range: str | RangeRule) -> Nearest:
        """With the recipe's rule for ranges."""
        return replace(self, weight_range=weight_range)

    def solve(self, problem: UnitProblem) -> UnitSolution:
        """Round every weight to its nearest grid point."""
        axis = problem.channel_axis if problem.per_channel else None
        weight = problem.weight.detach().float()
        rule = range_rule(self.weight_range)
        if problem.choice.group:
            rows = weight if problem.channel_axis == 0 else weight.t()
            qparams = find_grouped_qparams(
                rows, problem.grid, problem.choice.group, rule, problem.symmetric
            )
            if problem.channel_axis:
                qparams = turn_to_channels(qparams)
        else:
            qparams = weight_qparams(weight, problem.grid, axis, rule, problem.symmetric)
        q = quantize(weight, qparams)
        energy = weight.double().square().sum().clamp_min(1e-30)
        error = (weight - dequantize(q, qparams)).double().square().sum() / energy
        return UnitSolution(q, qparams, problem.bias, problem.inputs, self.name, float(error))
