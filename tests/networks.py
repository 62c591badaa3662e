"""Small networks and helpers that several test files share."""

from __future__ import annotations

import torch
from torch import nn


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


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, seed: int = 0):
    """What `make` builds with torch's global generator at `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()
