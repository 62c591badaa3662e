"""Are time and memory linear in depth and in the number of parameters?

    python -m benchmarks.guards.scale [--layers 25 50] [--parameters 2 4] [--most 1.35]

Linear networks of random weights, rounded to nearest and by the quadratic method in sequence: of
more and more layers of one width, and of eight layers of more and more parameters (millions). Each
runs in a process of its own, with one thread. What is judged is the growth from size to size of
processor time and memory (beyond what is there when the run begins), over the growth of the size:
more than --most ends with 1. The full sizes are --layers 75 150 300 and --parameters 75 150 300;
the defaults are what CI has time for, where what every run costs still hides some of the growth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch
from torch import nn

import bitwright as bw
from bitwright.engine.memory import keep_heap, peak_rss_mb

WIDTH, DEPTH, SAMPLES = 64, 8, 64


def network(layers: int, width: int) -> nn.Module:
    """So many layers of one width, random, with activations between them."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(width, width), nn.ReLU()]
        nn.init.kaiming_normal_(parts[-2].weight)
    return nn.Sequential(*parts).eval()


def measure(layers: int, width: int, method: str) -> dict[str, Any]:
    """One run: processor seconds and the most memory, of this process."""
    keep_heap()
    net, data = network(layers, width), [torch.randn(SAMPLES, width)]
    before, started = peak_rss_mb(), time.process_time()
    result = bw.quantize(net, data, method=method, recipe="fixed", target="ort-linear", workers=1,
                         mode="sequential")  # fmt: skip
    return {
        "seconds": time.process_time() - started,
        "mb": max(s.peak_rss_mb for s in result.progress.stages) - before,
        "units": len(result.census.units),
    }


def in_process(layers: int, width: int, method: str) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.guards.scale", "--one", str(layers), str(width)]
    found: dict[str, Any] = json.loads(
        subprocess.check_output([*command, method], text=True).splitlines()[-1]
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", nargs="+", type=int, default=(25, 50))
    parser.add_argument("--parameters", nargs="+", type=float, default=(2, 4), help="millions")
    parser.add_argument("--most", type=float, default=1.35)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        layers, width, method = asked.one
        print(json.dumps(measure(int(layers), int(width), method)))
        return 0
    deep = [(n, n, WIDTH, "quadratic") for n in asked.layers]
    wide = [(m, DEPTH, round((m * 1e6 / DEPTH) ** 0.5), "nearest") for m in asked.parameters]
    broken = False
    for what, sizes in (("layers", deep), ("million parameters", wide)):
        last: tuple[float, dict[str, Any]] | None = None
        for size, layers, width, method in sizes:
            own = in_process(layers, width, method)
            print(
                f"{size} {what} ({method}): {own['seconds']:.1f} s, {own['mb']:.0f} MB", flush=True
            )
            if last is not None:
                for key in ("seconds", "mb"):
                    growth = own[key] / max(last[1][key], 1e-9) / (size / last[0])
                    print(f"  {key}: {growth:.2f} of linear")
                    broken |= growth > asked.most
            last = (size, own)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
