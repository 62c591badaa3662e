"""Files that ONNX Runtime quantised, mended: how near to float are they on images of their own?

    python -m benchmarks.study.mend --data-root DIR [--only resnet20 mobilenet_v2_dogs]
        [--forms 'w8a8 a tensor' ...] [--samples 512]

Networks are exported to ONNX and quantised by ONNX Runtime's `quantize_static` (w8a8, ranges of
few images). `mend` has the first calibration images; the others, which neither tool has seen, judge
the file before and after: agreement, flips of the largest score, the outputs' difference. No test
data are read. Rows that are in benchmarks/results/mend.csv are replaced. Writes the figures of
docs/measured/mend.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.data import DATA, batches_of, network_of
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
from bitwright.pipeline.mend_file import MendSettings, mend

CSV, PAGE = RESULTS / "mend.csv", MEASURED / "mend.md"
Row = dict[str, Any]
NETWORKS = ("resnet20", "mobilenet_v2_dogs")
FORMS = {"w8a8 a tensor": False, "w8a8 a channel": True}
# Images of which quantize_static takes its ranges, and the least that are left to judge.
RANGES, JUDGE = 16, 100
SHOWN = {
    "network": "{network}", "file": "{form}", "mended": "{mended}", "units put back": "{undone}",
    "grids moved": "{grids}",
    "agreement before": "{agreement_before:.2%}", "after": "{agreement_after:.2%}",
    "flips lost, won": "{lost}, {won}", "difference before": "{difference_before:.4f}",
    "after ": "{difference_after:.4f}", "images": "{samples}", "mended on": "{given}",
    "seconds": "{seconds:.0f}",
}  # fmt: skip


class Ranges(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Images one by one, as quantize_static takes them."""

    def __init__(self, images: np.ndarray) -> None:
        self.left: Iterator[np.ndarray] = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        one = next(self.left, None)
        return None if one is None else {"image": one[None]}


def images_of(root: Path, network: str) -> np.ndarray:
    """All calibration images of a network."""
    return np.concatenate([x.numpy() for x, _ in batches_of(root, DATA[network][0])])


def write_float(root: Path, network: str, images: np.ndarray, folder: Path) -> Path:
    """The float network as a file, prepared as ONNX Runtime advises."""
    made, prepared = folder / "exported.onnx", folder / "float.onnx"
    torch.onnx.export(
        network_of(root, network), (torch.from_numpy(images[:2]),), made, dynamo=True,
        verbose=False, input_names=["image"], dynamic_shapes=({0: torch.export.Dim.AUTO},),
        external_data=False,
    )  # fmt: skip
    quant_pre_process(str(made), str(prepared))
    return prepared


def outputs(path: Path, images: np.ndarray) -> np.ndarray:
    loaded = session(path)
    parts = [images[i : i + 8] for i in range(0, len(images), 8)]
    return np.concatenate([loaded.run(None, {"image": part})[0] for part in parts]).astype(float)


def beside(true: np.ndarray, before: np.ndarray, after: np.ndarray) -> Row:
    """Both files beside the float network on images that neither tool has seen."""
    right = [found.argmax(1) == true.argmax(1) for found in (before, after)]
    scale = np.linalg.norm(true)
    return {
        "samples": len(true),
        "agreement_before": float(right[0].mean()),
        "agreement_after": float(right[1].mean()),
        "lost": int((right[0] & ~right[1]).sum()),
        "won": int((right[1] & ~right[0]).sum()),
        "difference_before": float(np.linalg.norm(before - true) / scale),
        "difference_after": float(np.linalg.norm(after - true) / scale),
    }


def measured(reference: Path, images: np.ndarray, per_channel: bool, count: int) -> Row:
    """One file quantised, mended and judged; `count` images at most to mend it on."""
    folder = reference.parent
    quantised, out, data = (folder / name for name in ("q.onnx", "mended.onnx", "given.npz"))
    quantization.quantize_static(
        str(reference), str(quantised), Ranges(images[:RANGES]), per_channel=per_channel,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    given = images[: min(count, len(images) - JUDGE)]
    np.savez(data, image=given)
    before = time.process_time()
    found = mend(quantised, str(data), reference, out, MendSettings(len(given)))
    seconds = time.process_time() - before
    judge = images[len(given) :]
    judged = beside(*(outputs(path, judge) for path in (reference, quantised, out)))
    return {
        "mended": "yes" if found.changed else "left as it was",
        "undone": f"{sum(u.undone for u in found.units)} of {len(found.units)}",
        "grids": found.grids, "given": len(given), "seconds": seconds,
        "notes": " ".join(found.notes),
        "held_before": found.before.agreement, "held_after": found.after.agreement, **judged,
    }  # fmt: skip


def page(rows: list[Row]) -> str:
    """The table of docs/measured/mend.md."""
    return f"{markdown(rows, SHOWN)}\n\nMeasured on {machine('torch', 'onnxruntime')}."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=data_root, required=True)
    parser.add_argument("--only", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--forms", nargs="+", default=tuple(FORMS), choices=FORMS)
    parser.add_argument("--samples", type=int, default=512, help="to mend on")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for network in asked.only:
        images = images_of(asked.data_root, network)
        with tempfile.TemporaryDirectory() as folder:
            reference = write_float(asked.data_root, network, images, Path(folder))
            for form in asked.forms:
                row = measured(reference, images, FORMS[form], asked.samples)
                row = {"network": network, "form": form, **row}
                print(row, flush=True)
                kept = [r for r in read_csv(CSV) if (r["network"], r["form"]) != (network, form)]
                write_csv(CSV, [*kept, row])
                put_between_markers(PAGE, page(read_csv(CSV)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
