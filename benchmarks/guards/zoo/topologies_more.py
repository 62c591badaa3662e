"""The hand-written networks that are not image classifiers of the usual kind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.guards.zoo.common import Builder, floats, image, plain
from benchmarks.guards.zoo.topologies import CLASSES, conv_bn, head


class UNet(nn.Module):
    """Ronneberger's network with padding: transposed convolutions up, concatenated skips."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 128, 256, 512, 1024)

        def double(cin: int, cout: int) -> nn.Module:
            return nn.Sequential(conv_bn(cin, cout, 3, 1, 1), conv_bn(cout, cout, 3, 1, 1))

        self.down = nn.ModuleList(
            double(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True)
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.merge = nn.ModuleList(double(2 * b, b) for _, b in pairs)
        self.out = nn.Conv2d(64, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.out(x)


def dcgan_generator() -> nn.Sequential:
    layers: list[nn.Module] = []
    cin = 100
    for i, cout in enumerate((512, 256, 128, 64)):
        shape = (4, 2, 1) if i else (4, 1, 0)
        layers += [nn.ConvTranspose2d(cin, cout, *shape, bias=False), nn.BatchNorm2d(cout)]
        layers.append(nn.ReLU(True))
        cin = cout
    return nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh())


def speech_m5() -> nn.Sequential:
    """Dai et al.'s M5 over a raw waveform."""
    layers: list[nn.Module] = []
    cin = 1
    for k, s, cout in ((80, 4, 128), (3, 1, 128), (3, 1, 256), (3, 1, 512)):
        layers += [nn.Conv1d(cin, cout, k, s), nn.BatchNorm1d(cout), nn.ReLU(), nn.MaxPool1d(4)]
        cin = cout
    tail = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(512, 35), nn.LogSoftmax(dim=-1))
    return nn.Sequential(*layers, *tail)


def conv3d_video() -> nn.Sequential:
    """The first two thirds of C3D with batch norm and a global pool."""

    def block(cin: int, cout: int) -> list[nn.Module]:
        return [nn.Conv3d(cin, cout, 3, padding=1), nn.BatchNorm3d(cout), nn.ReLU(True)]

    layers = [*block(3, 64), nn.MaxPool3d((1, 2, 2)), *block(64, 128), nn.MaxPool3d(2)]
    layers += [*block(128, 256), *block(256, 256), nn.MaxPool3d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(256, CLASSES))


class TemporalBlock(nn.Module):
    """Two dilated causal convolutions: pad both ends, then chomp the right one."""

    def __init__(self, cin: int, cout: int, dilation: int, k: int = 7) -> None:
        super().__init__()
        self.pad = (k - 1) * dilation
        self.one = nn.Conv1d(cin, cout, k, padding=self.pad, dilation=dilation)
        self.two = nn.Conv1d(cout, cout, k, padding=self.pad, dilation=dilation)
        self.skip = nn.Conv1d(cin, cout, 1) if cin != cout else None
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.drop(F.relu(self.one(x)[:, :, : -self.pad].contiguous()))
        out = self.drop(F.relu(self.two(out)[:, :, : -self.pad].contiguous()))
        return F.relu(out + (x if self.skip is None else self.skip(x)))


