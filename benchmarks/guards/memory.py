"""Peak memory of whole runs: ResNet-50 of random weights, 256 images of 224 x 224.

    python -m benchmarks.guards.memory [--images 256] [--method quadratic] [--mode sequential]
        [--workers 1]

The network is written here by hand and its weights are random: accuracy means nothing, sizes are
real. The peak is that of the whole process, as the kernel counts it, over all stages of the run;
more than --most ends with 1. Writes docs/measured/memory.md and benchmarks/results/memory.csv.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import bitwright
from benchmarks.tables import MEASURED, RESULTS, markdown, read_csv, write_csv

NETWORK = """
import torch
from torch import nn
import torch.nn.functional as F


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.short = None
        if stride != 1 or inputs != outputs:
            self.short = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.short is None else self.short(x)))


class ResNet50(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        blocks, inputs = [], 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for i in range(count):
                blocks.append(Bottleneck(inputs, width, stride if i == 0 else 1))
                inputs = 4 * width
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(2048, 1000)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn(self.stem(x))), 3, 2, 1)
        return self.fc(self.blocks(x).mean((2, 3)))


def network():
    torch.manual_seed(0)
    return ResNet50().eval()


class Images:
    def __iter__(self):
        for i in range({batches}):
            yield torch.randn(16, 3, 224, 224, generator=torch.Generator().manual_seed(i))


def images():
    return Images()
"""


def commit() -> str:
    """The commit that is checked out, to tell rows of different versions apart."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def page(rows: list[dict[str, Any]]) -> str:
    """The page of the documentation."""
    columns = {name: "{" + name + "}" for name in rows[-1]}
    lines = [
        "# Peak memory of a run",
        "",
        "Written by `python -m benchmarks.guards.memory`:",
        "ResNet-50 with random weights, random images of",
        "224 x 224, w4a8, first and last unit at 8 bits; the most that the whole process held in",
        "any stage, export and verification included. EfficientNet-Lite0's peaks are in",
        "[solve.md](solve.md). *workers*: threads of the sequential mode. Times are of the whole",
        "command on a machine that may do other work; rows of other commits are of that code.",
        "",
        markdown(rows, columns),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--method", default="quadratic")
    parser.add_argument("--mode", default="sequential")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--most", type=int, default=3500, help="MB that a run may hold")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.py"
        file.write_text(NETWORK.replace("{batches}", str(-(-arguments.images // 16))))
        done = bitwright(
            Path(folder) / "run", "quantize", "--recipe", "fixed",
            f"{file}:network", "--data", f"{file}:images",
            "--calib", arguments.images, "--scheme", "w4a8", "--keep", "first,last=w8a8",
            "--method", arguments.method, "--mode", arguments.mode, "--workers", arguments.workers,
        )  # fmt: skip
        peaks = {s["name"]: s["peak_rss_mb"] for s in done.read("metrics.json")["stages"]}
    row = {
        "images": arguments.images,
        "method": arguments.method,
        "mode": arguments.mode,
        "workers": arguments.workers,
        "peak_mb": round(max(peaks.values())),
        "stage": max(peaks, key=peaks.__getitem__),
        "processor_s": round(done.processor_s),
        "wall_s": round(done.seconds),
        "exit": done.code,
        "commit": commit(),
    }
    keys = ("images", "method", "mode", "workers", "commit")
    rows = [r for r in read_csv(RESULTS / "memory.csv") if any(r[k] != row[k] for k in keys)]
    rows.append(row)
    write_csv(RESULTS / "memory.csv", rows)
    (MEASURED / "memory.md").write_text(page(rows))
    print(row)
    if row["peak_mb"] > arguments.most:
        print(f"{row['peak_mb']} MB, more than {arguments.most}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
