"""Bias tuning: only biases move, what is found helps, and it never ends worse than it began."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from quantised import KINDS, built, quantised, solutions

from bitwright.errors import RecipeError
from bitwright.evaluation.judge import Judge
from bitwright.graph.simulate import stitch
from bitwright.tuning import descent as module
from bitwright.tuning.bias import BiasTuning, tune_biases
from bitwright.tuning.network import admits_bias, tunable
from networks import Chain, Tied, normal, seeded, small_network
from networks import pictures as images_of

FEW = BiasTuning(iterations=20, rate=0.01, checks=4, batch=16, smoothing=0.5)


def tuned(made, options=FEW, **samples):
    return solutions(tune_biases(made.start, made.samples(**samples), options))


def test_lowers_the_divergence_on_samples_not_seen():
    made = quantised(small_network(), images_of(160, seed=1), "w3a4")
    found, report = tuned(made, BiasTuning(iterations=60, smoothing=0.8))
    assert report.kept and report.after.soft < 0.8 * report.before.soft
    fresh = images_of(96, seed=9)
    judge = Judge.of(made.graph, lambda: iter([(fresh,)]))
    before = judge(stitch(made.graph, made.deploy(made.solved)))
    assert judge(stitch(made.graph, made.deploy(found))).soft < 0.9 * before.soft


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
def test_only_biases_move_and_the_report_is_of_what_is_deployed(kind, target):
    made = built(kind, "w3a4", target=target)
    given = {n: None if s.bias is None else s.bias.clone() for n, s in made.solved.items()}
    found, report = tuned(made)
    judge = Judge.of(made.graph, made.samples().held_out)
    assert judge(stitch(made.graph, made.deploy(made.solved))) == report.before
    assert judge(stitch(made.graph, made.deploy(found))) == report.after
    assert report.after.no_worse(report.before)
    for name, solution in found.items():
        before = made.solved[name]
        assert solution.q is before.q and solution.weight is before.weight
        assert given[name] is None or torch.equal(before.bias, given[name])
    assert report.kept, report.history
    assert set(report.units) == {unit.name for unit in tunable(made.graph, made.solved)}
    assert [step for step, _ in report.history] == [0, 5, 10, 15, 20]


def test_same_seed_same_bits_whatever_order_and_batches():
    made = quantised(small_network(), images_of(96, seed=1), "w4a4")
    order = torch.randperm(96, generator=torch.Generator().manual_seed(2))
    one, report = tuned(made)
    again, same = tuned(made)
    assert report == same
    for name, solution in one.items():
        assert torch.equal(solution.bias, again[name].bias)
    other, moved = tuned(made, batch=7, order=order)
    assert moved.before.soft == pytest.approx(report.before.soft, rel=1e-5)
    for name, solution in one.items():
        assert torch.allclose(solution.bias, other[name].bias, rtol=1e-3, atol=1e-3)
    third, _ = tuned(made, BiasTuning(iterations=20, checks=4, batch=16, smoothing=0.5, seed=1))
    assert any(not torch.equal(s.bias, third[n].bias) for n, s in one.items())


def test_never_ends_worse_than_it_began():
    """A rate that ruins everything leaves everything as it was, and says so."""
    made = quantised(small_network(), images_of(64, seed=1), "w8a8")
    found, report = tuned(made, BiasTuning(iterations=8, rate=30.0, checks=4, smoothing=0.0))
    assert all(found[name] is solution for name, solution in made.solved.items())
    assert report.after == report.before and not report.kept
    assert report.tried.soft > report.before.soft
    assert "left as it was" in report.note


def test_parts_of_a_batch_add_up_to_its_gradient(monkeypatch):
    made = quantised(small_network(), images_of(64, seed=1), "w4a8")
    one, _ = tuned(made)
    monkeypatch.setattr(module, "GRAD_BYTES", 1)
    other, _ = tuned(made)
    for name, solution in one.items():
        assert torch.allclose(solution.bias, other[name].bias, rtol=1e-2, atol=1e-3)


def test_units_without_a_bias_get_one_where_there_is_a_place():
    made = built("no biases", "w2a4")
    assert all(s.bias is None for s in made.solved.values())
    found, report = tuned(made)
    assert report.kept
    assert all(s.bias is not None and bool(s.bias.any()) for s in found.values())


class Places(torch.nn.Module):
    """Two calls of one weight with biases of their own, a plain product, an embedding."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(11, 6)
        self.weight = torch.nn.Parameter(torch.randn(6, 6))
        self.first = torch.nn.Parameter(torch.randn(6))
        self.second = torch.nn.Parameter(torch.randn(6))
        self.table = torch.nn.Parameter(torch.randn(6, 6))
        self.head = torch.nn.Linear(6, 4)

    def forward(self, x):
        y = self.words(x).mean(1)
        y = torch.relu(torch.nn.functional.linear(y, self.weight, self.first))
        y = torch.relu(torch.nn.functional.linear(y, self.weight, self.second))
        return self.head(torch.matmul(y, self.table.T + 0 * y.mean()))


