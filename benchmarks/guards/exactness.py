"""Does ONNX Runtime give the simulation's answers, bit for bit where that is promised?

    python -m benchmarks.guards.exactness --data-root DIR [--only 'resnet20*'] [--images 0]

Quantises a network, exports it, and runs the file in ONNX Runtime on every held-out image, without
and with the runtime's optimisations, against the simulation in torch. Ends with 1 where a runtime
differs from the simulation by more than BOUND of what quantisation itself changed. Scales of full
float32 precision, which stand beside in the table, are a closed question: their rows stay. Writes
the table in docs/measured/exactness.md (between its markers) and benchmarks/results/exactness.csv.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import fnmatch
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bitwright as bw
from benchmarks.data import batches_of, network_of, parts_of
from benchmarks.runtime import session
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

CSV = RESULTS / "exactness.csv"
PAGE = MEASURED / "exactness.md"
NAME = ("network", "target", "scheme")
# Squared difference of the runtime's outputs, as a share of the squared quantisation noise.
BOUND = {"plain": 1e-4, "optimised": 0.25}
# Network, calibration data, evaluation data, target, scheme.
RUNS = (
    ("efficientnet_lite0", "lite0_calib", "lite0_val", "paper", "w8a8"),
    ("efficientnet_lite0", "lite0_calib", "lite0_val", "ort-cpu", "w8a8"),
    ("mobilenet_v1", "mobilenet_calib", "mobilenet_val", "paper", "w8a8"),
    ("resnet20", "cifar_calib", "cifar_test_jpeg", "paper", "w8a8"),
    ("resnet20", "cifar_calib", "cifar_test_jpeg", "paper", "w4a4"),
)


class Difference:
    """Sums over images of how far one set of outputs is from another."""

    def __init__(self) -> None:
        self.same = self.rows = self.equal = 0
        self.noise = self.signal = 0.0

    def add(self, expected: Tensor, got: Tensor) -> None:
        self.same += int((expected.argmax(1) == got.argmax(1)).sum())
        self.equal += int((expected == got).all(1).sum())
        self.rows += expected.shape[0]
        self.noise += float((expected.double() - got.double()).square().sum())
        self.signal += float(expected.double().square().sum())

    @property
    def relative(self) -> float:
        return self.noise / self.signal


def differences(result: bw.Result, batches: list[Any]) -> dict[str, Difference]:
    """Simulation and ONNX Runtime, without and with optimisations, over the data."""
    with tempfile.TemporaryDirectory() as folder:
        path = result.export(Path(folder) / "model.onnx")
        runtimes = {name: session(path, name == "optimised") for name in BOUND}
    found = {name: Difference() for name in runtimes}
    with torch.no_grad():
        for part, _ in parts_of(batches, 25):
            images = part.contiguous()
            simulated = result.model(images)
            for name, runtime in runtimes.items():
                feed = {runtime.get_inputs()[0].name: images.numpy()}
                found[name].add(simulated, torch.from_numpy(runtime.run(None, feed)[0]))
    return found


def measure(run: tuple[str, ...], root: Path, images: int) -> dict[str, Any]:
    """One row: how far either runtime is from the simulation, and quantisation from float."""
    network, calibration, evaluation, target, scheme = run
    held_out = list(
        itertools.islice(parts_of(batches_of(root, evaluation), 25), images // 25 or None)
    )
    result = bw.quantize(
        network_of(root, network), batches_of(root, calibration), evaluation=held_out,
        recipe="fixed", target=target, scheme=scheme, method="nearest",
    )  # fmt: skip
    metrics = result.metrics
    row: dict[str, Any] = {
        "network": network, "target": target, "scheme": scheme, "scales": "exact",
        "images": metrics["samples"], "agreement_with_float": metrics["agreement"],
        "quantisation_noise": metrics["relative_noise"],
        "float_top1": metrics["float"]["top1"], "top1": metrics["quantized"]["top1"],
    }  # fmt: skip
    for name, difference in differences(result, held_out).items():
        row[f"{name}_same"] = difference.same
        row[f"{name}_equal"] = difference.equal
        row[f"{name}_noise"] = difference.relative
        row[f"{name}_share"] = difference.relative / metrics["relative_noise"]
    return row


COLUMNS = {
    "network": "{network} {scheme}, {target}", "scales": "{scales}",
    "same answer, plain": "{plain_same} of {images}",
    "same answer, optimised": "{optimised_same} of {images}",
    "bit for bit, plain": "{plain_equal}", "bit for bit, optimised": "{optimised_equal}",
    "noise, plain": "{plain_noise:.1e}", "noise, optimised": "{optimised_noise:.1e}",
    "of the quantisation noise": "{plain_share:.2g} / {optimised_share:.2g}",
    "agreement with float": "{agreement_with_float:.2%}",
    "quantisation noise": "{quantisation_noise:.4f}", "top-1": "{top1:.2%}",
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", default="*", help="pattern such as 'resnet20*'")
    parser.add_argument("--images", type=int, default=0, help="the first few; nothing is written")
    args = parser.parse_args()
    root = data_root(args.data_root)
    torch.set_num_threads(1)
    known = {(*(r[k] for k in NAME), r["scales"]): r for r in read_csv(CSV)}
    beyond = []
    for run in RUNS:
        if not fnmatch.fnmatch(f"{run[0]}-{run[3]}-{run[4]}", args.only):
            continue
        row = measure(run, root, args.images)
        print(row, flush=True)
        known[(*(row[k] for k in NAME), row["scales"])] = row
        beyond += [
            f"{run[0]} {run[4]}, {run[3]}, {name}: {row[f'{name}_share']:.2g} of the quantisation "
            f"noise, more than {bound:g}"
            for name, bound in BOUND.items()
            if row[f"{name}_share"] > bound
        ]
    if not args.images:
        order = [(run[0], run[3], run[4]) for run in RUNS]
        rows = sorted(known.values(), key=lambda r: order.index(tuple(r[k] for k in NAME)))
        write_csv(CSV, rows)
        note = "Written by `python -m benchmarks.guards.exactness`; "
        note += machine("torch", "onnxruntime") + "."
        put_between_markers(PAGE, "\n".join([markdown(rows, COLUMNS), "", note]))
    print("\n".join(beyond) or "within the bounds")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
