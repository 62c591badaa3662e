"""Linear layers in blocks (MatMulNBits): for how many rows is which file the fastest?

    python -m benchmarks.study.blocks [--layers 384x1536 ...] [--rows 1 4 16 64]

One linear layer a network, random weights (speed does not depend on the numbers), as target
`ort-blocks` writes it at every accuracy level, beside `ort-linear`s integers and the float layer.
One thread; all files of a layer run in turns in one process; a figure is the median of the ratios
of processor times within a turn, above 1 faster than float. Writes benchmarks/results/blocks.csv
and docs/measured/blocks.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bitwright as bw
from benchmarks.runtime import session
from benchmarks.tables import (
    MEASURED,
    RESULTS,
    machine,
    markdown,
    put_between_markers,
    read_csv,
    write_csv,
)

CSV, PAGE = RESULTS / "blocks.csv", MEASURED / "blocks.md"
Row = dict[str, Any]
LAYERS = ("384x384", "384x1536", "1536x384", "768x3072", "4096x4096")
FILES = (
    "ort-linear w8a8", "ort-blocks w4a8", "ort-blocks w4a8g32", "ort-blocks w8a8",
    "ort-blocks w4afloat", "weights-only w4afloatg32",
)  # fmt: skip
TURNS, WORK = 9, 2e7
SHOWN = {"layer": "{layer}", "rows": "{rows}", "float, ms": "{ms:.3f}"}


def files_of(inputs: int, outputs: int, folder: Path) -> dict[str, Any]:
    """A session of every file of one layer."""
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False)).eval()
    samples = [torch.randn(16, inputs)]
    found = {}
    for label in ("ort-linear float", *FILES):
        target, scheme = label.split()
        result = bw.quantize(
            layer, samples, recipe="fixed", method="nearest", weight_range="minmax",
            activation_range="minmax", target=target, scheme=scheme,
        )  # fmt: skip
        path = result.export(folder / f"{label.replace(' ', '-')}.onnx")
        found["float" if scheme == "float" else label] = session(path)
    return found


def timed(files: Mapping[str, Any], rows: int, inputs: int, work: float) -> Row:
    """How many times as fast as float each file is."""
    x = np.random.default_rng(0).standard_normal((rows, inputs)).astype(np.float32)
    repetitions = max(1, int(WORK / work))
    taken: dict[str, list[float]] = {label: [] for label in files}
    for turn in range(TURNS + 1):
        for label, own in files.items():
            feed = {own.get_inputs()[0].name: x}
            before = time.process_time()
            for _ in range(repetitions):
                own.run(None, feed)
            if turn:
                taken[label].append((time.process_time() - before) / repetitions)
    slow = taken.pop("float")
    ratios = {
        label: statistics.median(a / b for a, b in zip(slow, times, strict=True))
        for label, times in taken.items()
    }
    return {"ms": 1000 * statistics.median(slow), **ratios}


def page(rows: list[Row]) -> str:
    """The table of docs/measured/blocks.md."""
    columns = {**SHOWN, **{label: f"{{{label}:.2f}}" for label in FILES}}
    return f"{markdown(rows, columns)}\n\nMeasured on {machine('torch', 'onnxruntime')}."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", nargs="+", default=LAYERS, help="INPUTSxOUTPUTS ...")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 16, 64])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    kept = [row for row in read_csv(CSV) if row["layer"] not in asked.layers]
    for name in asked.layers:
        inputs, outputs = map(int, name.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            files = files_of(inputs, outputs, Path(folder))
            for rows in asked.rows:
                found = timed(files, rows, inputs, rows * inputs * outputs)
                kept.append({"layer": name, "rows": rows, **found})
                print(kept[-1], flush=True)
    write_csv(CSV, kept)
    put_between_markers(PAGE, page(kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
