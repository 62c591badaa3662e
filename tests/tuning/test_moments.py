"""Channel statistics in a stream equal those of everything at once."""

from __future__ import annotations

import pytest
import torch

from bitwright.tuning.moments import ChannelMoments
from networks import normal


@pytest.mark.parametrize("shape", [(7, 5, 6, 4), (9, 5), (3, 4, 5), (2, 5, 3, 3, 3)])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_equals_float64(shape, axis, offset):
    x = normal(*shape) + offset
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    found = ChannelMoments.of(x, axis)
    rows = x.double().movedim(axis, -1).reshape(-1, x.shape[axis])
    assert found.count == rows.shape[0]
    assert torch.allclose(found.mean, rows.mean(0), rtol=1e-6, atol=1e-6)
    assert torch.allclose(found.var, rows.var(0, correction=0), rtol=1e-3 if offset else 1e-5)


def test_many_pieces_and_merging():
    x = normal(300, 8, 16, 16)
    whole = ChannelMoments.of(x, 1)
    parts = ChannelMoments.of(x[:11], 1).merge(ChannelMoments.of(x[11:], 1))
    turned = ChannelMoments.of(x[11:], 1).merge(ChannelMoments.of(x[:11], 1))
    for other in (parts, turned):
        assert other.count == whole.count
        assert torch.allclose(other.mean, whole.mean, atol=1e-6)
        assert torch.allclose(other.var, whole.var, rtol=1e-5)


def test_a_constant_has_no_variance():
    found = ChannelMoments.of(torch.full((4, 3, 2), 0.7), 1)
    assert torch.equal(found.var, torch.zeros(3).double())
    assert ChannelMoments.of(torch.zeros(0, 3), 1).merge(found) is found