def test_biases_that_are_not_ours_are_left():
    data = torch.randint(0, 11, (64, 5), generator=torch.Generator().manual_seed(0))
    made = quantised(seeded(Places).eval(), data, "w3a4")
    admitted = {unit.name: admits_bias(made.graph, unit) for unit in made.graph.units}
    assert admitted["head"] and not admitted["words"] and not admitted["weight"]
    found, report = tuned(made)
    assert set(report.units) <= {"head"}
    assert found["weight"] is made.solved["weight"]


def test_a_weight_with_two_calls():
    made = quantised(seeded(Tied).eval(), normal(64, 6), "w3a3")
    _, report = tuned(made)
    assert report.kept and "twice" in report.units


class TwoInputs(torch.nn.Module):
    """Keyword inputs, a dictionary out: the scores are what counts."""

    def __init__(self):
        super().__init__()
        self.left, self.right = torch.nn.Linear(6, 8), torch.nn.Linear(4, 8)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, one, two):
        hidden = torch.relu(self.left(one) + self.right(two))
        return {"hidden": hidden, "logits": self.head(hidden)}


def test_dictionaries_in_and_out():
    data = {"one": normal(96, 6), "two": normal(96, 4, seed=1)}
    made = quantised(seeded(TwoInputs).eval(), data, "w8a8")
    wrong = {
        name: replace(s, bias=s.bias + 0.2 * normal(len(s.bias))) for name, s in made.solved.items()
    }
    _, report = tuned(replace(made, start=made.having(wrong)), BiasTuning(rate=0.03))
    assert report.units == ("left", "right", "head")
    assert report.after.soft < 0.2 * report.before.soft


def test_nothing_to_train():
    data = torch.randint(0, 11, (64, 5), generator=torch.Generator().manual_seed(0))
    made = quantised(seeded(Places).eval(), data, "w3a4")
    only = {"words": made.solved["words"]}
    found, report = solutions(tune_biases(made.having(only), made.samples(), FEW))
    assert found == only and not report.kept


def test_solutions_made_under_inference_mode():
    with torch.inference_mode():
        made = built("conv, batch-norm", "w3a4")
        inside, _ = tuned(made)
    outside, _ = tuned(built("conv, batch-norm", "w3a4"))
    for name, solution in outside.items():
        assert torch.equal(solution.bias, inside[name].bias)


def test_a_network_of_one_output():
    net = seeded(lambda: Chain(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)))
    made = quantised(net.eval(), normal(96, 6), "w2a4")
    _, report = tuned(made)
    assert report.after.soft < report.before.soft


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"iterations": 0}, "iterations=0"),
        ({"rate": 0.0}, r"rate=0\.0"),
        ({"smoothing": 1.0}, r"smoothing=1\.0"),
    ],
)
def test_wrong_options_say_what_is_right(options, match):
    with pytest.raises(RecipeError, match=match):
        BiasTuning(**options)
