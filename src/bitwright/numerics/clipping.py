"""Clipping in closed form: the range of least expected error for Laplace and Gauss densities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from bitwright.errors import RecipeError, unknown
from bitwright.numerics.grid import Grid

DENSITIES = ("gauss", "laplace")
# E|x| / sqrt(E x^2) about the mean: 0.798 for Gauss, 0.707 for Laplace; half-way between.
BETWEEN = 0.5 * (math.sqrt(2.0 / math.pi) + math.sqrt(0.5))
_HALVINGS = 200


def expected_error(density: str, clip: float, steps: float) -> float:
    """Mean squared error of a tensor clipped at +-clip and rounded to `steps` steps in between.

    Equation, in units of b for Laplace and of sigma for Gauss:
    Laplace 2 e^-a + a^2 / (3 n^2);
    Gauss (a^2 + 1) erfc(a / sqrt 2) - a sqrt(2 / pi) e^(-a^2 / 2) + a^2 / (3 n^2).
    The paper counts n = 2^M steps; the affine grid has 2^M - 1 from its first to its last level.
    Reference: Banner et al., arXiv 1810.05723, equations 6 and 10 (appendix A).
    """
    _check(density, steps)
    noise = clip * clip / (3.0 * steps * steps)
    if density == "laplace":
        return 2.0 * math.exp(-clip) + noise
    tail = (clip * clip + 1.0) * math.erfc(clip / math.sqrt(2.0))
    return tail - clip * math.sqrt(2.0 / math.pi) * math.exp(-0.5 * clip * clip) + noise


@lru_cache(maxsize=256)
def best_clip(density: str, steps: float) -> float:
    """The clip at which `expected_error` is least, in units of b (Laplace) or sigma (Gauss).

    Equation: the root of its derivative: Laplace a e^a = 3 n^2, Lambert's W; Gauss
    a erfc(a / sqrt 2) - sqrt(2 / pi) e^(-a^2 / 2) + a / (3 n^2) = 0. With n = 2^M the paper's
    constants: 2.83, 3.89, 5.03 b and 1.71, 2.15, 2.55 sigma for 2, 3 and 4 bits.
    Reference: Banner et al., arXiv 1810.05723, section 2 (equation 7; appendix A).
    """
    _check(density, steps)
    low, high = 0.0, 64.0
    # Both derivatives are negative at zero and rise to one sign change: halve the interval.
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if _slope(density, middle, steps) < 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _slope(density: str, clip: float, steps: float) -> float:
    """Half the derivative of `expected_error`."""
    noise = clip / (3.0 * steps * steps)
    if density == "laplace":
        return noise - math.exp(-clip)
    bell = math.sqrt(2.0 / math.pi) * math.exp(-0.5 * clip * clip)
    return clip * math.erfc(clip / math.sqrt(2.0)) - bell + noise


def _check(density: str, steps: float) -> None:
    if density not in DENSITIES:
        raise RecipeError(unknown("density", density, DENSITIES, "ACIQ"))
    if not steps >= 1.0:
        raise RecipeError(f"steps={steps!r} in ACIQ: a grid has at least one step.")


@dataclass(frozen=True)
class Layout:
    """How a grid lies over [-clip, clip]: its steps, and where its range ends for a clip of 1."""

    steps: int
    reach: float

    def clip(self, density: str) -> float:
        """The range's end at which the expected error is least, in units of b or sigma."""
        return self.reach * best_clip(density, self.steps)


def layout(grid: Grid, symmetric: bool, one_sided: bool) -> Layout:
    """How a grid lies over a density.

    A grid over [0, clip] counts its steps twice, as if they went on below zero: that is the one
    bit more of resolution that a fused ReLU brings. A symmetric grid wastes its other half there;
    on both sides it has one step more below zero than above, where its range ends.
    """
    steps, top = grid.levels - 1, grid.levels // 2 - 1
    if not symmetric:
        return Layout(2 * steps if one_sided else steps, 1.0)
    return Layout(2 * top, 1.0) if one_sided else Layout(steps, 2.0 * top / steps)


def clips(mean_abs: Tensor, mean_square: Tensor, lies: Layout) -> Tensor:
    """The best clip for each pair of moments about the centre of a density.

    Equation: b = E|x|, sigma = sqrt(E x^2); Gauss where E|x| / sigma is nearer to sqrt(2 / pi)
    than to sqrt(1 / 2), Laplace's value, else Laplace. Half-densities have the same moments.
    Reference: Banner et al., arXiv 1810.05723, section 2.
    """
    sigma = mean_square.clamp_min(0.0).sqrt()
    gauss = mean_abs > BETWEEN * sigma
    return torch.where(gauss, sigma * lies.clip("gauss"), mean_abs * lies.clip("laplace"))


def clip_about(mean: float, mean_abs: float, var: float, lies: Layout) -> float:
    """The best clip about a mean that is not zero, from E|x| about zero and the variance.

    Equation: the density is the one whose E|x| is nearer to what was seen: Gauss
    s sqrt(2 / pi) e^(-m^2 / 2 s^2) + m erf(m / (s sqrt 2)), Laplace |m| + b e^(-|m| / b) with
    b = s / sqrt 2; its scale then follows from the variance, for E|x - m| is not known.
    """
    sigma = math.sqrt(max(var, 0.0))
    if sigma == 0.0:
        return 0.0
    offset, b = abs(mean), sigma / math.sqrt(2.0)
    ratio = offset / sigma
    as_gauss = sigma * math.sqrt(2.0 / math.pi) * math.exp(-0.5 * ratio * ratio)
    as_gauss += offset * math.erf(ratio / math.sqrt(2.0))
    as_laplace = offset + b * math.exp(-offset / b)
    if abs(mean_abs - as_gauss) < abs(mean_abs - as_laplace):
        return sigma * lies.clip("gauss")
    return b * lies.clip("laplace")
