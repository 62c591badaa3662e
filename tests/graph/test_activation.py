"""Activations that only clamp, told from their calls, against the functions themselves."""

from __future__ import annotations

import math

import pytest
import torch

from bitwright.graph.activation import FUNCTIONS, Activation, clamps_to

CLAMPING = [
    Activation("relu"),
    Activation("relu6"),
    Activation("hardtanh"),
    Activation("hardtanh", (0.0, 6.0)),
    Activation("hardtanh", (-2.0,), (("max_val", 0.5),)),
    Activation("hardtanh", (), (("max_val", 0.5), ("min_val", -2.0))),
    Activation("clamp", (0.25,)),
    Activation("clamp", (None, 0.5)),
    Activation("clamp", (), (("max", 1),)),
    Activation("clamp", (), (("max", None), ("min", -1.5))),
]


@pytest.mark.parametrize("activation", CLAMPING, ids=str)
def test_what_only_clamps_has_ends(activation):
    values = torch.linspace(-9, 9, 1001)
    low, high = clamps_to(activation)
    assert torch.equal(values.clamp(low, high), activation(values))


def test_no_activation_has_no_ends():
    assert clamps_to(None) == (-math.inf, math.inf)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"relu", "relu6", "hardtanh", "clamp"}))
def test_other_activations_do_not_clamp(name):
    assert clamps_to(Activation(name)) is None


def test_an_argument_that_is_not_an_end_is_not_guessed_at():
    assert clamps_to(Activation("hardtanh", (0.0, 6.0, True))) is None
    assert clamps_to(Activation("hardtanh", (), (("inplace", True),))) is None
