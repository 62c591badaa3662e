"""Networks of every kind of output, trained here on made images: what today's loss overlooks.

    python -m benchmarks.study.answers [--only detector ...] [--steps 400]

A detector (distances as expectations over bins, scores beside), a segmentation U-Net, a network of
super-resolution and one of two heads are trained for a minute each on pictures of shapes that are
drawn on the spot. Each is quantised to w8a8, and by the table at a tight budget, once with the loss
that fits its outputs and once with the first output read as class scores, as it was before. All
figures are of pictures that neither training nor quantisation has seen. mAP needs the extra
[detection]. Writes docs/measured/answers.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bitwright as bw
from benchmarks.tables import MEASURED, RESULTS, machine, markdown, read_csv, write_csv
from bitwright.evaluation.compare import compare
from bitwright.evaluation.forward import outcome_of
from bitwright.evaluation.metrics import METRICS
from bitwright.sources.batches import Batch

SIDE, SHAPES, BINS, STRIDE = 32, 3, 8, 4
MENU, TIGHT = "w8a8,w6a8,w5a8,w4a8,w3a8,w2a8", "size<=0.12"
CALIBRATION, TEST, BATCH = 256, 512, 64
RESULT = RESULTS / "answers.csv"


# ---- pictures --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenes:
    """Pictures, the class of every pixel (0 is background), and the boxes of their objects."""

    images: Tensor
    masks: Tensor
    objects: list[dict[str, Tensor]]


def draw(count: int, seed: int) -> Scenes:
    """Discs, squares and triangles on a background that wavers, one to three a picture."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    images = 0.5 * F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    masks = torch.zeros(count, SIDE, SIDE, dtype=torch.int64)
    objects = []
    for i in range(count):
        boxes, labels = [], []
        for _ in range(int(torch.randint(1, 4, (), generator=generator))):
            kind = int(torch.randint(SHAPES, (), generator=generator))
            r = float(3 + 5 * torch.rand((), generator=generator))
            cx, cy = (r + (SIDE - 2 * r) * torch.rand(2, generator=generator)).tolist()
            inside = [
                (x - cx) ** 2 + (y - cy) ** 2 <= r**2,
                ((x - cx).abs() <= r) & ((y - cy).abs() <= r),
                (y - cy <= r) & ((x - cx).abs() <= (y - cy + r) / 2),
            ][kind]
            if masks[i][inside].any():
                continue
            color = 0.3 + 0.7 * torch.rand(3, 1, generator=generator)
            images[i][:, inside] = color
            masks[i][inside] = kind + 1
            boxes.append([cx - r, cy - r, cx + r, cy + r])
            labels.append(kind)
        found = torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64)
        objects.append({"boxes": found[0], "labels": found[1]})
    noise = 0.03 * torch.randn(images.shape, generator=generator)
    return Scenes((images + noise).clamp(0, 1), masks, objects)


# ---- networks --------------------------------------------------------------------------------


def conv(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    """Convolution, norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()
    )


class Detector(nn.Module):
    """Sides of a box at every place as expectations over bins (DFL), and logits of the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16, 2), conv(16, 32, 2), conv(32, 48), conv(48, 48))
        self.sides = nn.Sequential(conv(48, 32), nn.Conv2d(32, 4 * BINS, 1))
        self.scores = nn.Sequential(conv(48, 32), nn.Conv2d(32, SHAPES, 1))
        at = torch.arange(SIDE // STRIDE).float() * STRIDE + STRIDE / 2
        grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).reshape(-1, 2)
        self.register_buffer("places", grid)
        self.register_buffer("bins", 1.5 * torch.arange(BINS).float())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        sides = self.sides(h).flatten(2).transpose(1, 2).unflatten(2, (4, BINS)).softmax(-1)
        sides = (sides * self.bins).sum(-1)
        boxes = torch.cat([self.places - sides[..., :2], self.places + sides[..., 2:]], -1)
        return {"boxes": boxes, "scores": self.scores(h).flatten(2).transpose(1, 2)}


class UNet(nn.Module):
    """Two levels, one skip; `tail` channels a pixel."""

    def __init__(self, tail: int) -> None:
        super().__init__()
        self.down, self.deep, self.mid = conv(3, 16), conv(16, 32, 2), conv(32, 32)
        self.up, self.join = nn.ConvTranspose2d(32, 16, 2, 2), conv(32, 16)
        self.out = nn.Conv2d(16, tail, 1)

    def features(self, x: Tensor) -> Tensor:
        """Features of every pixel."""
        skip = self.down(x)
        return self.join(torch.cat([skip, self.up(self.mid(self.deep(skip))).relu()], 1))

    def forward(self, x: Tensor) -> Any:
        return self.out(self.features(x))


