"""The quick table: gradients and one probe a unit in place of a measurement of every choice.

A choice's loss is taken to be the unit's curvature times the error that the choice makes in the
unit's output, which its solution knows already (`estimate`). The curvature has two sources that
err independently: the gradients of the softened divergence (`curvature`), right about the order of
the units but blind to how errors travel, and the measured loss of one choice of the unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bitwright.graph.choice import Choice
from bitwright.sensitivity.estimate import Errors, probe_choices
from bitwright.sensitivity.measure import Delta, MeasuredLosses, soften

PROBES = 1
# By how much of itself a curvature from gradients is off, and a loss from a curvature.
MISFIT = 0.5


@dataclass(frozen=True)
class QuickPlan:
    """What is measured of a menu, and what the rest follows from.

    Attributes:
        errors: by unit and choice, of the units whose solutions tell all of them.
        base: the base's choice of each unit.
        probes: the choices of each unit that are measured; all of a unit without errors.
    """

    errors: Errors
    base: Mapping[str, Choice]
    probes: Mapping[str, tuple[Choice, ...]]


def plan_probes(
    errors: Mapping[str, Mapping[Choice, float | None]], base: Mapping[str, Choice]
) -> QuickPlan:
    """One probe a unit, in the middle of its choices by their errors.

    A unit of which some error is not known (a table of embeddings, say) is measured whole.
    """
    told: dict[str, dict[Choice, float]] = {}
    probes: dict[str, tuple[Choice, ...]] = {}
    for unit, of in errors.items():
        known = {choice: error for choice, error in of.items() if error is not None}
        if len(known) < len(of) or len(set(known.values())) < 2:
            probes[unit] = tuple(of)
            continue
        told[unit] = known
        probes[unit] = tuple(probe_choices(known, base[unit], PROBES))
    return QuickPlan(told, base, probes)


def combine_curvatures(
    plan: QuickPlan, gradients: Mapping[str, float], probed: Mapping[str, Delta]
) -> dict[str, tuple[float, float]]:
    """The curvature of every unit and its standard error.

    Equations: a probe at the error e above the base's measures k' = d / e with the error
    s' = stderr / |e|; gradients tell g, brought to the probes' scale by the median of k' / g, and
    trusted within MISFIT g. Two Gaussians multiply: k = (k' / s'^2 + g / (MISFIT g)^2) / (1 / s'^2
    + 1 / (MISFIT g)^2). No curvature is below a twentieth of g: no error makes a network better.
    """
    measured = {unit: _from_probe(plan, unit, delta) for unit, delta in probed.items()}
    ratios = [k / gradients[u] for u, (k, _) in measured.items() if k > 0 and gradients[u] > 0]
    scale = float(np.median(ratios)) if ratios else 1.0
    found: dict[str, tuple[float, float]] = {}
    for unit in plan.errors:
        told = scale * gradients[unit]
        prior = MISFIT * told
        k, error = measured.get(unit, (told, math.inf))
        if prior <= 0:
            found[unit] = (max(k, 0.0), error if math.isfinite(error) else 0.0)
            continue
        precision = prior**-2 + (error**-2 if error > 0 else math.inf)
        weight = (prior**-2 / precision) if math.isfinite(precision) else 0.0
        mean = weight * told + (1 - weight) * k
        found[unit] = (max(mean, 0.05 * told), precision**-0.5)
    return found


def _from_probe(plan: QuickPlan, unit: str, delta: Delta) -> tuple[float, float]:
    (choice,) = plan.probes[unit]
    away = plan.errors[unit][choice] - plan.errors[unit][plan.base[unit]]
    if away == 0:
        return 0.0, math.inf
    return delta.loss / away, (delta.stderr or 0.0) / abs(away)


def estimate_losses(
    plan: QuickPlan, gradients: Mapping[str, float], measured: MeasuredLosses
) -> dict[str, dict[Choice, Delta]]:
    """The softened loss change of every choice: estimated, or as it was measured.

    Args:
        plan: what was measured.
        gradients: the curvature of every unit, from gradients.
        measured: the probes' losses.
    """
    soft = soften(measured)
    one = {unit: of for unit, of in plan.probes.items() if unit in plan.errors and of}
    probed = {unit: soft.delta(unit, choice) for unit, (choice,) in one.items()}
    curvature = combine_curvatures(plan, gradients, probed)
    samples = int(soft.base.shape[1])
    found: dict[str, dict[Choice, Delta]] = {}
    for unit in plan.probes:
        if unit not in plan.errors:
            found[unit] = {choice: soft.delta(unit, choice) for choice in plan.probes[unit]}
            continue
        k, error = curvature[unit]
        base = plan.errors[unit][plan.base[unit]]
        found[unit] = {
            choice: Delta(k * (own - base), error * abs(own - base), None, samples)
            for choice, own in plan.errors[unit].items()
        }
    return found
