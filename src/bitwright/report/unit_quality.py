"""How much of each unit's signal its bits keep, and pictures of the units that keep least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from bitwright.graph.census_record import Census, Picture, UnitEntry
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.sites import Site
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import QParams, dequantize
from bitwright.numerics.scores import noise_of_stats
from bitwright.numerics.stats import Histogram, TensorStats
from bitwright.report.texts import compute_kept_db

# Bounds of what a run's record grows by: units that are pictured, and bins of a picture.
WORST, BINS = 4, 64


@dataclass(frozen=True)
class SolvedNetwork:
    """What a run knows of its units: nothing is measured anew.

    Attributes:
        graph: the float network.
        solutions: of each unit.
        edges: the grid of each quantised edge.
        sites: the quantised edges.
        stats: of their values.
    """

    graph: ModelGraph
    solutions: Mapping[str, UnitSolution]
    edges: Mapping[tuple[str, str], QParams]
    sites: Sequence[Site]
    stats: Mapping[str, TensorStats]

    def inputs(self, unit: str) -> list[tuple[TensorStats, QParams]]:
        """Statistics and grid of each input of a unit that is quantised."""
        return [
            (self.stats[site.root], self.edges[site.source, site.reader])
            for site in self.sites
            if site.unit == unit
            and site.root in self.stats
            and (site.source, site.reader) in self.edges
        ]


def decibels(noise: float | None) -> float | None:
    """Signal to noise in dB, from noise relative to the signal; None where there is none."""
    if noise is None or not 0.0 < noise < math.inf:
        return None
    return -10.0 * math.log10(noise)


def with_quality(census: Census, solved: SolvedNetwork) -> Census:
    """The census with the SQNR of each unit's weight, input and output, and the worst pictured.

    The weight's is exact, the input's follows from its histogram; the output's was measured on rows
    held out, by methods that hold out any, as the unit was solved.
    """
    units = tuple(_with_quality(entry, solved) for entry in census.units)
    return replace(census, units=units, histograms=_worst(units, solved))


def _with_quality(entry: UnitEntry, solved: SolvedNetwork) -> UnitEntry:
    solution = solved.solutions.get(entry.name)
    if solution is None:
        return entry
    inputs = [decibels(noise_of_stats(stats, grid)) for stats, grid in solved.inputs(entry.name)]
    return replace(
        entry,
        weight_sqnr_db=decibels(solution.error),
        input_sqnr_db=min((db for db in inputs if db is not None), default=None),
        sqnr_db=decibels(solution.loss_after),
    )


def select_as_solved(
    start: Mapping[str, UnitSolution], tuned: Mapping[str, UnitSolution]
) -> dict[str, UnitSolution]:
    """The solutions whose figures hold for the integers that are deployed.

    Tuning moves scales and biases with the float network's own; what was measured before still
    tells how good the rounding is. Of integers that tuning changed it tells nothing.
    """
    return {
        name: start[name] if name in start and _same(start[name].q, new.q) else _drop_figures(new)
        for name, new in tuned.items()
    }


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and bool((a == b).all()))


def _drop_figures(solution: UnitSolution) -> UnitSolution:
    return replace(solution, loss_before=None, loss_after=None)


def _worst(units: Sequence[UnitEntry], solved: SolvedNetwork) -> tuple[Picture, ...]:
    """Histograms of weights and inputs of the units that keep least of their signal."""
    found = []
    kept = compute_kept_db(units)
    for name in sorted(kept, key=lambda unit: kept[unit])[:WORST]:
        solution = solved.solutions[name]
        weight = solved.graph.tensor(solved.graph.unit(name).weight)
        back = dequantize(solution.q, solution.weight)
        ends = (float(back.min()), float(back.max()))
        bits = solution.weight.grid.bits
        stats = TensorStats.of(weight)
        found.append(_picture(name, "weight", stats, ends, bits, solution.error))
        for stats, edge in solved.inputs(name)[:1]:
            low = float((edge.grid.qmin - edge.zero_point) * edge.scale)
            high = float((edge.grid.qmax - edge.zero_point) * edge.scale)
            noise = noise_of_stats(stats, edge)
            found.append(_picture(name, "input", stats, (low, high), edge.grid.bits, noise))
    return tuple(found)


def _picture(
    unit: str,
    what: str,
    stats: TensorStats,
    ends: tuple[float, float],
    bits: int,
    error: float | None,
) -> Picture:
    edges, counts = _coarse(stats.histogram)
    return Picture(
        unit=unit,
        what=what,
        edges=tuple(edges),
        counts=tuple(counts),
        range=ends,
        bits=bits,
        error=error,
    )


def _coarse(histogram: Histogram) -> tuple[list[float], list[int]]:
    """At most BINS bins, neighbours joined; exact zeros are in the bin that begins at zero."""
    counts, edges = histogram.counts.tolist(), histogram.edges.tolist()
    counts[-histogram.start] += histogram.zeros
    step = -(-len(counts) // BINS) or 1
    joined = [sum(counts[i : i + step]) for i in range(0, len(counts), step)]
    return [*edges[: len(counts) : step], edges[-1]], joined
