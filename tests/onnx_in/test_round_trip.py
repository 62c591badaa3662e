"""A PyTorch network exported in float and read again has the integers of the PyTorch road."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import bitwright as bw


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(x + self.b(torch.relu(self.norm(self.a(x)))))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    return {
        "residual": (
            nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU6(), Block(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)), (3, 12, 12),
        ),
        "swish": (
            nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2),
                          nn.Conv2d(8, 8, 3, groups=8), nn.Hardswish(), nn.AvgPool2d(2),
                          nn.Flatten(), nn.Linear(32, 5)), (3, 12, 12),
        ),
        "mixer": (nn.Sequential(Mixer(), Mixer(), nn.Linear(12, 5)), (4, 12)),
    }  # fmt: skip


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", ["residual", "swish", "mixer"])
def test_the_same_integers(name, dynamo, tmp_path):
    net, shape = networks()[name]
    net.eval()
    path = str(tmp_path / "net.onnx")
    example = torch.randn(2, *shape)
    free = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)} if dynamo else {
        "dynamic_axes": {"x": {0: "n"}}, "opset_version": 17,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (example,), path, input_names=["x"], dynamo=dynamo, verbose=False,
                          **free)  # fmt: skip
    data = [torch.randn(32, *shape, generator=torch.Generator().manual_seed(1))]
    made = [
        bw.quantize(model, data, recipe="fixed", scheme="w8a8", target="ort-cpu")
        for model in (net, path)
    ]
    ours, theirs = (list(result.assignment.weights.values()) for result in made)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.q.shape == other.q.shape
        assert (mine.q == other.q).float().mean() > 0.999
