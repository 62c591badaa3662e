"""How far unit by unit losses add up: the terms of pairs of units."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from bitwright.errors import DataError
from bitwright.graph.change import Change
from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.variants import Groups, Variant
from bitwright.sensitivity.measure import Delta, MeasuredLosses, delta_of

UnitPair = tuple[str, str]
ChoicePair = tuple[Choice, Choice]
UnitChanges = Mapping[str, Mapping[Choice, Change | None]]
ChosenUnits = Mapping[str, Choice]
PairTerms = Mapping[UnitPair, Mapping[ChoicePair, float]]

JOINS = 2


def neighbours(graph: ModelGraph, joins: int = JOINS) -> tuple[UnitPair, ...]:
    """Units that read one another's results, and units whose results meet in one reader's input.

    Nothing but unweighted operators lies between the two of a pair, and no more than so many of
    them join branches: along the additions of a residual network everything would be a neighbour of
    everything. In order of execution.
    """
    calls = {call: unit.name for unit in graph.units for call in unit.calls}
    order = {unit.name: i for i, unit in enumerate(graph.units)}
    found: set[UnitPair] = set()
    # The units whose results a value holds, each with the number of joins on the way.
    behind: dict[fx.Node, dict[str, int]] = {}
    for node in graph.module.graph.nodes:
        values = [i for i in node.all_input_nodes if i.op != "get_attr" and not _is_size(i)]
        sources = _merge([behind[i] for i in values], joins)
        here = calls.get(node.name)
        if here is not None:
            together = sorted({*sources, here}, key=order.__getitem__)
            found.update(itertools.combinations(together, 2))
            sources = {here: 0}
        behind[node] = sources
    return tuple(sorted(found, key=lambda pair: (order[pair[0]], order[pair[1]])))


def _is_size(node: fx.Node) -> bool:
    """Whether a node is a number that reshapes compute with: a shape, not an activation."""
    module = getattr(node.target, "__module__", None)
    arithmetic = module == "_operator" and node.target is not operator.getitem
    return node.target is torch.ops.aten.sym_size.int or arithmetic


def _merge(sources: Sequence[Mapping[str, int]], limit: int) -> dict[str, int]:
    """The nearest way to each unit over all inputs; more than one input is a join."""
    step = 1 if len(sources) > 1 else 0
    near: dict[str, int] = {}
    for source in sources:
        for unit, joins in source.items():
            if joins + step <= limit:
                near[unit] = min(near.get(unit, limit), joins + step)
    return near


def choose_pairs(
    near: Iterable[UnitPair], deltas: Mapping[str, float], count: int
) -> tuple[UnitPair, ...]:
    """The pairs whose interaction may be largest: of neighbours, and among the largest deltas.

    Equation: for losses that are quadratic in the errors, |d_ab| <= 2 sqrt(delta_a delta_b); the
    pairs are ranked by this bound.

    Args:
        near: pairs to consider, such as `neighbours`.
        deltas: one loss change of each unit, at the choice that is of interest.
        count: how many pairs.
    """
    units = list(deltas)
    largest = sorted(units, key=lambda unit: -deltas[unit])[: math.isqrt(2 * count) + 1]
    place = {unit: i for i, unit in enumerate(units)}
    among = itertools.combinations(sorted(largest, key=place.__getitem__), 2)
    candidates = dict.fromkeys(
        pair for pair in (*near, *among) if pair[0] in deltas and pair[1] in deltas
    )

    def bound(pair: UnitPair) -> float:
        return max(deltas[pair[0]], 0.0) * max(deltas[pair[1]], 0.0)

    return tuple(sorted(candidates, key=bound, reverse=True)[:count])


def pair_name(pair: UnitPair) -> str:
    """What the group of a pair is called in a measurement."""
    return f"{pair[0]} & {pair[1]}"


def pair_groups(changes: UnitChanges, pairs: Mapping[UnitPair, Iterable[ChoicePair]]) -> Groups:
    """One group a pair, one variant for each two choices; both units leave the base's choice."""
    return {
        pair_name(pair): {
            both: _changes(changes, dict(zip(pair, both, strict=True))) for both in of
        }
        for pair, of in pairs.items()
    }


def _changes(changes: UnitChanges, choices: ChosenUnits) -> Variant:
    chosen = (changes[unit][choice] for unit, choice in choices.items())
    return tuple(change for change in chosen if change is not None)


