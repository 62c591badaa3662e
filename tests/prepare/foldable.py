"""Small networks with joints of every kind, and what their joints are."""

from __future__ import annotations

import torch
from torch import nn

from networks import Chain, SmallNet, normal, seeded, trained_looking


class Inverted(nn.Module):
    """An inverted residual block of MobileNet-V2 between two convolutions."""

    def __init__(self, act=nn.ReLU6) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), act())
        self.expand = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), act())
        self.depth = nn.Sequential(
            nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24), act()
        )
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.last = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), act())
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.project(self.depth(self.expand(x)))
        return self.head(self.last(x).mean((2, 3)))


class Branches(nn.Module):
    """One layer read by two, of which one pools first; then both are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 6, 1)
        self.right = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        pooled = nn.functional.max_pool2d(x, 3, 1, 1)
        return self.head(torch.cat([self.left(pooled), self.right(x)], 1)).mean((2, 3))


class Flattened(nn.Module):
    """As LeNet: a convolution whose pixels become inputs of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, 4)
        self.fc1 = nn.Linear(4 * 9, 10)
        self.fc2 = nn.Linear(10, 6)
        self.slope = nn.PReLU(10)

    def forward(self, x):
        x = nn.functional.avg_pool2d(torch.relu(self.conv(x)), 1)
        return self.fc2(self.slope(self.fc1(x.flatten(1))))


class Turned(nn.Module):
    """Transposed, grouped and leaky; a SiLU that no scale passes."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.out = nn.Conv2d(6, 4, 3)
        self.end = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = nn.functional.leaky_relu(self.down(x), 0.1)
        x = torch.relu(self.grouped(x))
        x = self.up(x)
        return self.end(nn.functional.silu(self.out(x))).mean((2, 3))


NETWORKS = {
    "small": (
        lambda: trained_looking(seeded(SmallNet)),
        {"depthwise": ["project"], "grouped": ["head"]},
    ),
    "inverted": (
        lambda: trained_looking(seeded(Inverted)),
        {"expand.0": ["depth.0"], "depth.0": ["project.0"], "last.0": ["head"]},
    ),
    "inverted with relu": (
        lambda: trained_looking(seeded(lambda: Inverted(nn.ReLU))),
        {"expand.0": ["depth.0"], "depth.0": ["project.0"], "last.0": ["head"]},
    ),
    "branches": (lambda: seeded(Branches).eval(), {"first": ["left", "right"]}),
    "flattened": (lambda: seeded(Flattened).eval(), {"conv": ["fc1"], "fc1": ["fc2"]}),
    "turned": (
        lambda: seeded(Turned).eval(),
        {"down": ["grouped"], "grouped": ["up"], "up": ["out"]},
    ),
    "rows": (
        lambda: seeded(lambda: Chain(nn.Linear(768, 20), nn.ReLU(), nn.Linear(20, 5))).eval(),
        {"m0": ["m2"]},
    ),
}  # fmt: skip


def inputs(name: str, count: int = 8, seed: int = 1) -> torch.Tensor:
    """Inputs that reach the tops of clips as well."""
    size = 13 if name == "flattened" else 16
    x = 2 * normal(count, 3, size, size, seed=seed)
    return x.flatten(1) if name == "rows" else x
