"""What scales of few significant bits are worth.

    python -m benchmarks.guards.exactness --data-root DIR

Quantises a network twice from the same statistics: once with scales of full float32 precision, as
`affine.from_range` gives them, and once as this library does it, with `exact.exact_range` and
`exact.exact_bias`. Both are exported and run in ONNX Runtime on every held-out image, against the
simulation in torch. Writes the table in docs/measured/exactness.md (between its markers) and
benchmarks/results/exactness.csv.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
import fnmatch
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import bitwright as bw
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
from bitwright.export.verify import session
from bitwright.numerics.affine import QParams, from_range
from bitwright.numerics.grid import Grid
from bitwright.pipeline.result import Result
from bitwright.sources.batches import Dataset, rebatch
from bitwright.sources.data import load_data
from bitwright.sources.models import load_model

CSV = RESULTS / "exactness.csv"
PAGE = MEASURED / "exactness.md"
NAME = ("network", "target", "scheme")
# Network, calibration data, evaluation data, target, scheme.
RUNS = (
    ("efficientnet_lite0", "lite0_calib", "lite0_val", "paper", "w8a8"),
    ("efficientnet_lite0", "lite0_calib", "lite0_val", "ort-cpu", "w8a8"),
    ("mobilenet_v1", "mobilenet_calib", "mobilenet_val", "paper", "w8a8"),
    ("resnet20", "cifar_calib", "cifar_test_jpeg", "paper", "w8a8"),
    ("resnet20", "cifar_calib", "cifar_test_jpeg", "paper", "w4a4"),
)


def plain_range(
    lo: Tensor, hi: Tensor, grid: Grid, symmetric: bool = False, hard_top: bool = False
) -> QParams:
    """A scale of full float32 precision; `hard_top` is a matter of exact scales alone."""
    del hard_top
    return from_range(lo, hi, grid, symmetric)


def plain_bias(bias: Tensor, *_: object) -> Tensor:
    """The bias as it is."""
    return bias


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """The same road with full float32 scales and biases."""
    with (
        mock.patch("bitwright.pipeline.plan.exact_range", plain_range),
        mock.patch("bitwright.numerics.ranges.exact_range", plain_range),
        mock.patch("bitwright.pipeline.plan.exact_bias", plain_bias),
    ):
        yield


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


def measure(result: Result, data: Dataset) -> dict[str, Any]:
    """Run simulation and ONNX Runtime, without and with optimisations, over the data."""
    with tempfile.TemporaryDirectory() as folder:
        path = result.export(Path(folder) / "model.onnx")
        runtimes = {name: session(path, name == "optimised", 1) for name in ("plain", "optimised")}
    found = {name: Difference() for name in runtimes}
    with torch.no_grad():
        for batch in rebatch(data, 25):
            images = batch.tensors[0].contiguous()
            simulated = result.model(images)
            for name, runtime in runtimes.items():
                feed = {runtime.get_inputs()[0].name: images.numpy()}
                found[name].add(simulated, torch.from_numpy(runtime.run(None, feed)[0]))
    metrics = result.metrics
    row: dict[str, Any] = {
        "images": metrics["samples"],
        "agreement_with_float": metrics["agreement"],
        "quantisation_noise": metrics["relative_noise"],
        "float_top1": metrics["float"]["top1"],
        "top1": metrics["quantized"]["top1"],
    }
    for name, difference in found.items():
        row[f"{name}_same"] = difference.same
        row[f"{name}_equal"] = difference.equal
        row[f"{name}_noise"] = difference.relative
        row[f"{name}_share"] = difference.relative / metrics["relative_noise"]
    return row


def both_sides(run: tuple[str, ...], root: Path) -> list[dict[str, Any]]:
    network, calibration, evaluation, target, scheme = run
    source = load_model(f"{root}/models.py:{network}")
    photos = load_data(f"{root}/loaders.py:{calibration}")
    held_out = load_data(f"{root}/loaders.py:{evaluation}")
    rows = []
    for side, manner in (("full float32", full_precision), ("exact", contextlib.nullcontext)):
        with manner():
            result = bw.quantize(
                source.module, photos, evaluation=held_out, target=target, scheme=scheme,
                method="nearest",
            )  # fmt: skip
            name = {"network": network, "target": target, "scheme": scheme, "scales": side}
            rows.append({**name, **measure(result, held_out)})
        print(rows[-1], flush=True)
    return rows


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


def put_into_page(rows: list[dict[str, Any]]) -> None:
    """The table of docs/measured/exactness.md."""
    note = f"Written by `python -m benchmarks.guards.exactness`; {machine('torch', 'onnxruntime')}."
    put_between_markers(PAGE, "\n".join([markdown(rows, COLUMNS), "", note]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", default="*", help="pattern such as 'resnet20*'")
    parser.add_argument("--page", action="store_true", help="write the table again, no measuring")
    args = parser.parse_args()
    root = data_root(args.data_root)
    torch.set_num_threads(1)
    known = {(*(r[k] for k in NAME), r["scales"]): r for r in read_csv(CSV)}
    for run in () if args.page else RUNS:
        if fnmatch.fnmatch(f"{run[0]}-{run[3]}-{run[4]}", args.only):
            for row in both_sides(run, root):
                known[(*(row[k] for k in NAME), row["scales"])] = row
    order = [(run[0], run[3], run[4]) for run in RUNS]
    rows = sorted(known.values(), key=lambda r: order.index(tuple(r[k] for k in NAME)))
    write_csv(CSV, rows)
    put_into_page(rows)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