class TwoHeads(UNet):
    """The class of every pixel, and how far it is from the nearest edge of a box."""

    def __init__(self) -> None:
        super().__init__(SHAPES + 1)
        self.far = nn.Sequential(conv(16, 16), nn.Conv2d(16, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.features(x)
        return {"classes": self.out(h), "depth": self.far(h)}


class Enlarge(nn.Module):
    """Twice the size: a residual over bilinear enlargement, by pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 24), conv(24, 24), conv(24, 24))
        self.out = nn.Sequential(nn.Conv2d(24, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        up = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        return up + self.out(self.body(x))


# ---- tasks -----------------------------------------------------------------------------------


def pixel_depth(scenes: Scenes) -> Tensor:
    """For every pixel of an object, how far into its box it lies; 0 outside."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    found = torch.zeros(len(scenes.images), SIDE, SIDE)
    for i, own in enumerate(scenes.objects):
        for left, top, right, bottom in own["boxes"].tolist():
            sides = torch.stack([x - left, right - x, y - top, bottom - y])
            found[i] = torch.maximum(found[i], sides.amin(0).clamp_min(0))
    return (found * (scenes.masks > 0)).unsqueeze(1)


def detection_targets(scenes: Scenes, places: Tensor) -> tuple[Tensor, Tensor]:
    """For every place the class of the object it lies near the middle of (-1), and its box."""
    classes = torch.full((len(scenes.images), len(places)), -1)
    boxes = torch.zeros(len(scenes.images), len(places), 4)
    for i, own in enumerate(scenes.objects):
        for box, label in zip(own["boxes"], own["labels"].tolist(), strict=True):
            middle = (box[:2] + box[2:]) / 2
            near = (places - middle).abs().amax(1) <= 0.75 * STRIDE
            classes[i, near], boxes[i, near] = label, box
    return classes, boxes


def learn_boxes(net: Any, scenes: Scenes) -> Callable[[Tensor], Tensor]:
    """The loss of a detector on pictures by their places in `scenes`."""
    classes, boxes = detection_targets(scenes, net.places)
    wanted = F.one_hot(classes + 1, SHAPES + 1)[..., 1:].float()

    def loss(rows: Tensor) -> Tensor:
        said = net(scenes.images[rows])
        there = classes[rows] >= 0
        yes = F.binary_cross_entropy_with_logits(said["scores"], wanted[rows], reduction="none")
        apart = (said["boxes"] - boxes[rows]).abs().mean(-1)[there].mean()
        return yes.sum() / there.sum() + 0.5 * apart

    return loss


def learn_classes(net: Any, scenes: Scenes) -> Callable[[Tensor], Tensor]:
    """Of a U-Net."""
    return lambda rows: F.cross_entropy(net(scenes.images[rows]), scenes.masks[rows])


def learn_both(net: Any, scenes: Scenes) -> Callable[[Tensor], Tensor]:
    """Of two heads."""
    depth = pixel_depth(scenes)

    def loss(rows: Tensor) -> Tensor:
        said = net(scenes.images[rows])
        apart = F.mse_loss(said["depth"], depth[rows])
        return F.cross_entropy(said["classes"], scenes.masks[rows]) + 0.3 * apart

    return loss


def learn_image(net: Any, scenes: Scenes) -> Callable[[Tensor], Tensor]:
    """Of enlargement."""
    small = F.avg_pool2d(scenes.images, 2)
    return lambda rows: F.mse_loss(net(small[rows]), scenes.images[rows])


@dataclass(frozen=True)
class Task:
    """A network, how it learns, what it is measured by, and how its outputs were read before."""

    make: Callable[[], nn.Module]
    learn: Callable[[Any, Scenes], Callable[[Tensor], Tensor]]
    metrics: dict[str, Callable[[Scenes], Any]]
    before: str
    small: bool = False


TASKS = {
    "detector": Task(
        Detector, learn_boxes, {"map": lambda s: s.objects}, "boxes=scores, scores=none"
    ),
    "segmentation": Task(
        lambda: UNet(SHAPES + 1), learn_classes, {"miou": lambda s: s.masks}, ""
    ),
    "super-resolution": Task(
        Enlarge, learn_image, {"psnr": lambda s: s.images}, "output=scores", small=True
    ),
    "two heads": Task(
        TwoHeads, learn_both, {"miou": lambda s: s.masks, "rmse": pixel_depth}, "depth=none"
    ),
}  # fmt: skip


def train(task: Task, steps: int) -> nn.Module:
    """A network trained on pictures of its own."""
    torch.manual_seed(0)
    scenes, net = draw(2048, 1), task.make().train()
    loss = task.learn(net, scenes)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(0, 2048, (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss(rows).backward()
        optimizer.step()
    return net.eval()


def given(task: Task, scenes: Scenes) -> Tensor:
    """What the network is given of pictures."""
    return F.avg_pool2d(scenes.images, 2) if task.small else scenes.images


def measure(task: Task, graph: Any, network: nn.Module, scenes: Scenes) -> dict[str, float]:
    """The task's metrics of a network, read by what its outputs mean."""
    run, inputs = outcome_of(graph, network), given(task, scenes)
    found = {}
    for name, labels_of in task.metrics.items():
        metric, labels = METRICS[name], labels_of(scenes)
        batches = [Batch((inputs[i : i + BATCH],), labels[i : i + BATCH])
                   for i in range(0, len(inputs), BATCH)]  # fmt: skip
        found[name] = compare(run, run, batches, metric).after[name]
    return found


def study(name: str, steps: int) -> Iterable[dict[str, Any]]:
    """Float, w8a8, and the table at the tight budget with either loss."""
    task, start = TASKS[name], time.process_time()
    net = train(task, steps)
    trained = time.process_time() - start
    calibration, test = draw(CALIBRATION, 3), draw(TEST, 4)
    batches = list(given(task, calibration).split(32))
    example = (given(task, calibration)[:2],)
    graph = bw.capture(net, example)
    yield {"network": name, "bits": "float", "loss": "", "train_s": trained,
           **measure(task, graph, graph.module, test)}  # fmt: skip
    runs = [("w8a8", "", {"scheme": "w8a8"})]
    mixed = {"menu": MENU, "budget": TIGHT, "mode": "parallel", "table_samples": 128}
    if task.before:
        runs.append(("mixed", "first output as scores", {**mixed, "answer": task.before}))
    runs.append(("mixed", "by what outputs mean", mixed))
    for bits, loss, options in runs:
        start = time.process_time()
        result = bw.quantize(net, batches, recipe="fixed", method="quadratic", **options)
        units = result.census.units
        held = sum(unit.params * (unit.w_bits or 32) for unit in units)
        size = held / sum(32 * unit.params for unit in units)
        yield {"network": name, "bits": bits, "loss": loss, "size": size,
               "quantize_s": time.process_time() - start,
               **measure(task, graph, result.model, test)}  # fmt: skip


COLUMNS = {
    "network": "{network}", "bits": "{bits}", "the table's loss": "{loss}", "size": "{size:.3f}",
    "mAP": "{map:.3f}", "mIoU": "{miou:.3f}", "PSNR, dB": "{psnr:.2f}", "RMSE": "{rmse:.3f}",
}  # fmt: skip


def page(rows: list[dict[str, Any]]) -> str:
    """docs/measured/answers.md."""
    return f"""# Outputs of every kind

What does it bring to measure the loss of what each output means ([outputs](../outputs.md))?
`python -m benchmarks.study.answers` trains small networks on made pictures of discs, squares and
triangles ({SIDE} x {SIDE}), quantises them by `quadratic` on {CALIBRATION} pictures, and measures
{TEST} others. *Mixed* is the menu `{MENU}` at `{TIGHT}`, once with the first output read
as class scores (which is how all networks were read before) and once with all outputs as what they
are. The U-Net's one output is class scores either way. mAP is COCO's, by pycocotools; RMSE is of
the second head, in pixels; size is of the weights at their bits, without scales.
{machine("torch")}

{markdown(rows, COLUMNS)}

The networks are small and the pictures simple: what is shown is where bits go, not how detectors of
the size that people use fare.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--steps", type=int, default=400, help="of training")
    options = parser.parse_args()
    rows = read_csv(RESULT)
    for name in options.only:
        found = []
        for row in study(name, options.steps):
            found.append(row)
            print({k: v for k, v in row.items() if v != ""}, flush=True)
        rows = [row for row in rows if row["network"] != name] + found
        rows.sort(key=lambda row: list(TASKS).index(str(row["network"])))
        write_csv(RESULT, rows)
    (MEASURED / "answers.md").write_text(page([dict(row) for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
