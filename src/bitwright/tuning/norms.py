"""Batch-norms that stand for what was folded: reconstructed, re-estimated, fused again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.engine.device import move
from bitwright.graph.model_graph import FoldedBatchNorm
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import FLOAT32_TINY, QParams
from bitwright.numerics.exact import significant_bits, snap

# A channel whose quantised output hardly varies would be blown up without a limit.
LIMIT = 2.0
# The part of the mean variance that stands for epsilon where there was no batch-norm.
RELATIVE_EPS = 1e-5


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """gamma (x - mean) / sqrt(var + eps) + beta, channel by channel."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    var: Tensor
    eps: float

    @property
    def gain(self) -> Tensor:
        """What the input is multiplied by: gamma / sqrt(var + eps); never negative."""
        return self.gamma / torch.sqrt(self.var + self.eps)

    def __call__(self, x: Tensor, axis: int = 1) -> Tensor:
        """Normalise a tensor whose channels lie along an axis."""
        shape = [1] * x.dim()
        shape[axis] = -1
        mean, gain, beta = (v.to(x.dtype).view(shape) for v in (self.mean, self.gain, self.beta))
        return (x - mean) * gain + beta


def reconstruct(record: FoldedBatchNorm) -> BatchNorm:
    """The batch-norm that does nothing to the output of the unit that it was folded into.

    Equation: mean = beta_r = beta_o, var = gamma_o^2, gamma_r = sqrt(gamma_o^2 + eps), so that
    BN_r(x) = x.
    Reference: Hubara et al. 2020 (arXiv 2006.10518), equation 7 and B.11.
    """
    beta, gamma = record.beta.double(), record.gamma.double()
    return BatchNorm(
        torch.sqrt(gamma.square() + record.eps), beta, beta, gamma.square(), record.eps
    )


def from_statistics(mean: Tensor, var: Tensor) -> BatchNorm:
    """The same where no batch-norm was: from the float network's own output statistics.

    Equation: gamma_o^2 = var, beta_o = mean; eps a small part of the mean variance.
    Reference: Hubara et al. 2020, section 5.3 invites it.
    """
    mean, var = mean.double(), var.double()
    eps = max(RELATIVE_EPS * float(var.mean()), 1e-30)
    return BatchNorm(torch.sqrt(var + eps), mean, mean, var, eps)


def refuse(solution: UnitSolution, norm: BatchNorm, scales: bool = True) -> UnitSolution:
    """Fuse a batch-norm into a quantised unit without rounding its weights again.

    Equation: s'_w = s_w g, b' = g (b - mean) + beta_r, with g = gamma_r / sqrt(var + eps); the
    integers and zero points stay, so the weights are W' = g W exactly (B.14).
    The scale is put on the nearest one of few significant bits (`numerics.exact`) and the bias
    follows the scale that results: where g is closer to one than half a step of that lattice, only
    the mean is corrected. So it is, too, where several channels share a scale, or `scales` is off.
    Reference: Hubara et al. 2020, section 3.3, appendix B.13 and B.14.
    """
    qparams = solution.weight
    norm = move(norm, str(qparams.scale.device))
    channels = norm.beta.numel()
    gain = torch.ones_like(norm.beta)
    if scales and qparams.scale.numel() == channels:
        wanted = norm.gain.clamp(1 / LIMIT, LIMIT).nan_to_num(1.0).reshape(qparams.scale.shape)
        scale = nearest_scale(qparams.scale.double() * wanted, significant_bits(qparams.grid))
        scale = torch.where(scale >= FLOAT32_TINY, scale, qparams.scale)
        gain = (scale.double() / qparams.scale.double()).reshape(-1)
        qparams = QParams(qparams.grid, scale, qparams.zero_point)
    bias = torch.zeros_like(gain) if solution.bias is None else solution.bias.double()
    return replace(solution, weight=qparams, bias=(gain * (bias - norm.mean) + norm.beta).float())


def nearest_scale(scale: Tensor, bits: int) -> Tensor:
    """The nearest scale of so many significant bits, by ratio."""
    above, below = snap(scale, bits), snap(scale, bits, down=True)
    closer = scale.double().square() > above.double() * below.double()
    return torch.where(closer, above, below)


def gain_between(before: UnitSolution, after: UnitSolution) -> Tensor:
    """What each channel of a unit's weight was multiplied by, from its scales."""
    assert after.bias is not None
    ratio = (after.weight.scale.double() / before.weight.scale.double()).reshape(-1)
    return ratio if ratio.numel() == after.bias.numel() else torch.ones(after.bias.numel()).double()
