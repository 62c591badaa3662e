"""Networks that return no class scores, or more than these: detectors, maps, images, series."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.guards.zoo.common import Builder, floats, hf, image, pixels, plain, tokens
from benchmarks.guards.zoo.topologies import CLASSES, conv_bn
from benchmarks.guards.zoo.topologies_more import TemporalBlock

STRIDES = (4, 8)


class Pyramid(nn.Module):
    """Features at a quarter and an eighth of the image, the coarse ones added to the fine."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2, 1), conv_bn(16, width, 3, 2, 1))
        self.deep = conv_bn(width, width, 3, 2, 1)
        self.side = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.stem(x)
        coarse = self.deep(fine)
        up = F.interpolate(self.side(coarse), scale_factor=2.0, mode="nearest")
        return [fine + up, coarse]


def rows(maps: list[Tensor]) -> Tensor:
    """Maps of several levels as [samples, places, channels]."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)


def places(side: int) -> Tensor:
    """Centre and stride of every place of the pyramid, [places, 3]."""
    found = []
    for stride in STRIDES:
        at = torch.arange(side // stride).float() * stride + stride / 2
        grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).reshape(-1, 2)
        found.append(torch.cat([grid, torch.full((len(grid), 1), float(stride))], 1))
    return torch.cat(found)


class Dfl(nn.Module):
    """YOLO's head: sides as expectations over bins (DFL), sigmoids; `joined` as one tensor."""

    def __init__(self, joined: bool, side: int = 64, bins: int = 8) -> None:
        super().__init__()
        self.body, self.joined = Pyramid(), joined
        self.sides = nn.ModuleList(nn.Conv2d(32, 4 * bins, 1) for _ in STRIDES)
        self.classes = nn.ModuleList(nn.Conv2d(32, CLASSES, 1) for _ in STRIDES)
        self.register_buffer("bins", torch.arange(bins).float())
        self.register_buffer("places", places(side))

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        maps = self.body(x)
        sides = rows([head(m) for head, m in zip(self.sides, maps, strict=True)])
        scores = rows([head(m) for head, m in zip(self.classes, maps, strict=True)])
        sides = (sides.unflatten(2, (4, -1)).softmax(-1) * self.bins).sum(-1) * self.places[:, 2:]
        low, high = self.places[:, :2] - sides[..., :2], self.places[:, :2] + sides[..., 2:]
        if not self.joined:
            return {"boxes": torch.cat([low, high], -1), "scores": scores}
        boxes = torch.cat([(low + high) / 2, high - low], -1)
        return torch.cat([boxes.transpose(1, 2), scores.sigmoid().transpose(1, 2)], 1)


