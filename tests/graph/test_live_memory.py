"""Peak activation memory against counting by hand."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn
from torch.nn import functional

from bitwright.graph.capture import capture
from bitwright.graph.choice import FLOAT, Choice
from bitwright.graph.live_memory import (
    LivePeak,
    Span,
    activation_peak,
    bits_of_edges,
    peak_of,
    value_sizes,
)
from bitwright.graph.sites import find_sites
from bitwright.graph.target import load_target
from networks import Chain, normal, pictures, small_network


def peak(net, x, choice, target="paper"):
    """Peak bytes with one choice for all units, or one a unit."""
    graph = capture(net.eval(), (x,))
    sites = find_sites(graph, load_target(target))
    choices = choice if isinstance(choice, dict) else {u.name: choice for u in graph.units}
    active = [s for s in sites if s.unit is None or not choices[s.unit].is_float]
    if all(c.is_float for c in choices.values()):
        active = []
    return activation_peak(graph, value_sizes(graph, (x,)), bits_of_edges(active, choices))


class Three(nn.Module):
    """100 -> 60 -> 80 -> 10 values, each read by the next layer alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(100, 60), nn.Linear(60, 80), nn.Linear(80, 10)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


def test_a_chain_by_hand():
    # The first layer holds its input and its result, the others less.
    assert peak(Three(), normal(4, 100), FLOAT).size == 4 * (100 + 60)
    assert peak(Three(), normal(4, 100), Choice(8, 8)).size == 100 + 60
    assert peak(Three(), normal(4, 100), Choice(4, 4)).size == 50 + 30
    mixed = {"a": Choice(8, 4), "b": Choice(8, 8), "c": Choice(8, 8)}
    found = peak(Three(), normal(4, 100), mixed)
    assert found.size == 60 + 80 and {s.size for s in found.spans} == {60, 80}


def test_bits_are_packed_to_whole_bytes():
    net = Chain(nn.Linear(15, 9), nn.Linear(9, 1))
    # 15 values of 3 bits are 6 bytes, 9 are 4.
    assert peak(net, normal(2, 15), Choice(8, 3)).size == 6 + 4


class Skip(nn.Module):
    """The value that skips a layer is alive beside its input and result."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(50, 50), nn.Linear(50, 50), nn.Linear(50, 2)

    def forward(self, x):
        y = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(y)) + y)


def test_a_value_is_held_once_for_each_width_that_is_read():
    # At `b`: y at 4 bits for b, in float for the addition, and b's float result.
    assert peak(Skip(), normal(2, 50), Choice(4, 4)).size == 25 + 200 + 200
    assert peak(Skip(), normal(2, 50), FLOAT).size == 3 * 200
    # With an integer addition y is one tensor of 8 bits, and the sum needs no float.
    assert peak(Skip(), normal(2, 50), Choice(8, 8), "ort-cpu").size <= 3 * 50


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, 2)
        self.c = nn.Linear(4 * 4 * 4, 2)

    def forward(self, x):
        y = functional.pad(torch.relu(self.a(x)), (0, 1, 0, 1))
        return self.c(torch.relu(self.b(y)).flatten(1))


def test_reshapes_paddings_and_fused_activations_take_nothing():
    x = normal(2, 3, 10, 10)
    found = peak(Views(), x, Choice(8, 8))
    assert found.size == 3 * 100 + 4 * 64
    bits = {"a": Choice(8, 2), "b": Choice(8, 8), "c": Choice(8, 4)}
    # 3 x 100 values of 2 bits and 4 x 64 of 8; then 4 x 64 of 8 and 4 x 16 of 4.
    assert peak(Views(), x, bits).size == max(75 + 256, 256 + 32)


def test_the_small_network(small_net):
    x = pictures(4)
    floats, bytes_, nibbles = (
        peak(small_net, x, c).size for c in (FLOAT, Choice(8, 8), Choice(4, 4))
    )
    # At `project`: its input, and in float its result and the value that skips it.
    values = 16 * 16 * 16
    assert floats == 3 * 4 * values
    assert bytes_ == 2 * 4 * values + values and nibbles == 2 * 4 * values + values // 2


def test_it_is_for_one_sample(small_net):
    assert (
        peak(small_net, pictures(2), Choice(8, 8)).size
        == peak(small_net, pictures(6), Choice(8, 8)).size
    )


def test_more_bits_never_take_less():
    graph = capture(small_network(), (pictures(2),))
    sites = find_sites(graph, load_target("ort-cpu"))
    sizes = value_sizes(graph, (pictures(2),))
    draw = random.Random(0)
    for _ in range(30):
        few = {u.name: Choice(8, draw.choice([2, 4, 8])) for u in graph.units}
        more = {n: Choice(8, draw.choice([b for b in (2, 4, 8, 16) if b >= c.a_bits]))
                for n, c in few.items()}  # fmt: skip
        # One width for all readers of a value: a second width is a second copy.
        edges = [bits_of_edges([s for s in sites if s.unit], c) for c in (few, more)]
        low, high = (activation_peak(graph, sizes, e).size for e in edges)
        assert low <= high


@pytest.mark.parametrize("seed", range(5))
def test_peak_equals_trying_every_step(seed):
    draw = random.Random(seed)
    spans = []
    for i in range(30):
        start = draw.randrange(40)
        spans.append(Span(str(i), start, start + draw.randrange(10), draw.randrange(100)))
    totals = [sum(s.size for s in spans if s.start <= t <= s.stop) for t in range(60)]
    found = peak_of(spans)
    assert found.size == max(totals) and totals[found.step] == found.size
    assert sum(s.size for s in found.spans) == found.size


def test_nothing_is_alive_in_nothing():
    assert peak_of([]) == LivePeak(0, 0, ())
