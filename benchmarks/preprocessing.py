"""How far off the first batch-norm is: `python benchmarks/preprocessing.py --data-root DIR`.

Feeds networks with calibration data prepared rightly and in the usual wrong ways, and writes the
distance that the preprocessing check sees into docs/guide.md (between its markers).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tables import DOCS, RESULTS, data_root, markdown, put_between_markers, write_csv
from torch import Tensor

import bitwright as bw
from bitwright.graph.execute import bind, run
from bitwright.graph.observe import MISMATCH, norm_mismatch
from bitwright.numerics.stats import ChannelStats
from bitwright.run.memory import keep_heap
from bitwright.sources.batches import rebatch, take
from bitwright.sources.data import load_data
from bitwright.sources.models import load_model

IMAGES = 1000
MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
Map = Callable[[Tensor], Tensor]
# Network, calibration data, and the way back to pixels of 0..255.
NETWORKS: tuple[tuple[str, str, Map], ...] = (
    ("efficientnet_lite0", "lite0_calib", lambda x: x * 128 + 127),
    ("mobilenet_v1", "mobilenet_calib", lambda x: (x + 1) * 127.5),
    ("mobilenet_v2_dogs", "dogs_calib", lambda x: (x + 1) * 127.5),
    ("resnet20", "cifar_calib", lambda x: (x * STD + MEAN) * 255),
    ("resnet56", "cifar_calib", lambda x: (x * STD + MEAN) * 255),
)


class Enough(Exception):
    """Ends a forward pass after the first unit."""


def variants(pixels: Map) -> dict[str, Map]:
    """What a user might feed instead of the right input."""
    return {
        "right": lambda x: x,
        "ImageNet mean and std": lambda x: (pixels(x) / 255 - MEAN) / STD,
        "-1..1": lambda x: pixels(x) / 127.5 - 1,
        "0..1": lambda x: pixels(x) / 255,
        "0..255": pixels,
        "BGR": lambda x: x.flip(1),
    }


def distances(name: str, data: str, pixels: Map, root: Path) -> dict[str, Any]:
    source = load_model(f"{root}/models.py:{name}")
    graph = bw.capture(source.module, source.example_inputs)
    unit = next(unit for unit in graph.units if unit.name in graph.folded)
    photos = take(load_data(f"{root}/loaders.py:{data}"), IMAGES)
    images = [batch.tensors[0] for batch in rebatch(photos, 25)]
    row: dict[str, Any] = {"network": name}
    for label, change in variants(pixels).items():
        found: list[ChannelStats] = []

        def visit(node: Any, value: Any, found: list[ChannelStats] = found) -> None:
            if node.name == unit.calls[0]:
                found.append(ChannelStats.of(value))
                raise Enough

        for batch in images:
            with contextlib.suppress(Enough):
                run(graph, bind(graph, (change(batch),)), visit)
        total = found[0]
        for part in found[1:]:
            total = total.merge(part)
        row[label] = norm_mismatch(graph.folded[unit.name], total)
    print(row, flush=True)
    return row


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    root = data_root(parser.parse_args().data_root)
    torch.set_num_threads(1)
    keep_heap()
    rows = [distances(*entry, root) for entry in NETWORKS]
    write_csv(RESULTS / "preprocessing.csv", rows)
    headings = list(rows[0])
    shown = [{f"c{i}": _shown(row[key]) for i, key in enumerate(headings)} for row in rows]
    note = f"The run warns from {MISMATCH} on. Written by `benchmarks/preprocessing.py`."
    table = markdown(shown, {key: f"{{c{i}}}" for i, key in enumerate(headings)})
    put_between_markers(DOCS / "guide.md", f"{table}\n\n{note}")


if __name__ == "__main__":
    main()
