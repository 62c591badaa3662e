"""How far one output is from the float network's, by what the output means; differentiable.

Every loss is one number a sample, in the same unit: about the squared error relative to the spread
that the float network's own values have over the data. So losses of several outputs can be added,
whatever their sizes and units. Where an output is read by its largest entry or its sign, the
*plain* loss is the divergence in nats, and the *softened* one that at a temperature of
`SOFTNESS` spreads, at which every entry has its say; it is what near equals about the relative
squared error too:

    T^2 KL(softmax(a / T) || softmax(b / T)) ~ 1/2 mean_c d_c^2,  d = a - b less its mean,
    T^2 KL(sigmoid(a / T) || sigmoid(b / T)) ~ 1/8 d^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from bitwright.numerics.losses import SOFTNESS, kl_rows

# Probabilities beyond this are as sure as they need be: their logits would be float32's rounding.
LEAST = 1e-4
# A channel that hardly varies is not counted as if it did: of the mean variance of all channels.
LEAST_VARIANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Spread:
    """How much an output varies in float over some data.

    Attributes:
        variance: of each channel, over samples and positions.
        within: the mean standard deviation in a row, of scores.
        rows: how many rows, of all positions of all samples, that was found from.
    """

    variance: Tensor
    within: float
    rows: int

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of each channel."""
        return self.variance.sqrt()

    @property
    def temperature(self) -> float:
        """The temperature of softened rows of scores."""
        return soften(self.within)


@dataclass
class SpreadSums:
    """Sums over data that give a `Spread`; in any order and in batches of any size the same."""

    count: int = 0
    total: Tensor | None = None
    square: Tensor | None = None
    within: float = 0.0

    def add(self, rows: Tensor) -> None:
        """Take in [samples, rows, channels]."""
        flat = rows.detach().reshape(-1, rows.shape[-1]).double().cpu()
        flat = flat[torch.isfinite(flat).all(-1)]
        self.count += len(flat)
        self.within += float(flat.std(-1, correction=0).sum())
        total, square = flat.sum(0), flat.square().sum(0)
        self.total = total if self.total is None else self.total + total
        self.square = square if self.square is None else self.square + square

    def spread(self) -> Spread:
        """What was seen so far.

        Equation: v_k = E[y_k^2] - E[y_k]^2, no less than LEAST_VARIANCE of their mean; the energy
        E[y_k^2], should nothing vary; 1 where all is zero.
        """
        if self.total is None or self.square is None or not self.count:
            return Spread(torch.ones(1, dtype=torch.float64), 1.0, 0)
        energy = self.square / self.count
        variance = (energy - (self.total / self.count).square()).clamp_min(0.0)
        # What is left of a constant by rounding is no variance.
        variance = torch.where(variance > 1e-12 * energy, variance, 0.0)
        if not bool(variance.any()):
            variance = energy
        floor = LEAST_VARIANCE * float(variance.mean())
        variance = variance.clamp_min(floor or 1.0)
        return Spread(variance, self.within / self.count, self.count)


def soften(spread: float) -> float:
    """The temperature of softened answers: SOFTNESS spreads, and no less than one."""
    return max(1.0, SOFTNESS * spread) if math.isfinite(spread) else 1.0


def lose_scores(a: Tensor, b: Tensor, spread: Spread | None = None) -> Tensor:
    """Divergence between rows of class scores, [samples, rows, classes] -> [samples].

    Equation: mean over rows of KL(softmax(a) || softmax(b)); with a spread s
    2 / s^2 T^2 KL(softmax(a / T) || softmax(b / T)), T = max(1, 3 s).
    Reference: Hinton et al., arXiv 1503.02531, section 2.
    """
    if spread is None:
        return kl_rows(a, b).mean(1)
    t = spread.temperature
    scale = 2.0 * t**2 / max(spread.within, 1e-12) ** 2
    return kl_rows(a.double() / t, b.double() / t).mean(1) * scale


def lose_labels(a: Tensor, b: Tensor, spread: Spread | None = None) -> Tensor:
    """Divergence between independent yes-or-no logits, [samples, rows, labels] -> [samples].

    Equation: mean of KL(sigmoid(a) || sigmoid(b)) = p (a - b) - log(1 + e^a) + log(1 + e^b), p =
    sigmoid(a); with a spread s 8 / s^2 T^2 KL(sigmoid(a / T) || sigmoid(b / T)), T = max(1, 3 s),
    s^2 the mean variance.
    """
    a, b = a.double(), b.double()
    if spread is None:
        return _bernoulli_kl(a, b).mean((1, 2))
    s = math.sqrt(float(spread.variance.mean()))
    t = soften(s)
    return _bernoulli_kl(a / t, b / t).mean((1, 2)) * (8.0 * t**2 / max(s, 1e-12) ** 2)


def square_errors(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of each channel, [samples, rows, channels] -> [samples, channels].

    Equation: mean over rows r of w_r (a_rk - b_rk)^2; the weights w of a sample's rows have mean
    one. Divided by the float values' variance v_k and averaged over k it is the loss of numbers.
    """
    squares = (a.double() - b.double()).square()
    if weight is not None:
        squares = squares * (weight / weight.mean(1, keepdim=True).clamp_min(1e-12)).unsqueeze(-1)
    return squares.mean(1)


def logits_of(probabilities: Tensor) -> Tensor:
    """log(p / (1 - p)) of probabilities between LEAST and 1 - LEAST."""
    return torch.logit(probabilities.double(), eps=LEAST)


def _bernoulli_kl(a: Tensor, b: Tensor) -> Tensor:
    return torch.sigmoid(a) * (a - b) - softplus(a) + softplus(b)
