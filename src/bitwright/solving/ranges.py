"""Input ranges chosen at a unit's own output, on the rows of the first batch."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import Unit
from bitwright.graph.replay import Overrides, Values, replay
from bitwright.graph.rows import geometry, input_rows, weight_rows
from bitwright.graph.units import input_of
from bitwright.numerics.affine import QParams, fake_quantize
from bitwright.numerics.exact import exact_range, round_alike
from bitwright.solving.collect import Grids, row_seed
from bitwright.solving.work import Work

RANGE_ROWS = 2048
SHRINK = tuple(1.0 - 0.05 * i for i in range(15))


def grids_by_output(
    work: Work, unit: Unit, choice: Choice, true: Values, seen: Values, over: Overrides | None
) -> Grids:
    """The input grids of a unit whose error at its output is least.

    Equation: min over candidate ranges of || (X - Q(X')) W^T ||^2 about its mean (the bias takes
    the mean), X the float input and X' what the quantised network before the unit gives.
    """
    nodes = work.graph.nodes()
    found: list[QParams | None] = []
    for call, name in enumerate(unit.calls):
        given = work.grids[unit.name, choice][call]
        source = input_of(nodes[name]).name
        if given is None or given.grid.bits > 8 or work.shared_inputs(unit):
            found.append(given)
            continue
        x = replay(work.placed, true, {source})[source]
        got = replay(work.placed, seen, {source}, over)[source]
        found.append(_best(work, unit, call, given, x, got))
    return tuple(found)


def _best(work: Work, unit: Unit, call: int, given: QParams, x: Tensor, got: Tensor) -> QParams:
    site = work.site(unit, call)
    if site is None:
        return given
    stats = work.stats[site.root]
    low, high = (torch.tensor(float(v)) for v in (stats.minmax.lo, stats.minmax.hi))
    symmetric = work.target.input_symmetric
    form = geometry(unit, work.graph.nodes()[unit.calls[call]])
    seed = row_seed(work.seed, unit.name, 0, call)
    rows, seen = (input_rows(v, form, RANGE_ROWS, seed) for v in (x, got))
    weight = weight_rows(work.placed.tensor(unit.weight).float(), unit).transpose(1, 2)
    best, chosen = float("inf"), given
    for factor in SHRINK:
        qp = exact_range(low * factor, high * factor, given.grid, symmetric, site.clamped)
        qp = round_alike(qp) if work.target.adds else qp
        error = (rows - fake_quantize(seen, qp)) @ weight
        value = float((error - error.mean(1, keepdim=True)).square().sum())
        if value < best:
            best, chosen = value, qp
    return chosen
