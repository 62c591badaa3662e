"""Which units make the queries, keys and values of one attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph.attention import find_attention_units
from bitwright.graph.capture import capture
from networks import normal, seeded


class Attention(nn.Module):
    """Two heads, fused or written out; from three layers, or from one that makes all three."""

    def __init__(self, fused: bool, joined: bool = False) -> None:
        super().__init__()
        self.fused, self.joined = fused, joined
        self.all = nn.Linear(8, 24)
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        made = self.all(x).chunk(3, -1) if self.joined else (
            self.query(x), self.key(x), self.value(x)
        )  # fmt: skip
        q, k, v = (t.reshape(t.shape[0], -1, 2, 4).transpose(1, 2) for t in made)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(2, 3) / 2.0, -1) @ v
        return self.out(y.transpose(1, 2).reshape(x.shape[0], -1, 8)).mean(1)


def units_of(*options):
    net = seeded(lambda: Attention(*options)).eval()
    return find_attention_units(capture(net, (normal(2, 5, 8),)))


@pytest.mark.parametrize("fused", [True, False])
def test_three_layers_make_one_attention(fused):
    assert [set(units) for units in units_of(fused)] == [{"query", "key", "value"}]


def test_one_layer_that_makes_all_three_is_tied_to_nothing():
    assert units_of(True, True) == ()


def test_a_network_without_attention():
    net = nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1), nn.Linear(8, 3)).eval()
    assert find_attention_units(capture(net, (normal(2, 8),))) == ()
