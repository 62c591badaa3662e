"""Units: names, kinds, shared weights, and multiply-accumulates counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph.capture import capture
from networks import Chain, Tied, normal, seeded

# (layer, input shape without batch) -> kind, multiply-accumulates, positions of one sample
COUNTS = [
    (nn.Linear(7, 5), (7,), "linear", 35, 1),
    (nn.Linear(7, 5), (4, 7), "linear", 4 * 35, 4),
    (nn.Conv1d(4, 6, 3), (4, 10), "conv1d", 8 * 6 * 4 * 3, 8),
    (nn.Conv2d(3, 8, 3, padding=1), (3, 6, 5), "conv2d", 30 * 8 * 27, 30),
    (nn.Conv2d(3, 8, 3, stride=2), (3, 9, 9), "conv2d", 16 * 8 * 27, 16),
    (nn.Conv2d(6, 9, 3, groups=3, padding=1), (6, 4, 4), "conv2d", 16 * 9 * 2 * 9, 16),
    (nn.Conv2d(6, 6, 5, groups=6, padding=2), (6, 4, 4), "conv2d", 16 * 6 * 25, 16),
    (nn.Conv2d(8, 3, 1, bias=False), (8, 4, 4), "conv2d", 16 * 24, 16),
    (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), "conv3d", 27 * 3 * 16, 27),
    (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), "conv_transpose2d", 25 * 4 * 6 * 9, 25),
    (
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        (4, 5, 5),
        "conv_transpose2d",
        25 * 4 * 3 * 9,
        25,
    ),
]


@pytest.mark.parametrize(("layer", "shape", "kind", "macs", "positions"), COUNTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_counts_by_hand(layer, shape, kind, macs, positions, batch):
    graph = capture(Chain(layer).eval(), (normal(batch, *shape),))
    (unit,) = graph.units
    assert (unit.kind, unit.macs, unit.positions) == (kind, macs, positions)
    assert unit.params == layer.weight.numel() and unit.shape == tuple(layer.weight.shape)
    assert unit.groups == getattr(layer, "groups", 1)
    assert unit.channel_axis == (1 if kind.startswith("conv_transpose") else 0)
    assert (unit.bias is None) == (layer.bias is None)


class Embeds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens):
        return self.head(self.words(tokens).mean(1))


def test_an_embedding_is_a_unit_of_weights_alone():
    graph = capture(seeded(Embeds).eval(), (torch.randint(0, 20, (3, 7)),))
    words, head = graph.units
    assert (words.name, words.kind, words.macs, words.positions) == ("words", "embedding", 0, 7)
    assert words.weight_only and not head.weight_only
    assert graph.inputs[0].shape == (None, None)  # tokens have a free length too
    assert graph.module(torch.randint(0, 20, (1, 4))).shape == (1, 3)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Chain(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)])
        self.free = nn.Parameter(torch.randn(4, 2))

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x @ self.free


def test_units_are_named_by_module_path_in_order_of_execution():
    graph = capture(seeded(Nested).eval(), (normal(3, 4),))
    assert [u.name for u in graph.units] == ["stages.0.m0", "stages.1.m0", "free"]
    assert [u.kind for u in graph.units] == ["linear", "linear", "matmul"]
    assert graph.unit("free").channel_axis == 1 and graph.unit("free").macs == 8
    assert graph.unit("stages.1.m0").activation == "relu"


def test_a_shared_weight_is_one_unit_of_two_calls():
    graph = capture(seeded(Tied).eval(), (normal(3, 6),))
    twice, head = graph.units
    assert twice.name == "twice" and len(twice.calls) == 2 and len(set(twice.calls)) == 2
    assert twice.macs == 2 * 36 and twice.positions == 2
    assert twice.activation == "relu" and len(twice.outputs) == 2
    assert len(head.calls) == 1


class Untied(nn.Module):
    """A matrix product of two computed values carries no stored weight."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.q(x) @ self.k(x).transpose(1, 2)


def test_a_product_of_activations_is_no_unit():
    graph = capture(seeded(Untied).eval(), (normal(2, 3, 4),))
    assert [u.name for u in graph.units] == ["q", "k"]


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        y = self.conv(x)
        return torch.relu(y) + y


def test_an_activation_that_is_not_the_only_reader_does_not_belong_to_the_unit():
    (unit,) = capture(seeded(Branches).eval(), (normal(2, 3, 4, 4),)).units
    assert unit.activation is None and unit.outputs == unit.calls
