"""A unit as a matrix product: rows times weight matrix equals the operator, for every kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph.capture import capture
from bitwright.graph.execute import bind, run
from bitwright.graph.rows import geometry, input_rows, rows_weight, solvable, weight_rows
from bitwright.graph.units import input_of

LAYERS = {
    "linear": (nn.Linear(6, 5), (3, 6)),
    "linear3d": (nn.Linear(6, 5), (3, 4, 6)),
    "conv1x1": (nn.Conv2d(4, 8, 1), (2, 4, 7, 7)),
    "strided": (nn.Conv2d(4, 8, 3, 2, 1), (2, 4, 9, 9)),
    "dilated same": (nn.Conv2d(4, 6, (3, 5), padding="same", dilation=2), (2, 4, 11, 11)),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2), (2, 4, 8, 8)),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (2, 6, 8, 8)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 15)),
    "transposed": (nn.ConvTranspose2d(4, 6, 4, 2, 1), (2, 4, 5, 5)),
    "transposed grouped": (
        nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2),
        (2, 4, 5, 5),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weight_is_the_operator(name):
    layer, shape = LAYERS[name]
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    graph = capture(layer.eval(), (x,))
    unit = graph.units[0]
    node = graph.nodes()[unit.calls[0]]
    seen = {}
    run(graph, bind(graph, (x,)), lambda n, v: seen.__setitem__(n.name, v))
    assert solvable(unit)
    weight = weight_rows(graph.tensor(unit.weight), unit)
    assert torch.equal(rows_weight(weight, unit), graph.tensor(unit.weight))
    rows = input_rows(seen[input_of(node).name], geometry(unit, node), 10**9, 0)
    y = (rows @ weight.transpose(1, 2)).permute(1, 0, 2).flatten(1) + graph.tensor(unit.bias)
    out = seen[node.name]
    if unit.kind != "linear":
        out = out.movedim(1, -1)
    assert torch.allclose(y, out.reshape(-1, out.shape[-1]), atol=1e-5)


def test_a_sample_of_rows_is_seeded_and_the_same_for_both_inputs():
    x = torch.randn(2, 3, 8, 8)
    layer = nn.Conv2d(3, 4, 3).eval()
    graph = capture(layer, (x,))
    form = geometry(graph.units[0], graph.nodes()[graph.units[0].calls[0]])
    one, other = (input_rows(x, form, 10, 7) for _ in range(2))
    assert one.shape == (1, 10, 27)
    assert torch.equal(one, other)
    assert torch.equal(input_rows(2 * x, form, 10, 7), 2 * one)
    assert not torch.equal(input_rows(x, form, 10, 8), one)
