"""The loss of each kind of output against its formula in float64, and its unit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, xlogy

from bitwright.numerics.head_losses import (
    LEAST,
    SpreadSums,
    logits_of,
    lose_labels,
    lose_scores,
    square_errors,
)
from networks import normal


def spread_of(rows):
    sums = SpreadSums()
    sums.add(rows)
    return sums.spread()


def kl(p, log_p, log_q):
    return (p * (log_p - log_q)).sum(-1)


@given(st.integers(2, 9), st.integers(1, 6), st.floats(0.1, 20))
@settings(max_examples=25, deadline=None)
def test_scores_by_the_formula(classes, rows, scale):
    a = scale * normal(3, rows, classes)
    b = a + 0.3 * normal(3, rows, classes, seed=1)
    one, two = log_softmax(a.double().numpy(), -1), log_softmax(b.double().numpy(), -1)
    want = kl(np.exp(one), one, two).mean(1)
    assert np.allclose(lose_scores(a, b), want, atol=1e-12)
    spread = spread_of(a)
    s = a.double().numpy().std(-1).mean()
    t = max(1.0, 3 * s)
    one, two = (log_softmax(v.double().numpy() / t, -1) for v in (a, b))
    want = 2 / s**2 * t**2 * kl(np.exp(one), one, two).mean(1)
    assert np.allclose(lose_scores(a, b, spread), want, rtol=1e-9, atol=1e-12)


@given(st.integers(1, 5), st.floats(0.1, 20))
@settings(max_examples=25, deadline=None)
def test_labels_by_the_formula(labels, scale):
    a = scale * normal(4, 3, labels)
    b = a + 0.3 * normal(4, 3, labels, seed=1)

    def bernoulli(t):
        one, two = (v.double().numpy() / t for v in (a, b))
        p, no = expit(one), expit(-one)
        yes = xlogy(p, p / expit(two))
        return (yes + xlogy(no, no / expit(-two))).mean((1, 2))

    assert np.allclose(lose_labels(a, b), bernoulli(1.0), rtol=1e-6, atol=1e-9)
    s = math.sqrt(a.double().numpy().reshape(-1, labels).var(0).mean())
    t = max(1.0, 3 * s)
    want = 8 / s**2 * t**2 * bernoulli(t)
    assert np.allclose(lose_labels(a, b, spread_of(a)), want, rtol=1e-5, atol=1e-9)


def test_numbers_by_the_formula_and_rows_by_their_weight():
    a, b = normal(5, 7, 3), normal(5, 7, 3, seed=1)
    want = ((a.double() - b.double()) ** 2).numpy()
    assert np.allclose(square_errors(a, b), want.mean(1))
    weight = normal(5, 7, seed=2).abs().double()
    w = (weight / weight.mean(1, keepdim=True)).numpy()
    assert np.allclose(square_errors(a, b, weight), (want * w[..., None]).mean(1))


def test_the_spread_is_that_of_all_rows_in_any_batches():
    rows = 3 * normal(12, 5, 4) + torch.tensor([0.0, 10.0, -3.0, 1.0])
    whole, parted = spread_of(rows), SpreadSums()
    for part in rows.split([1, 5, 6]):
        parted.add(part)
    assert np.allclose(whole.variance, rows.double().reshape(-1, 4).numpy().var(0))
    assert np.allclose(whole.variance, parted.spread().variance, rtol=1e-12)
    assert parted.spread().within == pytest.approx(whole.within, rel=1e-12)
    assert whole.rows == 60


@pytest.mark.parametrize("rows", [torch.zeros(3, 2, 2), torch.full((3, 2, 2), 7.0)])
def test_a_constant_has_a_spread_to_divide_by(rows):
    assert bool((spread_of(rows).variance > 0).all())


def test_near_equals_lose_about_the_relative_squared_error_whatever_they_are():
    """So that losses of outputs of different kinds can be added."""
    a = 4 * normal(200, 1, 50)
    noise = 0.1 * normal(200, 1, 50, seed=1)
    noise -= noise.mean(-1, keepdim=True)
    relative = float(noise.double().square().mean()) / 16
    assert float(lose_scores(a, a + noise, spread_of(a)).mean()) == pytest.approx(relative, rel=0.1)
    assert float(lose_labels(a, a + noise, spread_of(a)).mean()) == pytest.approx(relative, rel=0.1)
    numbers = (square_errors(a, a + noise) / spread_of(a).variance).mean()
    assert float(numbers) == pytest.approx(relative, rel=0.15)


def test_probabilities_have_logits():
    p = torch.tensor([0.0, 0.2, 1.0])
    want = [math.log(LEAST / (1 - LEAST)), math.log(0.25), -math.log(LEAST / (1 - LEAST))]
    assert logits_of(p).tolist() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("lose", [lose_scores, lose_labels])
def test_losses_have_a_gradient_that_vanishes_at_equality(lose):
    a = normal(2, 3, 4)
    b = a.clone().requires_grad_()
    lose(a, b, spread_of(a)).sum().backward()
    assert float(b.grad.abs().max()) < 1e-6
    c = (a + 1e-2 * normal(2, 3, 4, seed=1)).requires_grad_()
    lose(a, c, spread_of(a)).sum().backward()
    assert float(c.grad.abs().max()) > 1e-4
