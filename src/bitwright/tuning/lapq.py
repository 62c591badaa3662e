"""LAPQ: the ranges of all weights and inputs together, by the loss of the whole network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import RecipeError
from bitwright.evaluation.judge import Judge, Loss
from bitwright.graph.execute import Flat
from bitwright.graph.model_graph import Unit
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import QParams, dequantize, quantize
from bitwright.numerics.exact import significant_bits, snap
from bitwright.numerics.powell import Vector, parabola_minimum, powell
from bitwright.numerics.ranges import LpRange, weight_qparams
from bitwright.solving import Edges
from bitwright.solving.configuration import Configuration
from bitwright.solving.grids import input_grids
from bitwright.solving.samples import Samples, in_memory, size_of, take_rows
from bitwright.tuning.report import TuneReport, report_attempt
from bitwright.tuning.scales import give_inputs, grid_names


@dataclass(frozen=True)
class ClipSearch:
    """How ranges are searched.

    Attributes:
        norms: the p of the layer-wise start; a parabola through their losses gives the p taken.
        samples: of the calibration set, on which the loss is taken.
        evaluations: of the loss in the joint search, at most.
        step: the first look of the joint search, as a logarithm of a range.
    """

    name: ClassVar[str] = "lapq"
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

    def apply(self, start: Configuration, samples: Samples) -> tuple[Configuration, TuneReport]:
        """See `search_clips`."""
        return search_clips(start, samples, self)


@dataclass(frozen=True, eq=False)
class _Space:
    """What is searched: a configuration as a function of logarithms of ranges."""

    start: Configuration
    units: tuple[Unit, ...]
    inputs: tuple[str, ...]

    @classmethod
    def of(cls, start: Configuration) -> _Space:
        units = tuple(u for u in start.graph.units if u.name in start.solved)
        classes = grid_names(start)
        own = dict.fromkeys(
            classes[site.root]
            for site in start.sites
            if site.unit is not None and start.choices[site.unit].a_bits
        )
        return cls(start, units, tuple(own))

    def by_norm(self, p: float) -> Configuration:
        """Every range by itself: of least error in the p-norm."""
        start, work, rule = self.start, self.start.work, LpRange(p)
        edges = input_grids(start.sites, work.stats, start.choices, work.target, rule)
        solved = {}
        for unit in self.units:
            weight = start.graph.tensor(unit.weight).float()
            axis = unit.channel_axis if work.target.weight_per_channel else None
            grid = start.solved[unit.name].weight.grid
            qparams = weight_qparams(weight, grid, axis, rule, work.target.weight_symmetric)
            solved[unit.name] = self._rounded(unit, weight, qparams, edges)
        return start.having(solved, edges)

    def scaled(self, base: Configuration, logs: Vector) -> Configuration:
        """A configuration with every range times the exponential of its coordinate."""
        classes = grid_names(base)
        by_class = dict(zip(self.inputs, logs[len(self.units) :], strict=True))
        edges = {}
        for site in base.sites:
            edge = (site.source, site.reader)
            if edge in base.edges:
                edges[edge] = wider(base.edges[edge], by_class.get(classes[site.root], 0.0))
        solved = {}
        for unit, log in zip(self.units, logs, strict=False):
            weight = base.graph.tensor(unit.weight).float()
            qparams = wider(base.solved[unit.name].weight, log)
            solved[unit.name] = self._rounded(unit, weight, qparams, edges)
        return base.having(solved, edges)

    def _rounded(self, unit: Unit, weight: Tensor, qparams: QParams, edges: Edges) -> UnitSolution:
        q = quantize(weight, qparams)
        change = (dequantize(q, qparams) - weight).double().square().sum()
        error = float(change / weight.double().square().sum().clamp_min(1e-30))
        old = self.start.solved[unit.name]
        made = replace(old, q=q, weight=qparams, method="lapq", error=error, moves=())
        return give_inputs(made, unit.name, self.start.sites, edges)

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
    return replace(qparams, scale=scale, dynamic=False)


def search_clips(
    start: Configuration, samples: Samples, options: ClipSearch | None = None
) -> tuple[Configuration, TuneReport]:
    """Choose all ranges together by the divergence of the network's answers.

    Equation: first each range by itself, min ||x - Q(x)||_p, for several p; a parabola through the
    network's losses gives the p taken. From there Powell's method over the logarithms of all ranges
    at once, min L(s_1 ... s_n), weights rounded to nearest. Its loss is never above its start's.
    L is the softened divergence from the float network, for there are no labels.
    Reference: Nahshan et al., arXiv 1911.07190, section 4 and algorithm 2.

    Args:
        start: the network as it is, by nearest rounding.
        samples: calibration samples in two parts.
        options: how.

    Returns:
        The network, a new one where held-out samples find it no worse; what happened.
    """
    options = options or ClipSearch()
    with torch.inference_mode(False), torch.no_grad():
        graph, samples = start.graph, in_memory(samples)
        space = _Space.of(start)
        flats = list(_few(samples.fit(), options.samples))
        judges = Judge.of(graph, samples.held_out), Judge.of(graph, lambda: iter(flats))

        before = judges[0](start.module())
        found, history = _search(space, lambda made: judges[1](made.module()), options)
        after = judges[0](found.module())
    kept = after.no_worse(before)
    report = report_attempt("lapq", (before, after), tuple(found.solved), kept, judges[0], samples)
    report = replace(report, fit=sum(size_of(flat) for flat in flats), history=history)
    return (found if kept else start), report


def _search(
    space: _Space, loss: Callable[[Configuration], Loss], options: ClipSearch
) -> tuple[Configuration, tuple[tuple[int, Loss], ...]]:
    """The best configuration of both phases, and its losses: at the best p, and at the end."""
    seen: dict[float, tuple[Configuration, Loss]] = {}

    def at(p: float) -> tuple[Configuration, Loss]:
        if p not in seen:
            made = space.by_norm(p)
            seen[p] = made, loss(made)
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
