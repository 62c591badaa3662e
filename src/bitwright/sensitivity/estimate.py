"""The instant estimate: loss changes from the solver's own errors, for menus too large to measure.

Near the base the loss is quadratic in the error of a unit's output, so linear in its squared error:
one number a unit, the loss's curvature at its output, turns the errors of all choices into losses.
It comes from one or two measured choices (`fit_curvature`, forward passes only) or from the
gradients of the outputs (`curvature.output_curvature`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from bitwright.graph.choice import Choice

Errors = Mapping[str, Mapping[Choice, float]]


def fit_curvature(errors: Sequence[float], deltas: Sequence[float], base: float = 0.0) -> float:
    """The curvature that fits some measured choices of a unit, through zero at the base.

    Equation: min over k >= 0 of sum_c (delta_c - k (e_c - e_base))^2, so
    k = max(0, sum (e_c - e_base) delta_c / sum (e_c - e_base)^2); 0 where no error differs.

    Args:
        errors: squared output errors of the choices relative to the output's energy
            (`UnitSolution.loss_after`).
        deltas: their measured loss changes.
        base: the error of the base's choice.

    >>> fit_curvature([0.25, 0.5], [0.5, 1.0])
    2.0
    """
    away = np.asarray(errors, dtype=float) - base
    energy = float(away @ away)
    return max(0.0, float(away @ np.asarray(deltas, dtype=float)) / energy) if energy > 0 else 0.0


def estimate_deltas(
    errors: Errors, base: Mapping[str, Choice], curvature: Mapping[str, float]
) -> dict[str, dict[Choice, float]]:
    """The estimated loss change of every (unit, choice).

    Equation: delta_u,c = k_u (e_u,c - e_u,base). Negative where a choice's error is below the
    base's, as in the measured table.

    Args:
        errors: by unit and choice.
        base: the base's choice of each unit; its error is among the unit's.
        curvature: k of each unit.
    """
    return {
        unit: {choice: curvature[unit] * (error - of[base[unit]]) for choice, error in of.items()}
        for unit, of in errors.items()
    }


def probe_choices(errors: Mapping[Choice, float], base: Choice, count: int = 2) -> list[Choice]:
    """The choices of a unit whose measured losses tell most of its curvature.

    Spread evenly by rank of their error, the base left out. The very largest is not among them
    where there are others: the loss is no longer quadratic where it saturates.
    """
    ranked = sorted((c for c in errors if c != base), key=lambda c: (errors[c], str(c)))
    if len(ranked) <= count:
        return ranked
    places = np.linspace(0, len(ranked) - 1, count + 2)[1:-1]
    return [ranked[int(place + 0.5)] for place in places]


def curvature_from_probes(
    errors: Errors, base: Mapping[str, Choice], deltas: Mapping[str, Mapping[Choice, float]]
) -> dict[str, float]:
    """Curvature of every unit from its measured probes.

    Args:
        errors: by unit and choice.
        base: the base's choice of each unit.
        deltas: measured loss changes of the probes, by unit and choice.
    """
    return {
        unit: fit_curvature(
            [errors[unit][choice] for choice in of], list(of.values()), errors[unit][base[unit]]
        )
        for unit, of in deltas.items()
    }


def rank_agreement(first: Iterable[float], second: Iterable[float]) -> float:
    """Spearman's rank correlation; ties share their mean rank, NaN where one side is constant.

    Equation: Pearson's correlation of the ranks.
    Reference: Spearman 1904, "The proof and measurement of association between two things".

    >>> rank_agreement([1.0, 2.0, 3.0], [10.0, 20.0, 15.0])
    0.5
    """
    a, b = (rankdata(list(values)) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else float("nan")
