"""Stored integers solved again where they lie: the grid's type, shape and zero points stay.

Equation: min over k, s and, where there is one, b of ||Y - s k X - b||^2 over rows, with integers
k = q - z in the bounds that the type leaves, from second moments (`numerics.gram`), by the same
descent as the quadratic solver's (`numerics.coordinate`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from bitwright.numerics.affine import round_half_even
from bitwright.numerics.coordinate import Effort, Steps, Successive, best_of
from bitwright.numerics.gram import (
    Gram,
    Quadratic,
    centre_gram,
    regularise_problem,
    without_bias,
)

# As of the quadratic solver: the pull towards the float weights, which counts for so many samples.
RIDGE, PRIOR, MOST_RIDGE = 0.003, 30.0, 3.0


@dataclass(frozen=True, eq=False)
class StoredRows:
    """A stored weight as rows [G, C, N] of distances k = q - z from the zero points.

    Attributes:
        k: the integers that are stored.
        scale: [G, C, 1].
        low, high: bounds of k, [G, C, 1].
        free_scale: whether each row may have another scale.
        free_bias: whether there is a bias to be solved.
    """

    k: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    free_scale: bool
    free_bias: bool


@dataclass(frozen=True, eq=False)
class SolvedRows:
    """What came of it: integers as distances, scales, and the bias [G, C] where it is free.

    `before`, `after`: the output's squared error on the rows, relative to its energy.
    """

    k: Tensor
    scale: Tensor
    bias: Tensor | None
    before: float
    after: float


def solve_again(
    gram: Gram, target: Tensor, stored: StoredRows, bias: Tensor, samples: int
) -> SolvedRows:
    """Solve a weight's integers, scales and bias again.

    Args:
        gram: of the rows that the operator reads in the file, and of the float network's outputs.
        target: the float weight as rows [G, C, N].
        stored: what is there.
        bias: [G, C] as it is stored; zeros where there is none.
        samples: how many were run; few trust the float weights more.
    """
    start = Steps(stored.k, stored.scale, stored.low, stored.high)
    before = _loss(gram, start.weight, bias)
    exact = centre_gram(gram) if stored.free_bias else without_bias(gram, bias)
    ridge = max(RIDGE, min(PRIOR / max(samples, 1), MOST_RIDGE))
    objective = regularise_problem(exact, target, ridge)
    rounding = Successive.of(objective)
    nearest = replace(start, k=_nearest(target, start))
    found = best_of(objective, (nearest, rounding.rounded(start)), stored.free_scale, Effort())
    if stored.free_scale:  # of a few rows the scale may have moved: round once more on it
        found = best_of(objective, (found, rounding.rounded(found)), False, Effort())
    made = exact.bias(found.weight) if stored.free_bias else None
    after = _loss(gram, found.weight, bias if made is None else made)
    if not after <= before:
        return SolvedRows(stored.k, stored.scale, None, before, before)
    return SolvedRows(found.k, found.scale, made, before, after)


def _nearest(target: Tensor, steps: Steps) -> Tensor:
    """The integers that lie nearest to float weights."""
    return round_half_even(target / steps.scale).clamp(steps.low, steps.high)


def _loss(gram: Gram, weight: Tensor, bias: Tensor) -> float:
    error: Quadratic = without_bias(gram, bias)
    return float(error.loss(weight).sum() / gram.yy.double().sum().clamp_min(1e-30))
