"""Nearest rounding: every weight at the closest point of its grid."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from unit_problems import bare as problem

from bitwright.methods.nearest import Nearest
from bitwright.numerics.affine import dequantize
from networks import normal


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_other_grid_point_is_closer(bits):
    layer = nn.Linear(20, 4)
    layer.weight.data = normal(4, 20)
    found = Nearest().solve(problem(layer, bits))
    grid = found.weight.grid
    points = torch.arange(grid.qmin, grid.qmax + 1).float() - found.weight.zero_point
    points = points * found.weight.scale
    best = (layer.weight.detach()[:, :, None] - points[:, None, :]).abs().amin(-1)
    own = (layer.weight.detach() - dequantize(found.q, found.weight)).abs()
    assert torch.allclose(own, best, atol=1e-6)


def test_the_error_is_relative_to_the_weights_energy():
    layer = nn.Linear(20, 4)
    layer.weight.data = normal(4, 20)
    found = Nearest().solve(problem(layer, 3))
    off = layer.weight.detach().double() - dequantize(found.q, found.weight)
    want = off.square().sum() / layer.weight.detach().double().square().sum()
    assert found.error == pytest.approx(float(want), rel=1e-6)


def test_the_range_rule_matters_and_mse_is_the_least_error():
    layer = nn.Linear(200, 4)
    layer.weight.data = normal(4, 200) ** 3
    errors = {r: Nearest(r).solve(problem(layer, 3)).error for r in ("mse", "minmax", "lp")}
    assert errors["mse"] < errors["minmax"] and errors["mse"] <= errors["lp"] * (1 + 1e-6)


def test_minmax_covers_every_weight():
    layer = nn.Linear(50, 3)
    layer.weight.data = normal(3, 50)
    found = Nearest("minmax").solve(problem(layer, 4))
    off = (layer.weight.detach() - dequantize(found.q, found.weight)).abs()
    assert bool((off <= found.weight.scale * 0.5001).all())
