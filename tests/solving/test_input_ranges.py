"""Input ranges chosen at the unit's output."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from runs_of import Residual, run_of, tiny
from torch import nn

from bitwright.engine.digest import digest
from bitwright.graph.kept import name_inputs as start
from bitwright.graph.replay import replay
from bitwright.graph.rows import geometry, input_rows, weight_rows
from bitwright.graph.units import input_of
from bitwright.numerics.affine import fake_quantize
from bitwright.numerics.exact import exact_range
from bitwright.solving.ranges import SHRINK, grids_by_output
from networks import Chain, seeded


@cache
def run(menu="w4a3", **options):
    return run_of(seeded(Residual).eval(), tiny(), menu, by_output=True, **options)


def chosen(given, name):
    work = given.work
    unit = work.graph.unit(name)
    choice = work.menu[name][0]
    values = start(work.graph, next(work.batches()))
    return grids_by_output(work, unit, choice, values, values, None), work.grids[name, choice]


@pytest.mark.parametrize("name", ["stem", "body.1", "head"])
def test_the_range_is_the_best_of_its_candidates(name):
    """Written out once more: the error of the output about its mean, for each of them."""
    given = run()
    work, unit = given.work, given.work.graph.unit(name)
    (found,), (observed,) = chosen(given, name)
    assert found.grid == observed.grid
    node = work.graph.nodes()[unit.calls[0]]
    source = input_of(node).name
    x = replay(work.graph, start(work.graph, next(work.batches())), {source})[source]
    rows = input_rows(x, geometry(unit, node), 1 << 20, 0).double()
    weight = weight_rows(work.graph.tensor(unit.weight), unit).double().transpose(1, 2)
    site = work.site(unit, 0)
    minmax = work.stats[site.root].minmax
    errors = {}
    for factor in SHRINK:
        ends = (torch.tensor(float(v) * factor) for v in (minmax.lo, minmax.hi))
        qp = exact_range(*ends, observed.grid, False, site.clamped)
        off = (rows - fake_quantize(rows.float(), qp).double()) @ weight
        errors[digest(qp)] = float((off - off.mean(1, keepdim=True)).square().sum())
    assert errors[digest(found)] <= min(errors.values()) * (1 + 1e-5)


def test_float_and_sixteen_bit_inputs_stay_as_they_are():
    found, observed = chosen(run("w4afloat"), "stem")
    assert found == observed == (None,)
    found, observed = chosen(run("w4a16"), "stem")
    assert digest(found) == digest(observed)


def test_inputs_that_others_share_stay_as_they_are():
    """Where sums are quantised too, an input's grid is also theirs."""
    given = run_of(seeded(Residual).eval(), tiny(), "w8a8", target="ort-cpu", by_output=True)
    shared = [u.name for u in given.work.graph.units if given.work.shared_inputs(u)]
    assert "body.1" in shared
    for name in shared:
        found, observed = chosen(given, name)
        assert digest(found) == digest(observed)


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_the_chosen_range_is_the_one_installed(mode):
    given = replace(run(), mode=mode)
    found, edges = given.solved()
    moved = 0
    for (name, choice), solution in found.items():
        (site,) = given.work.sites_of[name]
        assert digest(edges[site.source, site.reader]) == digest(solution.inputs[0])
        moved += digest(solution.inputs) != digest(given.work.grids[name, choice])
    assert moved > 0


def test_an_outlier_that_no_weight_reads_does_not_widen_the_range():
    """At the output it costs nothing to clip; for the tensor's own error it does."""
    layer = nn.Linear(12, 5)
    layer.weight.data[:, 0] = 0
    data = torch.rand(40, 12, generator=torch.Generator().manual_seed(0))
    data[:, 0] = 1.6
    given = run_of(Chain(layer).eval(), data, "w8a4", by_output=True)
    (found,), (observed,) = chosen(given, "m0")
    assert float(found.scale) < 0.75 * float(observed.scale)
