"""What does most of a network's work decides which target it is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph.capture import capture
from bitwright.graph.suggest import suggest_target


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ), torch.randn(2, 3, 9, 9)


def linear():
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 4)), torch.randn(2, 6)


def patches():
    """A vision transformer's shape: one convolution makes tokens, linear layers do the rest."""
    return nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.Flatten(2), nn.Linear(16, 16),
                         nn.Linear(16, 64), nn.Linear(64, 16)), torch.randn(2, 3, 8, 8)  # fmt: skip


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (convolutional, "ort-cpu", "convolutions do"),
        (linear, "ort-linear", "linear layers do 100%"),
        (patches, "ort-linear", "linear layers do"),
    ],
)
def test_the_kind_that_does_most_of_the_work_decides(make, name, said):
    net, example = make()
    found, reason = suggest_target(capture(net.eval(), (example,)))
    assert found == name
    assert said in reason
