"""High-bias absorption: exact where the assumption holds, and only there."""

from __future__ import annotations

import pytest
import torch
from foldable import Inverted, inputs
from torch import nn

import bitwright as bw
from bitwright.graph.capture import capture
from bitwright.prepare.absorb import AbsorbBias
from bitwright.prepare.equalize import Equalize
from networks import pictures, seeded, trained_looking


class High(nn.Module):
    """A depthwise convolution with high biases, read by a pointwise one."""

    def __init__(self, act=nn.ReLU6, padding=0) -> None:
        super().__init__()
        self.depth = nn.Conv2d(3, 3, 3, groups=3, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.act = act()
        self.point = nn.Conv2d(3, 8, 1 + 2 * padding, padding=padding)
        self.mid = nn.Conv2d(8, 6, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, x):
        x = self.point(self.act(self.bn(self.depth(x))))
        return self.head(torch.relu(self.bn2(self.mid(x))).mean((2, 3)))


def high(act=nn.ReLU6, padding=0):
    """A network whose rectifier hardly ever sees less than c."""
    net = trained_looking(seeded(lambda: High(act, padding)))
    for bn in (net.bn, net.bn2):
        bn.weight.data.fill_(0.3)
        bn.bias.data.copy_(torch.linspace(0.5, 3.0, bn.num_features))
    with torch.no_grad():
        # The statistics that training would have found.
        x = inputs("small", 64, seed=9)
        out = net.depth(x)
        net.bn.running_mean.copy_(out.mean((0, 2, 3)))
        net.bn.running_var.copy_(out.var((0, 2, 3)))
        out = net.mid(net.point(net.act(net.bn(out))))
        net.bn2.running_mean.copy_(out.mean((0, 2, 3)))
        net.bn2.running_var.copy_(out.var((0, 2, 3)))
    return net


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("equalised", [False, True])
def test_what_moves_is_what_the_channel_always_has(act, equalised):
    graph = capture(high(act), (inputs("small"),))
    if equalised:
        graph = Equalize().apply(graph)
    changed = AbsorbBias().apply(graph)
    record, now = graph.folded["depth"], changed.folded["depth"]
    moved = record.beta - 3 * record.gamma.abs()
    moved = moved.clamp_min(0)
    assert bool(moved.any())
    assert torch.allclose(now.beta, record.beta - moved, rtol=1e-5, atol=1e-6)
    for old, new, name in ((graph, changed, "depth"),):
        assert torch.allclose(
            new.tensor(f"{name}.bias"), old.tensor(f"{name}.bias") - moved, rtol=1e-4, atol=1e-5
        )
    x = inputs("small", 32, seed=4)
    with torch.no_grad():
        want, got = graph.module(x), changed.module(x)
    # Beyond three deviations the rectifier now cuts a little more.
    assert (got - want).abs().mean() <= 2e-3 * want.abs().mean()
    x = 0.1 * x
    with torch.no_grad():
        want, got = graph.module(x), changed.module(x)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_readers_that_had_no_bias_get_one():
    graph = capture(high(), (inputs("small"),))
    assert graph.unit("head").bias is None
    changed = AbsorbBias().apply(graph)
    assert changed.unit("head").bias == "head.bias"
    assert [n.place for n in changed.notes if "absorb-bias" in n.text] == ["depth", "mid"]


def test_readers_that_pad_are_left_alone():
    graph = capture(high(padding=1), (inputs("small"),))
    changed = AbsorbBias().apply(graph)
    assert torch.equal(changed.tensor("depth.bias"), graph.tensor("depth.bias"))
    assert not torch.equal(changed.tensor("mid.bias"), graph.tensor("mid.bias"))


def test_low_biases_stay():
    graph = capture(trained_looking(seeded(Inverted)), (inputs("inverted"),))
    assert AbsorbBias().apply(graph).digest() == graph.digest()


def test_ranges_become_narrower_and_the_file_agrees(tmp_path):
    net = high(nn.ReLU)
    plain, made = (
        bw.quantize(
            net, [pictures(64)], recipe="fixed", scheme="w8a4", prepare=p, activation_range="minmax"
        )
        for p in ("", "equalize,absorb-bias")
    )
    assert made.metrics["kl"] < plain.metrics["kl"]
    run = made.save(tmp_path / "run")
    assert run.read_json("verify.json")["passed"]
    x = pictures(16, seed=3)
    with torch.no_grad():
        assert torch.equal(bw.load(tmp_path / "run", model=net)(x), made.model(x))
