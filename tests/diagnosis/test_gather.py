"""What is measured of a network, against other ways to compute it."""

from __future__ import annotations

from dataclasses import replace

import broken
import pytest
import torch

import bitwright as bw
from bitwright.diagnosis.ablation import Ablation
from bitwright.diagnosis.repairs import try_repairs
from bitwright.diagnosis.saturated import HALF_MOST, find_saturated
from bitwright.diagnosis.side_by_side import SideBySide, list_edges
from bitwright.graph.execute import bind
from bitwright.graph.simulate import stitch


@pytest.fixture(scope="module")
def made():
    data = broken.calibration()
    found = bw.quantize(
        broken.healthy(), data, recipe="fixed", method="nearest", target="ort-cpu", scheme="w4a4"
    )
    return found, [bind(found.graph, x) for x in data]


def noise_of(found, assignment):
    """Of a network that is stitched anew, on all samples at once."""
    x = torch.cat(broken.calibration())
    with torch.no_grad():
        want, got = found.graph.module(x).double(), stitch(found.graph, assignment)(x).double()
    return float((got - want).square().sum() / want.square().sum())


def test_what_is_left_in_float_is_as_in_a_network_stitched_without_it(made):
    found, batches = made
    stitched, own = stitch(found.graph, found.assignment), found.assignment
    without = Ablation(found.graph, stitched, batches)
    close = {"rel": 1e-4}
    assert without.noise() == pytest.approx(noise_of(found, own), **close)
    no_edges = noise_of(found, replace(own, edges={}))
    assert without.noise(edges=without.every_edge) == pytest.approx(no_edges, **close)
    edge = next(e for e in list_edges(found.graph, stitched) if e.unit == "body")
    kept = {
        key: grid
        for key, grid in own.edges.items()
        if not (key[0] == edge.source and key[1] in edge.readers)
    }
    assert len(kept) < len(own.edges)
    one = noise_of(found, replace(own, edges=kept))
    assert without.noise(edges={edge.name}) == pytest.approx(one, **close)
    units = [unit.name for unit in found.graph.units]
    assert without.noise(edges=without.every_edge, weights=units) < 1e-12


def test_edges_are_read_as_they_pass(made):
    found, batches = made
    both = SideBySide(found.graph, stitch(found.graph, found.assignment))
    for flat in batches:
        both.add(flat)
    seen = both.seen()
    x = torch.cat(broken.calibration())
    edge = seen.edges[0]
    assert edge.place == "the input of stem"
    assert (edge.least, edge.most) == (float(x.min()), float(x.max()))
    assert edge.channels == tuple(x.abs().amax((2, 3)).median(0).values.tolist())
    assert edge.spreads == pytest.approx(x.double().var((0, 2, 3), correction=0).sqrt().tolist())
    low, high = edge.lo, edge.hi
    step = (high - low) / 15
    outside = (x < low - step / 2) | (x > high + step / 2)
    assert edge.clipped == pytest.approx(float(outside.double().mean()), abs=1e-6)
    assert [unit.name for unit in seen.units] == ["stem", "body", "tail", "head"]
    assert all(0 < unit.noise < 1 for unit in seen.units)
    (join,) = seen.joins
    assert join.kind == "add" and join.units == ("tail",) and 1 < join.ratio < 10
    assert all(norm.mismatch < 0.2 and not norm.untouched for norm in seen.norms)


def test_repairs_run_the_network_in_front_of_the_first_batch_norm_only(made):
    found, batches = made
    right = try_repairs(found.graph, batches)
    turned = try_repairs(found.graph, [(flat[0].flip(1),) for flat in batches])
    assert right.shift == pytest.approx(turned.shift_reversed)
    assert right.shift < 0.1 < right.shift_reversed == pytest.approx(turned.shift)


def test_the_limit_of_half_precision_is_seen_through_a_folded_batch_norm(made):
    found, _ = made
    assert find_saturated(found.graph) == {}
    net = broken.healthy()
    with torch.no_grad():
        net.tail.weight[1, 2, 0, 0] = -HALF_MOST
        net.head.bias[3] = HALF_MOST
    graph = bw.capture(net, broken.calibration()[0])
    assert find_saturated(graph) == {"tail.weight": 1, "head.bias": 1}
