"""LAPQ: the ranges of all weights and inputs together, by the loss of the whole network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import RecipeError
from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import Unit
from bitwright.graph.simulate import stitch
from bitwright.graph.sites import Site
from bitwright.graph.ties import grid_classes
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import QParams, dequantize, quantize
from bitwright.numerics.exact import significant_bits, snap
from bitwright.numerics.powell import Vector, parabola_minimum, powell
from bitwright.numerics.ranges import LpRange, weight_qparams
from bitwright.solving import Edges, Work
from bitwright.solving.assembly import assemble
from bitwright.solving.grids import active_sites, input_grids
from bitwright.tuners.judge import Judge, Loss
from bitwright.tuners.network import Solved
from bitwright.tuners.report import TuneReport, attempted
from bitwright.tuners.samples import Flat, Samples, in_memory, size_of, take_rows

Answer = tuple[dict[str, UnitSolution], dict[tuple[str, str], QParams]]


@dataclass(frozen=True)
class ClipSearch:
    """How ranges are searched.

    Attributes:
        norms: the p of the layer-wise start; a parabola through their losses gives the p taken.
        samples: of the calibration set, on which the loss is taken.
        evaluations: of the loss in the joint search, at most.
        step: the first look of the joint search, as a logarithm of a range.
    """

    norms: tuple[float, ...] = (2.0, 2.5, 3.0, 3.5, 4.0)
    samples: int = 128
    evaluations: int = 200
    step: float = 0.1

    def __post_init__(self) -> None:
        if min(self.samples, self.evaluations) < 1 or not self.step > 0.0 or not self.norms:
            raise RecipeError(
                f"samples={self.samples}, evaluations={self.evaluations}, step={self.step}, "
                f"norms={self.norms} in the search of ranges: all must be positive, with one p."
            )


@dataclass(frozen=True, eq=False)
class _Space:
    """What is searched: a configuration as a function of logarithms of ranges."""

    work: Work
    choices: Mapping[str, Choice]
    sites: tuple[Site, ...]
    start: Solved
    units: tuple[Unit, ...]
    inputs: tuple[str, ...]

    @classmethod
    def of(cls, work: Work, choices: Mapping[str, Choice], start: Solved) -> _Space:
        sites = active_sites(work.sites, work.graph, choices)
        units = tuple(u for u in work.graph.units if u.name in start)
        space = cls(work, choices, sites, start, units, ())
        classes = space.classes()
        own = dict.fromkeys(
            classes[site.root]
            for site in sites
            if site.unit is not None and choices[site.unit].a_bits
        )
        return replace(space, inputs=tuple(own))

    def classes(self) -> dict[str, str]:
        """Which values share one grid: a name for each group."""
        return grid_classes(self.work.graph, self.work.target, self.sites)

    def by_norm(self, p: float) -> Answer:
        """Every range by itself: of least error in the p-norm."""
        target, rule = self.work.target, LpRange(p)
        edges = input_grids(self.sites, self.work.stats, self.choices, target, rule)
        solved = {}
        for unit in self.units:
            weight = self.work.graph.tensor(unit.weight).float()
            axis = unit.channel_axis if target.weight_per_channel else None
            grid = self.start[unit.name].weight.grid
            qparams = weight_qparams(weight, grid, axis, rule, target.weight_symmetric)
            solved[unit.name] = self._rounded(unit, weight, qparams, edges)
        return solved, edges

    def scaled(self, base: Answer, logs: Vector) -> Answer:
        """A configuration with every range times the exponential of its coordinate."""
        classes = self.classes()
        by_class = dict(zip(self.inputs, logs[len(self.units) :], strict=True))
        edges = {}
        for site in self.sites:
            edge = (site.source, site.reader)
            if edge in base[1]:
                edges[edge] = wider(base[1][edge], by_class.get(classes[site.root], 0.0))
        solved = {}
        for unit, log in zip(self.units, logs, strict=False):
            weight = self.work.graph.tensor(unit.weight).float()
            qparams = wider(base[0][unit.name].weight, log)
            solved[unit.name] = self._rounded(unit, weight, qparams, edges)
        return solved, edges

    def _rounded(self, unit: Unit, weight: Tensor, qparams: QParams, edges: Edges) -> UnitSolution:
        q = quantize(weight, qparams)
        change = (dequantize(q, qparams) - weight).double().square().sum()
        error = float(change / weight.double().square().sum().clamp_min(1e-30))
        old = self.start[unit.name]
        given = list(old.inputs)
        for site in self.sites:
            if site.unit == unit.name and given[site.call] is not None:
                given[site.call] = edges[site.source, site.reader]
        return replace(
            old, q=q, weight=qparams, inputs=tuple(given), method="lapq", error=error, moves=()
        )

    def directions(self) -> list[Vector]:
        """All weights at once, all inputs at once, then each range by itself."""
        size = len(self.units) + len(self.inputs)
        both = [np.zeros(size), np.zeros(size)]
        both[0][: len(self.units)] = 1.0
        both[1][len(self.units) :] = 1.0
        return [*(way for way in both if way.any()), *np.eye(size)]


def wider(qparams: QParams, log: float) -> QParams:
    """The same grid with its scale times exp(log), to the few bits that scales have."""
    if log == 0.0:
        return qparams
    scale = snap(qparams.scale * math.exp(log), significant_bits(qparams.grid))
    return QParams(qparams.grid, scale, qparams.zero_point)


def search_clips(
    work: Work,
    choices: Mapping[str, Choice],
    solved: Solved,
    edges: Edges,
    samples: Samples,
    options: ClipSearch | None = None,
) -> tuple[Solved, Edges, TuneReport]:
    """Choose all ranges together by the divergence of the network's answers.

    Equation: first each range by itself, min ||x - Q(x)||_p, for several p; a parabola through the
    network's losses gives the p taken. From there Powell's method over the logarithms of all ranges
    at once, min L(s_1 ... s_n), weights rounded to nearest. Its loss is never above its start's.
    L is the softened divergence from the float network, for there are no labels.
    Reference: Nahshan et al., arXiv 1911.07190, section 4 and algorithm 2.

    Args:
        work: the network and its statistics.
        choices: the bits of every unit.
        solved, edges: the configuration as it is, by nearest rounding.
        samples: calibration samples in two parts.
        options: how.

    Returns:
        Solutions and edges, new ones where held-out samples find them no worse; what happened.
    """
    options = options or ClipSearch()
    with torch.inference_mode(False), torch.no_grad():
        graph, samples = work.graph, in_memory(samples)
        space = _Space.of(work, choices, solved)
        flats = list(_few(samples.fit(), options.samples))
        judges = Judge.of(graph, samples.held_out), Judge.of(graph, lambda: iter(flats))

        def loss(answer: tuple[Solved, Edges], judge: Judge) -> Loss:
            return judge(stitch(graph, assemble(graph, *answer, work.target)))

        before = loss((solved, edges), judges[0])
        found, history = _searched(space, lambda a: loss(a, judges[1]), options)
        after = loss(found, judges[0])
    kept = after.no_worse(before)
    report = attempted("lapq", (before, after), tuple(found[0]), kept, judges[0], samples)
    report = replace(report, fit=sum(size_of(flat) for flat in flats), history=history)
    return (found[0], found[1], report) if kept else (solved, edges, report)


def _searched(
    space: _Space, loss: Callable[[Answer], Loss], options: ClipSearch
) -> tuple[Answer, tuple[tuple[int, Loss], ...]]:
    """The best configuration of both phases, and its losses: at the best p, and at the end."""
    seen: dict[float, tuple[Answer, Loss]] = {}

    def at(p: float) -> tuple[Answer, Loss]:
        if p not in seen:
            answer = space.by_norm(p)
            seen[p] = answer, loss(answer)
        return seen[p]

    at(parabola_minimum([(p, at(p)[1].soft) for p in options.norms]))
    base, begun = min(seen.values(), key=lambda pair: pair[1].soft)
    origin = np.zeros(len(space.units) + len(space.inputs))
    ways = space.directions()
    made = powell(
        lambda x: loss(space.scaled(base, x)).soft, origin, ways, options.step, options.evaluations
    )
    best = space.scaled(base, made.x)
    return best, ((len(seen), begun), (len(seen) + made.evaluations, loss(best)))


def _few(batches: Iterator[Flat], count: int) -> Iterator[Flat]:
    """The first samples of a pass."""
    left = count
    for flat in batches:
        size = size_of(flat)
        part = flat if size <= left else take_rows(flat, torch.arange(left))
        left -= size
        yield flat if part is None else part
        if left <= 0:
            return
