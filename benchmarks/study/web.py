"""Files in a browser's build of ONNX Runtime (WASM), run by node: how fast, and whose answers?

    BITWRIGHT_NODE_MODULES=DIR/node_modules python -m benchmarks.study.web --data-root DIR
        [--only resnet20 ...] [--samples 50]

Needs node and, installed by yourself, the npm package onnxruntime-web. One thread, one sample a
run; all files of a network take turns in one process, and a figure is the median of the ratios
within a turn. Agreement is with the simulation, on test samples, optimisations on. Weights are
rounded to the nearest: speed does not depend on the numbers. Writes benchmarks/results/web.csv and
docs/measured/web.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bitwright as bw
from benchmarks.data import DATA, batches_of, network_of
from benchmarks.node import job_of, lacking, run_jobs, version
from benchmarks.tables import (
    MEASURED,
    RESULTS,
    data_root,
    machine,
    markdown,
    put_between_markers,
    read_csv,
    write_csv,
)

CSV, PAGE = RESULTS / "web.csv", MEASURED / "web.md"
Row = dict[str, Any]
NETWORKS = ("resnet20", "efficientnet_lite0", "mobilenet_v2_dogs")
FILES = ("ort-web w8a8", "ort-web w4a8", "weights-only w4a8", "ort-cpu w8a8", "ort-linear w8a8")
TURNS, WARM = 30, 10
SHOWN = {
    "network": "{network}", "file": "{file}", "x float": "{speed:.2f}", "MB": "{mb:.2f}",
    "the simulation's answer": "{agreement:.2%}", "largest difference": "{difference:.1e}",
}  # fmt: skip


def rows_of(root: Path, name: str, samples: int) -> list[Row]:
    """A row a file of one network."""
    network, (calib, tests) = network_of(root, name), DATA[name]
    images = next(iter(batches_of(root, tests)))[0][:samples]
    made: list[Row] = []
    with tempfile.TemporaryDirectory() as held:
        folder, answers, timed = Path(held), [], []
        for label in ("ort-web float", *FILES):
            target, scheme = label.split()
            result = bw.quantize(
                network, batches_of(root, calib), recipe="fixed", method="nearest", tune="",
                weight_range="minmax", activation_range="minmax", calib=32, target=target,
                scheme=scheme,
            )  # fmt: skip
            content = result.export(folder / "net.onnx").read_bytes()
            given = result.graph.inputs[0].name
            stem = label.replace(" ", "-")
            parts = {"one": images[:1], "all": images}
            one, whole = (
                job_of(folder, f"{stem}-{part}", content, {given: x.numpy()}, True)
                for part, x in parts.items()
            )
            timed.append(one)
            ((got, _),) = run_jobs(folder, [whole])
            with torch.no_grad():
                want = result.model(images).numpy()
            answers.append((label, want, got, len(content)))
        times = [np.array(ms) for _, ms in run_jobs(folder, timed, TURNS)]
    for (label, want, got, size), own in zip(answers, times, strict=True):
        row = {"network": name, "file": label, "speed": statistics.median((times[0] / own)[WARM:])}
        row["agreement"] = float((want.argmax(1) == got.argmax(1)).mean())
        row["difference"] = float(np.abs(want - got).max() / np.abs(want).max())
        made.append({**row, "mb": size / 1e6, "samples": len(images)})
        print(made[-1], flush=True)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--only", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--samples", type=int, default=50)
    asked = parser.parse_args()
    if lacking():
        print(f"skipped: {lacking()}")
        return 0
    torch.set_num_threads(1)
    root = data_root(asked.data_root)
    for name in asked.only:
        made = rows_of(root, name, asked.samples)
        write_csv(CSV, [*(r for r in read_csv(CSV) if r["network"] != name), *made])
    text = f"{markdown(read_csv(CSV), SHOWN)}\n\nonnxruntime-web {version()} on {machine('torch')}."
    put_between_markers(PAGE, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
