from __future__ import annotations

import math

import pytest
import torch
from scipy.special import log_softmax

from bitwright.errors import DataError
from bitwright.numerics.losses import agreement, kl_divergence, relative_difference, sqnr_db


def test_agreement_counts_equal_winners():
    a = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, 1.0]])
    assert agreement(a, a) == (3, 3)
    assert agreement(a, a.flip(1)) == (0, 3)
    assert agreement(a.reshape(1, 3, 2), a.reshape(1, 3, 2)) == (3, 3)
    assert agreement(a[:0], a[:0]) == (0, 0)


def test_divergence_equals_scipys():
    a, b = 30 * torch.randn(7, 11), 30 * torch.randn(7, 11)
    log_p, log_q = (log_softmax(t.double().numpy(), axis=1) for t in (a, b))
    want = (math.e**log_p * (log_p - log_q)).sum(axis=1).mean()
    assert float(kl_divergence(a, b)) == pytest.approx(want, rel=1e-9)


def test_divergence_is_stable_zero_for_equal_and_differentiable():
    a = torch.tensor([[1e4, -1e4, 0.0]])
    assert float(kl_divergence(a, a)) == 0.0
    assert float(kl_divergence(a, a + 5.0)) == pytest.approx(0.0, abs=1e-9)
    masked = torch.tensor([[0.0, -math.inf]])
    assert float(kl_divergence(masked, masked)) == 0.0
    assert float(kl_divergence(a[:0], a[:0])) == 0.0
    b = torch.randn(2, 3, requires_grad=True)
    kl_divergence(torch.randn(2, 3), b).backward()
    assert torch.isfinite(b.grad).all() and b.grad.dtype == torch.float32


def test_signal_to_noise_ratio():
    a = torch.ones(100)
    assert sqnr_db(a, a * 1.1) == pytest.approx(20.0, abs=1e-3)
    assert sqnr_db(a, a) == math.inf
    assert sqnr_db(a * 0, a) == -math.inf


def test_relative_difference():
    a = torch.tensor([4.0, -8.0])
    assert relative_difference(a, a + torch.tensor([0.0, 2.0])) == 0.25
    assert relative_difference(a, a) == 0.0
    assert relative_difference(a * 0, a) == math.inf
    assert relative_difference(a[:0], a[:0]) == 0.0


@pytest.mark.parametrize("loss", [agreement, kl_divergence, sqnr_db, relative_difference])
def test_different_shapes_are_refused(loss):
    with pytest.raises(DataError, match=rf"\(2, 3\) and \(3, 2\) in {loss.__name__}: compare"):
        loss(torch.zeros(2, 3), torch.zeros(3, 2))
