"""Small networks and helpers that several test files share."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

# For processes of their own, which import this file by its folder.
TESTS = Path(__file__).parent


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


class Chain(nn.Module):
    """Modules one after the other; its input is called `x`."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for index, module in enumerate(modules):
            self.add_module(f"m{index}", module)

    def forward(self, x):
        for module in self.children():
            x = module(x)
        return x


class TwoTowers(nn.Module):
    """Keyword inputs of different shapes; outputs in a dictionary with a tuple inside."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 3)
        self.right = nn.Linear(6, 3)

    def forward(self, first, second):
        total = self.left(first) - self.right(second)
        return {"hidden": (torch.relu(total), first), "logits": total}


class Tied(nn.Module):
    """One weight, two calls: the inputs of the second are the results of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))))


class Residual(nn.Module):
    """Two blocks of a ResNet between a stem and a head; the second has a shortcut of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a1, self.a2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.b1, self.b2 = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.short = nn.Conv2d(4, 6, 1, 2)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.a2(torch.relu(self.a1(x))))
        x = torch.relu(self.short(x) + self.b2(torch.relu(self.b1(x))))
        return self.head(x.mean((2, 3)))


class Flattened(Residual):
    """The size of the batch is read first and needed last, as EfficientNet-Lite's view does."""

    def forward(self, x):
        size = x.shape[0]
        return super().forward(x).view(size, -1)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, seed: int = 0):
    """What `make` builds with torch's global generator at `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def pictures(count: int, seed: int = 1, size: int = 16) -> torch.Tensor:
    """Normalised images with shapes and colours, so that networks tell them apart."""
    shapes = nn.functional.interpolate(normal(count, 3, 4, 4, seed=seed), size=size, mode="bicubic")
    colour = normal(count, 3, 1, 1, seed=seed + 1000)
    return shapes + colour + 0.2 * normal(count, 3, size, size, seed=seed + 2000)


def small_network(seed: int = 0, width: int = 16) -> SmallNet:
    """A SmallNet whose answers differ: on `pictures` every class comes up."""
    net = trained_looking(seeded(lambda: SmallNet(width), seed), seed)
    with torch.no_grad():
        scores = net(pictures(256, seed=99))
        net.head.weight /= scores.std(0)[:, None]
        net.head.bias.copy_((net.head.bias - scores.mean(0)) / scores.std(0))
    return net
