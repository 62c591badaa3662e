"""A small network that matches its data, and the ways in which networks are broken in practice."""

from __future__ import annotations

import torch
from torch import nn

from networks import normal, seeded

# What the channels of the pictures are like: red varies most, so that the order is to be heard.
COLOURS = torch.tensor([1.6, 1.0, 0.5])[:, None, None]
HUES = torch.tensor([0.4, 0.0, -0.6])[:, None, None]


def photos(count: int, seed: int = 1) -> torch.Tensor:
    """Smooth pictures whose channels differ in mean and spread."""
    coarse = normal(count, 3, 4, 4, seed=seed)
    smooth = nn.functional.interpolate(coarse, size=12, mode="bilinear")
    return (smooth + 0.3 * normal(count, 3, 12, 12, seed=seed + 1)) * COLOURS + HUES


class ConvNet(nn.Module):
    """Three convolutions with batch-norms, a residual add and a head."""

    def __init__(self, width: int = 12, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.body_bn = nn.BatchNorm2d(width)
        self.tail = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
        self.tail_bn = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)
        self.example_inputs = (torch.zeros(2, 3, 12, 12),)

    def forward(self, x):
        x = torch.relu(self.stem_bn(self.stem(x)))
        x = torch.relu(self.body_bn(self.body(x)) + x)
        x = torch.relu(self.tail_bn(self.tail(x)))
        return self.head(x.mean((2, 3)))


def healthy() -> ConvNet:
    """With batch-norms that remember the pictures' statistics, as after training."""
    net = seeded(ConvNet)
    with torch.no_grad():
        for index, norm in enumerate(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.copy_(0.6 + torch.rand(12, generator=torch.Generator().manual_seed(index)))
            norm.bias.copy_(0.3 * normal(12, seed=index))
            norm.momentum = None
    remember(net)
    return net


def remember(net: nn.Module) -> nn.Module:
    """Let the batch-norms take up the statistics of the pictures, and leave training mode."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    net.train()
    with torch.no_grad():
        for seed in range(4):
            net(photos(64, seed=10 * seed + 3))
    return net.eval()


def calibration() -> list[torch.Tensor]:
    return list(photos(64, seed=1).split(16))


def widen(norm: nn.BatchNorm2d, reader: nn.Conv2d, channel: int, factor: float) -> None:
    """A channel that is wider by a factor, taken back by the layer that reads it."""
    with torch.no_grad():
        norm.weight[channel] *= factor
        norm.bias[channel] *= factor
        reader.weight[:, channel] /= factor


def with_outlier_channel() -> ConvNet:
    net = healthy()
    with torch.no_grad():
        net.tail_bn.weight[3] *= 200
        net.tail_bn.bias[3] *= 200
        net.head.weight[:, 3] /= 200
    return net


def with_dead_channel() -> ConvNet:
    """A channel that only says how large its bias is."""
    net = healthy()
    with torch.no_grad():
        net.tail_bn.weight[5] = 0.0
        net.tail_bn.bias[5] = 150.0
        net.head.weight[:, 5] /= 150.0
    return net


def left_in_training() -> ConvNet:
    """Batch-norms that never took up what they saw, used by the statistics of each batch."""
    net = healthy()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return net.train()


def overflowed() -> ConvNet:
    """Stored in half precision by a converter that saturates, with a channel that did not fit."""
    net = healthy()
    with torch.no_grad():
        net.body.weight[2] *= 1e7
    remember(net)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.dtype.is_floating_point:
                tensor.copy_(tensor.clamp(-65504, 65504).half().float())
    return net


class MaskedPool(nn.Module):
    """Tokens are weighed by a softmax of scores, to which a mask adds -1e4."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.value = nn.Linear(6, 8), nn.Linear(6, 8)
        self.head = nn.Linear(8, 5)
        self.example_inputs = (torch.zeros(2, 6), torch.zeros(2, 8))

    def forward(self, x, hidden):
        scores = self.score(x) + hidden * -1e4
        return self.head(torch.softmax(scores, 1) * self.value(x))


def masked() -> tuple[MaskedPool, list[tuple[torch.Tensor, torch.Tensor]]]:
    net = seeded(MaskedPool).eval()
    with torch.no_grad():
        net.score.weight *= 4
    hidden = (normal(64, 8, seed=7) > 1.0).float()
    return net, list(zip(normal(64, 6, seed=6).split(16), hidden.split(16), strict=True))


def with_unlike_add() -> ConvNet:
    """The add's wide input comes in equal pairs of channels, which the next layer takes apart."""
    net = healthy()
    with torch.no_grad():
        net.stem.weight[1::2] = net.stem.weight[::2]
        for norm, factor in ((net.stem_bn, 60.0), (net.body_bn, 1.0)):
            norm.weight *= factor
            norm.bias *= factor
        net.stem_bn.weight[1::2] = net.stem_bn.weight[::2]
        net.stem_bn.bias[1::2] = net.stem_bn.bias[::2]
        net.body_bn.bias.abs_()
        net.tail.weight[:, 1::2] = -net.tail.weight[:, ::2]
    return remember(net)
