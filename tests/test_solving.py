"""Solving on data: better than nearest rounding, deterministic, parallel and sequential."""

from __future__ import annotations

import pytest
import torch

import bitwright as bw
from networks import pictures, small_network


def quantized(mode, method="quadratic", **options):
    net = small_network()
    data = [pictures(64, seed=1)[i : i + 16] for i in range(0, 64, 16)]
    return net, bw.quantize(net, data, method=method, mode=mode, batch=8, **options)


def output_error(net, result, seed=5):
    x = pictures(48, seed=seed)
    with torch.no_grad():
        return float((net(x) - result.model(x)).square().mean())


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_lower_output_error_than_nearest_rounding(mode):
    net, solved = quantized(mode, scheme="w3a8")
    _, nearest = quantized(mode, method="nearest", scheme="w3a8")
    assert output_error(net, solved) < 0.7 * output_error(net, nearest)


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_same_seed_same_bits(mode):
    one, other = (quantized(mode, scheme="w4a4")[1] for _ in range(2))
    for name, solved in one.assignment.weights.items():
        assert torch.equal(solved.q, other.assignment.weights[name].q)
        assert torch.equal(solved.qparams.scale, other.assignment.weights[name].qparams.scale)


def test_small_cuts_give_the_same_network(monkeypatch):
    """Where nothing can be stored, everything is computed again from the input: same solution."""
    _, stored = quantized("sequential", scheme="w4a4")
    monkeypatch.setattr("bitwright.solving.cuts.CUT_BYTES", 0)
    _, again = quantized("sequential", scheme="w4a4")
    for name, solved in stored.assignment.weights.items():
        same = (solved.q == again.assignment.weights[name].q).float().mean()
        assert same > 0.98, name


def test_grouping_by_memory_changes_nothing(monkeypatch):
    _, together = quantized("parallel", scheme="w4a4")
    monkeypatch.setattr("bitwright.solving.parallel.GRAM_BYTES", 1)
    _, apart = quantized("parallel", scheme="w4a4")
    for name, solved in together.assignment.weights.items():
        assert torch.equal(solved.q, apart.assignment.weights[name].q)


def test_ranges_chosen_at_the_output():
    net, result = quantized("sequential", scheme="w4a4", activation_range="output")
    assert torch.isfinite(result.model(pictures(4, seed=2))).all()
    _, nearest = quantized("sequential", method="nearest", scheme="w4a4")
    assert output_error(net, result) < output_error(net, nearest)


def test_what_cannot_be_solved_says_so():
    net = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 1), torch.nn.Flatten()).eval()
    result = bw.quantize(net, [torch.randn(8, 2, 2, 3, 3)], method="quadratic", scheme="w4a8")
    assert result.table[0]["method"] == "nearest"
