"""AdaRound's soft rounding and its slopes, against formulas that autograd differentiates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.numerics.soft_rounding import GAMMA, ZETA, begin_at, pull, slope, soft_rounding
from networks import normal


def formula(v):
    """h(V) for autograd."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def regulariser(h, power):
    return (1 - (2 * h - 1).abs().pow(power)).sum()


def test_the_soft_rounding_formula():
    v = torch.linspace(-8, 8, 200, dtype=torch.float64)
    want = [min(max(1.2 / (1 + math.exp(-x)) - 0.1, 0.0), 1.0) for x in v.tolist()]
    assert (ZETA, GAMMA) == (1.1, -0.1)
    assert soft_rounding(v).tolist() == pytest.approx(want, abs=1e-12)
    assert soft_rounding(torch.tensor([-9.0, 0.0, 9.0])).tolist() == [0, 0.5, 1]


def test_it_begins_at_the_weight_itself():
    rest = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    assert torch.allclose(soft_rounding(begin_at(rest)), rest)
    ends = soft_rounding(begin_at(torch.tensor([0.0, 1.0])))
    assert 0 < float(ends[0]) < 1e-3 and 1 - 1e-3 < float(ends[1]) < 1


@given(st.integers(0, 10_000), st.floats(2.0, 20.0), st.floats(1e-6, 10.0))
def test_the_slopes_are_those_of_the_formulas(seed, power, weight):
    """Also in the last bit: a step costs less than autograd's, and learns the same."""
    for kind in (torch.float32, torch.float64):
        v = (normal(7, 9, seed=seed) * 2).to(kind).requires_grad_()
        grad = normal(7, 9, seed=seed + 1).to(kind)
        h = formula(v)
        assert torch.equal(h, soft_rounding(v.detach()))
        (by_h,) = torch.autograd.grad(weight * regulariser(h, power), h, retain_graph=True)
        near = pytest.approx(by_h.flatten().tolist(), rel=1e-5 if kind == torch.float32 else 1e-12)
        assert pull(h.detach(), power, weight).flatten().tolist() == near
        (by_v,) = torch.autograd.grad(h, v, grad)
        assert torch.equal(slope(v.detach(), grad), by_v)
        # Some of them are clamped and some are not, or the test says nothing.
        assert 0 < int((by_v == 0).sum()) < v.numel()


def test_a_weight_in_the_middle_is_not_pulled():
    h = torch.tensor([0.5, 0.75, 0.25, 1.0, 0.0])
    made = pull(h, 2.0, 1.0)
    assert made.tolist() == pytest.approx([0.0, -2.0, 2.0, -4.0, 4.0])
