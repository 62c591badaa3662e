"""Where the batch stands in a value, found by trying."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph.batch_axes import (
    CONSTANT,
    COUNTED,
    SHARED,
    find_batch_axes,
    join,
    part,
    widen,
)
from bitwright.graph.capture import capture
from bitwright.graph.execute import bind
from bitwright.graph.work import OperationCount
from networks import normal, pictures


def axes_of(net, *inputs):
    graph = capture(net.eval(), inputs)
    return graph, find_batch_axes(graph, bind(graph, inputs), OperationCount())


def test_the_batch_comes_first_in_a_plain_network(small_net):
    _, axes = axes_of(small_net, pictures(3))
    assert set(axes.leaves.values()) == {(0,)}
    assert axes.sample_bytes["x"] == 3 * 16 * 16 * 4


class Turns(nn.Module):
    """The batch second, merged with heads, as a number, in a tuple; values that all share."""

    def forward(self, x):
        second = x.transpose(0, 1)
        merged = second.reshape(5, x.shape[0] * 2, 2)
        left, right = merged.split(1, dim=2)
        return (left + right).reshape(5, -1, 2), torch.zeros_like(x[0]), x.sum(), x[0]


def test_every_place_is_found():
    _, axes = axes_of(Turns(), normal(3, 5, 4))
    found = axes.leaves
    assert found["transpose"] == found["reshape"] == found["reshape_1"] == (1,)
    assert found["split"] == (1, 1) and found["getitem"] == (1,)
    assert found["mul"] == (COUNTED,) and found["zeros_like"] == (SHARED,)
    assert found["sum_1"] == found["select_1"] == (None,)


def test_what_can_be_stacked():
    _, axes = axes_of(Turns(), normal(3, 5, 4))
    assert axes.can_be_stacked(["transpose", "reshape", "mul"], ["x", "zeros_like"])
    # Not what mixes samples, and nothing computed that would be one value for all networks.
    assert not axes.can_be_stacked(["sum_1"], ["x"])
    assert not axes.can_be_stacked(["zeros_like"], ["x"])
    assert not axes.can_be_stacked(["transpose"], ["sum_1"])
    assert not axes.can_be_stacked(["unheard_of"], [])


class Centres(nn.Module):
    def forward(self, x):
        return torch.relu(x) - x.mean(0, keepdim=True)


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_samples_that_mix_are_noticed_whatever_the_batch(samples):
    graph = capture(Centres().eval(), (normal(4, 6),))
    axes = find_batch_axes(graph, bind(graph, (normal(samples, 6),)), OperationCount())
    assert axes.leaves["relu"] == (0,) and axes.leaves["mean"] == (None,)
    assert axes.leaves["sub"] == (None,)


class Fixed(nn.Module):
    def forward(self, x):
        return torch.relu(x.reshape(2, 12))


def test_a_fixed_batch_is_not_separated():
    _, axes = axes_of(Fixed(), normal(2, 3, 4))
    assert axes is None


@pytest.mark.parametrize("axis", [0, 1])
def test_widen_join_and_part_are_inverse(axis):
    value = (normal(2, 3, 4), 6, None, normal(5))
    axes = (axis, COUNTED, CONSTANT, SHARED)
    wide = widen(value, axes, 3)
    assert wide[0].shape[axis] == 3 * value[0].shape[axis] and wide[1] == 18
    for index in range(3):
        got = part(wide, axes, index, 3)
        assert torch.equal(got[0], value[0]) and got[1:3] == value[1:3]
        assert got[3] is value[3]
    parts = [normal(2, 3, seed=s) for s in range(3)]
    joined = join(parts, (axis,))
    for index, one in enumerate(parts):
        assert torch.equal(part(joined, (axis,), index, 3), one)
    assert widen(value, axes, 1) is value and part(value, axes, 0, 1) is value


def test_memory_format_survives():
    value = normal(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    wide = widen(value, (0,), 3)
    assert wide.is_contiguous(memory_format=torch.channels_last)
    assert part(wide, (0,), 1, 3).is_contiguous(memory_format=torch.channels_last)
