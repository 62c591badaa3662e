"""Means of inputs from batch-norms alone, against integration and against samples."""

from __future__ import annotations

import math

import pytest
import torch
from foldable import Inverted
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn

from bitwright.graph.capture import capture
from bitwright.prepare.equalize import Equalize
from bitwright.prepare.expectation import Clipped, expect_inputs, gather_means
from bitwright.tuning.statistics import output_moments
from networks import normal, seeded, trained_looking


@pytest.mark.parametrize("mean", [-2.0, 0.0, 0.7, 5.0])
@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("ends", [(-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0), (0.0, 0.0)])
def test_moments_of_a_clipped_gauss(mean, std, ends):
    as_tensor = [torch.tensor([v], dtype=torch.float64) for v in (mean, std, *ends)]
    found_mean, found_var = Clipped(*as_tensor).moments()

    def integral(f):
        low, high = (max(min(e, mean + 12 * std), mean - 12 * std) for e in ends)
        inside = quad(lambda x: f(x) * norm.pdf(x, mean, std), low, high, epsabs=1e-13)[0]
        below = f(ends[0]) * norm.cdf(ends[0], mean, std) if ends[0] > -math.inf else 0.0
        above = f(ends[1]) * norm.sf(ends[1], mean, std) if ends[1] < math.inf else 0.0
        return inside + below + above

    wanted = integral(lambda x: x)
    assert float(found_mean) == pytest.approx(wanted, abs=1e-8)
    assert float(found_var) == pytest.approx(integral(lambda x: x * x) - wanted**2, abs=1e-7)


class Known(nn.Module):
    """Gaussian channels into every activation and a sum; batch-norms that say the truth."""

    def __init__(self, act) -> None:
        super().__init__()
        self.first = nn.Conv2d(6, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.other = nn.Conv2d(6, 6, 1, bias=False)
        self.other_norm = nn.BatchNorm2d(6)
        self.act = act
        self.depth = nn.Conv2d(6, 6, 1, groups=6)
        self.summed = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        a, b = self.norm(self.first(x)), self.other_norm(self.other(x))
        y = self.act(a)
        return self.depth(y).mean((2, 3)).sum(1), self.summed(a + b), self.head(y.mean((2, 3)))


@pytest.mark.parametrize(
    "act", [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.LeakyReLU(0.1), nn.Identity()]
)
def test_inputs_have_the_mean_that_is_expected(act):
    net = trained_looking(seeded(lambda: Known(act)))
    # Rows that are orthogonal: the two branches are independent of one another.
    basis = torch.linalg.qr(normal(12, 12, seed=2))[0]
    net.first.weight.data = basis[:6, :6, None, None]
    net.other.weight.data = basis[6:, :6, None, None]
    x = normal(400, 6, 8, 8, seed=3)
    with torch.no_grad():
        for conv, bn in ((net.first, net.norm), (net.other, net.other_norm)):
            bn.running_mean.zero_()
            bn.running_var.copy_(conv.weight.data.square().sum((1, 2, 3)))
    graph = capture(net, (x[:2],))
    means = expect_inputs(graph)
    with torch.no_grad():
        a, b = net.norm(net.first(x)), net.other_norm(net.other(x))
        y = net.act(a)
    assert torch.allclose(means["depth"].float(), y.mean((0, 2, 3)), atol=0.02)
    assert torch.allclose(means["head"].float(), y.mean((0, 2, 3)), atol=0.02)
    assert torch.allclose(means["summed"].float(), (a + b).mean((0, 2, 3)), atol=0.03)
    assert "first" not in means


def test_equalised_networks_expect_the_same_outputs():
    graph = capture(trained_looking(seeded(Inverted)), (normal(2, 3, 16, 16),))
    changed = Equalize().apply(graph)
    old, new = expect_inputs(graph), expect_inputs(changed)
    assert set(old) == set(new) == {"expand.0", "depth.0", "project.0", "last.0", "head"}
    for name in old:
        outs = [
            gather_means(g.tensor(g.unit(name).weight).double(), g.unit(name), m[name])
            for g, m in ((graph, old), (changed, new))
        ]
        factor = torch.ones_like(outs[0])
        if name in graph.folded:
            factor = (changed.folded[name].gamma / graph.folded[name].gamma).double()
        assert torch.allclose(outs[1], outs[0] * factor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Conv2d(6, 8, 3, groups=2),
        nn.Linear(6, 5),
    ],
)
def test_constant_inputs_are_gathered(layer):
    layer = seeded(lambda: layer).eval()
    constant = normal(6, seed=5).abs()
    x = constant.expand(3, 6) if isinstance(layer, nn.Linear) else constant.reshape(1, 6, 1, 1)
    x = x if isinstance(layer, nn.Linear) else x.expand(2, 6, 3, 3).contiguous()
    graph = capture(layer, (x,))
    unit = graph.units[0]
    found = gather_means(graph.tensor(unit.weight), unit, constant)
    moments = output_moments(graph.module, graph.units, lambda: iter([(x,)]))
    wanted = moments[unit.name].mean.float() - layer.bias.detach()
    assert torch.allclose(found, wanted, atol=1e-5)
