"""How far a quantised network's outputs are from the float network's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitwright.errors import DataError

# Temperature of softened answers, in standard deviations of a row of scores.
SOFTNESS = 3.0


def agreement(a_logits: Tensor, b_logits: Tensor) -> tuple[int, int]:
    """How many rows have the same largest entry in both, and how many rows there are.

    Equation: (sum over rows of [argmax a = argmax b], rows); the last axis is the class axis.
    Reference: top-1 agreement, used as fidelity in Stanton et al., arXiv 2106.05945.
    """
    _check_same_shape(a_logits, b_logits, "agreement")
    if a_logits.numel() == 0:
        return 0, 0
    same = a_logits.argmax(dim=-1) == b_logits.argmax(dim=-1)
    return int(same.sum()), same.numel()


def cosine_rows(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between the rows of two tensors, in float64.

    Equation: a.b / (|a| |b|) along the last axis; 1 where both rows are zero, 0 where one is.
    Reference: Salton and McGill 1983; how embeddings are compared (arXiv 1908.10084).
    """
    _check_same_shape(a, b, "cosine_rows")
    a, b = a.double(), b.double()
    lengths = a.square().sum(-1).sqrt(), b.square().sum(-1).sqrt()
    product = lengths[0] * lengths[1]
    cosine = (a * b).sum(-1) / torch.where(product > 0, product, 1.0)
    return torch.where((lengths[0] == 0) & (lengths[1] == 0), 1.0, cosine)


def kl_divergence(float_logits: Tensor, quant_logits: Tensor) -> Tensor:
    """Mean divergence of the quantised distribution from the float one; differentiable.

    Equation: mean over rows of sum_c p_c (log p_c - log q_c), p = softmax(float logits),
    q = softmax(quantised logits).
    Reference: Hinton et al., arXiv 1503.02531, section 2.
    """
    _check_same_shape(float_logits, quant_logits, "kl_divergence")
    if float_logits.numel() == 0:
        return float_logits.new_zeros((), dtype=torch.float64)
    return kl_rows(float_logits, quant_logits).mean()


def kl_rows(float_logits: Tensor, quant_logits: Tensor) -> Tensor:
    """Divergence of the quantised distribution from the float one, row by row, in float64.

    Equation: sum_c p_c (log p_c - log q_c) along the last axis, as in `kl_divergence`.
    Reference: Hinton et al., arXiv 1503.02531, section 2.
    """
    # In float64: at 8 bits the divergence is of the size of float32's rounding of its terms.
    log_p = float_logits.double().log_softmax(dim=-1)
    log_q = quant_logits.double().log_softmax(dim=-1)
    # p = 0 (a logit of minus infinity) contributes nothing, as its limit does.
    terms = torch.where(log_p > -math.inf, log_p.exp() * (log_p - log_q), 0.0)
    return terms.sum(dim=-1)


def sqnr_db(a: Tensor, b: Tensor) -> float:
    """Signal to quantisation noise ratio in decibels; infinite when b equals a.

    Equation: 10 log10( sum a^2 / sum (a - b)^2 )
    Reference: Lin et al., arXiv 1511.06393.
    """
    _check_same_shape(a, b, "sqnr_db")
    signal = float(a.double().square().sum())
    noise = float((a.double() - b.double()).square().sum())
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest magnitude of a.

    Equation: max |a - b| / max |a|; 0 when both are equal, infinite when only a is zero.
    Reference: the relative form of numpy.allclose, taken over a whole tensor.
    """
    _check_same_shape(a, b, "relative_difference")
    if a.numel() == 0:
        return 0.0
    largest = float((a.detach().double() - b.detach().double()).abs().max())
    if largest == 0.0:
        return 0.0
    magnitude = float(a.detach().double().abs().max())
    return largest / magnitude if magnitude > 0.0 else math.inf


def _check_same_shape(a: Tensor, b: Tensor, place: str) -> None:
    if a.shape != b.shape:
        raise DataError(
            f"shapes {tuple(a.shape)} and {tuple(b.shape)} in {place}: compare the outputs of the"
            " same rows of both networks."
        )