class Ssd(nn.Module):
    """Liu et al.'s heads: offsets to three anchors a place, and scores with a background."""

    def __init__(self, anchors: int = 3) -> None:
        super().__init__()
        self.body = Pyramid()
        self.loc = nn.ModuleList(nn.Conv2d(32, 4 * anchors, 3, padding=1) for _ in STRIDES)
        self.conf = nn.ModuleList(
            nn.Conv2d(32, anchors * (CLASSES + 1), 3, padding=1) for _ in STRIDES
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.body(x)
        loc = rows([head(m) for head, m in zip(self.loc, maps, strict=True)])
        conf = rows([head(m) for head, m in zip(self.conf, maps, strict=True)])
        return (
            loc.reshape(loc.shape[0], -1, 4),
            conf.reshape(conf.shape[0], -1, CLASSES + 1).softmax(-1),
        )


class Fcos(nn.Module):
    """Tian et al.'s head: exp of the sides, scores and centreness of every place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid()
        self.tower = conv_bn(32, 32, 3, 1, 1)
        self.sides, self.scores = nn.Conv2d(32, 4, 1), nn.Conv2d(32, CLASSES, 1)
        self.center = nn.Conv2d(32, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = [self.tower(m) for m in self.body(x)]
        return {
            "bbox_regression": rows([(0.3 * self.sides(m)).exp() for m in maps]),
            "cls_logits": rows([self.scores(m) for m in maps]),
            "centerness": rows([self.center(m) for m in maps]),
        }


class CenterNet(nn.Module):
    """Zhou et al.'s three maps: heat of every class, sizes and offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid()
        self.hm, self.wh, self.off = (nn.Conv2d(32, n, 1) for n in (CLASSES, 2, 2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.body(x)[0]
        return {"hm": self.hm(fine).sigmoid(), "wh": self.wh(fine).relu(), "offset": self.off(fine)}


class Queries(nn.Module):
    """Carion et al.'s form: learned queries read the features; classes and boxes of each."""

    def __init__(self, width: int = 32, queries: int = 10) -> None:
        super().__init__()
        self.body = Pyramid(width)
        self.queries = nn.Parameter(torch.randn(queries, width))
        layer = nn.TransformerDecoderLayer(width, 4, 64, batch_first=True, dropout=0.0)
        self.decoder = nn.TransformerDecoder(layer, 1)
        self.classes = nn.Linear(width, CLASSES + 1)
        self.boxes = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        memory = self.body(x)[1].flatten(2).transpose(1, 2)
        asked = self.queries.expand(x.shape[0], -1, -1)
        found = self.decoder(asked, memory)
        return {"logits": self.classes(found), "pred_boxes": self.boxes(found).sigmoid()}


class Maps(nn.Module):
    """An encoder and a decoder with a skip; `tail` makes the result of the decoder's features."""

    def __init__(self, tail: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.down = conv_bn(3, width, 3, 1, 1)
        self.deep = conv_bn(width, 2 * width, 3, 2, 1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        skip = self.down(x)
        return self.tail(torch.cat([skip, self.up(self.deep(skip)).relu()], 1))


class Several(nn.Module):
    """A 1 x 1 convolution for each name, each with what follows it."""

    def __init__(self, width: int = 32, **heads: tuple[int, nn.Module]) -> None:
        super().__init__()
        made = {n: nn.Sequential(nn.Conv2d(width, c, 1), end) for n, (c, end) in heads.items()}
        self.heads = nn.ModuleDict(made)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: head(x) for name, head in self.heads.items()}


def last(channels: int, end: nn.Module | None = None) -> nn.Module:
    """A 1 x 1 convolution and what follows it."""
    return nn.Sequential(nn.Conv2d(32, channels, 1), end or nn.Identity())


class Denoiser(nn.Module):
    """The noise is found and taken off (DnCNN)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 32, 3, 1, 1), conv_bn(32, 32, 3, 1, 1))
        self.out = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.out(self.body(x))


class TwoHeads(nn.Module):
    """Classes and an age from one body."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(3, 16, 3, 2, 1), conv_bn(16, 32, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.classes, self.age = nn.Linear(32, CLASSES), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.classes(h), self.age(h)


class Forecast(nn.Module):
    """Quantiles of the next steps of several series, by dilated causal convolutions."""

    def __init__(self, series: int = 3, horizon: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(*(TemporalBlock(24 if i else series, 24, 2**i) for i in range(3)))
        self.out, self.horizon = nn.Linear(24, 3 * horizon), horizon

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"quantiles": self.out(self.body(x)[:, :, -1]).unflatten(1, (self.horizon, 3))}


class Recurrent(nn.Module):
    """A GRU between convolutions: recurrent weights stay in float; one number a step."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 24, 5, padding=2)
        self.gru, self.out = nn.GRU(24, 24, batch_first=True), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(self.stem(x).relu().transpose(1, 2))
        return self.out(h)


class Pitch(nn.Module):
    """CREPE's form: convolutions over a frame of sound, a sigmoid for each bin of pitch."""

    def __init__(self, bins: int = 60) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 32, 64, 4, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.MaxPool1d(2),
            nn.Conv1d(32, 32, 16, 2, 8), nn.ReLU(), nn.BatchNorm1d(32), nn.MaxPool1d(8),
        )  # fmt: skip
        self.out = nn.Linear(256, bins)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x).flatten(1)).sigmoid()


class Spectrum(nn.Module):
    """Power of windows of sound by fixed filters, its logarithm, then tags by convolutions."""

    def __init__(self, window: int = 128, tags: int = 12) -> None:
        super().__init__()
        n, k = torch.arange(window).float(), torch.arange(window // 2).float()[:, None]
        angle, hann = 2 * torch.pi * k * n / window, torch.hann_window(window)
        waves = torch.stack([angle.cos() * hann, angle.sin() * hann])
        self.register_buffer("waves", waves.reshape(-1, 1, window))
        self.body = nn.Sequential(conv_bn(1, 16, 3, 2, 1), conv_bn(16, 32, 3, 2, 1))
        self.out = nn.Linear(32, tags)

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = F.conv1d(x, self.waves, stride=64).chunk(2, 1)
        power = (real.square() + imaginary.square() + 1e-3).log()
        return self.out(self.body(power.unsqueeze(1)).mean((2, 3))).sigmoid()


class Tabular(nn.Module):
    """Columns of numbers and a column of categories; a class, a price and labels."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.body = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.classes, self.price, self.labels = (nn.Linear(64, n) for n in (5, 1, 4))

    def forward(self, numbers: Tensor, category: Tensor) -> dict[str, Tensor]:
        h = self.body(torch.cat([numbers, self.table(category)], 1))
        return {
            "classes": self.classes(h), "price": self.price(h), "labels": self.labels(h).sigmoid(),
        }  # fmt: skip


def table_inputs() -> tuple[Tensor, Tensor]:
    """Two rows of a table."""
    return torch.randn(2, 12), torch.randint(0, 20, (2,))


def pairs() -> dict[str, Tensor]:
    """Two texts and two images."""
    return {**tokens(8)(), **pixels(32)()}


_TOWER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip

TASKS: dict[str, Builder] = {
    "yolo-dfl": plain(lambda: Dfl(joined=False), image()),
    "yolo-dfl-joined": plain(lambda: Dfl(joined=True), image()),
    "ssd-heads": plain(Ssd, image()),
    "fcos-heads": plain(Fcos, image()),
    "centernet-heads": plain(CenterNet, image()),
    "detr-queries": plain(Queries, image()),
    "yolos": hf(
        "YolosForObjectDetection", pixels(32), image_size=[32, 32], patch_size=8,
        num_detection_tokens=5, num_labels=4, **_TOWER,
    ),
    "unet-mask": plain(lambda: Maps(last(1, nn.Sigmoid())), image(32)),
    "unet-classes": plain(lambda: Maps(last(6)), image(32)),
    "unet-panoptic": plain(
        lambda: Maps(Several(seg=(6, nn.Identity()), depth=(1, nn.ReLU()), offset=(2, nn.Tanh()))),
        image(32),
    ),
    "depth": plain(lambda: Maps(last(1, nn.Softplus())), image(32)),
    "keypoints": plain(lambda: Maps(Several(heatmaps=(5, nn.Identity()))), image(32)),
    "super-resolution": plain(lambda: Maps(last(12, nn.PixelShuffle(2))), image(32)),
    "denoiser": plain(Denoiser, image(32)),
    "autoencoder": plain(lambda: Maps(last(3, nn.Sigmoid())), image(32)),
    "optical-flow": plain(lambda: Maps(Several(flow=(2, nn.Identity()))), image(32)),
    "classes-and-age": plain(TwoHeads, image(32)),
    "forecast-quantiles": plain(Forecast, floats(3, 40)),
    "forecast-gru": plain(Recurrent, floats(4, 20)),
    "pitch": plain(Pitch, floats(1, 1024)),
    "sound-tags": plain(Spectrum, floats(1, 2048)),
    "tabular": plain(Tabular, table_inputs),
    "clip": hf(
        "CLIPModel", pairs, projection_dim=16,
        text_config={**_TOWER, "vocab_size": 200, "max_position_embeddings": 32},
        vision_config={**_TOWER, "image_size": 32, "patch_size": 8},
    ),
}  # fmt: skip
