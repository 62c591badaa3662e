"""What a new user brings along: networks of their own, loaders from a training script, photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

MODELS = '''
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.skip(x))


class ResNet(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1, self.layer2 = Block(8, 16, 2), Block(16, 32, 2)
        self.fc = nn.Linear(32, classes)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


def resnet():
    torch.manual_seed(0)
    return ResNet().eval()


def in_training():
    torch.manual_seed(0)
    return ResNet()


def segmenter():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 3, 1),
    ).eval()


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 32, 3, 2, 1)
        self.boxes, self.classes = nn.Linear(32, 4), nn.Linear(32, 64)

    def forward(self, x):
        y = torch.relu(self.body(x)).mean((2, 3))
        return {"boxes": self.boxes(y), "classes": self.classes(y)}


def two_heads():
    torch.manual_seed(0)
    return TwoHeads().eval()


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(8, 48, batch_first=True), nn.Linear(48, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


def gru():
    torch.manual_seed(0)
    return Sequence().eval()


class Filter(nn.Module):
    """Keeps no box of the pictures that it is shown, as a filter may."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        y = torch.relu(self.body(x)).mean((2, 3))
        return y[:, :0], y
'''

LOADERS = """
import torch
from torch.utils.data import DataLoader, TensorDataset


def pictures(count=40, side=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, generator=generator)


def masks():
    x = pictures()
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8, shuffle=True)


def plain():
    return [(x, None) for x in pictures().split(8)]


def sequences():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 12, 8, generator=generator) for _ in range(4)]


def bad_score(outputs, labels):
    raise ValueError("my metric is broken")
"""


def lay_out(folder: Path) -> Path:
    """Write it all into a folder: models.py, loaders.py, photos/CLASS/*.jpg."""
    (folder / "models.py").write_text(MODELS)
    (folder / "loaders.py").write_text(LOADERS)
    random = np.random.default_rng(0)
    for kind in ("bird", "cat", "dog"):
        (folder / "photos" / kind).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 255, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{number}.jpg")
    return folder
