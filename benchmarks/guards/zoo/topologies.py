"""Published convolutional classifiers, written out in plain torch at their full width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.guards.zoo.common import Builder, image, plain

CLASSES = 10


def conv_bn(
    cin: int, cout: int, k: int | tuple = 1, s: int = 1, p: int | tuple = 0, g: int = 1, act=nn.ReLU
) -> nn.Sequential:
    """Convolution, batch norm and, unless `act` is None, an activation."""
    layers = [nn.Conv2d(cin, cout, k, s, p, groups=g, bias=False), nn.BatchNorm2d(cout)]
    if act is not None:
        layers.append(act(inplace=True))
    return nn.Sequential(*layers)


def head(width: int, drop: float = 0.2) -> nn.Sequential:
    """Global pool, flatten, dropout, classifier."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(drop), nn.Linear(width, CLASSES)
    )


class Residual(nn.Module):
    """The basic or bottleneck block of ResNet, with in-place addition."""

    def __init__(self, cin: int, width: int, stride: int, bottleneck: bool, groups: int) -> None:
        super().__init__()
        cout = width * (4 if bottleneck else 1)
        mid = width * groups * 4 // 64 if groups > 1 else width
        if bottleneck:
            self.body = nn.Sequential(
                conv_bn(cin, mid),
                conv_bn(mid, mid, 3, stride, 1, groups),
                conv_bn(mid, cout, act=None),
            )
        else:
            self.body = nn.Sequential(
                conv_bn(cin, width, 3, stride, 1), conv_bn(width, cout, 3, 1, 1, act=None)
            )
        self.skip = None
        if stride != 1 or cin != cout:
            self.skip = conv_bn(cin, cout, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        out += x if self.skip is None else self.skip(x)
        return F.relu(out, inplace=True)


def resnet(depths: tuple[int, ...], bottleneck: bool, groups: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
    cin = 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for i in range(depth):
            layers.append(Residual(cin, width, 2 if i == 0 and stage else 1, bottleneck, groups))
            cin = width * (4 if bottleneck else 1)
    return nn.Sequential(*layers, head(cin, 0.0))


class SqueezeExcite(nn.Module):
    """Squeeze and excitation, with the gate and inner activation of the network that uses it."""

    def __init__(self, width: int, inner: int, act=nn.ReLU, gate=nn.Sigmoid) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.expand(self.act(self.reduce(scale))))


class Inverted(nn.Module):
    """Expand, depthwise, squeeze, project: MobileNet-V2, -V3 and EfficientNet."""

    def __init__(
        self,
        cin: int,
        mid: int,
        cout: int,
        shape: tuple[int, int],
        act,
        se: nn.Module | None = None,
    ) -> None:
        super().__init__()
        k, s = shape
        layers = [conv_bn(cin, mid, act=act)] if mid != cin else []
        layers.append(conv_bn(mid, mid, k, s, k // 2, mid, act=act))
        if se is not None:
            layers.append(se)
        self.body = nn.Sequential(*layers, conv_bn(mid, cout, act=None))
        self.residual = s == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v2() -> nn.Sequential:
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
    plan += ((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, 1, act=nn.ReLU6)]
    cin = 32
    for t, cout, n, s in plan:
        for i in range(n):
            layers.append(Inverted(cin, cin * t, cout, (3, s if i == 0 else 1), nn.ReLU6))
            cin = cout
    return nn.Sequential(*layers, conv_bn(cin, 1280, act=nn.ReLU6), head(1280))


def mobilenet_v3_small() -> nn.Sequential:
    plan = (
        (3, 16, 16, 8, nn.ReLU, 2), (3, 72, 24, 0, nn.ReLU, 2), (3, 88, 24, 0, nn.ReLU, 1),
        (5, 96, 40, 24, nn.Hardswish, 2), (5, 240, 40, 64, nn.Hardswish, 1),
        (5, 240, 40, 64, nn.Hardswish, 1), (5, 120, 48, 32, nn.Hardswish, 1),
        (5, 144, 48, 40, nn.Hardswish, 1), (5, 288, 96, 72, nn.Hardswish, 2),
        (5, 576, 96, 144, nn.Hardswish, 1), (5, 576, 96, 144, nn.Hardswish, 1),
    )  # fmt: skip
    layers: list[nn.Module] = [conv_bn(3, 16, 3, 2, 1, act=nn.Hardswish)]
    cin = 16
    for k, mid, cout, inner, act, s in plan:
        se = SqueezeExcite(mid, inner, nn.ReLU, nn.Hardsigmoid) if inner else None
        layers.append(Inverted(cin, mid, cout, (k, s), act, se))
        cin = cout
    layers += [conv_bn(96, 576, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers += [nn.Linear(576, 1024), nn.Hardswish(inplace=True), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(1024, CLASSES))


def efficientnet_b0() -> nn.Sequential:
    plan = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3))
    plan += ((6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, 1, act=nn.SiLU)]
    cin = 32
    for t, k, s, cout, n in plan:
        for i in range(n):
            se = SqueezeExcite(cin * t, cin // 4, nn.SiLU)
            layers.append(Inverted(cin, cin * t, cout, (k, s if i == 0 else 1), nn.SiLU, se))
            cin = cout
    return nn.Sequential(*layers, conv_bn(cin, 1280, act=nn.SiLU), head(1280))


class Branches(nn.Module):
    """Parallel branches joined along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception_v3() -> nn.Sequential:
    """The full topology without the auxiliary head, which only training uses."""
    seq, avg = nn.Sequential, lambda: nn.AvgPool2d(3, 1, 1)

    def block_a(cin: int, pool: int) -> nn.Module:
        return Branches(
            conv_bn(cin, 64),
            seq(conv_bn(cin, 48), conv_bn(48, 64, 5, 1, 2)),
            seq(conv_bn(cin, 64), conv_bn(64, 96, 3, 1, 1), conv_bn(96, 96, 3, 1, 1)),
            seq(avg(), conv_bn(cin, pool)),
        )

    def row(cin: int, cout: int) -> nn.Module:
        return conv_bn(cin, cout, (1, 7), 1, (0, 3))

    def column(cin: int, cout: int) -> nn.Module:
        return conv_bn(cin, cout, (7, 1), 1, (3, 0))

    def block_c(c: int) -> nn.Module:
        return Branches(
            conv_bn(768, 192),
            seq(conv_bn(768, c), row(c, c), column(c, 192)),
            seq(conv_bn(768, c), column(c, c), row(c, c), column(c, c), row(c, 192)),
            seq(avg(), conv_bn(768, 192)),
        )

    def fork(cin: int) -> nn.Module:
        return Branches(conv_bn(cin, 384, (1, 3), 1, (0, 1)), conv_bn(cin, 384, (3, 1), 1, (1, 0)))

    def block_e(cin: int) -> nn.Module:
        return Branches(
            conv_bn(cin, 320),
            seq(conv_bn(cin, 384), fork(384)),
            seq(conv_bn(cin, 448), conv_bn(448, 384, 3, 1, 1), fork(384)),
            seq(avg(), conv_bn(cin, 192)),
        )

    block_b = Branches(
        conv_bn(288, 384, 3, 2),
        seq(conv_bn(288, 64), conv_bn(64, 96, 3, 1, 1), conv_bn(96, 96, 3, 2)),
        nn.MaxPool2d(3, 2),
    )
    block_d = Branches(
        seq(conv_bn(768, 192), conv_bn(192, 320, 3, 2)),
        seq(conv_bn(768, 192), row(192, 192), column(192, 192), conv_bn(192, 192, 3, 2)),
        nn.MaxPool2d(3, 2),
    )
    stem = (conv_bn(3, 32, 3, 2), conv_bn(32, 32, 3), conv_bn(32, 64, 3, 1, 1), nn.MaxPool2d(3, 2))
    stem += (conv_bn(64, 80), conv_bn(80, 192, 3), nn.MaxPool2d(3, 2))
    wide = (block_a(192, 32), block_a(256, 64), block_a(288, 64), block_b)
    middle = (block_c(128), block_c(160), block_c(160), block_c(192), block_d)
    return seq(*stem, *wide, *middle, block_e(1280), block_e(2048), head(2048, 0.5))


def googlenet() -> nn.Sequential:
    """Inception-V1 with batch norm, and the ceiling-mode pools of the original."""
    plan = (
        (192, 64, 96, 128, 16, 32, 32), (256, 128, 128, 192, 32, 96, 64), None,
        (480, 192, 96, 208, 16, 48, 64), (512, 160, 112, 224, 24, 64, 64),
        (512, 128, 128, 256, 24, 64, 64), (512, 112, 144, 288, 32, 64, 64),
        (528, 256, 160, 320, 32, 128, 128), None,
        (832, 256, 160, 320, 32, 128, 128), (832, 384, 192, 384, 48, 128, 128),
    )  # fmt: skip
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2, 3), nn.MaxPool2d(3, 2, ceil_mode=True)]
    layers += [conv_bn(64, 64), conv_bn(64, 192, 3, 1, 1), nn.MaxPool2d(3, 2, ceil_mode=True)]
    for row in plan:
        if row is None:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            continue
        cin, one, mid3, three, mid5, five, pool = row
        layers.append(
            Branches(
                conv_bn(cin, one),
                nn.Sequential(conv_bn(cin, mid3), conv_bn(mid3, three, 3, 1, 1)),
                nn.Sequential(conv_bn(cin, mid5), conv_bn(mid5, five, 5, 1, 2)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv_bn(cin, pool)),
            )
        )
    return nn.Sequential(*layers, head(1024))


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1, BN, ReLU, 3x3, joined to what came in: no norm follows its convolution."""

    def __init__(self, cin: int, growth: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(cin), nn.ReLU(), nn.Conv2d(cin, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(inplace=True),
            nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet_121() -> nn.Sequential:
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for stage, depth in enumerate((6, 12, 24, 16)):
        layers += [DenseLayer(width + 32 * i) for i in range(depth)]
        width += 32 * depth
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        if stage < 3:
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*layers, head(width, 0.0))


def vgg_11_bn() -> nn.Sequential:
    layers: list[nn.Module] = []
    cin = 3
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width:
            block = [nn.Conv2d(cin, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)]
            cin = width
        layers += block if width else [nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(512 * 4, 4096), nn.ReLU(True), nn.Dropout()]
    layers += [nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(4096, CLASSES))


class Fire(nn.Module):
    """Squeeze to a few channels, then two expansions side by side."""

    def __init__(self, cin: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(cin, squeeze, 1)
        self.one = nn.Conv2d(squeeze, expand, 1)
        self.three = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


def squeezenet_1_1() -> nn.Sequential:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(True), pool(), Fire(64, 16, 64), Fire(128, 16, 64), pool(),
        Fire(128, 32, 128), Fire(256, 32, 128), pool(), Fire(256, 48, 192), Fire(384, 48, 192),
        Fire(384, 64, 256), Fire(512, 64, 256), nn.Dropout(), nn.Conv2d(512, CLASSES, 1),
        nn.ReLU(True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class ShuffleUnit(nn.Module):
    """Split (or stride both), transform one half, concatenate, shuffle in two groups."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half = cout // 2
        into = cin if stride == 2 else half
        self.left = None
        if stride == 2:
            self.left = nn.Sequential(conv_bn(cin, cin, 3, 2, 1, cin, act=None), conv_bn(cin, half))
        self.right = nn.Sequential(
            conv_bn(into, half),
            conv_bn(half, half, 3, stride, 1, half, act=None),
            conv_bn(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = (x, x) if self.left is not None else x.chunk(2, dim=1)
        left = left if self.left is None else self.left(left)
        out = torch.cat([left, self.right(right)], 1)
        n, c, h, w = out.shape
        return out.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def shufflenet_v2() -> nn.Sequential:
    layers: list[nn.Module] = [conv_bn(3, 24, 3, 2, 1), nn.MaxPool2d(3, 2, 1)]
    cin = 24
    for cout, n in ((116, 4), (232, 8), (464, 4)):
        for i in range(n):
            layers.append(ShuffleUnit(cin, cout, 2 if i == 0 else 1))
            cin = cout
    return nn.Sequential(*layers, conv_bn(cin, 1024), head(1024, 0.0))


TOPOLOGIES: dict[str, Builder] = {
    "resnet-18": plain(lambda: resnet((2, 2, 2, 2), False), image()),
    "resnet-50": plain(lambda: resnet((3, 4, 6, 3), True), image()),
    "resnext-50-32x4d": plain(lambda: resnet((3, 4, 6, 3), True, 32), image()),
    "mobilenet-v2": plain(mobilenet_v2, image()),
    "mobilenet-v3-small": plain(mobilenet_v3_small, image()),
    "efficientnet-b0": plain(efficientnet_b0, image()),
    "inception-v3": plain(inception_v3, image(96)),
    "googlenet": plain(googlenet, image()),
    "densenet-121": plain(densenet_121, image()),
    "vgg-11-bn": plain(vgg_11_bn, image()),
    "squeezenet-1.1": plain(squeezenet_1_1, image()),
    "shufflenet-v2": plain(shufflenet_v2, image()),
}