class TCN(nn.Module):
    """Bai et al.'s temporal network, classifying from the last step."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [TemporalBlock(25 if i else 1, 25, 2**i) for i in range(6)]
        self.body, self.out = nn.Sequential(*blocks), nn.Linear(25, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.out(self.body(x)[:, :, -1]), dim=1)


class MixerBlock(nn.Module):
    """An MLP over the patches and an MLP over the channels."""

    def __init__(self, patches: int, width: int, token_mlp: int, channel_mlp: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens, self.channels = (
            nn.Sequential(nn.Linear(a, b), nn.GELU(), nn.Linear(b, a))
            for a, b in ((patches, token_mlp), (width, channel_mlp))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer-S/16."""

    def __init__(self, side: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 512, 16, 16)
        self.blocks = nn.Sequential(
            *(MixerBlock((side // 16) ** 2, 512, 256, 2048) for _ in range(8))
        )
        self.norm, self.out = nn.LayerNorm(512), nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.out(self.norm(self.blocks(x)).mean(dim=1))


class WDSRBlock(nn.Module):
    """Wide activation between two weight-normed convolutions."""

    def __init__(self, width: int = 32, expand: int = 4) -> None:
        super().__init__()
        self.one = weight_norm(nn.Conv2d(width, width * expand, 3, padding=1))
        self.two = weight_norm(nn.Conv2d(width * expand, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.one(x)))


class WDSR(nn.Module):
    """WDSR-A x2: weight norm everywhere, pixel shuffle out, a global skip."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [WDSRBlock() for _ in range(8)]
        tail = weight_norm(nn.Conv2d(32, 12, 3, padding=1))
        stem = weight_norm(nn.Conv2d(3, 32, 3, padding=1))
        self.body = nn.Sequential(stem, *blocks, tail, nn.PixelShuffle(2))
        self.skip = nn.Sequential(weight_norm(nn.Conv2d(3, 12, 5, padding=2)), nn.PixelShuffle(2))
        self.register_buffer("mean", torch.tensor([0.45, 0.44, 0.40]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.5
        return (self.body(x) + self.skip(x)) * 0.5 + self.mean


class RepVGGBlock(nn.Module):
    """The training form: 3x3, 1x1 and an identity batch norm, summed before the ReLU."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.three = conv_bn(cin, cout, 3, stride, 1, act=None)
        self.one = conv_bn(cin, cout, 1, stride, act=None)
        self.same = nn.BatchNorm2d(cin) if cin == cout and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.three(x) + self.one(x) + (0 if self.same is None else self.same(x)))


def repvgg_a0() -> nn.Sequential:
    layers: list[nn.Module] = [RepVGGBlock(3, 48, 2)]
    cin = 48
    for cout, n in ((48, 2), (96, 4), (192, 14), (1280, 1)):
        for i in range(n):
            layers.append(RepVGGBlock(cin, cout, 2 if i == 0 else 1))
            cin = cout
    return nn.Sequential(*layers, head(cin, 0.0))


def mlp_bn() -> nn.Sequential:
    layers: list[nn.Module] = []
    cin = 64
    for width in (256, 128, 64):
        layers += [nn.Linear(cin, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1)]
        cin = width
    return nn.Sequential(*layers, nn.Linear(cin, CLASSES))


class PreActivation(nn.Module):
    """Norm and ReLU before each convolution; the shortcut leaves after the first ReLU."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(cin), nn.BatchNorm2d(cout)
        self.one = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.skip = None
        if stride != 1 or cin != cout:
            self.skip = nn.Conv2d(cin, cout, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ready = F.relu(self.norm1(x))
        skip = x if self.skip is None else self.skip(ready)
        return self.two(F.relu(self.norm2(self.one(ready)))) + skip


def preact_resnet_18() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False)]
    cin = 64
    for stage in range(4):
        for i in range(2):
            layers.append(PreActivation(cin, 64 * 2**stage, 2 if i == 0 and stage else 1))
            cin = 64 * 2**stage
    return nn.Sequential(*layers, nn.BatchNorm2d(512), nn.ReLU(), head(512, 0.0))


class SharedWeights(nn.Module):
    """DRRN: one residual unit applied over and over, the same two convolutions each time."""

    def __init__(self, width: int = 64, rounds: int = 5) -> None:
        super().__init__()
        self.rounds = rounds
        self.stem, self.out = nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, 3, 3, 1, 1)
        self.one, self.two = (nn.Conv2d(width, width, 3, 1, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first = here = self.stem(x)
        for _ in range(self.rounds):
            here = first + self.two(F.relu(self.one(F.relu(here))))
        return x + self.out(F.relu(here))


TOPOLOGIES_MORE: dict[str, Builder] = {
    "u-net": plain(UNet, image()),
    "dcgan-generator": plain(dcgan_generator, floats(100, 1, 1)),
    "speech-m5": plain(speech_m5, floats(1, 8000)),
    "conv3d-video": plain(conv3d_video, floats(3, 8, 32, 32)),
    "tcn": plain(TCN, floats(1, 196)),
    "mlp-mixer-s16": plain(Mixer, image()),
    "wdsr-weight-norm": plain(WDSR, image(32)),
    "repvgg-a0": plain(repvgg_a0, image()),
    "mlp-batchnorm": plain(mlp_bn, floats(64)),
    "preact-resnet-18": plain(preact_resnet_18, image(32)),
    "shared-weights-drrn": plain(SharedWeights, image(32)),
}
