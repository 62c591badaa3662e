"""Scale tuning: integers stay, what is found helps, and it never ends worse than it began."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from quantised import KINDS, built, quantised, solutions

import bitwright as bw
from bitwright.errors import RecipeError
from bitwright.evaluation.judge import Judge
from bitwright.graph.simulate import stitch
from bitwright.numerics.affine import QParams
from bitwright.numerics.exact import significant_bits, snap
from bitwright.numerics.grid import Grid
from bitwright.tuning.bias import BiasTuning, tune_biases
from bitwright.tuning.network import simulate
from bitwright.tuning.scales import (
    ScaleTuning,
    grid_names,
    is_fine,
    scale_edges,
    scale_paths,
    stretch,
    tune_scales,
)
from networks import Tied, normal, seeded, small_network
from networks import pictures as images_of

FEW = ScaleTuning(
    iterations=20, checks=4, batch=16, smoothing=0.5, weight_rate=0.001, input_rate=0.001
)


def tuned(made, options=FEW, **samples):
    found, report = tune_scales(made.start, made.samples(**samples), options)
    return found.solved, found.edges, report


def test_lowers_the_divergence_on_samples_not_seen_more_than_biases_do():
    made = quantised(small_network(), images_of(160, seed=1), "w3a3")
    found, edges, report = tuned(made, ScaleTuning(iterations=60, smoothing=0.8))
    options = BiasTuning(iterations=60, smoothing=0.8)
    alone, _ = solutions(tune_biases(made.start, made.samples(), options))
    assert report.kept and report.after.soft < 0.8 * report.before.soft
    fresh = images_of(96, seed=9)
    judge = Judge.of(made.graph, lambda: iter([(fresh,)]))
    biases = judge(stitch(made.graph, made.deploy(alone)))
    scales = judge(stitch(made.graph, made.start.having(found, edges).assignment()))
    assert scales.soft < biases.soft < judge(stitch(made.graph, made.deploy(made.solved))).soft


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
def test_integers_stay_and_the_report_is_of_what_is_deployed(kind, target):
    made = built(kind, "w3a4", target=target)
    found, edges, report = tuned(made)
    judge = Judge.of(made.graph, made.samples().held_out)
    assert judge(stitch(made.graph, made.deploy(made.solved))) == report.before
    deployed = made.start.having(found, edges).assignment()
    assert judge(stitch(made.graph, deployed)) == report.after
    assert report.after.no_worse(report.before)
    # Where the start is as good as it gets, tuning is undone.
    assert report.kept or target == "ort-cpu" or kind in ("no biases", "depthwise")
    assert set(edges) == set(made.start.edges)
    for name, solution in found.items():
        before = made.solved[name]
        assert solution.q is before.q
        assert torch.equal(solution.weight.zero_point, before.weight.zero_point)
        for old, new in zip(before.inputs, solution.inputs, strict=True):
            assert (old is None) == (new is None)
            assert new is None or new in edges.values()
    for edge, qparams in edges.items():
        before = made.start.edges[edge]
        assert qparams.grid == before.grid and qparams.zero_point == before.zero_point
        assert torch.equal(snap(qparams.scale, significant_bits(qparams.grid)), qparams.scale)
        assert is_fine(qparams) or torch.equal(qparams.scale, before.scale)


def test_values_of_one_class_keep_one_grid():
    """The operands and the result of a sum, where the runtime ties them."""
    made = built("conv, batch-norm", "w3a4", target="ort-cpu")
    _, edges, _ = tuned(made)
    by_class = {}
    for site in made.start.sites:
        edge = edges.get((site.source, site.reader))
        if edge is not None:
            by_class.setdefault((grid_names(made.start)[site.root], edge.grid.bits), set()).add(
                float(edge.scale)
            )
    assert by_class and all(len(scales) == 1 for scales in by_class.values())


def test_every_class_of_edges_is_found_in_the_stitched_network():
    made = quantised(seeded(Tied).eval(), normal(64, 6), "w4a4")
    simulation = simulate(made.start)
    paths = scale_paths(simulation.module, made.start)
    assert set(paths) == {
        grid_names(made.start)[s.root]
        for s in made.start.sites
        if (s.source, s.reader) in made.start.edges
        and is_fine(made.start.edges[s.source, s.reader])
    }
    for own in paths.values():
        for path, qparams in own.items():
            assert torch.equal(simulation.module.get_buffer(path), qparams.scale)


def test_same_seed_same_bits_whatever_order_and_batches():
    made = quantised(small_network(), images_of(96, seed=1), "w4a4")
    order = torch.randperm(96, generator=torch.Generator().manual_seed(2))
    one, edges, report = tuned(made)
    again, same_edges, same = tuned(made)
    assert report == same
    for name, solution in one.items():
        assert torch.equal(solution.bias, again[name].bias)
        assert torch.equal(solution.weight.scale, again[name].weight.scale)
    assert all(torch.equal(edges[e].scale, same_edges[e].scale) for e in edges)
    _, _, moved = tuned(made, batch=7, order=order)
    assert moved.before.soft == pytest.approx(report.before.soft, rel=1e-5)
    assert moved.after.soft == pytest.approx(report.after.soft, rel=0.05)


def test_never_ends_worse_than_it_began():
    made = quantised(small_network(), images_of(64, seed=1), "w8a8")
    options = replace(FEW, rate=30.0, input_rate=3.0, smoothing=0.0)
    found, edges, report = tuned(made, options)
    assert found is made.solved and edges is made.start.edges
    assert report.after == report.before and not report.kept
    assert "left as it was" in report.note


def test_an_8_bit_reader_of_the_same_value_keeps_its_grid():
    made = quantised(small_network(), images_of(64, seed=1), "w4a4")
    edge, narrow = next(iter(made.start.edges.items()))
    wide = QParams(Grid(8), narrow.scale / 16, narrow.zero_point)
    other = (edge[0], "another")
    site = next(s for s in made.start.sites if (s.source, s.reader) == edge)
    sites = (*made.start.work.sites, replace(site, reader="another", unit=None))
    start = replace(
        made.start,
        work=replace(made.start.work, sites=sites),
        edges={**made.start.edges, other: wide},
    )
    moved = scale_edges(start, {grid_names(start)[site.root]: 0.2})
    assert not torch.equal(moved[edge].scale, narrow.scale)
    assert moved[other] is wide


def test_stretched_scales_are_the_nearest_of_few_bits():
    grid = Grid(4)
    qparams = QParams(grid, torch.tensor([0.5, 0.25]), torch.zeros(2, dtype=torch.int32))
    made = stretch(qparams, torch.tensor([0.1, -0.2]))
    wanted = torch.tensor([0.5, 0.25]) * torch.tensor([0.1, -0.2]).exp()
    assert torch.allclose(made.scale, wanted, rtol=2.0 ** -significant_bits(grid))
    assert torch.equal(snap(made.scale, significant_bits(grid)), made.scale)
    same = stretch(qparams, torch.zeros(2))
    assert torch.equal(same.scale, qparams.scale)


def test_as_a_step_of_a_recipe_before_refinement():
    data = list(images_of(96, seed=1).split(16))
    result = bw.quantize(
        small_network(), data, recipe="fixed", scheme="w3a3", tune="bn,scales,refine", keep="",
        mode="parallel",
    )  # fmt: skip
    steps = [(entry["step"], entry["kept"]) for entry in result.metrics["tuning"]]
    assert [step for step, _ in steps][:2] == ["bn", "scales"]
    assert dict(steps)["scales"]
    for entry in result.metrics["tuning"]:
        assert entry["loss_after"] <= entry["loss_before"]


@pytest.mark.parametrize(
    "wrong", [{"iterations": 0}, {"input_rate": 0.0}, {"smoothing": 1.0}, {"checks": -1}]
)
def test_options_out_of_range_are_named(wrong):
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        ScaleTuning(**wrong)
