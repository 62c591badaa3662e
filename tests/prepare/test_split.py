"""Outlier channel splitting: answers stay, ranges shrink, rounding of the halves adds nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from foldable import NETWORKS, inputs

import bitwright as bw
from bitwright.errors import RecipeError
from bitwright.graph.capture import capture
from bitwright.graph.choice import Choice
from bitwright.graph.target import load_target
from bitwright.numerics.affine import dequantize, quantize
from bitwright.numerics.ranges import MinMaxRange, weight_qparams
from bitwright.prepare.split import SplitOutliers, split_order
from networks import normal, pictures, small_network

EVERY = pytest.mark.parametrize("name", NETWORKS)
PER_TENSOR = load_target("per-tensor")


@EVERY
@pytest.mark.parametrize("aware", [False, True], ids=["naive", "aware"])
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_the_answers_stay_what_they_were(name, aware, share):
    graph = capture(NETWORKS[name][0](), (inputs(name),))
    digest = graph.digest()
    x = inputs(name, 16, seed=5)
    four = {unit.name: Choice(4, 8) for unit in graph.units}
    step = SplitOutliers(share, four, PER_TENSOR if aware else None)
    changed = step.apply(graph)
    with torch.no_grad():
        want, got = graph.module(x), changed.module(x)
    assert graph.digest() == digest != changed.digest()
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    for unit in changed.units:
        assert unit.shape == tuple(changed.tensor(unit.weight).shape)
        assert unit.macs >= graph.unit(unit.name).macs


class TwoWeights(torch.nn.Module):
    """Two layers whose weights lie in one module, as XLNet's attention has them."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Parameter(normal(8, 6, seed=1))
        self.second = torch.nn.Parameter(normal(4, 8, seed=2))

    def forward(self, x):
        return torch.nn.functional.linear((x @ self.first.t()).relu(), self.second)


def test_layers_whose_weights_lie_in_one_module_keep_their_own_splits():
    graph = capture(TwoWeights().eval(), (normal(3, 6),))
    changed = SplitOutliers(0.5, {u.name: Choice(4, 8) for u in graph.units}).apply(graph)
    assert len(changed.units) == 2 and len(changed.notes) == 2
    x = normal(16, 6, seed=5)
    with torch.no_grad():
        want, got = graph.module(x), changed.module(x)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_the_channel_of_the_greatest_weight_is_split_until_others_are_greater():
    weight = normal(6, 5)
    weight[2, 3] = 40.0
    assert split_order(weight, 1, per_channel=False) == [3]
    wide, parents = SplitOutliers(0.6, target=None)._split(weight.double(), Choice(8, 8))
    # 40, then both of its halves: four times 10 stand for it.
    assert parents.tolist() == [0, 1, 2, 3, 4, 3, 3, 3] and wide.abs().max() == 10.0


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (16, 9, 3, 3), (3, 40), (40, 3)])
def test_the_order_is_that_of_looking_at_all_weights_each_time(shape, per_channel):
    weight = normal(*shape).double()
    # Ties, and rows and channels that are nothing at all.
    weight[-1] = 0.0
    weight[0] = weight[0].sign()
    weight[:, -1] = 0.0 if shape[1] > 1 else weight[:, -1]
    count = 2 * shape[1]
    columns, want = list(weight.unbind(1)), []
    for _ in range(count):
        peaks = torch.stack(columns, 1).abs().reshape(shape[0], len(columns), -1).amax(2)
        top = (peaks if per_channel else peaks.amax(0, keepdim=True)).max(dim=1)
        parts = torch.zeros(len(columns)).double()
        parts.index_add_(0, top.indices, top.values.square())
        want.append(int(parts.argmax()))
        columns[want[-1]] = columns[want[-1]] / 2
        columns.append(columns[want[-1]])
    assert split_order(weight, count, per_channel) == want


def test_rows_with_a_scale_each_are_looked_at_together():
    weight = torch.ones(4, 3)
    weight[:3, 1] = 5.0
    weight[3, 2] = 5.5
    assert split_order(weight, 1, per_channel=False) == [2]
    assert split_order(weight, 1, per_channel=True) == [1]


def test_the_halves_round_to_what_the_whole_rounds_to():
    """Hermite's identity: round((k - 1/2) / 2) + round((k + 1/2) / 2) = round(k), but for ties."""
    weight = normal(8, 12).double()
    weight[0, 4] = 9.0
    made = SplitOutliers(0.2, {}, replace(PER_TENSOR, weight_symmetric=True))
    wide, parents = made._split(weight, Choice(4, 8))
    grid = PER_TENSOR.weight_grid(4)
    qparams = weight_qparams(wide.float(), grid, None, MinMaxRange(), True)
    halves = dequantize(quantize(wide.float(), qparams), qparams)
    total = torch.zeros(8, 12).index_add_(1, parents, halves)
    steps = weight.float() / qparams.scale
    close = (total / qparams.scale - steps).abs() <= 0.5 + 1e-3
    # A column that was split twice may be off by more: its quarters are rounded one by one.
    once = torch.bincount(parents) <= 2
    assert close[:, once].all() and int(once.sum()) < 12


def test_noise_of_outliers_falls():
    net = small_network()
    with torch.no_grad():
        for layer in (net.project, net.head):
            layer.weight.view(-1)[5] = 3 * layer.weight.abs().max()
    found = [
        bw.quantize(
            net, [pictures(48)], recipe="fixed", scheme="w4a8", prepare=prepare,
            target="per-tensor", weight_range="minmax",
        ).errors
        for prepare in ("", "ocs")
    ]  # fmt: skip
    for name in ("project", "head"):
        assert found[1][name] < 0.6 * found[0][name]


def test_units_in_float_and_grouped_ones_stay():
    graph = capture(small_network(), (pictures(4),))
    choices = {u.name: Choice(0, 0) if u.name == "head" else Choice(8, 8) for u in graph.units}
    made = SplitOutliers(choices=choices, target=PER_TENSOR).apply(graph)
    same = {u.name for u in made.units if u.shape == graph.unit(u.name).shape}
    assert same == {"depthwise", "grouped", "head"}


def test_nonsense_share():
    with pytest.raises(RecipeError, match=r"share=0.0 in ocs.*above 0"):
        SplitOutliers(0.0)
