"""AdaRound's soft rounding: a number between down and up, what it costs, and both slopes.

Equations 23 and 24 of Nagel et al., arXiv 2004.10568. The slopes are written out: autograd would
visit every weight some twenty times a step, and raise it to a power three times in place of once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.numerics.adam import Adam
from bitwright.numerics.affine import round_half_even

ZETA, GAMMA = 1.1, -0.1


def soft_rounding(v: Tensor) -> Tensor:
    """h(V) = clamp(sigmoid(V) (zeta - gamma) + gamma, 0, 1)."""
    return _line(torch.sigmoid(v)).clamp_(0, 1)


def begin_at(rest: Tensor) -> Tensor:
    """The V whose h(V) is the part of a step that flooring takes away, ends left out."""
    return torch.logit((rest.clamp(1e-4, 1 - 1e-4) - GAMMA) / (ZETA - GAMMA))


def slope(v: Tensor, grad: Tensor) -> Tensor:
    """dL/dV from dL/dh.

    Equation: dL/dV = dL/dh (zeta - gamma) sigmoid(V) (1 - sigmoid(V)), and 0 where h is clamped.
    """
    soft = torch.sigmoid(v)
    return _slope(soft, _line(soft), grad)


def pull(h: Tensor, power: float, weight: float) -> Tensor:
    """The slope of the regulariser, weight sum (1 - |2 h - 1|^beta), by h.

    Equation: -2 weight beta |2 h - 1|^(beta - 1) sign(2 h - 1).
    """
    away = h.mul(2).sub_(1)
    return away.abs().pow_(power - 1).mul_(-2.0 * weight * power).mul_(away.sign_())


def _line(soft: Tensor) -> Tensor:
    return soft.mul(ZETA - GAMMA).add_(GAMMA)


def _slope(soft: Tensor, line: Tensor, grad: Tensor) -> Tensor:
    kept = torch.ops.aten.hardtanh_backward(grad, line, 0.0, 1.0).mul_(ZETA - GAMMA)
    made: Tensor = torch.ops.aten.sigmoid_backward(kept, soft)
    return made


@dataclass(frozen=True)
class Press:
    """How the regulariser presses weights to the ends: not at first, then ever less sharply.

    Attributes:
        weight: lambda.
        warm_up: share of the steps without it.
        beta: its exponent behind the warm-up, and at the end; evenly between.
    """

    weight: float
    warm_up: float
    beta: tuple[float, float]

    def power(self, step: int, steps: int) -> float | None:
        """The exponent at one of so many steps; None in the warm-up."""
        warm = int(steps * self.warm_up)
        if step < warm:
            return None
        done = (step - warm) / max(steps - warm, 1)
        return self.beta[1] + (self.beta[0] - self.beta[1]) * (1 - done)


class SoftWeight:
    """A weight clamp(floor + h(V), low, high) s whose V Adam moves.

    Equation: dL/dV = (dL/dW s + pull(h)) h'(V). A weight whose floor or ceiling lies outside of
    the grid is the same whichever way V goes, so that the loss has no slope there.

    Args:
        steps: the float weight in steps of its grid, less the zero point.
        scale: of the grid; broadcasts to the weight.
        low, high: ends of the grid, less the zero point.
    """

    def __init__(
        self, steps: Tensor, scale: Tensor, low: Tensor | float, high: Tensor | float
    ) -> None:
        self._low = torch.as_tensor(low, device=steps.device)
        self._high = torch.as_tensor(high, device=steps.device)
        self.floor = steps.floor()
        self._base = self.floor.clamp(self._low, self._high) * scale
        self._span = scale * ((self.floor >= low) & (self.floor < high))
        self._adam = Adam(begin_at(steps - self.floor))
        self.weight = torch.empty_like(self._base)
        self._refresh()

    def _refresh(self) -> None:
        self._soft = torch.sigmoid(self._adam.value)
        self._line = _line(self._soft)
        self._h = self._line.clamp(0, 1)
        torch.addcmul(self._base, self._h, self._span, out=self.weight)

    def step(self, by_weight: Tensor, rate: float, power: float | None, weight: float) -> None:
        """One step of Adam, from the loss's slope by the weight; `pull` has power and weight."""
        grad = by_weight * self._span
        if power is not None:
            grad += pull(self._h, power, weight)
        self._adam.step(_slope(self._soft, self._line, grad), rate)
        self._refresh()

    def steps(self) -> Tensor:
        """Whole steps: what lies above one half goes up."""
        return (self.floor + round_half_even(self._h)).clamp(self._low, self._high)
