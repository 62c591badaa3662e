"""Measured losses told from noise: each unit's changes drawn towards what its errors predict.

A loss measured on a few hundred samples is uncertain; for fine choices the standard error is larger
than the change. An allocation that takes such numbers as they are picks what is lucky: hundreds of
choices that seem to lower the loss, and do not on other data. But all choices of a unit share one
curvature (`search.estimate`): the coarse ones, whose changes stand out of the noise, tell what the
fine ones must be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MISFIT = 0.5
LEAST = 1e-300


@dataclass(frozen=True)
class Seen:
    """One choice: its measured change, the standard error, and its output error above the base's.

    `error` is None where the method tells none.
    """

    delta: float
    stderr: float
    error: float | None


def smooth_losses(units: Mapping[str, Sequence[Seen]]) -> dict[str, list[float]]:
    """The change of every choice given both the measurement and the unit's curvature.

    Equations: k_u = (sum_c w e d + 1/K) / (sum_c w e^2 + 1/K^2) with w = 1 / stderr^2 and K the
    median of the units' own least squares: a Gaussian prior as wide as it is large, for units whose
    measurements say nothing. Then p = k_u e_c is what curvature predicts, within MISFIT of itself,
    and the two Gaussians multiply: d' = (d / stderr^2 + p / (MISFIT p)^2) / (1 / stderr^2 + 1 /
    (MISFIT p)^2). What was measured exactly stays as it was.

    >>> clear, unclear = Seen(1.0, 0.01, 0.5), Seen(-0.01, 0.02, 0.005)
    >>> [round(d, 3) for d in smooth_losses({"conv": [clear, unclear]})["conv"]]
    [1.0, 0.009]
    """
    own = {name: _curvature(seen) for name, seen in units.items()}
    known = [k for k in own.values() if k is not None and k > 0]
    typical = float(np.median(known)) if known else 0.0
    return {name: _draw(seen, typical) for name, seen in units.items()}


def _sums(seen: Sequence[Seen]) -> tuple[float, float]:
    useful = [s for s in seen if s.error is not None and s.stderr > 0]
    top = sum(s.error * s.delta / s.stderr**2 for s in useful if s.error is not None)
    bottom = sum(s.error**2 / s.stderr**2 for s in useful if s.error is not None)
    return float(top), float(bottom)


def _curvature(seen: Sequence[Seen]) -> float | None:
    top, bottom = _sums(seen)
    return top / bottom if bottom > 0 else None


def _draw(seen: Sequence[Seen], typical: float) -> list[float]:
    top, bottom = _sums(seen)
    if typical <= 0 or bottom <= 0:
        return [s.delta for s in seen]
    # A curvature is positive: the prior holds it up where measurements are noise.
    curvature = max((top + 1 / typical) / (bottom + 1 / typical**2), 0.05 * typical)
    return [_posterior(s, curvature) for s in seen]


def _posterior(seen: Seen, curvature: float) -> float:
    if seen.error is None or seen.stderr <= 0:
        return seen.delta
    told = curvature * seen.error
    measured, predicted = seen.stderr**-2, max((MISFIT * told) ** 2, LEAST) ** -1
    return float((seen.delta * measured + told * predicted) / (measured + predicted))
