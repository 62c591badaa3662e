"""Which edges are quantised, for each target."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph.capture import capture
from bitwright.graph.choice import FLOAT, Choice
from bitwright.graph.sites import find_sites
from bitwright.graph.target import Target, load_target
from bitwright.solving.grids import active_sites
from networks import Chain, Tied, normal, seeded

UNIT_EDGES = {
    ("x", "conv2d", "x", "stem"),
    ("relu", "conv2d_1", "relu", "depthwise"),
    ("relu6", "conv2d_2", "relu6", "project"),
    ("relu_1", "conv2d_3", "relu_1", "grouped"),
    ("mean", "linear", "mean", "head"),
}
CHAIN_EDGES = {
    ("relu", "add", "relu", None),
    ("conv2d_2", "add", "conv2d_2", None),
    ("relu_2", "mean", "relu_2", None),
}


def edges(graph, target) -> set:
    found = find_sites(graph, load_target(target) if isinstance(target, str) else target)
    assert len({(s.source, s.reader) for s in found}) == len(found)
    return {(s.source, s.reader, s.root, s.unit) for s in found}


@pytest.mark.parametrize(
    ("target", "want"),
    [("paper", UNIT_EDGES), ("ort-cpu", UNIT_EDGES | CHAIN_EDGES), ("weights-only", set())],
)
def test_small_net(small_net, images, target, want):
    assert edges(capture(small_net, (images,)), target) == want


def test_sites_come_in_order_of_execution(small_net, images):
    graph = capture(small_net, (images,))
    order = list(graph.nodes())
    readers = [order.index(s.reader) for s in find_sites(graph, load_target("paper"))]
    assert readers == sorted(readers)


def test_a_shared_weight_has_one_site_a_call():
    graph = capture(seeded(Tied).eval(), (normal(3, 6),))
    found = [(s.unit, s.call, s.source) for s in find_sites(graph, load_target("paper"))]
    assert found == [("twice", 0, "x"), ("twice", 1, "relu"), ("head", 0, "relu_1")]


def test_the_root_is_where_the_values_are_made():
    net = seeded(lambda: Chain(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2),
    )).eval()  # fmt: skip
    graph = capture(net, (normal(2, 3, 8, 8),))
    sites = {s.unit: s for s in find_sites(graph, load_target("paper"))}
    assert sites["m4"].root == "relu"
    # Quantised before the zero padding, which the runtime merges into the convolution.
    assert sites["m4"].source == "max_pool2d" and sites["m4"].reader == "pad"
    assert sites["m6"].root == "conv2d_1"


def test_an_embedding_has_no_site():
    class Embeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, tokens):
            return self.head(self.words(tokens))

    graph = capture(Embeds().eval(), (torch.zeros(2, 3, dtype=torch.int64),))
    assert {s.unit for s in find_sites(graph, load_target("paper"))} == {"head"}


class Adds(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.shift = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        y = torch.cat([self.a(x), self.b(x)], 1)
        z = self.a(x) + 1
        w = self.b(x) + self.shift
        return y.mean((2, 3)) + 2 * (z + w).repeat(1, 2, 1, 1).amax((2, 3))


def test_chains_take_only_what_the_target_names():
    graph = capture(seeded(Adds).eval(), (normal(2, 3, 4, 4),))
    readers = {s.reader for s in find_sites(graph, Target("t", chain=("concat",)))}
    assert "cat" in readers and not any(r.startswith("add") for r in readers)
    adding = {s.reader for s in find_sites(graph, Target("t", chain=("add",)))}
    scalars = {"add", "add_1"}  # an added number or parameter is no edge between activations
    assert not adding & scalars and "cat" not in adding and "add_2" in adding


def test_float_units_have_no_sites(small_net, images):
    graph = capture(small_net, (images,))
    sites = find_sites(graph, load_target("ort-cpu"))
    choices = {u.name: Choice(8, 8) for u in graph.units}
    assert active_sites(sites, graph, choices) == sites
    kept = active_sites(sites, graph, {**choices, "stem": FLOAT})
    assert {s.unit for s in sites} - {s.unit for s in kept} == {"stem"}
    assert active_sites(sites, graph, dict.fromkeys(choices, FLOAT)) == ()
