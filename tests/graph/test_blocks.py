"""Blocks: residual blocks are one, layers of a chain are each their own, every unit is in one."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from bitwright.graph.blocks import find_blocks
from bitwright.graph.capture import capture
from bitwright.graph.replay import replay
from networks import (
    Chain,
    Flattened,
    Residual,
    Tied,
    TwoTowers,
    normal,
    pictures,
    seeded,
    small_network,
)


class Masked(nn.Module):
    """A mask that is read in every block, and that no unit has touched."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, mask):
        weight = mask.float().unsqueeze(-1)
        x = x + torch.relu(self.first(x)) * weight
        return x + torch.relu(self.second(x)) * weight


def found(net, *inputs):
    graph = capture(net.eval(), inputs)
    blocks = find_blocks(graph)
    assert [u for b in blocks for u in b.units] == [u.name for u in graph.units]
    return graph, blocks


def test_a_size_does_not_keep_a_block_open():
    _, blocks = found(seeded(Flattened), torch.zeros(2, 3, 8, 8))
    own = [set(b.units) for b in blocks]
    assert own == [{"stem"}, {"a1", "a2"}, {"b1", "b2", "short"}, {"head"}]


def test_residual_blocks():
    graph, blocks = found(seeded(Residual), torch.zeros(2, 3, 8, 8))
    own = [set(b.units) for b in blocks]
    assert own == [{"stem"}, {"a1", "a2"}, {"b1", "b2", "short"}, {"head"}]
    # Each ends behind its activation, and begins where the one before it ends.
    nodes = graph.nodes()
    assert [str(nodes[b.end].target) for b in blocks[:3]] == ["aten.relu.default"] * 3
    assert blocks[0].begin == ("x",) and all(b.begin == (a.end,) for a, b in pairwise(blocks))


def test_a_network_is_its_blocks_one_after_the_other():
    net = small_network()
    x = pictures(4)
    graph, blocks = found(net, x)
    assert [len(b.units) for b in blocks] == [1, 2, 1, 1]
    values = {"x": x}
    for block in blocks:
        values = replay(graph, {n: values[n] for n in block.begin}, {block.end})
    with torch.no_grad():
        assert torch.allclose(values[blocks[-1].end], net(x), atol=1e-5)


def test_a_chain():
    net = seeded(lambda: Chain(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3)))
    _, blocks = found(net, normal(2, 4))
    assert [b.units for b in blocks] == [("m0",), ("m2",), ("m3",)]


def test_masks_do_not_keep_a_block_open():
    _, blocks = found(seeded(Masked), normal(2, 3, 4), torch.ones(2, 3).long())
    assert [b.units for b in blocks] == [("first",), ("second",)]
    assert len(blocks[1].begin) == 2 and blocks[0].end in blocks[1].begin


def test_shared_weights_and_several_outputs_hold_blocks_together():
    _, tied = found(seeded(Tied), normal(2, 6))
    assert [b.units for b in tied] == [("twice",), ("head",)]
    _, towers = found(seeded(TwoTowers), normal(2, 4), normal(2, 6))
    assert sum((b.units for b in towers), ()) == ("left", "right")


def test_a_look_up_belongs_to_the_layer_behind_it():
    net = seeded(lambda: Chain(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2)))
    _, blocks = found(net, torch.ones(2, 3).long())
    assert [b.units for b in blocks] == [("m0", "m1"), ("m2",)]
