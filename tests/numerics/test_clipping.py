"""The closed forms against integration in float64, scipy and a search on samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import lambertw

from bitwright.errors import RecipeError
from bitwright.numerics.affine import fake_quantize, from_range
from bitwright.numerics.clipping import (
    DENSITIES,
    best_clip,
    clip_about,
    clips,
    expected_error,
    layout,
)
from bitwright.numerics.grid import Grid
from bitwright.numerics.ranges import AciqRange
from bitwright.numerics.stats import TensorStats

DENSITY = {
    "laplace": lambda x: 0.5 * math.exp(-abs(x)),
    "gauss": lambda x: math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi),
}
SIXTEEN = layout(Grid(4), False, False)
EVERY = pytest.mark.parametrize("density", DENSITIES)


@pytest.mark.parametrize(
    ("density", "clips"), [("laplace", (2.83, 3.89, 5.03)), ("gauss", (1.71, 2.15, 2.55))]
)
def test_the_constants_of_the_paper(density, clips):
    for bits, wanted in zip((2, 3, 4), clips, strict=True):
        assert best_clip(density, 2**bits) == pytest.approx(wanted, abs=0.0101)


@pytest.mark.parametrize("steps", [1, 3, 4, 15, 16, 30, 255, 256, 510, 65535])
def test_the_optimum_of_laplace_is_lamberts_w(steps):
    assert best_clip("laplace", steps) == pytest.approx(lambertw(3 * steps**2).real, rel=1e-12)


@EVERY
@pytest.mark.parametrize("clip", [0.3, 1.0, 2.55, 5.03, 9.0])
def test_the_error_is_the_integral_of_clipping_and_the_noise_of_steps(density, clip):
    tail, _ = quad(lambda x: DENSITY[density](x) * (x - clip) ** 2, clip, np.inf, epsabs=1e-14)
    wanted = 2 * tail + (2 * clip / 15) ** 2 / 12
    assert expected_error(density, clip, 15) == pytest.approx(wanted, rel=1e-7)


@EVERY
@pytest.mark.parametrize("steps", [3, 4, 7, 8, 15, 16, 31, 63, 127, 255, 65535])
def test_no_other_clip_has_a_smaller_error(density, steps):
    found = best_clip(density, steps)
    least = expected_error(density, found, steps)
    for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2.0):
        assert expected_error(density, found * factor, steps) >= least


def sample(density: str, one_sided: bool, count: int = 1 << 18) -> torch.Tensor:
    """Evenly spaced quantiles: a sample whose tail is the density's own, not a few draws of it."""
    share = (torch.arange(count).double() + 0.5) / count
    side = (share - 0.5).sign()
    laplace = -side * (1 - 2 * (share - 0.5).abs()).log()
    x = 0.7 * (torch.special.ndtri(share) if density == "gauss" else laplace).float()
    return x.relu() if one_sided else x


def error(x, lo, hi, grid, symmetric):
    return float((fake_quantize(x, from_range(lo, hi, grid, symmetric)) - x).square().mean())


@EVERY
@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_within_one_percent_of_the_best_clip_of_samples(density, one_sided, symmetric, bits):
    x, grid = sample(density, one_sided), Grid(bits, symmetric)
    low = torch.zeros(()) if one_sided else None
    line = 0.7 * torch.linspace(0.3, 1.6, 131) * layout(grid, symmetric, one_sided).clip(density)
    best = min(error(x, -c if low is None else low, c, grid, symmetric) for c in line)
    for lo, hi in (
        AciqRange().of_stats(TensorStats.of(x), grid, symmetric),
        tuple(end[0] for end in AciqRange().of_rows(x[None], grid, symmetric)),
    ):
        assert error(x, lo, hi, grid, symmetric) <= 1.01 * best


@EVERY
def test_the_density_is_recognised(density):
    x = sample(density, False).double()
    scale = x.square().mean().sqrt() if density == "gauss" else x.abs().mean()
    found = clips(x.abs().mean(), x.square().mean(), SIXTEEN)
    assert float(found) == pytest.approx(float(scale) * best_clip(density, 15), rel=1e-6)


@EVERY
@pytest.mark.parametrize("mean", [-3.0, 0.0, 0.2, 1.0])
def test_the_density_is_recognised_about_a_mean(density, mean):
    x = sample(density, False).double() + mean
    own, unit = float(x.std()), math.sqrt(2.0) if density == "laplace" else 1.0
    found = clip_about(float(x.mean()), float(x.abs().mean()), float(x.var()), SIXTEEN)
    # Far from zero E|x| is the mean whatever the density: there the choice is a toss.
    known = [best_clip(d, 15) * own / u for d, u in (("laplace", math.sqrt(2)), ("gauss", 1.0))]
    wanted = [own / unit * best_clip(density, 15)] if abs(mean) < 2 else known
    assert any(found == pytest.approx(w, rel=1e-3) for w in wanted)


def test_a_fused_relu_is_one_bit_more():
    grid = Grid(4)
    half, whole = sample("laplace", True), sample("laplace", False)
    hi = AciqRange().of_stats(TensorStats.of(half), grid, False)[1]
    assert layout(grid, False, True).steps == 2 * layout(grid, False, False).steps
    assert float(hi) == pytest.approx(0.7 * best_clip("laplace", 30), rel=0.01)
    assert float(hi) > float(AciqRange().of_stats(TensorStats.of(whole), grid, False)[1])


def test_negative_and_constant_tensors_keep_a_range():
    for x in (-sample("gauss", True), torch.full((50,), 0.3), torch.full((50,), -2.0)):
        lo, hi = AciqRange().of_stats(TensorStats.of(x), Grid(4), False)
        assert float(x.min()) <= float(lo) <= float(hi) <= float(x.max())
        assert error(x, lo, hi, Grid(4), False) <= float(x.square().mean())


def test_what_makes_no_sense():
    with pytest.raises(RecipeError, match=r"unknown density 'cauchy' in ACIQ"):
        best_clip("cauchy", 16)
    with pytest.raises(RecipeError, match=r"steps=0 in ACIQ"):
        expected_error("gauss", 1.0, 0)
