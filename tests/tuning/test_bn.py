"""Batch-norm tuning: statistics are put back, integers stay, nothing gets worse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from quantised import KINDS, built, quantised, solutions

import bitwright.tuning.statistics as statistics
from bitwright.errors import RecipeError
from bitwright.evaluation.judge import Judge, Loss
from bitwright.graph.simulate import stitch
from bitwright.tuning.bn import BatchNormTuning, differ, reference_norms, tune_batchnorms
from bitwright.tuning.network import simulate, tunable
from bitwright.tuning.statistics import output_moments
from networks import Chain, Tied, normal, seeded, small_network
from networks import pictures as images_of

MEANS = 0.02


def tuned(made, options=None, **samples):
    return solutions(tune_batchnorms(made.start, made.samples(**samples), options))


def accept(monkeypatch):
    """Let the guard pass everything, so that what was tried can be seen."""
    monkeypatch.setattr(Loss, "no_worse", lambda *_: True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
def test_statistics_are_those_of_the_float_network(kind, target, monkeypatch):
    accept(monkeypatch)
    made = built(kind, target=target)
    found, report = tuned(made)
    assert report.units
    samples = made.samples()
    units = tunable(made.graph, made.solved)
    float_ = output_moments(made.graph.module, units, samples.fit)
    module = simulate(made.having(found)).module
    quant = output_moments(module, units, samples.fit)
    for unit in units:
        std = float_[unit.name].var.sqrt()
        # The mean to a part of the bias's own lattice, the spread to the scale's.
        assert ((quant[unit.name].mean - float_[unit.name].mean).abs() < MEANS * std).all()
        if found[unit.name].weight.scale.numel() == std.numel():
            ratio = quant[unit.name].var.sqrt() / std
            assert ((ratio - 1).abs() < 0.02).all(), ratio


@pytest.mark.parametrize("kind", KINDS)
def test_integers_and_grids_stay_bit_for_bit(kind, monkeypatch):
    accept(monkeypatch)
    made = built(kind)
    q = {name: s.q.clone() for name, s in made.solved.items()}
    bias = {name: None if s.bias is None else s.bias.clone() for name, s in made.solved.items()}
    found, _ = tuned(made)
    assert list(found) == list(made.solved)
    for name, solution in found.items():
        before = made.solved[name]
        assert torch.equal(solution.q, q[name])
        assert torch.equal(solution.weight.zero_point, before.weight.zero_point)
        assert solution.weight.grid == before.weight.grid
        assert solution.inputs == before.inputs
        # What was given is not written to.
        assert (before.bias is None) == (bias[name] is None)
        assert bias[name] is None or torch.equal(before.bias, bias[name])


@pytest.mark.parametrize("order", ["sequential", "together"])
def test_lowers_the_divergence_on_samples_not_seen(order):
    net = small_network()
    made = quantised(net, images_of(128, seed=1), "w3a8")
    found, report = tuned(made, BatchNormTuning(order=order))
    assert report.kept and report.after.soft < 0.7 * report.before.soft
    fresh = images_of(64, seed=9)
    judge = Judge.of(made.graph, lambda: iter([(fresh,)]))
    before = judge(stitch(made.graph, made.deploy(made.solved)))
    after = judge(stitch(made.graph, made.deploy(found)))
    assert after.soft < 0.7 * before.soft


def test_what_is_reported_is_what_is_deployed():
    made = built("no batch-norm")
    found, report = tuned(made)
    judge = Judge.of(made.graph, made.samples().held_out)
    assert judge(stitch(made.graph, made.deploy(made.solved))) == report.before
    assert judge(stitch(made.graph, made.deploy(found))) == report.after
    assert report.units == tuple(n for n, s in found.items() if differ(made.solved[n], s))


def test_order_and_batch_size_change_nothing_but_rounding(monkeypatch):
    accept(monkeypatch)
    made = quantised(small_network(), images_of(96, seed=1), "w4a8")
    order = torch.randperm(96, generator=torch.Generator().manual_seed(2))
    one, first = tuned(made, batch=16)
    for options in ({"batch": 16, "order": order}, {"batch": 7}, {"batch": 96}):
        other, report = tuned(made, **options)
        assert report.before.soft == pytest.approx(first.before.soft, rel=1e-5)
        for name, solution in one.items():
            ratio = solution.weight.scale / other[name].weight.scale
            assert torch.allclose(ratio, torch.ones_like(ratio), rtol=1e-6)
            assert torch.allclose(solution.bias, other[name].bias, rtol=1e-4, atol=1e-5)


def test_no_cut_fits_into_memory(monkeypatch):
    """Where nothing can be kept everything is computed again: the same solution."""
    accept(monkeypatch)
    made = quantised(small_network(), images_of(64, seed=1), "w4a8")
    one, _ = tuned(made)
    monkeypatch.setattr(statistics, "CUT_BYTES", 0)
    other, _ = tuned(made)
    for name, solution in one.items():
        assert torch.equal(solution.weight.scale, other[name].weight.scale)
        assert torch.equal(solution.bias, other[name].bias)


@pytest.mark.parametrize("order", ["sequential", "together"])
@pytest.mark.parametrize("reference", ["float", "record"])
def test_runs_under_inference_mode(order, reference):
    made = built("conv, batch-norm")
    options = BatchNormTuning(order=order, reference=reference, passes=2)
    outside, _ = tuned(made, options)
    with torch.inference_mode():
        inside, _ = tuned(built("conv, batch-norm"), options)
    for name, solution in outside.items():
        assert torch.equal(solution.weight.scale, inside[name].weight.scale)
        assert torch.equal(solution.bias, inside[name].bias)


def test_running_means_end_where_the_sweep_does(monkeypatch):
    """Without damping, after as many passes as there are units, both are the same fixed point."""
    accept(monkeypatch)
    made = quantised(small_network(), images_of(64, seed=1), "w4a8")
    one, _ = tuned(made)
    passes = len(made.solved) + 1
    other, _ = tuned(made, BatchNormTuning(order="together", passes=passes, momentum=1.0))
    for name, solution in one.items():
        assert torch.allclose(solution.weight.scale, other[name].weight.scale, rtol=0.02)
        assert torch.allclose(solution.bias, other[name].bias, rtol=0.1, atol=0.05)


def test_records_of_the_folded_norms_are_the_paper_s_reference():
    made = built("conv, batch-norm")
    units = tunable(made.graph, made.solved)
    norms = reference_norms(made.graph, units, made.samples(), "record")
    (name,) = made.graph.folded
    record = made.graph.folded[name]
    assert torch.equal(norms[name].beta, record.beta.double())
    assert torch.equal(norms[name].var, record.gamma.double().square())
    assert set(norms) == {unit.name for unit in units}


def test_worse_on_held_out_samples_is_not_taken(monkeypatch):
    made = built("conv, batch-norm")
    monkeypatch.setattr(Loss, "no_worse", lambda *_: False)
    found, report = tuned(made)
    assert all(found[name] is solution for name, solution in made.solved.items())
    assert not report.kept and report.units == () and report.after == report.before
    assert "left as it was" in report.note
    assert report.tried != report.before


def test_no_worse_is_strict_about_both_and_about_nan():
    assert Loss(1.0, 1.0).no_worse(Loss(1.0, 1.0))
    assert not Loss(0.5, 1.1).no_worse(Loss(1.0, 1.0))
    assert not Loss(float("nan"), 0.0).no_worse(Loss(1.0, 1.0))


def test_one_scale_a_tensor_corrects_means(monkeypatch):
    accept(monkeypatch)
    made = built("conv, batch-norm", weight_per_channel=False)
    found, report = tuned(made)
    assert report.units
    for name, solution in found.items():
        assert torch.equal(solution.weight.scale, made.solved[name].weight.scale)
        assert not torch.equal(solution.bias, made.solved[name].bias)


def test_a_weight_with_two_calls(monkeypatch):
    accept(monkeypatch)
    made = quantised(seeded(Tied).eval(), normal(64, 6), "w3a8")
    found, report = tuned(made)
    assert "twice" in report.units
    judge = Judge.of(made.graph, made.samples().held_out)
    assert judge(stitch(made.graph, made.deploy(found))) == report.after


class Mixed(torch.nn.Module):
    """A float unit, a plain product without a place for a bias, an embedding."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(11, 6)
        self.table = torch.nn.Parameter(torch.randn(6, 6))
        self.head = torch.nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.relu(self.words(x).mean(1) @ self.table))


