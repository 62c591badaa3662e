"""Analytic bias correction: the mean of every output comes back, from batch-norms alone."""

from __future__ import annotations

import pytest
import torch
from quantised import quantised, solutions
from torch import nn

import bitwright as bw
from bitwright.tuning.analytic import correct_biases, correct_units
from bitwright.tuning.network import simulate
from bitwright.tuning.statistics import output_moments
from networks import Chain, normal, pictures, seeded, small_network, trained_looking


def chain():
    """Batch-norms that know their own input."""
    net = Chain(
        nn.Conv2d(6, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
        nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Flatten(), nn.Linear(12 * 16, 5),
    )  # fmt: skip
    net = trained_looking(seeded(lambda: net))
    net.train()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                module.reset_running_stats()
        net(normal(512, 6, 8, 8, seed=8))
    return net.eval()


def test_the_mean_of_the_outputs_comes_back():
    given = quantised(chain(), normal(160, 6, 8, 8, seed=4), scheme="w3a8")
    made = correct_units(given.start)
    assert set(made) == {"m3", "m6", "m10"}
    solved = {**given.solved, **made}
    units, samples = given.graph.units, given.samples().fit
    true = output_moments(given.graph.module, units, samples)
    gaps = []
    for one in (given.solved, solved):
        got = output_moments(simulate(given.having(one)).module, units, samples)
        gaps.append({u: float((got[u].mean - true[u].mean).abs().mean()) for u in ("m3", "m6")})
    assert gaps[1]["m3"] < 0.5 * gaps[0]["m3"] and gaps[1]["m6"] < 0.7 * gaps[0]["m6"], gaps


def test_what_does_not_help_is_not_kept():
    given = quantised(chain(), normal(160, 6, 8, 8, seed=4), scheme="w3a8")
    solved, report = solutions(correct_biases(given.start, given.samples()))
    assert report.kept == report.tried.no_worse(report.before)
    assert report.kept or (solved is given.solved and "left as it was" in report.note)


def test_without_batch_norms_there_is_nothing_to_correct():
    net = seeded(lambda: Chain(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))).eval()
    given = quantised(net, normal(64, 12, seed=4))
    solved, report = solutions(correct_biases(given.start, given.samples()))
    assert solved is given.solved and not report.kept
    assert "no folded batch-norm tells the mean" in report.note


@pytest.mark.parametrize("step", ["bias-analytic", "bias-empirical"])
def test_through_the_pipeline(step):
    result = bw.quantize(small_network(), [pictures(64)], recipe="fixed", scheme="w4a8", tune=step)
    assert [r["step"] for r in result.metrics["tuning"]] == [step]
    assert result.verify()["passed"]
