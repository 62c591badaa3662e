"""A captured network through the wire: the same graph, the same values, in another process too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.engine.wire import decode, encode, from_bytes, to_bytes
from bitwright.graph.portable import portable, restore_graph
from networks import pictures, small_network


class Slices(nn.Module):
    """Lists, slices, several inputs and outputs, keywords, an inner graph."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x, y):
        with torch.no_grad():
            a, b = torch.split(self.linear(x), [1, 3], dim=-1)
        return {"a": torch.cat([a, y[:, 1:3]], 1), "b": b.mean(dim=(0,), keepdim=True)}


CASES = {
    "small": (small_network, (pictures(2),)),
    "slices": (lambda: Slices().eval(), (torch.randn(2, 8), torch.randn(2, 5))),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(),
        (torch.randn(2, 3, 8),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_graph_comes_back(name):
    make, inputs = CASES[name]
    graph = bw.capture(make(), inputs)
    found = restore_graph(decode(from_bytes(to_bytes(encode(portable(graph))))))
    assert [n.name for n in found.module.graph.nodes] == [n.name for n in graph.module.graph.nodes]
    assert str(found.module.graph) == str(graph.module.graph)
    assert found.digest() == graph.digest() and found.units == graph.units
    assert found.inputs == graph.inputs and found.notes == graph.notes
    assert found.folded.keys() == graph.folded.keys()
    with torch.no_grad():
        torch.testing.assert_close(
            found.module(*inputs), graph.module(*inputs), rtol=0, atol=0, equal_nan=True
        )