def test_units_without_a_place_for_a_bias_are_left():
    data = torch.randint(0, 11, (64, 5), generator=torch.Generator().manual_seed(0))
    made = quantised(seeded(Mixed).eval(), data, "w3a8")
    names = [unit.name for unit in tunable(made.graph, made.solved)]
    assert "head" in names and "words" not in names
    found, _ = tuned(made)
    assert found["words"] is made.solved["words"]


def test_units_that_stay_float_are_left():
    made = built("no batch-norm")
    first = made.graph.units[0].name
    some = {name: s for name, s in made.solved.items() if name != first}
    found, _ = tuned(replace(made, start=made.having(some)))
    assert set(found) == set(some)


def test_a_network_of_one_output():
    net = seeded(lambda: Chain(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)))
    made = quantised(net.eval(), normal(96, 6), "w2a8")
    _, report = tuned(made)
    assert report.before.soft > 0.0
    assert report.tried.soft != report.before.soft


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"order": "sequentially"}, "Did you mean 'sequential'"),
        ({"reference": "records"}, "Did you mean 'record'"),
        ({"passes": 11}, "passes is 11"),
        ({"momentum": 0.0}, "momentum 0.0"),
        ({"most": 0}, "most 0"),
    ],
)
def test_wrong_options_say_what_is_right(options, match):
    with pytest.raises(RecipeError, match=match):
        BatchNormTuning(**options)