def pair_term(
    single: MeasuredLosses, both: MeasuredLosses, pair: UnitPair, choices: ChoicePair
) -> Delta:
    """The loss of two changes together beyond the sum of each alone, sample by sample.

    Equation: d_ab = mean of l(a and b) - l(a) - l(b) + l(base), with its standard error.

    Args:
        single: the table's measurement.
        both: the measurement of `pair_groups` on the same chunks.
        pair: two units.
        choices: the choice of each.

    Raises:
        DataError: the two were measured on other samples.
    """
    _check_same_samples(single, both)
    together = both.values[pair_name(pair)][choices]
    alone = [single.values[unit][c] for unit, c in zip(pair, choices, strict=True)]
    return delta_of(together - alone[0] - alone[1] + single.base, single.has_answers)


def pair_deltas(
    single: MeasuredLosses, both: MeasuredLosses, pairs: Iterable[UnitPair]
) -> Mapping[UnitPair, Mapping[ChoicePair, Delta]]:
    """All measured pairwise terms, with their standard errors."""
    return {
        pair: {key: pair_term(single, both, pair, key) for key in both.values[pair_name(pair)]}
        for pair in pairs
    }


def quadratic_terms(
    single: MeasuredLosses, deltas: Mapping[UnitPair, Mapping[ChoicePair, Delta]]
) -> PairTerms:
    """Terms for every two choices of a pair, from a few that were measured.

    Equation: d_ab(i, j) = r_ab s_a(i) s_b(j), s = sqrt(delta): for a loss that is quadratic in the
    errors, r_ab is twice the cosine between the errors of two units, in [-2, 2]. It is the least
    squares fit over the measured choices, drawn towards 0 by its standard error e (an allocation
    would seek out whatever is too low by chance): r t^2 / (t^2 + e^2), t^2 the mean of r^2 - e^2
    over the pairs. The matrix of cosines is positive semidefinite, so that no sum of errors is less
    than none: where that of the fits is not, all shrink alike until it is.

    Args:
        single: the measurement of each unit alone.
        deltas: of `pair_deltas`.
    """
    size = {
        unit: {choice: math.sqrt(max(_loss(single, unit, choice), 0.0)) for choice in own}
        for unit, own in single.values.items()
    }
    fits = {pair: _fit(pair, own, size) for pair, own in deltas.items()}
    spread = max(0.0, float(np.mean([r * r - e * e for r, e in fits.values()])) if fits else 0.0)
    drawn = {
        pair: r * spread / (spread + e * e) if spread + e * e > 0 else 0.0
        for pair, (r, e) in fits.items()
    }
    share = _semidefinite(drawn)
    return {
        (a, b): {
            (i, j): share * r * size[a][i] * size[b][j]
            for i, j in itertools.product(size[a], size[b])
        }
        for (a, b), r in drawn.items()
    }


def _fit(
    pair: UnitPair, deltas: Mapping[ChoicePair, Delta], size: Mapping[str, Mapping[Any, float]]
) -> tuple[float, float]:
    """r and its standard error; choices are measured on the same samples, so errors go together."""
    sizes = [math.prod(size[u][c] for u, c in zip(pair, key, strict=True)) for key in deltas]
    energy = sum(s * s for s in sizes)
    if energy <= 0.0:
        return 0.0, 0.0
    fit = sum(s * delta.loss for s, delta in zip(sizes, deltas.values(), strict=True)) / energy
    error = sum(s * (d.stderr or 0.0) for s, d in zip(sizes, deltas.values(), strict=True))
    return min(2.0, max(-2.0, fit)), error / energy


def _semidefinite(ratios: Mapping[UnitPair, float]) -> float:
    """The share of all ratios, 1 at most, at which their matrix of cosines is semidefinite."""
    units = {unit: i for i, unit in enumerate(dict.fromkeys(u for pair in ratios for u in pair))}
    cosines = np.eye(len(units))
    for (a, b), ratio in ratios.items():
        cosines[units[a], units[b]] = cosines[units[b], units[a]] = ratio / 2
    least = float(np.linalg.eigvalsh(cosines)[0]) if units else 0.0
    return 1.0 / (1.0 - least) if least < 0.0 else 1.0


def _loss(single: MeasuredLosses, unit: str, choice: Choice) -> float:
    return single.delta(unit, choice).loss


def _check_same_samples(one: MeasuredLosses, other: MeasuredLosses) -> None:
    same = one.base.shape == other.base.shape and np.allclose(one.base, other.base, 1e-4, 1e-9)
    if not same:
        raise DataError(
            f"losses of {one.base.shape[1]} and {other.base.shape[1]} samples do not belong "
            "together: measure both on the same chunks, against the same base."
        )
