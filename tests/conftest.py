"""What every test shares: the allocator, the data folder, a small trained-looking network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.run.memory import keep_heap

keep_heap()


def pytest_addoption(parser):
    parser.addoption("--data-root", default=os.environ.get("BITWRIGHT_DATA", "../shared/data"))


@pytest.fixture(scope="session")
def data_root(request) -> Path:
    """The folder of benchmark networks and data, or a skip that says so."""
    root = Path(request.config.getoption("--data-root"))
    if not (root / "models.py").is_file():
        pytest.skip(f"no benchmark data at {root} (--data-root)")
    return root.absolute()


class SmallNet(nn.Module):
    """Convolutions of every kind, batch-norms, a residual add, pooling and a linear head."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(width)
        self.project = nn.Conv2d(width, width, 1)
        self.grouped = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, groups=4)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = torch.relu(self.stem_bn(self.stem(x)))
        y = nn.functional.relu6(self.depthwise_bn(self.depthwise(x)))
        x = torch.relu(self.project(y) + x)
        x = torch.relu(self.grouped(x))
        return self.head(x.mean((2, 3)))


def trained_looking(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch-norms statistics and affine parameters as training would."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            count = module.num_features
            module.running_mean.copy_(torch.randn(count, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(count, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(count, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(count, generator=generator) * 0.2)
    return net.eval()


@pytest.fixture
def small_net() -> nn.Module:
    torch.manual_seed(0)
    return trained_looking(SmallNet())


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(48, 3, 16, 16, generator=torch.Generator().manual_seed(1))
