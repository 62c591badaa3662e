"""In which form weights are written, judged by what ONNX Runtime runs of it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.export.runtime import run, session
from networks import pictures, seeded

IMAGES = pictures(24)


class Plain(nn.Module):
    """Two convolutions that follow one another, a depthwise one, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.stem(x))
        x = torch.relu(self.deep(x))
        return self.head(self.last(x).mean((2, 3)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run's result, its file and what of it ONNX Runtime runs."""
    folder = tmp_path_factory.mktemp("weights")

    @cache
    def make(scheme: str, target: str):
        net = seeded(Plain).eval()
        result = bw.quantize(
            net, [IMAGES], recipe="fixed", scheme=scheme, target=target, method="nearest"
        )
        path = result.export(folder / f"{scheme}-{target}.onnx")
        return result, path, result.verify(path)

    return make


@pytest.mark.parametrize("scheme", ["w2a8", "w4a8", "w6a8", "w4a4"])
def test_zero_points_of_few_bits_are_taken_off_at_load(made, scheme):
    """Channels with zero points of their own have no fast kernel: integers around zero have."""
    _, _, found = made(scheme, "paper")
    assert found["passed"] and found["agreement"] == 1.0
    # Convolutions whose result is quantised; the third gives floats, for which there is no kernel.
    assert found["optimized"]["operators"]["QLinearConv"] == 2
    assert found["optimized"]["operators"]["Conv"] == 1
    assert found["optimized"]["max_relative_difference"] < 1e-6


def test_zero_points_of_eight_bits_make_floats_at_load(made):
    """The runtime must not round these once more, by one scale for the whole tensor."""
    _, _, found = made("w8a8", "paper")
    assert found["passed"] and found["optimized"]["max_relative_difference"] < 1e-5
    assert "QLinearConv" not in found["optimized"]["operators"]


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8", "w2a8"])
def test_weights_beside_floats_are_folded(made, scheme):
    _, _, found = made(scheme, "weights-only")
    assert found["passed"]
    assert not {"DequantizeLinear", "Cast", "Sub", "Mul"} & set(found["optimized"]["operators"])


@pytest.mark.parametrize("target", ["paper", "ort-cpu", "ort-linear"])
@pytest.mark.parametrize("scheme", ["w8a8", "w4a4"])
def test_no_pass_changes_a_bias(made, target, scheme):
    """Float biases would be rounded to s_x s_w by the runtime; these are such integers already."""
    result, _, _ = made(scheme, target)
    for name, bias in result.assignment.biases.items():
        assert not isinstance(bias, torch.Tensor), name
        weight = result.assignment.weights[name].qparams.scale.reshape(-1)
        inputs = {float(q.scale) for (_, to), q in result.assignment.edges.items()
                  if to in result.graph.unit(name).calls}  # fmt: skip
        (scale,) = inputs
        assert torch.equal(bias.scale, weight * torch.tensor(scale))


def test_clamps_that_integers_imply_are_left_out(made):
    """A four-bit grid ends where ReLU6 does, so that the convolution before it has integers."""
    result, path, found = made("w4a4", "ort-cpu")
    (got,) = run(session(path, optimized=False), {"x": IMAGES.numpy()})
    with torch.no_grad():
        assert torch.equal(torch.from_numpy(got), result.model(IMAGES))
    assert found["optimized"]["operators"]["QLinearConv"] == 3
