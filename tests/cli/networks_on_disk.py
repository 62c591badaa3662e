"""A network in a user's file, quantised by the command once, in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bitwright import cli

FILE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.part = nn.ModuleDict(
            {"first": nn.Conv2d(8, 8, 3, padding=1), "second": nn.Conv2d(8, 8, 1)}
        )
        self.head = nn.Linear(8, 5)
        self.example_inputs = (torch.zeros(2, 3, 8, 8),)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for layer in self.part.values():
            x = torch.relu(layer(x))
        return self.head(x.mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net().eval()


def calib():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(20, 3, 8, 8, generator=generator) for _ in range(2)]
"""


def quantised(folder: Path, *options: str) -> Path:
    """The run directory of that network quantised with some options."""
    (folder / "net.py").write_text(FILE)
    words = ["quantize", f"{folder}/net.py:net", "--data", f"{folder}/net.py:calib"]
    words += ["--out", str(folder / "run"), "--quiet", *options]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["bitwright", *words])
        cli.main()
    assert not ended.value.code
    return folder / "run"
