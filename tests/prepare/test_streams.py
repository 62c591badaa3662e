"""Streams of channels: which there are, and that any factors of theirs leave every answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from foldable import NETWORKS, inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitwright.graph.capture import capture
from bitwright.prepare.channel_sets import FIXED
from bitwright.prepare.fold_streams import FACTORS, fold_factors, with_factors
from bitwright.prepare.joints import find_joints
from bitwright.prepare.streams import find_streams
from networks import normal, seeded, trained_looking


class Residual(nn.Module):
    """A residual stream of two blocks, a shortcut that pads channels, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6))
        self.one = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6))
        self.two = nn.Conv2d(6, 10, 3, 2, 1)
        self.gate = nn.Linear(10, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.one(x))
        short = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        x = torch.relu(self.two(x) + short)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.head(x.mean((2, 3)))


class Text(nn.Module):
    """Layer norms before linear layers, as transformers have them; heads are cut and put back."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(8), nn.LayerNorm(8)
        self.values, self.out = nn.Linear(8, 16), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        left, right = self.values(self.before(x)).split(8, -1)
        x = x + self.out(torch.cat([left[..., 4:], right[..., :4]], -1))
        return x + self.down(torch.relu(self.up(self.after(x))))


class Moved(nn.Module):
    """Channels that move between axes, and a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.slope = nn.Conv2d(3, 6, 3, 2), nn.PReLU(6)
        self.mix, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.slope(self.conv(x)) * 0.5
        x = x.flatten(2).transpose(1, 2)
        return self.head(nn.functional.relu6(self.mix(x)).mean(1))


OWN = {
    "residual": (Residual, (2, 3, 8, 8)),
    "text": (Text, (2, 5, 8)),
    "moved": (Moved, (2, 3, 8, 8)),
}


def graph_of(name):
    if name in NETWORKS:
        return capture(NETWORKS[name][0](), (inputs(name),)), inputs(name, 8, seed=3)
    make, shape = OWN[name]
    return capture(trained_looking(seeded(make)).eval(), (normal(*shape),)), normal(*shape, seed=3)


@pytest.fixture(scope="module")
def captured():
    return {name: graph_of(name) for name in (*OWN, *NETWORKS)}


@pytest.mark.parametrize("name", [*OWN, *NETWORKS])
@settings(deadline=None, max_examples=4)
@given(seed=st.integers(0, 1000))
def test_no_factors_change_any_answer(captured, name, seed):
    graph, x = captured[name]
    streams = find_streams(graph)
    assert streams.count > 1
    drawn = torch.randn(streams.count, generator=torch.Generator().manual_seed(seed)).double()
    factors = drawn.exp()
    factors[FIXED] = 1.0
    digest = graph.digest()
    made = fold_factors(graph, streams, factors)
    with torch.no_grad():
        want, got = graph.module(x), made.module(x)
    assert graph.digest() == digest != made.digest()
    assert (got - want).abs().max() <= 2e-5 * want.abs().max()


@pytest.mark.parametrize("name", [*OWN, "inverted"])
def test_every_value_is_scaled_as_its_streams_say(captured, name):
    graph, x = captured[name]
    streams = find_streams(graph)
    factors = torch.linspace(0.5, 2.0, streams.count).double()
    factors[FIXED] = 1.0
    made = fold_factors(graph, streams, factors)
    before, after = values_of(graph, x), values_of(made, x)
    clips = set(streams.clips)
    for node, channels in streams.values.items():
        if node in clips or node not in after:
            continue
        factor = factors[torch.from_numpy(channels.streams)].float()
        shape = [-1 if i == channels.axis else 1 for i in range(before[node].dim())]
        want = before[node] * factor.reshape(shape)
        assert torch.allclose(after[node], want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def values_of(graph, x):
    seen = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, node):
            seen[node.name] = super().run_node(node)
            return seen[node.name]

    with torch.no_grad():
        Watch(graph.module).run(x)
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_whoever_writes_a_joint_writes_streams(captured, name):
    graph, _ = captured[name]
    streams = find_streams(graph)
    for joint in find_joints(graph):
        found = streams.of(joint.writer.calls[0])
        assert found is not None and not (found.streams == FIXED).any()
        assert len(set(found.streams.tolist())) == joint.channels


def test_a_residual_stream_is_one_in_all_its_blocks(captured):
    graph, _ = captured["residual"]
    streams = find_streams(graph)
    call = {unit.name: unit.calls[0] for unit in graph.units}
    stem, one, two = (streams.of(call[name]).streams for name in ("stem.0", "one.0", "two"))
    assert np.array_equal(stem, one) and np.array_equal(two[2:8], stem)
    assert not set(two[[0, 1, 8, 9]].tolist()) & set(stem.tolist())
    assert streams.of(call["head"]) is None and streams.of(call["gate"]) is None


def test_clips_can_be_left_as_they_are(captured):
    graph, _ = captured["moved"]
    call = {unit.name: unit.calls[0] for unit in graph.units}
    assert find_streams(graph).clips and not find_streams(graph, clips=False).clips
    assert find_streams(graph, clips=False).of(call["mix"]) is None


def test_what_does_not_commute_is_left_alone():
    net = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 2))
    assert find_streams(capture(net.eval(), (normal(2, 4),))).count == 1


def test_stored_factors_are_folded_again(captured):
    graph, _ = captured["residual"]
    streams = find_streams(graph)
    factors = torch.linspace(1.0, 3.0, streams.count).double()
    made = fold_factors(graph, streams, factors)
    again = with_factors(graph, {FACTORS: made.tensor(FACTORS)})
    assert again.digest() == made.digest()
    assert with_factors(graph, {}) is graph
