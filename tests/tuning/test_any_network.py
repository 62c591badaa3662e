"""All tunings on networks of all kinds: they run, change what can be changed, and never harm."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from quantised import quantised, solutions
from torch import nn

from bitwright.evaluation.judge import Judge
from bitwright.graph.simulate import stitch
from bitwright.tuning.bias import BiasTuning, tune_biases
from bitwright.tuning.bn import tune_batchnorms
from bitwright.tuning.scales import ScaleTuning, tune_scales
from networks import Chain, normal, seeded

FEW = BiasTuning(iterations=6, checks=3, batch=16)
SCALES = ScaleTuning(iterations=6, checks=3, batch=16)


class Attention(nn.Module):
    """Tokens in, one answer a token out; a mask, a normalisation, a residual."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(13, 8)
        self.norm = nn.LayerNorm(8)
        self.project = nn.Linear(8, 24, bias=False)
        self.out = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, words):
        x = self.table(words)
        q, k, v = self.project(self.norm(x)).chunk(3, dim=-1)
        mask = (words == 0).unsqueeze(1) * -1e30
        weight = (q @ k.transpose(1, 2) / math.sqrt(8) + mask).softmax(-1)
        return self.head(torch.relu(x + self.out(weight @ v)))


class Functional(nn.Module):
    """addmm with its own bias, and with a computed one that must be left alone."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8, 5))
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x):
        y = torch.relu(torch.addmm(self.bias, x, self.one))
        return torch.addmm(y[:, :5], y, self.two)


class FixedBatch(nn.Module):
    """Its batch size is a constant of the graph."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.two(torch.relu(self.one(x.reshape(8, 6)))) + torch.arange(8.0).view(8, 1)


def words():
    return torch.randint(0, 13, (64, 7), generator=torch.Generator().manual_seed(0))


CASES = {
    "attention": (Attention, words),
    "addmm": (Functional, lambda: normal(64, 6)),
    "conv1d": (
        lambda: Chain(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)),
        lambda: normal(64, 4, 8),
    ),
    "conv3d": (
        lambda: Chain(nn.Conv3d(2, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)),
        lambda: normal(64, 2, 3, 3, 3),
    ),
    "scores of pixels": (
        lambda: Chain(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1)),
        lambda: normal(64, 3, 6, 6),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_never_worse(name):
    build, data = CASES[name]
    check(quantised(seeded(build).eval(), data(), "w3a4"))


def test_fixed_batch():
    made = quantised(seeded(FixedBatch).eval(), normal(8, 6), "w3a4")
    check(replace(made, data=normal(96, 6, seed=1)), batch=8)


def check(made, batch=16):
    samples = made.samples(batch)
    judge = Judge.of(made.graph, samples.held_out)
    start = judge(stitch(made.graph, made.deploy(made.solved)))
    tuned, first = solutions(tune_batchnorms(made.start, samples))
    tuned, second = solutions(tune_biases(made.having(tuned), samples, FEW))
    end = judge(stitch(made.graph, made.deploy(tuned)))
    assert first.before == start and first.after == second.before and second.after == end
    assert end.no_worse(start)
    scaled, third = tune_scales(made.having(tuned), samples, SCALES)
    assert third.before == end and third.after.no_worse(end) and math.isfinite(third.tried.soft)
    assert judge(scaled.module()) == third.after
    assert math.isfinite(first.tried.soft) and math.isfinite(second.tried.soft)
    assert first.tried != start and second.tried != second.before
