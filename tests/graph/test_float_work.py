"""The work of recurrent layers against what torch counts in the same products, one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bitwright.graph.capture import capture
from bitwright.graph.census import census
from bitwright.graph.choice import Choice
from bitwright.graph.float_work import float_work
from bitwright.graph.sites import find_sites
from bitwright.graph.target import load_target
from networks import normal, seeded


class Recurrent(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(16 * (1 + layer.bidirectional), 3)

    def forward(self, x):
        return self.head(self.layer(x)[0])


class Cells(nn.Module):
    """One step of each cell, and a product that is no layer."""

    def __init__(self):
        super().__init__()
        self.long, self.gated = nn.LSTMCell(8, 16), nn.GRUCell(16, 8)
        self.both = nn.Bilinear(8, 8, 3)

    def forward(self, x):
        y = self.gated(self.long(x)[0])
        return self.both(y, x)


def macs_by_torch(layer, x) -> int:
    """With its matrices multiplied one step after the other, as torch counts products."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[type(layer).__name__]
    steps = x.shape[1 if layer.batch_first else 0]
    with FlopCounterMode(display=False) as counter:
        for name, weight in layer.named_parameters():
            if name.startswith("weight"):
                assert weight.shape[0] == gates * 16
                for _ in range(steps):
                    torch.nn.functional.linear(torch.zeros(1, weight.shape[1]), weight)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_a_recurrent_layer_is_counted(kind, options):
    net = seeded(lambda: Recurrent(kind(8, 16, batch_first=True, **options))).eval()
    x = normal(2, 6, 8)
    found = float_work(capture(net, x))
    (name,) = found.macs
    assert name.startswith(kind.__name__.lower())
    assert found.macs[name] == macs_by_torch(net.layer, x) and not found.uncounted


def test_cells_are_counted_and_other_products_are_named():
    graph = capture(seeded(Cells).eval(), normal(2, 8))
    found = float_work(graph)
    assert found.macs == {"lstm_cell": 64 * 8 + 64 * 16, "gru_cell": 24 * 16 + 24 * 8}
    assert found.uncounted == ("bilinear",)
    target = load_target("paper")
    choices = {unit.name: Choice(8, 8) for unit in graph.units}
    rows = census(graph, target, choices, find_sites(graph, target))["float_ops"]
    reasons = {row["op"]: row["reason"] for row in rows}
    for name in ("lstm_cell", "gru_cell", "bilinear"):
        assert reasons[name].startswith("carries stored weights")


def test_networks_of_units_have_no_other_work():
    found = float_work(capture(nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval(), normal(2, 8)))
    assert found.macs == {} and found.uncounted == ()
