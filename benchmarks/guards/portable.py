"""Does `--portable` give the same answers without VNNI, and what does that cost?

    python -m benchmarks.guards.portable --data-root DIR [--only 'resnet20*'] [--again]

Each network is quantised for `ort-cpu` at w8a8, the same with `--portable`, and at w7a8, and then
runs on held-out images on an emulation of the saturating kernel (`benchmarks.saturating`), and,
where valgrind is installed, a few of them in ONNX Runtime's own kernels for processors without VNNI
(`benchmarks.old_processor`). Ends with 1 where `--portable` loses a single sum, or where a plain
w8a8 loses none. Writes the table of docs/measured/portable.md and benchmarks/results/portable.csv.
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

import numpy as np
import torch

import bitwright as bw
from benchmarks.data import batches_of, network_of, parts_of
from benchmarks.old_processor import answers_without_vnni, run
from benchmarks.saturating import Saturating
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
from bitwright.export.certificate import certify
from bitwright.graph.execute import bind, walk
from bitwright.graph.simulate import stitch

CSV, PAGE = RESULTS / "portable.csv", MEASURED / "portable.md"
NAME = ("network", "method", "variant")
# Network, calibration and evaluation data, samples of each, images under valgrind.
NETWORKS = (
    ("resnet20", "cifar_calib", "cifar_test", 250, 500, 100),
    ("efficientnet_lite0", "lite0_calib", "lite0_val", 100, 200, 25),
)
METHODS = ("nearest", "quadratic")
VARIANTS: dict[str, dict[str, Any]] = {
    "w8a8": {"scheme": "w8a8"},
    "w8a8 --portable": {"scheme": "w8a8", "portable": True},
    "w7a8": {"scheme": "w7a8"},
}
Row = dict[str, Any]


def measure(network: tuple[Any, ...], method: str, variant: str, root: Path) -> Row:
    """One row: what it costs against float, and what a processor without VNNI makes of it."""
    name, calibration, evaluation, calib, images, few = network
    held_out = list(itertools.islice(parts_of(batches_of(root, evaluation), 25), images // 25))
    result = bw.quantize(
        network_of(root, name), batches_of(root, calibration), evaluation=held_out,
        target="ort-cpu", method=method, calib=calib, **{"recipe": "fixed", **VARIANTS[variant]},
    )  # fmt: skip
    metrics = result.metrics
    row: Row = {
        "network": name, "method": method, "variant": variant, "images": metrics["samples"],
        "top1": metrics["quantized"]["top1"], "float_top1": metrics["float"]["top1"],
        "agreement": metrics["agreement"], "noise": metrics["relative_noise"], "kl": metrics["kl"],
    }  # fmt: skip
    return {**row, **bits(result), **emulate(result, held_out), **run_real(result, held_out, few)}


def bits(result: bw.Result) -> Row:
    """How many channels use more than seven bits, and what the certificate says."""
    marked = stitch(result.graph, result.assignment, marks=True)
    found = certify(result.graph, marked)
    wide = channels = 0
    for unit in result.graph.units:
        q = result.assignment.weights[unit.name].q.movedim(unit.channel_axis, 0).flatten(1).int()
        wide += int(((q > 63) | (q < -64)).any(1).sum())
        channels += q.shape[0]
    shares = [u["pairs"] or 0 for u in found["units"].values()]
    floats = [u["float32"] or 0 for u in found["units"].values()]
    return {
        "eight_bits": wide / channels, "units": len(shares), "over": sum(s > 1 for s in shares),
        "worst_pair": max(shares), "worst_float": max(floats),
    }  # fmt: skip


def emulate(result: bw.Result, batches: list[Any]) -> Row:
    """Sums cut off, and answers that stay, on the emulated kernel."""
    marked = stitch(result.graph, result.assignment, marks=True)
    processor = Saturating(result.graph, marked)
    same = equal = rows = 0
    with torch.no_grad():
        for images, _ in batches:
            flat = bind(result.graph, images)
            got, true = (torch.as_tensor(v) for v in (processor.run(*flat), walk(marked, flat)[0]))
            same += int((got.argmax(1) == true.argmax(1)).sum())
            equal += int((got == true).all(1).sum())
            rows += len(true)
    cut = {name: lost for name, (lost, _) in processor.lost.items() if lost}
    return {
        "cut": sum(cut.values()), "units_cut": len(cut), "same": same / rows, "equal": equal / rows,
    }  # fmt: skip


def run_real(result: bw.Result, batches: list[Any], few: int) -> Row:
    """The file in ONNX Runtime under valgrind against the same file here."""
    images = torch.cat([part for part, _ in batches])[:few].numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = result.export(Path(folder) / "model.onnx")
        old, here = answers_without_vnni(path, images), run(path, images)
        size = path.stat().st_size
    if old is None:
        return {"bytes": size}
    return {
        "bytes": size, "real_images": len(images),
        "real_same": float((old.argmax(1) == here.argmax(1)).mean()),
        "real_equal": float(np.all(old == here, axis=1).mean()),
    }  # fmt: skip


COLUMNS = {
    "network": "{network}, {method}", "": "{variant}", "top-1": "{top1:.2%}",
    "as float": "{agreement:.2%}", "noise": "{noise:.2e}", "channels of 8 bits": "{eight_bits:.0%}",
    "bytes": "{bytes:,}", "units that may exceed": "{over} of {units}",
    "worst pair": "{worst_pair:.2f}", "sums cut off": "{cut:,}",
    "same answer, emulated": "{same:.2%}", "same outputs": "{equal:.2%}",
    "same answer, AVX2 kernels": "{real_same:.2%}", "same outputs there": "{real_equal:.2%}",
}  # fmt: skip


def find_broken(rows: list[Row]) -> list[Row]:
    """Rows that break what is promised of them."""

    def wrong(row: Row) -> bool:
        cut = int(row["cut"])
        return bool(cut) if "portable" in row["variant"] else row["variant"] == "w8a8" and not cut

    return [row for row in rows if wrong(row)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", default="*")
    parser.add_argument("--again", action="store_true", help="rows that are there too")
    given = parser.parse_args()
    root = data_root(given.data_root)
    known = {tuple(row[k] for k in NAME): row for row in (read_csv(CSV) if CSV.exists() else [])}
    for network, method, variant in itertools.product(NETWORKS, METHODS, VARIANTS):
        key = (network[0], method, variant)
        if fnmatch.fnmatch(" ".join(key), given.only) and (given.again or key not in known):
            known[key] = measure(network, method, variant, root)
            print(known[key], flush=True)
            write_csv(CSV, list(known.values()))
    rows = list(known.values())
    text = f"{markdown(rows, COLUMNS)}\n\nMeasured on {machine('torch', 'onnxruntime')}."
    put_between_markers(PAGE, text)
    return 1 if find_broken(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
