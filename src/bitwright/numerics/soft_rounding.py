"""AdaRound's soft rounding: a number between down and up, what it costs, and both slopes.

Equations 23 and 24 of Nagel et al., arXiv 2004.10568. The slopes are written out: autograd would
visit every weight some twenty times a step, and raise it to a power three times in place of once.
"""

from __future__ import annotations

import torch
from torch import Tensor

ZETA, GAMMA = 1.1, -0.1


def soft_rounding(v: Tensor) -> Tensor:
    """h(V) = clamp(sigmoid(V) (zeta - gamma) + gamma, 0, 1)."""
    return _line(torch.sigmoid(v)).clamp(0, 1)


def begin_at(rest: Tensor) -> Tensor:
    """The V whose h(V) is the part of a step that flooring takes away, ends left out."""
    return torch.logit((rest.clamp(1e-4, 1 - 1e-4) - GAMMA) / (ZETA - GAMMA))


def slope(v: Tensor, grad: Tensor) -> Tensor:
    """dL/dV from dL/dh.

    Equation: dL/dV = dL/dh (zeta - gamma) sigmoid(V) (1 - sigmoid(V)), and 0 where h is clamped.
    """
    soft = torch.sigmoid(v)
    line = _line(soft)
    kept = torch.where(line == line.clamp(0, 1), grad, 0.0).mul_(ZETA - GAMMA)
    made: Tensor = torch.ops.aten.sigmoid_backward(kept, soft)
    return made


def pull(h: Tensor, power: float, weight: float) -> Tensor:
    """The slope of the regulariser, weight sum (1 - |2 h - 1|^beta), by h.

    Equation: -2 weight beta |2 h - 1|^(beta - 1) sign(2 h - 1).
    """
    away = h.mul(2).sub_(1)
    size = away.abs().pow_(power - 1).mul_(power).mul_(-2.0 * weight)
    return size.mul_(away.sign_())


def _line(soft: Tensor) -> Tensor:
    return soft * (ZETA - GAMMA) + GAMMA
