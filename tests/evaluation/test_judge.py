"""The loss that tuning lowers, and by which it is judged."""

from __future__ import annotations

import pytest
import torch

from bitwright.evaluation import judge as module
from bitwright.evaluation.judge import Judge, Loss, distillation
from bitwright.graph.capture import capture
from networks import Chain, normal, seeded


def test_is_the_divergence_of_softened_answers():
    a, b = normal(6, 5) * 4, normal(6, 5, seed=1) * 4
    p, q = ((v.double() / 3).softmax(-1) for v in (a, b))
    expected = 9 * (p * (p / q).log()).sum(-1).mean()
    assert float(distillation(a, b, 3.0)) == pytest.approx(float(expected), rel=1e-5)
    assert float(distillation(a, a, 3.0)) == 0.0


def test_a_high_temperature_is_the_error_of_centred_scores():
    a, b = normal(6, 5), normal(6, 5, seed=1)
    error = (a - b) - (a - b).mean(-1, keepdim=True)
    expected = float(error.double().square().sum(-1).mean() / 10)
    assert float(distillation(a, b, 1e3)) == pytest.approx(expected, rel=1e-2)


def test_one_output_is_compared_by_its_values():
    a, b = normal(8, 1), normal(8, 1, seed=1)
    expected = float((a - b).square().mean() / a.square().mean())
    assert float(distillation(a, b, 2.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("budget", [module.ANSWER_BYTES, 0, 200])
def test_answers_need_not_be_kept(monkeypatch, budget):
    monkeypatch.setattr(module, "ANSWER_BYTES", budget)
    net = seeded(lambda: Chain(torch.nn.Linear(6, 5))).eval()
    net.m0.weight.data *= 20
    graph = capture(net, (normal(4, 6),))
    other = capture(seeded(lambda: Chain(torch.nn.Linear(6, 5)), 1).eval(), (normal(4, 6),))
    flats = [(normal(8, 6),), (normal(3, 6, seed=1),)]
    judge = Judge.of(graph, lambda: iter(flats))
    x = torch.cat([flat[0] for flat in flats])
    with torch.no_grad():
        a, b = net(x), other.module(x)
    assert judge.temperature == pytest.approx(3 * float(a.std(-1, correction=0).mean()), rel=1e-5)
    assert judge.temperature > 1.0
    found = judge(other.module)
    assert found.plain == pytest.approx(float(distillation(a, b)), rel=1e-6)
    assert found.soft == pytest.approx(float(distillation(a, b, judge.temperature)), rel=1e-6)
    assert judge(graph.module) == Loss(0.0, 0.0)
