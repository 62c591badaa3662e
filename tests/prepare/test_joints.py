"""Which channels can be rescaled, network by network."""

from __future__ import annotations

import pytest
import torch
from foldable import NETWORKS, inputs
from torch import nn

from bitwright.graph.capture import capture
from bitwright.prepare.joints import find_joints
from networks import Tied, TwoTowers, normal, seeded


@pytest.mark.parametrize("name", NETWORKS)
def test_every_joint_is_found_and_no_other(name):
    make, wanted = NETWORKS[name]
    found = find_joints(capture(make(), (inputs(name),)))
    assert {j.writer.name: [r.unit.name for r in j.readers] for j in found} == wanted


def test_the_pixels_of_a_flattened_channel_are_counted():
    make, _ = NETWORKS["flattened"]
    joints = find_joints(capture(make(), (inputs("flattened"),)))
    assert [(j.channels, [r.block for r in j.readers]) for j in joints] == [(4, [9]), (10, [1])]


def test_clips_are_noted():
    make, _ = NETWORKS["inverted"]
    assert all(len(j.clips) == 1 for j in find_joints(capture(make(), (inputs("inverted"),))))


class Odd(nn.Module):
    """Nothing here may be rescaled: what follows does not commute, or is read elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.d = nn.Conv2d(3, 3, 1)
        self.weights = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.b(torch.sigmoid(self.a(x)))
        z = self.c(nn.functional.hardtanh(y)) + 1.0
        read_twice = self.d(z)
        return self.weights(read_twice) * read_twice.mean()


def test_what_does_not_commute_is_left_alone():
    assert not find_joints(capture(seeded(Odd).eval(), (normal(2, 3, 6, 6),)))
    assert not find_joints(capture(seeded(Tied).eval(), (normal(2, 6),)))
    towers = {"first": normal(2, 4), "second": normal(2, 6)}
    assert not find_joints(capture(seeded(TwoTowers).eval(), towers))
